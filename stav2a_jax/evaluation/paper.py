"""The numbers that the paper prints (Ren et al. 2024, arXiv 2409.08601, Tables I and III), for the column beside ours.

They were measured by the authors on their own test clips, and can be compared only where clips, crop and weights are
the same.
"""

from __future__ import annotations

from typing import NamedTuple

COLUMNS = {
    "FD": "fd_panns",
    "FAD": "fad_vggish",
    "KL": "kl_softmax_panns",
    "IS": "is_panns",
    "PAM": "pam",
    "CLAP": "clap",
    "AV": "av_released",
    "AA": "aa_released",
}
"""The paper's columns and our metrics of the same definition, in the paper's order."""


class Row(NamedTuple):
    """A line of a table: name, seconds that were compared, printed values in the order of :data:`COLUMNS`."""

    name: str
    seconds: float
    values: tuple[float | None, ...]
    alias: str = ""


TABLE_I = (
    Row("Ground truth", 10, (None, None, None, None, 0.319, 0.485, 0.300, 1.000)),
    Row("Im2Wav", 4, (21.34, 8.70, 4.68, 7.23, 0.185, 0.307, 0.281, 0.729)),
    Row("STA-V2A", 4, (10.83, 2.16, 2.61, 12.32, 0.389, 0.448, 0.297, 0.740)),
    Row("Diff-Foley", 8, (36.98, 9.73, 6.76, 8.19, 0.205, 0.278, 0.215, 0.517)),
    Row("STA-V2A", 8, (12.78, 1.91, 2.59, 13.90, 0.428, 0.469, 0.289, 0.704)),
    Row("FoleyCrafter without text", 10, (27.00, 4.44, 4.57, 9.44, 0.307, 0.179, 0.239, 0.559)),
    Row("FoleyCrafter with text", 10, (28.13, 3.45, 3.56, 10.70, 0.388, 0.473, 0.242, 0.569)),
    Row("VTA-LDM", 10, (25.64, 2.44, 3.41, 10.07, 0.241, 0.412, 0.247, 0.601)),
    Row("STA-V2A", 10, (21.24, 1.83, 2.50, 13.45, 0.276, 0.507, 0.279, 0.687)),
)
TABLE_III = (
    Row("Pretrained-T2A", 10, (27.25, 3.53, 3.64, 10.32, 0.258, 0.470, 0.206, 0.498)),
    Row("FineTuned-T2A", 10, (27.24, 3.84, 3.57, 10.44, 0.260, 0.472, 0.208, 0.502)),
    Row("CN without filter", 10, (19.65, 2.00, 2.53, 13.15, 0.260, 0.508, 0.235, 0.573)),
    Row("CN frozen", 10, (20.35, 1.90, 2.50, 12.26, 0.245, 0.510, 0.269, 0.649)),
    Row("CN", 10, (19.58, 2.23, 2.51, 13.38, 0.273, 0.506, 0.277, 0.669)),
    Row("CN + onset", 10, (20.02, 1.95, 2.37, 13.23, 0.255, 0.512, 0.283, 0.692)),
    Row("CN + onset + global", 10, (21.24, 1.83, 2.50, 13.45, 0.276, 0.507, 0.279, 0.687), alias="STA-V2A"),
)
TABLES = {"I": TABLE_I, "III": TABLE_III}
