"""PNG by its chunks: checksums decide, and the decoder gets only what pixels are made of.

A wrong checksum of what only describes the picture is no damage: browsers skip such a chunk. Pillow checks no
checksum of pixel data and refuses some pictures for a text chunk's.
Source: PNG specification, third edition, sections 5, 11 and 13.
"""

import io
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, PngImagePlugin  # noqa: F401  the plugin registers its format

from maskbatch.decode.exif import NOTHING, read_exif
from maskbatch.decode.inflate import count_inflated
from maskbatch.decode.rgb import reduce_to_rgb
from maskbatch.decode.source import Source, check_size
from maskbatch.errors import ImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CRITICAL = (b"IHDR", b"PLTE", b"IDAT")
MAX_CHUNKS = 100_000
"""libpng writes one for 8 KB: 64 MB are 8,192."""
PALETTE = 3
CHANNELS = {0: 1, 2: 3, PALETTE: 1, 4: 2, 6: 4}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""(left, top, across, down) of each pass of an interlaced picture."""


@dataclass(slots=True)
class Chunks:
    """What a picture is made of."""

    header: bytes = b""
    palette: bytes | None = None
    transparency: bytes | None = None
    exif: bytes | None = None
    data: list[memoryview] = field(default_factory=list)


def open_png(data: bytes, max_pixels: int) -> Source:
    """Raises ImageError for what is damaged, or too large."""
    chunks = _read_chunks(data)
    width, height = struct.unpack_from(">II", chunks.header)
    check_size(width, height, max_pixels)
    exif = read_exif(chunks.exif) if chunks.exif else NOTHING
    return Source(width, height, lambda needed: reduce_to_rgb(_load(chunks), needed), exif)


def _read_chunks(data: bytes) -> Chunks:
    """Raises ImageError at a wrong checksum of a critical chunk."""
    if not data.startswith(SIGNATURE) or data[12:16] != b"IHDR" or len(data) < 33:
        if data[12:16] == b"CgBI":
            raise ImageError(
                "unsupported", "PNG in the form of Apple's phones (CgBI); convert it to a usual PNG"
            )
        status = "truncated" if len(data) < 33 else "corrupt"
        raise ImageError(status, "PNG header cannot be read")
    chunks = Chunks()
    view, at = memoryview(data), len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        name = data[at + 4 : at + 8]
        if at + 8 > len(data) or not name.isalpha() or name == b"IEND":
            return chunks  # the pixels say whether anything is missing
        length = int.from_bytes(data[at : at + 4], "big")
        content, end = view[at + 8 : at + 8 + length], at + 12 + length
        is_sound = end <= len(data) and zlib.crc32(view[at + 4 : end - 4]) == int.from_bytes(
            view[end - 4 : end], "big"
        )
        if end <= len(data) and not is_sound and name in CRITICAL:
            raise ImageError("corrupt", f"PNG data is corrupt: the checksum of {name.decode()} is wrong")
        if end > len(data) and not chunks.data and b"IEND" in data[-16:]:
            raise ImageError("corrupt", f"PNG data is corrupt: the length of {name.decode()} is wrong")
        if is_sound or name == b"IDAT":
            _keep(chunks, name, content)
        at = end
    raise ImageError("too_large", f"PNG of more than the {MAX_CHUNKS:,} chunks allowed")


def _keep(chunks: Chunks, name: bytes, content: memoryview) -> None:
    if name == b"IHDR" and not chunks.header:
        chunks.header = bytes(content)
    elif name == b"PLTE":
        chunks.palette = bytes(content)
    elif name == b"tRNS":
        chunks.transparency = bytes(content)
    elif name == b"eXIf":
        chunks.exif = bytes(content).removeprefix(b"Exif\0\0")
    elif name == b"IDAT":
        chunks.data.append(content)


def _load(chunks: Chunks) -> Image.Image:
    """Raises ImageError where pixels are missing."""
    data = b"".join(chunks.data)
    if not data:
        raise ImageError("truncated", "PNG data is truncated: rows are missing")
    if chunks.palette is None and chunks.header[9] == PALETTE:
        raise ImageError("corrupt", "PNG data is corrupt: it has no palette")
    parts = {b"IHDR": chunks.header, b"PLTE": chunks.palette, b"tRNS": chunks.transparency, b"IDAT": data}
    plain = [SIGNATURE]
    for name, content in (*parts.items(), (b"IEND", b"")):
        if content is not None:
            # Pillow reads no checksum of IDAT.
            checksum = 0 if name == b"IDAT" else zlib.crc32(name + content)
            plain += [struct.pack(">I", len(content)), name, content, struct.pack(">I", checksum)]
    image = Image.open(io.BytesIO(b"".join(plain)), formats=("PNG",))
    image.load()
    # What never came is zero; Pillow says nothing where the compressed data ends too early in good order.
    width, height = image.size
    is_interlaced = chunks.header[12]
    has_end = not is_interlaced and np.asarray(image.crop((0, height - 1, width, height))).any()
    num_bytes = _num_raw_bytes(chunks.header)
    if not has_end and count_inflated(data, num_bytes)[0] < num_bytes:
        raise ImageError("truncated", "PNG data is truncated: rows are missing")
    return image


def _num_raw_bytes(header: bytes) -> int:
    """Bytes of all rows before compression, each with its filter."""
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    bits = depth * CHANNELS[kind]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))
    return total
