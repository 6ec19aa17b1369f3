"""Blur the faces of a picture that are not in question, beyond recognition."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BLUR_SCALE = 1.3
"""A blurred part reaches beyond its box by so much: the detector's boxes leave out ears and chins."""
BLUR_CELLS = 4
"""What is left of a blurred part is the mean colour of so many cells each way, about three across a face."""
Box = Sequence[float]
"""x0, y0, x1, y1 in pixels."""


def blur_others(image: Image.Image, boxes: Sequence[Box], own: int) -> Image.Image:
    """A copy of `image` in which all faces but `boxes[own]` are blurred.

    Where another face overlaps that one, a pixel is blurred if its middle is nearer, both in pixels and in
    sizes of their boxes.
    """
    out = image.copy()
    for number, box in enumerate(boxes):
        part = _widen(box, image.size)
        if number != own and part[0] < part[2] and part[1] < part[3]:
            cells = image.resize((BLUR_CELLS, BLUR_CELLS), Image.Resampling.BOX, part)
            blurred = cells.resize((part[2] - part[0], part[3] - part[1]), Image.Resampling.BICUBIC)
            out.paste(blurred, part[:2], Image.fromarray(_belongs(part, box, boxes[own])))
    return out


def _widen(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of a picture of `size` (W, H) to blur, in whole pixels."""
    more = [(BLUR_SCALE - 1) / 2 * (box[i + 2] - box[i]) for i in (0, 1)]
    low = (max(0, int(box[i] - more[i])) for i in (0, 1))
    high = (min(size[i], int(np.ceil(box[i + 2] + more[i]))) for i in (0, 1))
    return (*low, *high)  # type: ignore[return-value]


def _belongs(part: tuple[int, int, int, int], box: Box, own: Box) -> NDArray[np.uint8]:
    """255 where a pixel (H, W) of `part` is not of the face in `own`, otherwise 0."""
    (own_2HW, own_half), (other_2HW, other_half) = (_measure_distance(part, face) for face in (own, box))
    is_outside = (own_2HW > own_half).any(axis=0)
    nearer = [
        np.hypot(*(other_2HW / other_scale)) < np.hypot(*(own_2HW / own_scale))
        for other_scale, own_scale in ((1, 1), (other_half, own_half))
    ]
    return np.where(is_outside | (nearer[0] & nearer[1]), 255, 0).astype(np.uint8)


def _measure_distance(
    part: tuple[int, int, int, int], box: Box
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far each pixel (2, H, W) of `part` is from the middle of `box`, and how far its edges are."""
    corners = np.reshape(np.asarray(box, np.float64), (2, 2))
    middle, half = corners.mean(axis=0), np.maximum(np.diff(corners, axis=0)[0] / 2, 0.5)
    away = [np.abs(np.arange(part[i], part[i + 2]) + 0.5 - middle[i]) for i in (0, 1)]
    return np.stack(np.meshgrid(*away)), half[:, None, None]
