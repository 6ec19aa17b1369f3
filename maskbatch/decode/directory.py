"""Directories of tags: of a TIFF, and of the EXIF block that any other format may hold.

They say where values stand; what a reader needs of them, it reads. Nothing here raises, whatever the bytes.
Source: TIFF 6.0, section 2; BigTIFF.
"""

import struct
from typing import NamedTuple

MAX_ENTRIES = 1_000
"""Of one directory; scanners and cameras write up to 80."""
KIND_BYTES = {
    1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8,
}  # fmt: skip
NUMBERS = {1: "B", 3: "H", 4: "I", 7: "B", 13: "I", 16: "Q", 18: "Q"}


class Form(NamedTuple):
    """How numbers are written."""

    order: str
    is_big: bool = False
    """BigTIFF: counts and offsets have 8 bytes."""


FORMS = {b"II*\0": Form("<"), b"MM\0*": Form(">"), b"II+\0": Form("<", True), b"MM\0+": Form(">", True)}


class Entry(NamedTuple):
    """One tag; its values may stand beyond the end of the file."""

    tag: int
    kind: int
    num_values: int
    at: int
    num_bytes: int


class Directory(NamedTuple):
    """At most MAX_ENTRIES tags, as far as they are there."""

    entries: list[Entry]
    num_entries: int
    """What it claims to have; -1 where it does not even say that."""
    next_at: int
    """Where the next directory stands; 0 for none."""


def find_first(data: bytes, form: Form) -> int:
    """Where the first directory stands; 0 where the header does not say."""
    return int.from_bytes(data[8:16] if form.is_big else data[4:8], "little" if form.order == "<" else "big")


def read_directory(data: bytes, at: int, form: Form) -> Directory:
    """The directory that stands at a place."""
    order, is_big = form
    count_form, entry_form, offset_form = ("Q", "HHQ8s", "Q") if is_big else ("H", "HHI4s", "I")
    count_size, size, inline_size = (8, 20, 8) if is_big else (2, 12, 4)
    first = at + count_size
    if first > len(data):
        return Directory([], -1, 0)
    num_entries = struct.unpack_from(order + count_form, data, at)[0]
    num_there = min(num_entries, MAX_ENTRIES, (len(data) - first) // size)
    end = first + num_there * size
    entries = []
    for k, (tag, kind, count, raw) in enumerate(struct.iter_unpack(order + entry_form, data[first:end])):
        num_bytes = KIND_BYTES.get(kind, 1) * count
        value_at = first + k * size + size - inline_size
        if num_bytes > inline_size:
            value_at = struct.unpack(order + offset_form, raw)[0]
        entries.append(Entry(tag, kind, count, value_at, num_bytes))
    is_followed = num_there == num_entries and end + inline_size <= len(data)
    return Directory(
        entries, num_entries, struct.unpack_from(order + offset_form, data, end)[0] if is_followed else 0
    )


def read_numbers(data: bytes, entry: Entry, form: Form, most: int) -> tuple[int, ...]:
    """The first values of a tag; none where they are no whole numbers, or beyond the end of the file."""
    if entry.kind not in NUMBERS or entry.at + entry.num_bytes > len(data):
        return ()
    return struct.unpack_from(
        f"{form.order}{min(entry.num_values, most)}{NUMBERS[entry.kind]}", data, entry.at
    )
