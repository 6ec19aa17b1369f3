"""The faces of one local day of a run of whole scenes: whose picture, how large, and does everyone comply?

Shape suffixes: N pictures, M faces.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch.geometry import find_bands, measure_overlap, measure_seen, measure_sides
from maskbatch.schema import SIZE_BAND_NAMES

Numbers = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Faces:
    """Face rows (M) in the order of their pictures, from left to right in each."""

    rows: pa.Table
    picture_M: Numbers
    """The place of each face's picture among the day's pictures."""
    box_M4: Floats
    """x0, y0, x1, y1 in upright source pixels."""

    @classmethod
    def sort(cls, rows: pa.Table, picture_M: Numbers) -> "Faces":
        """`rows` in whatever order, with the place of each one's picture."""
        order = np.lexsort((rows["region"].to_numpy(), picture_M))
        rows = rows.take(pa.array(order))
        boxes = rows["box"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return cls(rows, picture_M[order], np.asarray(boxes, np.float64).reshape(-1, 4))

    def name_size_bands(self, detect_px: int) -> pa.Array:
        """The band (M,) of each face's size, of `schema.SIZE_BAND_NAMES`."""
        width_M, height_M = (self.rows[name].to_numpy() for name in ("width", "height"))
        band_M = find_bands(measure_seen(measure_sides(self.box_M4), width_M, height_M, detect_px))
        return pa.DictionaryArray.from_arrays(band_M.astype(np.int8), list(SIZE_BAND_NAMES))

    def is_labelled(self, names: Sequence[str]) -> Bools:
        """Whether each face (M,) has one of these labels."""
        label = self.rows["label"].cast(pa.string())
        return np.asarray(pc.is_in(label, pa.array(list(names), pa.string())))

    def judge_pictures(self, num_pictures: int, assessed_M: Bools, compliant_M: Bools) -> pa.Array:
        """Whether everyone assessed in each picture (N,) complies; null where nobody is assessed."""
        assessed_N, compliant_N = (
            np.bincount(self.picture_M[chosen_M], minlength=num_pictures)
            for chosen_M in (assessed_M, assessed_M & compliant_M)
        )
        return pa.array(assessed_N == compliant_N, mask=assessed_N == 0)

    def find_moves(self, place_N: Numbers, num_pictures: int) -> Bools:
        """Whether each picture has other faces than the one before, or has them elsewhere.

        `place_N`: ascending places among `num_pictures`; (N - 1,) bool, none of the first.
        """
        count = np.bincount(self.picture_M, minlength=num_pictures)
        start = np.cumsum(count) - count
        after, before = place_N[1:], place_N[:-1]
        moves: Bools = count[after] != count[before]
        pair = np.repeat(np.arange(len(after)), np.where(moves, 0, count[after]))
        nth = np.arange(len(pair)) - np.searchsorted(pair, pair)
        boxes = [self.box_M4[start[place][pair] + nth] for place in (after, before)]
        moves[pair[measure_overlap(*boxes) < SAME_OVERLAP]] = True
        return moves


SAME_OVERLAP = 0.8
"""Two boxes of one thing that stands still overlap by more (intersection over union). A detector's boxes of
it differ by 1 to 3 % of its size, which leaves 0.88 to 0.97; a shift of a tenth both ways leaves 0.68."""
