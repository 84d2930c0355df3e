"""The nine published HRNet variants as rows of data (TPAMI 2020, Section 3 and Table 7; the official repositories).

A variant is one integer, the width C of the first stream, and a few counts; stream i has `C * 2**i` channels.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """Shape of one HRNet.

    Args:
        width: Channels C of the highest-resolution stream; stream i has `C * 2**i`.
        stage1_blocks: Bottleneck blocks of stage 1.
        stage1_width: Inner width of these bottlenecks; stage 1 gives four times as many channels.
        units: Exchange units of stages 2, 3 and 4.
        blocks: Basic blocks in a row on each stream of a unit.
    """

    width: int
    stage1_blocks: int = 4
    stage1_width: int = 64
    units: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4


VARIANTS: dict[str, Variant] = {
    "w18_small_v1": Variant(16, stage1_blocks=1, stage1_width=32, units=(1, 1, 1), blocks=2),
    "w18_small_v2": Variant(18, stage1_blocks=2, units=(1, 3, 2), blocks=2),
    "w18": Variant(18),
    "w30": Variant(30),
    "w32": Variant(32),
    "w40": Variant(40),
    "w44": Variant(44),
    "w48": Variant(48),
    "w64": Variant(64),
}
