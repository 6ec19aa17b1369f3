"""Encoded bytes to fixed-size RGB: the hop that decides how fast an archive is scored.

A JPEG is decoded at the smallest DCT scale that leaves 1.5 times the model's input on each side, then
resized: at 1920x1080 three times faster than decoding it whole, and 0.3 to 0.5 grey levels off on average.
Everything else goes through Pillow. `jpeg`, `png` and `pillow` know the formats.

Bytes from an archive are hostile: what is wrong with them becomes a status and a sentence.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from maskbatch.errors import ImageError
from maskbatch.model.card import Preset
from maskbatch.score import jpeg, pillow, png, quality
from maskbatch.score.kinds import detect_kind
from maskbatch.score.read import Encoded
from maskbatch.score.source import Source, stable_message

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


def decode_batch(
    encoded: Iterable[Encoded],
    num_images: int,
    preset: Preset,
    max_pixels: int,
    decode: Callable[[int, bytes, Preset, int], Picture] | None = None,
) -> Decoded:
    """Decode and resize `num_images` images, in order; a bad one gives a status, a sentence and zeros.

    `decode` takes the place of `decode_image`, and gets the number of the image too.
    """
    height, width = preset.input_size
    out = Decoded(np.zeros((num_images, height, width, 3), np.uint8), {name: [] for name in COLUMNS})
    for i, item in enumerate(encoded):
        row: dict[str, object] = dict.fromkeys(COLUMNS)
        row["status"], row["error"], row["num_bytes"] = item.status, item.error, item.num_bytes
        if item.data is not None:
            row["sha256"] = hashlib.sha256(item.data).hexdigest()
            try:
                wanted = item.data, preset, max_pixels
                picture = decode(i, *wanted) if decode else decode_image(*wanted)
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
    """
    if not data:
        raise ImageError("truncated", "the file is empty (0 bytes)")
    kind = detect_kind(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that we bound ourselves
            return _decode(OPENERS[kind](data, max_pixels), preset)
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


def _decode(source: Source, preset: Preset) -> Picture:
    swapped = source.exif.orientation in (5, 6, 7, 8)
    target = preset.input_size if swapped else preset.input_size[::-1]
    left, top, right, bottom = _visible_part((source.width, source.height), preset)
    needed = HEADROOM * target[0] / (right - left), HEADROOM * target[1] / (bottom - top)
    image = source.decode(needed)
    wide, high = image.size
    box = left * wide, top * high, right * wide, bottom * high
    image = image.resize(target, Image.Resampling[preset.interpolation.upper()], box, reducing_gap=2.0)
    for turn in TURN.get(source.exif.orientation, ()):
        image = image.transpose(turn)
    size = (source.width, source.height)
    return Picture(image, *(size[::-1] if swapped else size), source.exif.time)


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


def _damage(data: bytes, kind: str) -> str:
    """`truncated` if the end of such a file is missing, otherwise `corrupt`."""
    whole = {
        "PNG": b"IEND" in data[-16:],
        "GIF": data.rstrip(b"\0").endswith(b";"),
        "WEBP": len(data) >= 12 and int.from_bytes(data[4:8], "little") + 8 <= len(data),
        "BMP": len(data) >= 14 and int.from_bytes(data[2:6], "little") <= len(data),
    }
    return "corrupt" if whole.get(kind, True) else "truncated"
