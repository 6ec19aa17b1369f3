"""TIFF before Pillow reads it: bounds, raw camera files, and strips that are whole.

libtiff stops at the last row, before a strip's checksum, and Pillow silences its warnings. So the checksums
of deflate are read here, and strips of JPEG go through the strict decoder.
Source: TIFF 6.0, sections 2, 7, 14, 15; Adobe's technical note 2; BigTIFF.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from maskbatch.errors import ImageError
from maskbatch.score import jpeg
from maskbatch.score.kinds import CONVERT
from maskbatch.score.source import check_memory, check_size

MAX_ENTRIES = 1_000
"""Of one directory; scanners and cameras write up to 80."""
MAX_DIRECTORIES = 16
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, ORIENTATION = 256, 257, 258, 259, 262, 273, 274
SAMPLES, STRIP_ROWS, COUNTS, PLANAR = 277, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, DIRECTORIES, JPEG_TABLES = 322, 323, 324, 325, 330, 347
EXIF_DIRECTORIES = (34665, 34853, 40965)
DNG_VERSION = 50706
WANTED = frozenset((
    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, ORIENTATION, SAMPLES, STRIP_ROWS, COUNTS, PLANAR,
    TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, DIRECTORIES, JPEG_TABLES, DNG_VERSION,
    *EXIF_DIRECTORIES,
))  # fmt: skip
RAW_PHOTOMETRIC = (32803, 34892)
RAW_COMPRESSION = (32767, 32770, 34713, 65535)
UNCOMPRESSED, FAX, JPEG, DEFLATE, YCBCR = 1, (2, 3, 4, 32771), 7, (8, 32946), 6
SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
NUMBERS = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}
Tags = dict[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Piece:
    """One strip or tile."""

    offset: int
    num_bytes: int
    """Compressed."""
    raw_bytes: int


def check_tiff(data: bytes, max_pixels: int) -> None:
    """Raises ImageError for what is too large, damaged or a raw camera file."""
    tags, next_at, form = read_directory(data)
    _refuse_raw(data, tags, next_at, form)
    if not tags.get(WIDTH) or not tags.get(HEIGHT):
        raise ImageError("corrupt", "TIFF header cannot be read")
    check_size(tags[WIDTH][0], tags[HEIGHT][0], max_pixels)
    if (
        tags.get(COMPRESSION, (UNCOMPRESSED,))[0] in FAX
    ):  # its damage is in none of its bytes: rows turn white
        raise ImageError("unsupported", f"TIFF of fax data, black and white only; {CONVERT}")
    pieces = list(_list_pieces(tags))
    turned = 2 if tags.get(ORIENTATION, (1,))[0] > 1 else 1
    check_memory(4 * tags[WIDTH][0] * tags[HEIGHT][0] * turned + max(piece.raw_bytes for piece in pieces))
    for at in (tags[name][0] for name in EXIF_DIRECTORIES if tags.get(name)):
        _read_directory(data, at, form)  # Pillow reads all of it
    _check_pieces(data, tags, pieces)


def read_directory(data: bytes) -> tuple[Tags, int, str]:
    """The first directory's tags, where the next one is, and the form of numbers. Raises ImageError."""
    form = {b"II": "<", b"MM": ">"}[data[:2]]
    is_big = data[2:4] in (b"+\0", b"\0+")
    if len(data) < 16:
        raise ImageError("truncated", "TIFF header cannot be read")
    at = struct.unpack_from(form + ("Q" if is_big else "I"), data, 8 if is_big else 4)[0]
    tags, next_at = _read_directory(data, at, form + "big" * is_big)
    return tags, next_at, form + "big" * is_big


def _read_directory(data: bytes, at: int, form: str) -> tuple[Tags, int]:
    """Raises ImageError where a directory is too large to be read, or not whole."""
    order, is_big = form[0], form.endswith("big")
    number, entry, count_size = ("Q", 20, 8) if is_big else ("I", 12, 2)
    if at + count_size > len(data):
        raise ImageError("truncated", "TIFF header cannot be read")
    num_entries = struct.unpack_from(order + ("Q" if is_big else "H"), data, at)[0]
    first, end = at + count_size, at + count_size + entry * num_entries
    if end > len(data):
        raise ImageError("truncated", "TIFF header cannot be read")
    if num_entries > MAX_ENTRIES:
        raise ImageError("too_large", f"TIFF of {num_entries:,} directory entries, {MAX_ENTRIES:,} allowed")
    tags: Tags = {}
    num_bytes = 0
    for place in range(first, end, entry):
        tag, kind, count = struct.unpack_from(order + "HH" + number, data, place)
        size = SIZES.get(kind, 1) * count
        inline = size <= entry - 4 - struct.calcsize(number)
        start = place + 4 + struct.calcsize(number)
        value_at = start if inline else struct.unpack_from(order + number, data, start)[0]
        num_bytes += 0 if value_at + size > len(data) else size  # Pillow skips those
        if num_bytes > len(data) + 65_536:
            raise ImageError("too_large", "TIFF of tags that hold more bytes than the file")
        if tag in WANTED and kind in NUMBERS and value_at + size <= len(data):
            tags[tag] = struct.unpack_from(f"{order}{count}{NUMBERS[kind]}", data, value_at)
    following = struct.unpack_from(order + number, data, end)[0] if end + entry <= len(data) else 0
    return tags, following


def _refuse_raw(data: bytes, tags: Tags, next_at: int, form: str) -> None:
    """Raises ImageError for a raw camera file: a TIFF reader finds its stamp-sized preview first."""
    directories = [tags]
    for at in (*tags.get(DIRECTORIES, ())[:MAX_DIRECTORIES], next_at):
        for _ in range(MAX_DIRECTORIES if at else 0):
            try:
                other, at = _read_directory(data, at, form)
            except (ImageError, struct.error):
                break  # not of the picture
            directories.append(other)
            if not at:
                break
    is_raw = data[8:10] == b"CR" or DNG_VERSION in tags
    for other in directories:
        is_raw |= other.get(PHOTOMETRIC, (0,))[:1] in [(kind,) for kind in RAW_PHOTOMETRIC]
        is_raw |= other.get(COMPRESSION, (0,))[:1] in [(kind,) for kind in RAW_COMPRESSION]
    if is_raw:
        raise ImageError("unsupported", f"the file holds a raw camera file, which is not read; {CONVERT}")


def _list_pieces(tags: Tags) -> Iterator[Piece]:
    """Raises ImageError where offsets or lengths of strips or tiles are missing."""
    width, height = tags[WIDTH][0], tags[HEIGHT][0]
    is_tiled = TILE_OFFSETS in tags
    across = tags.get(TILE_WIDTH, (0,))[0] if is_tiled else width
    down = tags.get(TILE_HEIGHT, (0,))[0] if is_tiled else min(height, *tags.get(STRIP_ROWS, (height,))[:1])
    offsets = tags.get(TILE_OFFSETS if is_tiled else OFFSETS, ())
    counts = tags.get(TILE_COUNTS if is_tiled else COUNTS, ())
    samples = tags.get(SAMPLES, (1,))[0]
    bits = tags.get(BITS, (1,)) or (1,)
    is_planar = tags.get(PLANAR, (1,))[0] == 2
    if not across or not down:
        raise ImageError("corrupt", "TIFF header cannot be read")
    one_plane = -(-width // across) * -(-height // down)
    if len(offsets) < one_plane * (samples if is_planar else 1):
        raise ImageError("corrupt", "TIFF data is corrupt: strips are missing")
    pixel_bits = bits[0] if is_planar else bits[0] * samples
    for k, offset in enumerate(offsets):
        rows = down if is_tiled else min(down, height - k % one_plane * down)
        raw_bytes = rows * -(-across * pixel_bits // 8)
        yield Piece(offset, counts[k] if k < len(counts) else 0, raw_bytes)


def _check_pieces(data: bytes, tags: Tags, pieces: list[Piece]) -> None:
    """Raises ImageError where a strip ends beyond the file, or has damage that libtiff does not tell."""
    compression = tags.get(COMPRESSION, (UNCOMPRESSED,))[0]
    photometric = tags.get(PHOTOMETRIC, (0,))[0]
    tables = bytes(tags.get(JPEG_TABLES, ()))
    for k, piece in enumerate(pieces):
        needed = piece.num_bytes
        if compression == UNCOMPRESSED and photometric != YCBCR:
            needed = piece.raw_bytes
        if piece.offset + needed > len(data):
            raise ImageError("truncated", f"TIFF data is truncated: strip {k:,} ends beyond the file")
        content = data[piece.offset : piece.offset + piece.num_bytes]
        if compression in DEFLATE and not _inflates(content, piece.raw_bytes):
            raise ImageError("corrupt", f"TIFF data is corrupt: strip {k:,} does not inflate")
        if compression == JPEG:
            whole = tables[:-2] + content[2:] if tables else content
            jpeg.decode(whole, jpeg.read_header(whole), (1, 1))


def _inflates(content: bytes, num_bytes: int) -> bool:
    """Whether zlib data holds so many bytes, and its checksum fits."""
    inflater, rest = zlib.decompressobj(), content
    try:
        while num_bytes > 0 and rest:
            num_bytes -= len(inflater.decompress(rest, 1 << 20))
            rest = inflater.unconsumed_tail
        inflater.decompress(rest, 1)
    except zlib.error:
        return False
    return num_bytes <= 0 and (inflater.eof or num_bytes < 0)
