"""Any mode of a photograph as reduced RGB, a strip at a time: 89 million pixels are never held twice."""

import numpy as np
from PIL import Image

from maskbatch.errors import ImageError

REDUCING_GAP = 4 / 3
"""Reduced by whole steps to no less than this many times what is needed."""
STRIP_PIXELS = 1 << 20


def reduce_to_rgb(image: Image.Image, needed: tuple[float, float]) -> Image.Image:
    """A loaded `image` as RGB of at least `needed` (W, H) pixels, or whole if it has less.

    Alpha lies over white, 16-bit grey is its high byte. Raises ImageError for 32-bit values.
    """
    width, height = image.size
    across, down = (
        max(1, int(side / least / REDUCING_GAP)) for side, least in zip(image.size, needed, strict=True)
    )
    rows = max(1, STRIP_PIXELS // width // down) * down
    if rows >= height:
        return _reduce(_to_rgb(image), across, down)
    reduced = Image.new("RGB", (-(-width // across), -(-height // down)))
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        reduced.paste(_reduce(_to_rgb(strip), across, down), (0, top // down))
    return reduced


def _reduce(image: Image.Image, across: int, down: int) -> Image.Image:
    return image if across == down == 1 else image.reduce((across, down))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError("unsupported", f"{image.format} of 32-bit grey values, 8 or 16 expected")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
