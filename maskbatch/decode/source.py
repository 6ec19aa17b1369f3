"""One image as it was read, and once its header has been: the same for every format, up to the pixels."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from maskbatch.decode.exif import NOTHING, Exif
from maskbatch.errors import ImageError

MAX_SIDE = 65_535
"""JPEG's own bound. Pillow keeps a pointer for each row: 1 x 89,000,000 pixels took 5.2 GB."""
MAX_DECODE_BYTES = 900_000_000
"""What decoding may add to a worker."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One image as the archive holds it, or the reason why it could not be read."""

    data: bytes | None
    status: str = "ok"
    error: str | None = None
    num_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """An image to be decoded."""

    width: int
    """As stored, before EXIF turns it."""
    height: int
    decode: Callable[[tuple[float, float]], Image.Image]
    """RGB, reduced to no less than so many pixels (W, H), or whole if it has less. Raises ImageError."""
    exif: Exif = NOTHING


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises ImageError."""
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width} x {height} pixels, {max_pixels:,} allowed")
    if max(width, height) > MAX_SIDE:
        raise ImageError("too_large", f"{width} x {height} pixels, a side of {MAX_SIDE:,} allowed")


def check_memory(num_bytes: int) -> None:
    """Raises ImageError."""
    if num_bytes > MAX_DECODE_BYTES:
        megabytes, allowed = num_bytes // 10**6, MAX_DECODE_BYTES // 10**6
        raise ImageError("too_large", f"decoding it takes {megabytes:,} MB of memory, {allowed:,} allowed")


def stable_message(error: Exception) -> str:
    """A decoder's message without what differs between runs, at most 200 characters."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return re.sub(r"<[^>]*0x[0-9a-f]+>", "the image", text)[:200]
