"""What Pillow reads: WebP, GIF, BMP, TIFF, AVIF, and HEIC where pillow-heif is installed."""

import importlib
import io
from dataclasses import replace

from PIL import (  # noqa: F401  each plugin registers its format; Image.open alone would try all 40
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
    features,
)

from maskbatch.decode import tiff
from maskbatch.decode.exif import NOTHING, read_exif
from maskbatch.decode.kinds import CONVERT
from maskbatch.decode.rgb import reduce_to_rgb
from maskbatch.decode.source import Source, check_memory, check_size
from maskbatch.errors import ImageError

FORMATS = ("WEBP", "BMP", "DIB", "GIF")
PIXEL_BYTES = {"WEBP": 16, "AVIF": 18, "HEIF": 18}
"""What decoding takes; 4 for the others. Measured: 16 for WebP, 9 to 11 for AVIF of 8 bits."""


def open_picture(data: bytes, max_pixels: int) -> Source:
    """Raises ImageError, and whatever Pillow raises at damaged data."""
    return _make_source(Image.open(io.BytesIO(data), formats=FORMATS), max_pixels)


def open_tiff(data: bytes, max_pixels: int) -> Source:
    """Raises ImageError, and whatever Pillow raises at damaged data."""
    layout = tiff.read_layout(data, max_pixels)
    try:
        image = Image.open(io.BytesIO(data), formats=("TIFF",))
    except UnidentifiedImageError:  # the header is sound
        raise ImageError("unsupported", f"TIFF of a kind of pixels that is not read; {CONVERT}") from None

    def decode(needed: tuple[float, float]) -> Image.Image:
        tiff.check_pixels(data, layout)
        return _load(image, needed)

    # Pillow turns it, and says its size upright.
    return Source(*image.size, decode, replace(read_exif(data), orientation=1))


def open_avif(data: bytes, max_pixels: int) -> Source:
    """Raises ImageError too where this Pillow was built without AVIF."""
    if not features.check("avif"):
        remedy = "pip install --upgrade pillow, or convert it to JPEG or PNG"
        raise ImageError(
            "unsupported", f"the file holds an AVIF image, which this Pillow cannot read; {remedy}"
        )
    importlib.import_module("PIL.AvifImagePlugin")  # 40 ms, for those who have such files
    return _make_source(Image.open(io.BytesIO(data), formats=("AVIF",)), max_pixels)


def open_heic(data: bytes, max_pixels: int) -> Source:
    """Raises ImageError too where pillow-heif is not installed."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError:
        remedy = "pip install pillow-heif on every worker, or convert it to JPEG or PNG"
        raise ImageError(
            "unsupported", f"the file holds a HEIC image, which Pillow alone cannot read; {remedy}"
        ) from None
    return _make_source(Image.open(io.BytesIO(data), formats=("HEIF",)), max_pixels)


def _make_source(image: Image.Image, max_pixels: int) -> Source:
    check_size(*image.size, max_pixels)
    check_memory(image.width * image.height * PIXEL_BYTES.get(image.format or "", 4))
    block = image.info.get("exif")
    exif = read_exif(bytes(block).removeprefix(b"Exif\0\0")) if block else NOTHING
    return Source(*image.size, lambda needed: _load(image, needed), exif)


def _load(image: Image.Image, needed: tuple[float, float]) -> Image.Image:
    image.load()
    return reduce_to_rgb(image, needed)
