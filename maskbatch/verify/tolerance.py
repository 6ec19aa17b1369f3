"""How far a committed row may be from the same image scored again on the CPU, by what decoded it in the run.

Measured on 5,000 pictures and 1,141 faces of whole scenes, decoded as the CPU does it and by libjpeg-turbo's
fast transform without smoothed chroma. On 573 pictures these two gave about as many other labels, and
probabilities as far apart, as the CPU and nvJPEG on one H100 (`python -m tests.benchmarks.decoders`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isclose
from typing import Any

Row = Mapping[str, Any]
FLAT = 2 / 255
"""Contrast of a picture, dark or covered, in which rounding alone decides sharpness and the bits of dhash."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """The most that two rows of one image, or of one face, may differ."""

    prob: float
    """Between probabilities."""
    label_gap: float
    """Another label is none where its probability and that of the committed one are no further apart."""
    most_prob: float
    """Between probabilities of a few, which are counted."""
    share_far: float = 0.0
    """How many of those scored again these few may be."""
    confidence: float
    """Between confidences of one face; so little above the detector's threshold, it may come or go."""
    level: float
    """Between brightness, and contrast, as shares of 255; absolute or relative."""
    sharpness: float
    """Between sharpness, relative."""
    dhash_bits: int
    """Of 64 that differ, where there is any contrast."""
    hides_damage: bool
    """Whether what decoded the run may call `ok` what our decoder finds damaged inside."""

    def is_alike(self, name: str, old: Row, new: Row) -> bool:
        """Whether a column of two rows is."""
        was, now = old[name], new[name]
        if was is None or now is None:
            return was is now
        if name == "num_faces_left_out":  # most are false alarms of little confidence
            return isclose(was, now, rel_tol=0.02, abs_tol=50) if was and now else bool(was == now)
        if (
            name in ("sharpness", "dhash")
            and self.dhash_bits
            and min(old["contrast"], new["contrast"]) < FLAT
        ):
            return True
        if name == "dhash":
            return _count_bits(was, now) <= self.dhash_bits
        if isinstance(was, float) and isinstance(now, float):
            near = self.sharpness if name == "sharpness" else self.level
            return isclose(was, now, rel_tol=near, abs_tol=near)
        return bool(was == now)


TOLERANCES = {
    "cpu": Tolerance(
        prob=0.02, label_gap=0.02, most_prob=0.02, confidence=0.02, level=1e-3, sharpness=1e-3, dhash_bits=0,
        hides_damage=False,
    ),
    # Seen: over .1 in .7 % of pictures and 1.2 % of faces, at most .28; confidence .12, or .18 above the
    # threshold; 1.1 grey levels of brightness, .7 of contrast; sharpness 30 %; 9 bits, in flat pictures 25.
    "gpu": Tolerance(
        prob=0.1, label_gap=0.2, most_prob=0.5, share_far=0.05, confidence=0.2, level=2 / 255, sharpness=0.5,
        dhash_bits=16, hides_damage=True,
    ),
}  # fmt: skip
"""By the decoder of the run."""


def _count_bits(first: bytes, second: bytes) -> int:
    return (int.from_bytes(first, "big") ^ int.from_bytes(second, "big")).bit_count()
