"""TIFF before Pillow reads it: bounds, kinds that are not read, and strips that are whole.

libtiff stops at the last row, before a strip's checksum, and Pillow silences its warnings. So the checksums
of deflate are read here, and strips of JPEG go through the strict decoder.
Source: TIFF 6.0, sections 2, 7, 14, 15, 21; Adobe's technical note 2; BigTIFF.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from maskbatch.decode import jpeg
from maskbatch.decode.directory import (
    FORMS,
    MAX_ENTRIES,
    Directory,
    Entry,
    Form,
    find_first,
    read_directory,
    read_numbers,
)
from maskbatch.decode.inflate import count_inflated
from maskbatch.decode.kinds import CONVERT
from maskbatch.decode.source import MAX_SIDE, check_memory, check_size
from maskbatch.errors import ImageError

MAX_DIRECTORIES = 64
"""Of one file, to see whether it is a raw camera file; those have up to 10."""
MAX_PIECES = 4 * MAX_SIDE
"""A row of one of four planes each."""
MAX_SHARED = 4
"""Strips may share bytes, as blank ones do; of all together, so many times the file."""
MAX_TABLES_BYTES = 65_536
MAX_NUMBER_BYTES = 5_000_000
"""Of tags of numbers: each becomes an object, a fraction in 5 us. MAX_PIECES of a BigTIFF are 4 MB."""
VALUE_BYTES = 32
"""What Pillow makes of a byte of them. Measured: 31 for fractions, 20 and less for others."""
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, ORIENTATION = 256, 257, 258, 259, 262, 273, 274
SAMPLES, STRIP_ROWS, COUNTS, PLANAR, TILE_WIDTH, TILE_HEIGHT = 277, 278, 279, 284, 322, 323
TILE_OFFSETS, TILE_COUNTS, SUB_DIRECTORIES, JPEG_TABLES, SUBSAMPLING = 324, 325, 330, 347, 530
STRUCTURE = frozenset((
    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, SAMPLES, STRIP_ROWS, COUNTS, PLANAR,
    TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, JPEG_TABLES, SUBSAMPLING,
))  # fmt: skip
EXIF_DIRECTORIES = (34665, 34853, 40965)
DNG_VERSION = 50706
RAW_VALUES = {(PHOTOMETRIC, 32803), (PHOTOMETRIC, 34892)} | {
    (COMPRESSION, method) for method in (32767, 32770, 34713, 65535)
}
UNCOMPRESSED, JPEG, DEFLATE, YCBCR = 1, 7, (8, 32946), 6
READABLE = frozenset((
    UNCOMPRESSED, 2, 3, 4, 5, 6, JPEG, *DEFLATE, 32771, 32773, 32809, 34676, 34677, 34925, 50000,
))  # fmt: skip
NAMES = {
    22610: "JPEG XR", 32766: "NeXT", 32909: "PixarLog", 33003: "JPEG 2000", 33005: "JPEG 2000", 34661: "JBIG",
    34712: "JPEG 2000", 34887: "LERC", 34933: "PNG", 34934: "JPEG XR", 50001: "WebP", 50002: "JPEG XL",
    52546: "JPEG XL",
}  # fmt: skip
"""Methods of compression that are not read, on any machine: some builds of libtiff know WebP, most do not."""
HEADER_UNREADABLE = "TIFF header cannot be read"


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of one directory."""

    data: bytes
    form: Form
    entries: dict[int, Entry]

    def list(self, tag: int, most: int) -> tuple[int, ...]:
        """Its first values; none where it is not there."""
        entry = self.entries.get(tag)
        return read_numbers(self.data, entry, self.form, most) if entry else ()

    def first(self, tag: int, default: int = 0) -> int:
        """Its first value."""
        return next(iter(self.list(tag, 1)), default)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the pixels of a picture are kept: in pieces, which are strips or tiles."""

    width: int
    height: int
    compression: int
    across: int
    """Pixels of a piece."""
    down: int
    is_tiled: bool
    row_bytes: int
    """Of `unit_rows` rows of a piece, before compression."""
    unit_rows: int
    """1; where colours have fewer pixels than brightness, up to 4."""
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    """Bytes of each piece, compressed; may be missing."""
    jpeg_tables: bytes
    num_decode_bytes: int

    def raw_bytes(self, k: int) -> int:
        """Of piece `k`, before compression."""
        one_plane = -(-self.width // self.across) * -(-self.height // self.down)
        rows = self.down if self.is_tiled else min(self.down, self.height - k % one_plane * self.down)
        return -(-rows // self.unit_rows) * self.row_bytes

    def pieces(self) -> Iterator[tuple[int, int]]:
        """(offset, bytes) of each."""
        for k, offset in enumerate(self.offsets):
            yield offset, self.counts[k] if k < len(self.counts) else 0


def read_layout(data: bytes, max_pixels: int) -> Layout:
    """Of the first picture. Raises ImageError for what is too large, not whole, or not read."""
    form = FORMS[data[:4]]
    directory = _read_whole(data, find_first(data, form), form)
    _refuse_raw(data, directory, form)
    tags = Tags(data, form, _index(data, directory, form))
    num_tag_bytes = _count_bytes_of_tags(tags, directory)
    width, height = tags.first(WIDTH), tags.first(HEIGHT)
    if not width or not height:
        raise ImageError("corrupt", HEADER_UNREADABLE)
    check_size(width, height, max_pixels)
    _refuse_kinds(tags)
    layout = _read_pieces(tags, num_tag_bytes)
    _check_pieces(data, layout)
    return layout


def check_pixels(data: bytes, layout: Layout) -> None:
    """Raises ImageError where a strip has damage that libtiff does not tell."""
    for k, (offset, num_bytes) in enumerate(layout.pieces()):
        content = memoryview(data)[offset : offset + num_bytes]
        if layout.compression in DEFLATE and not _inflates(content, layout.raw_bytes(k)):
            raise ImageError("corrupt", f"TIFF data is corrupt: strip {k:,} does not inflate")
        if layout.compression == JPEG:
            _check_jpeg(content, layout)


def _read_whole(data: bytes, at: int, form: Form) -> Directory:
    """Raises ImageError where a directory is too large to be read, or not whole."""
    directory = read_directory(data, at, form)
    if directory.num_entries > MAX_ENTRIES:
        message = f"TIFF of {directory.num_entries:,} directory entries, {MAX_ENTRIES:,} allowed"
        raise ImageError("too_large", message)
    if len(directory.entries) != directory.num_entries:
        raise ImageError("truncated", HEADER_UNREADABLE)
    return directory


def _index(data: bytes, directory: Directory, form: Form) -> dict[int, Entry]:
    """By tag. Raises ImageError for two values of one: libtiff takes the first, Pillow the last."""
    entries: dict[int, Entry] = {}
    for entry in directory.entries:
        known = entries.setdefault(entry.tag, entry)
        if entry.tag in STRUCTURE and known is not entry:
            values = {(each.num_values, read_numbers(data, each, form, 8)) for each in (known, entry)}
            if len(values) > 1:
                raise ImageError("corrupt", f"TIFF data is corrupt: tag {entry.tag} has two values")
    return entries


def _refuse_raw(data: bytes, first: Directory, form: Form) -> None:
    """Raises ImageError for a raw camera file: a TIFF reader finds its stamp-sized preview first."""
    is_raw = data[8:10] == b"CR"
    directory, visited, pending = first, {0}, [first.next_at]
    for _ in range(MAX_DIRECTORIES):
        for entry in directory.entries:
            if entry.tag == SUB_DIRECTORIES and directory is first:
                pending += read_numbers(data, entry, form, MAX_DIRECTORIES)
            is_raw |= entry.tag == DNG_VERSION
            if entry.tag in (PHOTOMETRIC, COMPRESSION):
                is_raw |= (entry.tag, *read_numbers(data, entry, form, 1)) in RAW_VALUES
        at = next((at for at in pending if at not in visited), 0)
        if is_raw or not at:
            break
        visited.add(at)
        directory = read_directory(data, at, form)
        pending.append(directory.next_at)
    if is_raw:
        raise ImageError("unsupported", f"the file holds a raw camera file, which is not read; {CONVERT}")


def _refuse_kinds(tags: Tags) -> None:
    """Raises ImageError for a kind of TIFF that Pillow does not know."""
    method = tags.first(COMPRESSION, UNCOMPRESSED)
    if tags.form == FORMS[b"MM\0+"]:
        _refuse("big-endian BigTIFF")
    if method not in READABLE:
        _refuse(f"TIFF compressed by {NAMES.get(method, f'method {method}')}")
    if method == UNCOMPRESSED and tags.first(PHOTOMETRIC) == YCBCR:
        _refuse("TIFF of YCbCr without compression")


def _refuse(name: str) -> NoReturn:
    raise ImageError("unsupported", f"{name}, which is not read; {CONVERT}")


def _count_bytes_of_tags(tags: Tags, directory: Directory) -> int:
    """What Pillow takes for all tags. Raises ImageError where they share bytes to no end."""
    entries = list(directory.entries)
    for tag in EXIF_DIRECTORIES:  # Pillow reads all of these too
        if at := tags.first(tag):
            entries += _read_whole(tags.data, at, tags.form).entries
    there = [entry for entry in entries if entry.at + entry.num_bytes <= len(tags.data)]
    if sum(entry.num_bytes for entry in there) > len(tags.data) + 65_536:
        raise ImageError("too_large", "TIFF of tags that hold more bytes than the file")
    num_bytes = sum(entry.num_bytes for entry in there if entry.kind not in (1, 2, 7))
    if num_bytes > MAX_NUMBER_BYTES:
        message = f"TIFF of {num_bytes:,} bytes of tags that are numbers, {MAX_NUMBER_BYTES:,} allowed"
        raise ImageError("too_large", message)
    return num_bytes * VALUE_BYTES


def _read_pieces(tags: Tags, num_tag_bytes: int) -> Layout:
    """Raises ImageError where offsets of strips or tiles are missing, or too many or too large to be read."""
    width, height, samples = tags.first(WIDTH), tags.first(HEIGHT), tags.first(SAMPLES, 1)
    is_tiled, is_planar = TILE_OFFSETS in tags.entries, tags.first(PLANAR, 1) == 2
    across = tags.first(TILE_WIDTH) if is_tiled else width
    down = tags.first(TILE_HEIGHT) if is_tiled else min(height, tags.first(STRIP_ROWS, height))
    if not across or not down:
        raise ImageError("corrupt", HEADER_UNREADABLE)
    num_pieces = -(-width // across) * -(-height // down) * (samples if is_planar else 1)
    if num_pieces > MAX_PIECES:
        raise ImageError("too_large", f"TIFF of {num_pieces:,} strips or tiles, {MAX_PIECES:,} allowed")
    offsets = tags.list(TILE_OFFSETS if is_tiled else OFFSETS, num_pieces)
    if len(offsets) < num_pieces:
        raise ImageError("corrupt", "TIFF data is corrupt: strips are missing")
    counts = tags.list(TILE_COUNTS if is_tiled else COUNTS, num_pieces)
    row_bytes, unit_rows = _measure_rows(tags, across, 1 if is_planar else samples)
    picture_bytes = 4 * width * height * (2 if tags.first(ORIENTATION, 1) > 1 else 1)
    num_bytes = picture_bytes + -(-down // unit_rows) * row_bytes + num_tag_bytes
    check_memory(num_bytes)
    method = tags.first(COMPRESSION, UNCOMPRESSED)
    tables = bytes(tags.list(JPEG_TABLES, MAX_TABLES_BYTES)) if method == JPEG else b""
    return Layout(
        width,
        height,
        method,
        across,
        down,
        is_tiled,
        row_bytes,
        unit_rows,
        offsets,
        counts,
        tables,
        num_bytes,
    )


def _measure_rows(tags: Tags, across: int, samples: int) -> tuple[int, int]:
    """Bytes of a unit of rows before compression, and how many rows it has."""
    bits = tags.first(BITS, 1)
    if tags.first(PHOTOMETRIC) != YCBCR or samples == 1 or tags.first(COMPRESSION) == JPEG:
        return -(-across * bits * samples // 8), 1
    wide, high = (*tags.list(SUBSAMPLING, 2), 2, 2)[:2]
    if not wide or not high:
        raise ImageError("corrupt", HEADER_UNREADABLE)
    units = -(-across // wide)
    return -(-units * (wide * high + 2) * bits // 8), high


def _check_pieces(data: bytes, layout: Layout) -> None:
    """Raises ImageError where a strip ends beyond the file, or all share bytes to no end."""
    total = 0
    for k, (offset, num_bytes) in enumerate(layout.pieces()):
        needed = layout.raw_bytes(k) if layout.compression == UNCOMPRESSED else num_bytes
        total += needed
        if offset + needed > len(data):
            raise ImageError("truncated", f"TIFF data is truncated: strip {k:,} ends beyond the file")
    if total > MAX_SHARED * len(data) + 65_536:
        raise ImageError("too_large", "TIFF of strips that hold more bytes than the file")


def _check_jpeg(content: memoryview, layout: Layout) -> None:
    """Raises ImageError."""
    whole = layout.jpeg_tables[:-2] + content[2:] if layout.jpeg_tables else bytes(content)
    header = jpeg.read_header(whole)
    jpeg.check_readable(header)
    if header.width > layout.across or header.height > layout.down:
        raise ImageError("corrupt", "TIFF data is corrupt: JPEG data is larger than its strip")
    if jpeg.has_many_scans(whole, header):
        check_memory(layout.num_decode_bytes + jpeg.num_coefficient_bytes(header))
    jpeg.decode(whole, header, (1, 1))


def _inflates(content: memoryview, num_bytes: int) -> bool:
    """Whether zlib data holds so many bytes, and its checksum fits."""
    try:
        count, is_whole = count_inflated(content, num_bytes)
    except zlib.error:
        return False
    return count > num_bytes or (count == num_bytes and is_whole)
