"""Boxes (..., 4), which are x0, y0, x1, y1 in pixels: how large they are, and how much two of them share."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from maskbatch.schema import SIZE_BANDS

Floats = NDArray[np.floating[Any]]


def measure_sides(boxes: Floats) -> Floats:
    """The longer side (...) of each box, in its dtype."""
    sides: Floats = (boxes[..., 2:] - boxes[..., :2]).max(axis=-1)
    return sides


def measure_overlap(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union (...) of boxes that broadcast against each other, 0 to 1."""
    first, second = (np.asarray(boxes, np.float64) for boxes in (first, second))
    low = np.maximum(first[..., :2], second[..., :2])
    both = _measure_areas(np.minimum(first[..., 2:], second[..., 2:]) - low)
    union = sum(_measure_areas(boxes[..., 2:] - boxes[..., :2]) for boxes in (first, second)) - both
    return np.asarray(both / np.maximum(union, 1e-9))


def _measure_areas(sides: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.prod(np.maximum(sides, 0), axis=-1))


def do_overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes share any area."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def measure_seen(
    sides: ArrayLike, width: ArrayLike, height: ArrayLike, detect_px: int
) -> NDArray[np.float64]:
    """Face sizes (N,) as the detector saw them: see `schema.SIZE_BANDS`.

    `sides`: the faces' longer sides in source pixels; `width`, `height`: of their pictures.
    """
    longest = np.maximum(np.asarray(width, np.float64), np.asarray(height, np.float64))
    return np.asarray(np.asarray(sides, np.float64) * np.minimum(1, detect_px / longest))


def find_bands(seen: NDArray[np.float64]) -> NDArray[np.int64]:
    """The number (N,) of the band of `schema.SIZE_BANDS` that each size lies in."""
    return np.asarray(np.searchsorted(SIZE_BANDS, seen, side="right") - 1, np.int64)
