"""What every number of a report is: its family, direction, unit and meaning. The long form is docs/evaluation.md."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """A metric. family: "released" (the authors' script, for the paper's tables) or "matched" (for judging models);
    better: "up" or "down"; meaning: one clause; group: the name for --metrics."""

    title: str
    family: str
    better: str
    group: str
    meaning: str
    unit: str = ""


_WINDOW = "within 100 ms"
ALIGN_WINDOW = 0.1

METRICS: dict[str, Entry] = {
    "aa_released": Entry(
        "AA-Align", "released", "up", "aa", "generated onsets near any true one / union; may exceed 1"
    ),
    "aa_f1": Entry("AA-Align F1", "matched", "up", "aa", f"onsets of both sounds paired one to one {_WINDOW}"),
    "aa_iou": Entry("AA-Align IoU", "matched", "up", "aa", f"the same pairs / union, {_WINDOW}"),
    "aa_f1_corrected": Entry(
        "AA-Align F1, chance-corrected", "matched", "up", "aa", "0 = no better than another clip's sound, 1 = perfect"
    ),
    "av_released": Entry(
        "AV-Align", "released", "up", "av", "onsets within one frame of any motion peak / union; may exceed 1"
    ),
    "av_f1": Entry("AV-Align F1", "matched", "up", "av", f"onsets and motion peaks paired one to one {_WINDOW}"),
    "av_iou": Entry("AV-Align IoU", "matched", "up", "av", f"the same pairs / union, {_WINDOW}"),
    "av_f1_corrected": Entry(
        "AV-Align F1, chance-corrected", "matched", "up", "av", "0 = no better than another clip's sound, 1 = perfect"
    ),
    "event_precision": Entry(
        "event precision", "matched", "up", "events", f"detected events that are true ones, {_WINDOW}"
    ),
    "event_recall": Entry("event recall", "matched", "up", "events", f"true events that were detected, {_WINDOW}"),
    "event_f1": Entry("event F1", "matched", "up", "events", f"harmonic mean of both, pooled over clips, {_WINDOW}"),
    "event_offset": Entry(
        "event offset", "matched", "down", "events", "median absolute offset of the matched events", "ms"
    ),
    "fd_panns": Entry("FD", "released", "down", "fd", "Frechet distance of the two sets' embeddings"),
    "kl_softmax_panns": Entry("KL softmax", "released", "down", "kl", "KL(true || generated) clip by clip"),
    "kl_sigmoid_panns": Entry("KL sigmoid", "released", "down", "kl", "the same with every class on its own"),
    "is_panns": Entry("IS", "released", "up", "is", "varied over clips and certain in each; not about the truth"),
    "kid_panns": Entry("KID x 1000", "matched", "down", "kid", "like FD, but without a bias for few clips"),
    "fad_vggish": Entry("FAD", "released", "down", "fad", "Frechet distance of 0.96 s patches"),
    "fd_soundnet": Entry("FD", "matched", "down", "fd", "Frechet distance of the two sets' embeddings"),
    "kl_objects_soundnet": Entry("KL objects", "matched", "down", "kl", "KL(true || generated) clip by clip"),
    "kl_scenes_soundnet": Entry("KL scenes", "matched", "down", "kl", "KL(true || generated) clip by clip"),
    "is_soundnet": Entry("IS", "matched", "up", "is", "varied over clips and certain in each; not about the truth"),
    "kid_soundnet": Entry("KID x 1000", "matched", "down", "kid", "like FD, but without a bias for few clips"),
    "clap": Entry("CLAP", "released", "up", "clap", "cosine between caption and sound"),
}
GROUPS = ("aa", "av", "events", "fd", "kl", "is", "kid", "fad", "clap")
"""Names for --metrics; ``events`` and ``clap`` need true times and captions."""
IMPORTED = "imported"
"""Family of per-clip scores that another program measured (--scores)."""


def entry(name: str) -> Entry:
    """A metric by its name in a report; imported ones have the name that the user gave them only."""
    meaning = "measured by another program, clip by clip"
    return METRICS.get(name) or Entry(name.upper(), IMPORTED, "up", "scores", meaning)
