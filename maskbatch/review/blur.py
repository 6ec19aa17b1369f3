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

    Where another face overlaps that one, each pixel belongs to the face whose middle is nearer, in sizes of
    its box.
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
    distance = _measure_distance(part, own)
    return np.where((distance > 1) | (_measure_distance(part, box) < distance), 255, 0).astype(np.uint8)


def _measure_distance(part: tuple[int, int, int, int], box: Box) -> NDArray[np.float64]:
    """How far each pixel (H, W) of `part` is from the middle of `box`: 1 at its edges, 0 in its middle."""
    away = []
    for i in (0, 1):
        middle, half = (box[i] + box[i + 2]) / 2, max((box[i + 2] - box[i]) / 2, 0.5)
        away.append(np.abs(np.arange(part[i], part[i + 2]) + 0.5 - middle) / half)
    return np.asarray(np.maximum(away[0][None], away[1][:, None]))
