"""Encoded bytes to fixed-size RGB: the hop that decides how fast an archive is scored.

A JPEG is decoded at the smallest DCT scale that leaves 1.5 times the model's input on each side, then
resized: at 1920x1080 three times faster than decoding it whole, and 0.3 to 0.5 grey levels off on average.
Everything else goes through Pillow.

Bytes from an archive are hostile: what is wrong with them becomes a status and a sentence.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import (  # noqa: F401  each plugin registers its format; Image.open alone would try all 40
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from maskbatch.errors import ImageError
from maskbatch.model.checkpoint import Preset
from maskbatch.score import quality
from maskbatch.score.read import Encoded

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF", "GIF")
SIGNATURES = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"RIFF": "WEBP",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
JPEG_HEADROOM = 1.5
# Some webcams write a few stray bytes before the end marker; in damaged data there are tens of them.
STRAY_BYTES = re.compile(r"Corrupt JPEG data: [1-4] extraneous bytes before marker 0xd9")
TURN = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}


@dataclass(slots=True)
class Picture:
    """One decoded image."""

    image: Image.Image
    """RGB, resized to the model's input, upright."""
    width: int
    """Pixels of the source, upright."""
    height: int
    exif_time: str | None
    """EXIF time, ISO 8601, with an offset only where the camera wrote one."""


@dataclass(slots=True)
class Decoded:
    """Images in plan order; a column has one entry an image."""

    images_NHWC: NDArray[np.uint8]
    """RGB; zeros where the image is not ok."""
    columns: dict[str, list[object]] = field(default_factory=dict)
    """By COLUMNS."""


COLUMNS = (
    "status", "error", "width", "height", "num_bytes", "sha256",
    "brightness", "contrast", "sharpness", "dhash", "exif_time",
)  # fmt: skip


def decode_batch(encoded: Iterable[Encoded], num_images: int, preset: Preset, max_pixels: int) -> Decoded:
    """Decode and resize `num_images` images, in order; a bad one gives a status, a sentence and zeros."""
    height, width = preset.input_size
    out = Decoded(np.zeros((num_images, height, width, 3), np.uint8), {name: [] for name in COLUMNS})
    for i, item in enumerate(encoded):
        row: dict[str, object] = dict.fromkeys(COLUMNS)
        row["status"], row["error"], row["num_bytes"] = item.status, item.error, item.num_bytes
        if item.data is not None:
            row["sha256"] = hashlib.sha256(item.data).hexdigest()
            try:
                picture = decode_image(item.data, preset, max_pixels)
            except ImageError as error:
                row["status"], row["error"] = error.status, error.message
            else:
                out.images_NHWC[i] = np.asarray(picture.image)
                row.update(_describe(picture))
        for name in COLUMNS:
            out.columns[name].append(row[name])
    return out


def _describe(picture: Picture) -> dict[str, object]:
    luma = picture.image.convert("L")
    measures = zip(("brightness", "contrast", "sharpness"), quality.measure(np.asarray(luma)), strict=True)
    size = {"width": picture.width, "height": picture.height}
    return {**size, **dict(measures), "dhash": quality.dhash(luma), "exif_time": picture.exif_time}


def decode_image(data: bytes, preset: Preset, max_pixels: int) -> Picture:
    """Decode one image to upright RGB of the preset's input size.

    Applies the EXIF orientation, lays alpha over white, scales 16-bit grey to 8, and takes the first frame of
    an animation. Raises ImageError and nothing else.
    Source: EXIF orientation and times, CIPA DC-008, tags 0x0112, 0x9003, 0x9011, 0x0132.
    """
    if not data:
        raise ImageError("truncated", "the file is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd EXIF, and of sizes that we bound below
            return _decode(data, preset, max_pixels)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError("too_large", f"more than the {max_pixels:,} pixels allowed") from None
    except UnidentifiedImageError:
        kind = _kind(data)
        if kind is None:
            raise ImageError("unsupported", _unsupported(data)) from None
        raise ImageError(_damage(data, kind), f"{kind} header cannot be read") from None
    except Exception as error:  # on hostile bytes decoders raise anything
        kind = _kind(data) or "image"
        message = _stable_message(error)
        status = "truncated" if "truncated" in message.lower() else _damage(data, kind)
        raise ImageError(status, f"{kind} data is {status}: {message}") from None


def _decode(data: bytes, preset: Preset, max_pixels: int) -> Picture:
    with Image.open(io.BytesIO(data), formats=FORMATS) as source:
        width, height = source.size
        if width * height > max_pixels:
            raise ImageError("too_large", f"{width} x {height} pixels, {max_pixels:,} allowed")
        # A TIFF's own tags are its EXIF; elsewhere only a block that the header showed is parsed.
        exif = source.getexif() if source.format == "TIFF" or "exif" in source.info else None
        if source.format == "TIFF":
            source.load()  # which turns it upright
            width, height = source.size
        orientation = exif.get(ExifTags.Base.Orientation, 1) if exif and source.format != "TIFF" else 1
        swapped = orientation in (5, 6, 7, 8)
        target = preset.input_size if swapped else preset.input_size[::-1]
        left, top, right, bottom = _visible_part(source.size, preset)
        needed = JPEG_HEADROOM * target[0] / (right - left), JPEG_HEADROOM * target[1] / (bottom - top)
        image = None
        if source.format in ("JPEG", "MPO") and source.mode in ("L", "RGB"):
            image = _decode_jpeg(data, needed)
        if image is None:
            source.draft(None, (round(needed[0]), round(needed[1])))
            image = _to_rgb(source)
        wide, high = image.size
        box = left * wide, top * high, right * wide, bottom * high
        image = image.resize(target, Image.Resampling[preset.interpolation.upper()], box, reducing_gap=2.0)
        for turn in TURN.get(orientation, ()):
            image = image.transpose(turn)
        if swapped:
            width, height = height, width
        return Picture(image, width, height, _exif_time(exif))


def _visible_part(size: tuple[int, int], preset: Preset) -> tuple[float, float, float, float]:
    """The part of a frame of `size` (W, H) that the model sees: left, top, right, bottom, as shares of it.

    A crop lies where the image processors of transformers put it, to the pixel, but without their picture in
    between, which is huge for a long strip.
    """
    if preset.resize == "squash":
        return 0.0, 0.0, 1.0, 1.0
    side = preset.input_size[0]
    shorter = int(round(side / preset.crop_share, 6))
    width, height = (shorter * length // min(size) for length in size)
    left, top = (width - side) // 2, (height - side) // 2
    return left / width, top / height, (left + side) / width, (top + side) / height


def _decode_jpeg(data: bytes, needed: tuple[float, float]) -> Image.Image | None:
    """`data` as RGB at the smallest DCT scale of at least `needed` (W, H) pixels, or whole if it has less.

    None where the decoder only warns, such as of an odd JFIF version: Pillow decodes that. Raises ImageError
    for data that ends early or is damaged.
    """
    least = {"min_width": needed[0], "min_height": needed[1]}
    try:
        return Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", strict=True, **least))
    except ValueError as error:
        message = _stable_message(error)
    if message.startswith("Premature end") or _damage(data, "JPEG") == "truncated":
        raise ImageError("truncated", "JPEG data ends early")
    if message.startswith("Corrupt JPEG data") and not STRAY_BYTES.match(message):
        raise ImageError("corrupt", f"JPEG data is corrupt: {message}")
    return None


def _to_rgb(source: Image.Image) -> Image.Image:
    """Any mode of a photograph as RGB: alpha over white, 16-bit grey by its high byte."""
    if source.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(source) >> 8).astype(np.uint8)).convert("RGB")
    if source.mode in ("I", "F"):
        raise ImageError("unsupported", f"{source.format} of 32-bit grey values, 8 or 16 expected")
    if source.has_transparency_data:
        layer = source.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return source.convert("RGB")


def _exif_time(exif: Image.Exif | None) -> str | None:
    """When the picture was taken, ISO 8601, local unless the camera wrote its offset."""
    if not exif:
        return None
    details = exif.get_ifd(ExifTags.IFD.Exif)
    original = details.get(ExifTags.Base.DateTimeOriginal)
    taken = original or exif.get(ExifTags.Base.DateTime)
    try:
        time = datetime.strptime(str(taken).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        offset = str(details.get(ExifTags.Base.OffsetTimeOriginal)).strip("\0 ") if original else ""
        known = re.fullmatch(r"[+-]\d\d:\d\d", offset)  # DC-008 writes an unknown one as blanks
        return datetime.fromisoformat(f"{time.isoformat()}{offset if known else ''}").isoformat()
    except ValueError:
        return None


def _kind(data: bytes) -> str | None:
    """The format that the first bytes claim."""
    return next((name for start, name in SIGNATURES.items() if data.startswith(start)), None)


def _unsupported(data: bytes) -> str:
    if data.lstrip()[:1] == b"<":
        return "the file holds HTML or XML, not an image"
    if re.fullmatch(rb"[\t\n\r\f -~]+", data[:512]):
        return "the file holds text, not an image"
    return f"not an image of a known format ({', '.join(sorted(set(SIGNATURES.values())))})"


def _damage(data: bytes, kind: str) -> str:
    """`truncated` if the end of such a file is missing, otherwise `corrupt`."""
    whole = {
        "JPEG": b"\xff\xd9" in data[-64:],
        "PNG": b"IEND" in data[-16:],
        "GIF": data.rstrip(b"\0").endswith(b";"),
        "WEBP": len(data) >= 12 and int.from_bytes(data[4:8], "little") + 8 <= len(data),
        "BMP": len(data) >= 14 and int.from_bytes(data[2:6], "little") <= len(data),
    }
    return "corrupt" if whole.get(kind, True) else "truncated"


def _stable_message(error: Exception) -> str:
    """The decoder's message without what differs between runs, at most 200 characters."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return re.sub(r"<[^>]*0x[0-9a-f]+>", "the image", text)[:200]
