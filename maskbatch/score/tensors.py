"""Pictures on a device, reduced, resized, turned and measured there as `decode` does it on a CPU.

Every sum is one of whole numbers below 2**24, which float32 holds: a picture becomes the same pixels on every
device, whatever lies beside it. But CUDA reduces in half precision, which is faster: there one pixel in 20 of
those reduced by 3 or more is a level off.

Shape suffixes: N pictures of one size, C = 3 colours, H, W.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import avg_pool2d

from maskbatch.decode.images import HEADROOM, TURN, Row, visible_part
from maskbatch.model.card import Preset
from maskbatch.schema import MEASURES

GAP = 2.0
"""A side that is longer still is reduced by whole steps to this many times the target, as Pillow does it."""
SUPPORT = 3
"""Of the widest filter, in pixels of the target."""
WEIGHT_BITS = 15
"""Of the weights of pixels: those of Lanczos sum up to less than 2, absolutely."""
HASH_BITS = 22
"""Pillow's own."""
HASH_SIZE = (9, 8)
LUMA = (19595, 38470, 7471)
"""Pillow's weights of red, green and blue, in 65,536ths."""
IDENTITY_ROWS = 512
MEASURED = 256
"""Pictures at a time: at 160 pixels they take 200 MB meanwhile."""

Tensor = torch.Tensor
TURNS: dict[Image.Transpose, Callable[[Tensor], Tensor]] = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda images: images.flip(-1),
    Image.Transpose.FLIP_TOP_BOTTOM: lambda images: images.flip(-2),
    Image.Transpose.ROTATE_90: lambda images: images.transpose(-1, -2).flip(-2),
    Image.Transpose.ROTATE_180: lambda images: images.flip(-1, -2),
    Image.Transpose.ROTATE_270: lambda images: images.transpose(-1, -2).flip(-1),
    Image.Transpose.TRANSPOSE: lambda images: images.transpose(-1, -2),
    Image.Transpose.TRANSVERSE: lambda images: images.transpose(-1, -2).flip(-1, -2),
}


def turn(images_NCHW: Tensor, orientation: int) -> Tensor:
    """Pictures upright, which EXIF says are stored in `orientation`."""
    for each in TURN.get(orientation, ()):
        images_NCHW = TURNS[each](images_NCHW)
    return images_NCHW


def halve(images_NCHW: Tensor, num_halvings: int) -> Tensor:
    """Pictures uint8 of a half, a quarter, and so on, of their sides, rounded up."""
    return _reduce(images_NCHW, 2**num_halvings, 2**num_halvings)


def fit(images_NCHW: Tensor, preset: Preset, target: tuple[int, int]) -> Tensor:
    """Pictures uint8 as the model sees them, at `target` (W, H): as `decode.images.resize`."""
    height, width = images_NCHW.shape[2:]
    left, top, right, bottom = visible_part((width, height), preset)
    across, down = (left * width, right * width), (top * height, bottom * height)
    sides = tuple(zip((across, down), target, strict=True))
    common = max(1, min(int((end - start) / (HEADROOM * length)) for (start, end), length in sides))
    cuts = [
        _Cut.plan(side, part, length, common)
        for side, (part, length) in zip((width, height), sides, strict=True)
    ]
    rows, columns = slice(cuts[1].start, cuts[1].stop), slice(cuts[0].start, cuts[0].stop)
    reduced = _reduce(images_NCHW[..., rows, columns], cuts[0].step, cuts[1].step)
    boxes = cuts[0].box, cuts[1].box
    return _resample(reduced, boxes, target, preset.interpolation)


def resize(images_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures uint8 at `size` (W, H), by Pillow's bilinear filter."""
    height, width = images_NCHW.shape[2:]
    return _resample(images_NCHW, ((0.0, width), (0.0, height)), size, "bilinear")


@dataclass(frozen=True, slots=True)
class _Cut:
    """One side of the part of a picture that a target needs."""

    start: int
    stop: int
    step: int
    """Pixels that become one."""
    box: tuple[float, float]
    """What the target shows of the part, once it is reduced."""

    @classmethod
    def plan(cls, side: int, part: tuple[float, float], target: int, common: int) -> "_Cut":
        """Of a side, where `part` is to become `target` pixels, and both sides are reduced by `common`."""
        length = part[1] - part[0]
        step = common * max(1, int(length / common / target / GAP))
        margin = ceil(SUPPORT * max(1.0, length / step / target)) + 1
        start = max(0, floor(part[0] / step) - margin) * step
        stop = min(side, (ceil(part[1] / step) + margin) * step)
        return cls(start, stop, step, ((part[0] - start) / step, (part[1] - start) / step))


def _reduce(images_NCHW: Tensor, across: int, down: int) -> Tensor:
    """The mean of each box of pixels, as uint8; those at the right and below may be smaller."""
    if across == down == 1:
        return images_NCHW
    half = images_NCHW.to(torch.float16 if images_NCHW.is_cuda else torch.float32)
    return avg_pool2d(half, (down, across), ceil_mode=True).round_().to(torch.uint8)


def _resample(
    images_NCHW: Tensor,
    boxes: tuple[tuple[float, float], tuple[float, float]],
    target: tuple[int, int],
    interpolation: str,
) -> Tensor:
    """Pictures uint8 (N, C, h, w) at `target` (W, H); `boxes` are the parts of w and of h that it shows."""
    height, width = images_NCHW.shape[2:]
    across, down = (
        _weigh(side, box, length, interpolation, WEIGHT_BITS, images_NCHW.is_cuda)
        for side, box, length in zip((width, height), boxes, target, strict=True)
    )
    return _apply(images_NCHW.float(), across, down, WEIGHT_BITS).to(torch.uint8)


def _apply(images: Tensor, across_wW: Tensor, down_hH: Tensor, bits: int) -> Tensor:
    """Pictures (..., h, w) of whole numbers 0 to 255 as such (..., H, W): first across, then down."""
    across_wW, down_hH = (
        weights.to(images.device, non_blocking=True).to(images.dtype) for weights in (across_wW, down_hH)
    )
    narrow = _round(images @ across_wW, bits)
    return _round(down_hH.T @ narrow, bits)


def _round(sums: Tensor, bits: int) -> Tensor:
    return sums.mul_(2.0**-bits).add_(0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=64)
def _weigh(
    side: int,
    box: tuple[float, float],
    target: int,
    interpolation: str,
    bits: int,
    is_pinned: bool,
) -> Tensor:
    """What each of `side` pixels adds to each of `target` (side, target) int32, in units of 2**-bits.

    Pillow says it: of a picture with a single bright pixel in each row it makes one of the weights. They stay
    on the host: what lies on a device must not be dropped while another stream may read it.
    """
    filters, weights = Image.Resampling[interpolation.upper()], list[NDArray[np.int32]]()
    for start in range(0, side, IDENTITY_ROWS):
        rows = min(IDENTITY_ROWS, side - start)
        single = Image.fromarray(np.eye(rows, side, start, np.int32) << bits)
        weights.append(np.asarray(single.resize((target, rows), filters, (box[0], 0, box[1], rows))))
    whole = torch.from_numpy(np.concatenate(weights))
    return whole.pin_memory() if is_pinned else whole


def measure(images_NCHW: Tensor) -> Tensor:
    """Sums (N, 12) int64 of pictures uint8 of the model's input size, which `describe_sums` reads.

    Four are those of luma, its square, its Laplacian and that's square, eight the bytes of the hash.
    """
    return torch.cat([_measure(part) for part in torch.split(images_NCHW, MEASURED)])


def _measure(images_NCHW: Tensor) -> Tensor:
    red, green, blue = images_NCHW.int().unbind(1)
    luma = (red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + 0x8000) >> 16
    middle = luma[:, 1:-1, 1:-1]
    laplacian = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1] + luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:] - 4 * middle
    parts = (luma, luma * luma, laplacian, laplacian * laplacian)
    sums = [part.sum((1, 2), dtype=torch.int64)[:, None] for part in parts]
    return torch.cat([*sums, _hash(luma)], dim=1)


def _hash(luma_NHW: Tensor) -> Tensor:
    """The bytes (N, 8) int64 of `decode.quality.dhash`."""
    across, down = (
        _weigh(side, (0.0, side), length, "box", HASH_BITS, luma_NHW.is_cuda)
        for side, length in zip(luma_NHW.shape[:0:-1], HASH_SIZE, strict=True)
    )
    small = _apply(luma_NHW.double(), across, down, HASH_BITS)
    bits = (small[..., 1:] > small[..., :-1]).long()
    return (bits << torch.arange(7, -1, -1, device=bits.device)).sum(-1)


def describe_sums(sums_N12: NDArray[np.int64], size: tuple[int, int]) -> list[Row]:
    """Of each picture of `size` (W, H), what `decode.images.describe` says."""
    num_inner = (size[0] - 2) * (size[1] - 2)
    brightness, square, edges, edges_square = sums_N12[:, :4].T
    brightness = brightness / (size[0] * size[1])
    contrast = np.sqrt(square / (size[0] * size[1]) - brightness**2)
    sharpness = edges_square / num_inner - (edges / num_inner) ** 2
    measures = np.stack([brightness / 255, contrast / 255, sharpness], axis=1).tolist()
    hashes: Sequence[bytes] = [bytes(row) for row in sums_N12[:, 4:].tolist()]
    return [
        {**dict(zip(MEASURES, values, strict=True)), "dhash": dhash}
        for values, dhash in zip(measures, hashes, strict=True)
    ]
