"""Does a caption speak of human speech? A rule over a list of words, ``assets/speech_words.txt``.

1. Phrases of the section 'not speech' are taken out ("so to speak", "a talking drum").
2. A word of the section 'speech' counts, wherever it stands.
3. A word of 'with people' (voice, murmur, chatter) counts if a person is named in the caption and nobody sings.
4. A word does not count if a negation stands within three words before it, without punctuation between.

Singing, laughing, crying, screaming and cheering are not speech. The paper says only that clips whose caption speaks
of speech are dropped (PAPER sec. 5); the rule is ours.
"""

from __future__ import annotations

import functools
import importlib.resources
import re

_REACH = 3
_TOKEN = re.compile(r"[a-z0-9]+(?:['-][a-z0-9]+)*|[.,;:!?()]")


@functools.lru_cache(maxsize=1)
def word_list() -> dict[str, frozenset[str]]:
    """Section -> words and phrases of the list."""
    text = importlib.resources.files("stav2a_jax").joinpath("assets/speech_words.txt").read_text(encoding="utf-8")
    sections: dict[str, set[str]] = {}
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), set())
        elif line and not line.startswith("#"):
            current.add(line)
    return {name: frozenset(words) for name, words in sections.items()}


def speech_word(caption: str) -> str | None:
    """The first word by which the caption speaks of human speech, None where it does not."""
    words = word_list()
    text = caption.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    for phrase in words["not speech"]:
        text = re.sub(rf"\b{re.escape(phrase)}\b", " ", text)
    tokens = _TOKEN.findall(text)
    named = set(tokens)
    spoken = words["speech"]
    if named & words["people"] and not named & words["singing"]:
        spoken = spoken | words["with people"]
    return next((t for i, t in enumerate(tokens) if t in spoken and not _negated(tokens, i)), None)


def _negated(tokens: list[str], place: int) -> bool:
    for token in reversed(tokens[max(0, place - _REACH) : place]):
        if not token[0].isalnum():
            return False
        if token in word_list()["negation"]:
            return True
    return False
