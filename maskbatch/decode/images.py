"""Encoded bytes to RGB, of fixed size or in its proportions: this hop decides how fast an archive is scored.

A JPEG is decoded at the smallest DCT scale that leaves 1.5 times the model's input on each side, then
resized: at 1920x1080 three times faster than decoding it whole, and 0.3 to 0.5 grey levels off on average.
Everything else goes through Pillow. `jpeg`, `png` and `pillow` know the formats.

Bytes from an archive are hostile: what is wrong with them becomes a status and a sentence.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import floor, log2
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from maskbatch.decode import jpeg, pillow, png, quality
from maskbatch.decode.kinds import detect_kind
from maskbatch.decode.source import Encoded, Source, stable_message
from maskbatch.errors import ImageError
from maskbatch.model.card import Preset
from maskbatch.schema import MEASURES

OPENERS = {
    "JPEG": jpeg.open_jpeg,
    "PNG": png.open_png,
    **dict.fromkeys(("WEBP", "GIF", "BMP"), pillow.open_picture),
    "TIFF": pillow.open_tiff,
    "AVIF": pillow.open_avif,
    "HEIC": pillow.open_heic,
}
HEADROOM = 1.5
TURN = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT,),
    3: (Image.Transpose.ROTATE_180,),
    4: (Image.Transpose.FLIP_TOP_BOTTOM,),
    5: (Image.Transpose.TRANSPOSE,),
    6: (Image.Transpose.ROTATE_270,),
    7: (Image.Transpose.TRANSVERSE,),
    8: (Image.Transpose.ROTATE_90,),
}
OUT_OF_MEMORY = "decoding needs more memory than an image may take"


@dataclass(frozen=True, slots=True)
class Whole:
    """A picture in its proportions, halved while its longest side keeps `least_px`."""

    least_px: int


Shape = Preset | Whole
"""What a picture becomes: the model's input, or a frame in which faces are found."""


@dataclass(slots=True)
class Picture:
    """One decoded image."""

    image: Image.Image
    """RGB, upright, of the shape that was asked for."""
    width: int
    """Pixels of the source, upright."""
    height: int
    exif_time: str | None
    """EXIF time, ISO 8601, with an offset only where the camera wrote one."""


AnyPicture = TypeVar("AnyPicture")
Columns = dict[str, list[object]]
"""By COLUMNS, a value an image."""


@dataclass(slots=True)
class Decoded:
    """Images in plan order; a column has one entry an image."""

    images_NHWC: NDArray[np.uint8]
    """RGB; zeros where the image is not ok."""
    columns: Columns = field(default_factory=dict)


COLUMNS = (
    "status", "error", "width", "height", "num_bytes", "sha256", *MEASURES, "dhash", "exif_time",
)  # fmt: skip
OF_PICTURE = ("width", "height", "exif_time")
"""Those that a picture knows of its source."""
Row = dict[str, object]
"""One image's values of COLUMNS."""
Decode = Callable[[int, bytes, Shape, int], Picture]
"""`decode_image` for the image of that number."""


def decode_batch(
    encoded: Iterable[Encoded],
    num_images: int,
    preset: Preset,
    max_pixels: int,
    decode: Decode | None = None,
) -> Decoded:
    """Decode and resize `num_images` images, in order; a bad one gives a status, a sentence and zeros.

    `decode` takes the place of `decode_image`, and gets the number of the image too.
    """
    height, width = preset.input_size
    images_NHWC, rows = np.zeros((num_images, height, width, 3), np.uint8), list[Row]()
    for i, (row, picture) in enumerate(decode_each(encoded, preset, max_pixels, decode)):
        if picture:
            images_NHWC[i] = np.asarray(picture.image)
            row |= describe(picture.image)
        rows.append(row)
    return Decoded(images_NHWC, gather_columns(rows))


def gather_columns(rows: Sequence[Row]) -> Columns:
    """The values of `rows` by COLUMNS."""
    return {name: [row[name] for row in rows] for name in COLUMNS}


def decode_each(
    encoded: Iterable[Encoded], shape: Shape, max_pixels: int, decode: Decode | None = None
) -> Iterator[tuple[Row, Picture | None]]:
    """Each image's row, without what `describe` adds, and its picture; None where it is not ok."""

    def decode_one(i: int, data: bytes) -> Picture:
        wanted = data, shape, max_pixels
        return decode(i, *wanted) if decode else decode_image(*wanted)

    return open_each(encoded, decode_one)


def open_each(
    encoded: Iterable[Encoded], open_one: Callable[[int, bytes], AnyPicture]
) -> Iterator[tuple[Row, AnyPicture | None]]:
    """As `decode_each`; `open_one` makes what has OF_PICTURE of each image, or raises ImageError."""
    for i, item in enumerate(encoded):
        row: Row = dict.fromkeys(COLUMNS)
        row["status"], row["error"], row["num_bytes"] = item.status, item.error, item.num_bytes
        picture = None
        if item.data is not None:
            row["sha256"] = hashlib.sha256(item.data).hexdigest()
            try:
                picture = open_one(i, item.data)
            except ImageError as error:
                row["status"], row["error"] = error.status, error.message
            else:
                row |= {name: getattr(picture, name) for name in OF_PICTURE}
        yield row, picture


def describe(image: Image.Image) -> Row:
    """Brightness, contrast, sharpness and perceptual hash of a picture of the model's input size."""
    luma = image.convert("L")
    measures = zip(MEASURES, quality.measure(np.asarray(luma)), strict=True)
    return {**dict(measures), "dhash": quality.dhash(luma)}


def decode_image(data: bytes, shape: Shape, max_pixels: int) -> Picture:
    """Decode one image to upright RGB, of the preset's input size or whole.

    Applies the EXIF orientation, lays alpha over white, scales 16-bit grey to 8, and takes the first frame of
    an animation. Raises ImageError and nothing else.
    """
    if not data:
        raise ImageError("truncated", "the file is empty (0 bytes)")
    kind = detect_kind(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that we bound ourselves
            return _decode(OPENERS[kind](data, max_pixels), shape)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("too_large", OUT_OF_MEMORY) from None
    except Image.DecompressionBombError:
        raise ImageError("too_large", f"more than the {max_pixels:,} pixels allowed") from None
    except UnidentifiedImageError:
        raise ImageError(_damage(data, kind), f"{kind} header cannot be read") from None
    except Exception as error:  # on hostile bytes decoders raise anything
        message = stable_message(error)
        status = "truncated" if "truncated" in message.lower() else _damage(data, kind)
        raise ImageError(status, f"{kind} data is {status}: {message}") from None


def _decode(source: Source, shape: Shape) -> Picture:
    swapped = source.exif.orientation in (5, 6, 7, 8)
    size = source.width, source.height
    if isinstance(shape, Whole):
        scale = 2.0 ** -count_halvings(size, shape)
        image = source.decode((size[0] * scale, size[1] * scale))
    else:
        target = shape.input_size if swapped else shape.input_size[::-1]
        left, top, right, bottom = visible_part(size, shape)
        image = source.decode((HEADROOM * target[0] / (right - left), HEADROOM * target[1] / (bottom - top)))
        image = resize(image, shape, target, size)
    for turn in TURN.get(source.exif.orientation, ()):
        image = image.transpose(turn)
    return Picture(image, *(size[::-1] if swapped else size), source.exif.time)


def resize(image: Image.Image, preset: Preset, target: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """What the model sees of `image`, at `target` (W, H); `size` is that of the source."""
    left, top, right, bottom = visible_part(size, preset)
    wide, high = image.size
    box = left * wide, top * high, right * wide, bottom * high
    return image.resize(target, Image.Resampling[preset.interpolation.upper()], box, reducing_gap=2.0)


def count_halvings(size: tuple[int, int], shape: Whole) -> int:
    """How often a picture is halved; a JPEG decodes faster whole than at 3/4 of its size."""
    return max(0, floor(log2(max(size) / shape.least_px)))


def visible_part(size: tuple[int, int], preset: Preset) -> tuple[float, float, float, float]:
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


def _damage(data: bytes, kind: str) -> str:
    """`truncated` if the end of such a file is missing, otherwise `corrupt`."""
    whole = {
        "PNG": b"IEND" in data[-16:],
        "GIF": data.rstrip(b"\0").endswith(b";"),
        "WEBP": len(data) >= 12 and int.from_bytes(data[4:8], "little") + 8 <= len(data),
        "BMP": len(data) >= 14 and int.from_bytes(data[2:6], "little") <= len(data),
    }
    return "corrupt" if whole.get(kind, True) else "truncated"
