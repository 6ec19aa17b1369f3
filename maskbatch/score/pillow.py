"""What Pillow reads: WebP, GIF, BMP, TIFF, AVIF, and HEIC where pillow-heif is installed."""

import importlib
import io
from dataclasses import replace
from typing import Any

from PIL import (  # noqa: F401  each plugin registers its format; Image.open alone would try all 40
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from maskbatch.errors import ImageError
from maskbatch.score.exif import NOTHING, read_exif
from maskbatch.score.rgb import reduce_to_rgb
from maskbatch.score.source import Source, check_size

FORMATS = ("WEBP", "BMP", "DIB", "TIFF", "GIF")


def open_picture(data: bytes, max_pixels: int) -> Source:
    """Raises ImageError, and whatever Pillow raises at damaged data."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    return _make_source(data, image, max_pixels)


def open_avif(data: bytes, max_pixels: int) -> Source:
    """Raises ImageError too where this Pillow was built without AVIF."""
    if not features.check("avif"):
        remedy = "pip install --upgrade pillow, or convert it to JPEG or PNG"
        raise ImageError(
            "unsupported", f"the file holds an AVIF image, which this Pillow cannot read; {remedy}"
        )
    importlib.import_module("PIL.AvifImagePlugin")  # 40 ms, for those who have such files
    return _make_source(data, Image.open(io.BytesIO(data), formats=("AVIF",)), max_pixels)


def open_heic(data: bytes, max_pixels: int) -> Source:
    """Raises ImageError too where pillow-heif is not installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        remedy = "pip install pillow-heif on every worker, or convert it to JPEG or PNG"
        raise ImageError(
            "unsupported", f"the file holds a HEIC image, which Pillow alone cannot read; {remedy}"
        ) from None
    return _make_source(data, Image.open(io.BytesIO(data), formats=("HEIF",)), max_pixels)


def _make_source(data: bytes, image: Image.Image, max_pixels: int) -> Source:
    check_size(*image.size, max_pixels)
    exif = NOTHING
    if image.format == "TIFF":
        image.load()  # which turns it upright
        exif = replace(read_exif(data), orientation=1)
    elif "exif" in image.info:
        exif = read_exif(_plain(image.info["exif"]))
    return Source(*image.size, lambda needed: reduce_to_rgb(image, needed), exif)


def _plain(block: Any) -> bytes:
    return bytes(block).removeprefix(b"Exif\0\0")
