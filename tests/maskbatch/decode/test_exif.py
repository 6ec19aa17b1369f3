"""When a picture was taken: what cameras and programs write, and the first of it that can be believed."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.decode.exif import read_exif

TAKEN, TAKEN_OFFSET, TAKEN_FRACTION = 0x9003, 0x9011, 0x9291
DIGITIZED, DIGITIZED_OFFSET, DIGITIZED_FRACTION = 0x9004, 0x9012, 0x9292
CHANGED, CHANGED_OFFSET = 0x0132, 0x9010
WHEN, ISO = "2026:10:01 08:30:00", "2026-10-01T08:30:00"


def block(tags: dict[int, str | bytes], order: str = "<", kind: int = 2) -> bytes:
    """An EXIF block: CHANGED in the first directory, the rest in the camera's."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    content = mark + struct.pack(order + "I", 8)
    main = {tag: value for tag, value in tags.items() if tag == CHANGED}
    other = {tag: value for tag, value in tags.items() if tag != CHANGED}
    size = 2 + 12 * (len(main) + 1) + 4
    values = b""

    def directory(entries: dict[int, str | bytes], start: int, extra: bytes = b"") -> bytes:
        nonlocal values
        out = struct.pack(order + "H", len(entries) + bool(extra))
        for tag, value in entries.items():
            raw = value.encode("latin-1") + b"\0" if isinstance(value, str) else value
            where = struct.pack(order + "I", start + len(values))
            out += struct.pack(order + "HHI", tag, kind, len(raw)) + (
                raw.ljust(4, b"\0") if len(raw) <= 4 else where
            )
            values += raw if len(raw) > 4 else b""
        return out + extra + b"\0" * 4

    values_at = 8 + size + 2 + 12 * len(other) + 4
    pointer = struct.pack(order + "HHII", 0x8769, 4, 1, 8 + size)
    return content + directory(main, values_at, pointer) + directory(other, values_at) + values


def time(tags: dict[int, str | bytes], order: str = "<", kind: int = 2) -> str | None:
    return read_exif(block(tags, order, kind)).time


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (WHEN, ISO),
        ("2026-10-01 08:30:00", ISO),
        ("2026/10/01 08:30:00", ISO),
        ("2026.10.01 08:30:00", ISO),
        ("2026-10-01T08:30:00", ISO),
        ("2026:10:01T08:30:00Z", f"{ISO}+00:00"),
        ("2026:10:01 08:30:00.123+02:00", f"{ISO}.123000+02:00"),
        ("2026:10:01 08:30:00+0530", f"{ISO}+05:30"),
        ("2026:10:01 08:30:00-00:00", ISO),
        ("2026:10:01 08:30", ISO),
        ("2026:10: 1  8:30: 0", ISO),
        ("2026:10:01 08:30:00 AM", ISO),
        ("2026:10:01 08:30:00 PM", "2026-10-01T20:30:00"),
        ("20261001083000", ISO),
        ("2026:10:01 08:30:00\0\0  ", ISO),
        (" 2026:10:01 08:30:00 ", ISO),
        ("2026:10:01 08:30:00\0garbage", ISO),
        ("0000:00:00 00:00:00", None),
        ("\0\0" + WHEN, ISO),
        (f"{WHEN}.", ISO),
        (f"{WHEN} DST", ISO),
        (f"{WHEN}:123", f"{ISO}.123000"),
        ("2026:10:01:08:30:00", ISO),
        ("2026100108", "2026-10-01T08:00:00"),
        ("2026:1:1 8:3", "2026-01-01T08:03:00"),
        ("1970:01:01 00:00:00", "1970-01-01T00:00:00"),
        ("1904:01:01 00:00:00", None),
        ("    :  :     :  :  ", None),
        ("2026:02:30 10:00:00", None),
        ("01/10/2026 08:30:00", None),
        ("7", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_time_is_read_in_every_spelling_that_has_one_meaning(
    text: str, expected: str | None, order: str
) -> None:
    for kind in (1, 2, 7):
        assert time({TAKEN: text}, order, kind) == expected


ZEROS = "0000:00:00 00:00:00"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({TAKEN: ZEROS, CHANGED: WHEN}, ISO),
        ({TAKEN: ZEROS, DIGITIZED: WHEN, CHANGED: "2026:11:01 08:30:00"}, ISO),
        ({TAKEN: "1970:01:01 00:00:00", DIGITIZED: "1980:01:01 00:00:00", CHANGED: WHEN}, ISO),
        ({TAKEN: WHEN, CHANGED: "2026:11:01 08:30:00"}, ISO),
        ({TAKEN: "2026:10:01", CHANGED: "2026:10:01 09:00:00"}, "2026-10-01T09:00:00"),
        ({TAKEN: "2026:10:01"}, "2026-10-01T00:00:00"),
        ({TAKEN: "2026:10:01", CHANGED: "2027:10:01 09:00:00"}, "2026-10-01T00:00:00"),
        (
            {TAKEN: "2026:10:01", DIGITIZED: "2026:10:02 00:00:00", CHANGED: "2026:10:01 09:00:00"},
            "2026-10-01T09:00:00",
        ),
        ({TAKEN: "2000:01:01 00:00:00", CHANGED: WHEN}, ISO),
        ({TAKEN: "2000:01:01 00:10:00", CHANGED: "2000:01:01 00:20:00"}, "2000-01-01T00:10:00"),
        ({TAKEN: "1980:01:01 00:00:00", DIGITIZED: ZEROS, CHANGED: "2026:10:01"}, "2026-10-01T00:00:00"),
        ({TAKEN: WHEN, TAKEN_OFFSET: "+02:00"}, f"{ISO}+02:00"),
        ({TAKEN: WHEN, TAKEN_OFFSET: "+0200"}, f"{ISO}+02:00"),
        ({TAKEN: WHEN, TAKEN_OFFSET: "-9"}, f"{ISO}-09:00"),
        ({TAKEN: WHEN, TAKEN_OFFSET: "Z"}, f"{ISO}+00:00"),
        ({TAKEN: WHEN, TAKEN_OFFSET: "-00:00"}, ISO),
        ({TAKEN: WHEN, TAKEN_OFFSET: "   :  "}, ISO),
        ({TAKEN: WHEN, TAKEN_OFFSET: "+99:00"}, ISO),
        ({TAKEN: WHEN, DIGITIZED_OFFSET: "+02:00", CHANGED_OFFSET: "+03:00"}, ISO),
        ({TAKEN: ZEROS, TAKEN_OFFSET: "+05:00", DIGITIZED: WHEN, DIGITIZED_OFFSET: "+02:00"}, f"{ISO}+02:00"),
        ({TAKEN: ZEROS, CHANGED: WHEN, CHANGED_OFFSET: "+03:00"}, f"{ISO}+03:00"),
        ({TAKEN: f"{WHEN}+01:00", TAKEN_OFFSET: "+02:00"}, f"{ISO}+01:00"),
        ({TAKEN: WHEN, TAKEN_FRACTION: "123"}, f"{ISO}.123000"),
        ({TAKEN: WHEN, TAKEN_FRACTION: "5", TAKEN_OFFSET: "+02:00"}, f"{ISO}.500000+02:00"),
        ({TAKEN: WHEN, TAKEN_FRACTION: "1234567890"}, f"{ISO}.123456"),
        ({TAKEN: WHEN, TAKEN_FRACTION: "x"}, ISO),
        ({TAKEN: f"{WHEN}.25", TAKEN_FRACTION: "75"}, f"{ISO}.250000"),
        ({TAKEN: WHEN, DIGITIZED_FRACTION: "75"}, ISO),
    ],
)
def test_the_first_time_that_can_be_believed_with_its_own_offset_and_fraction(
    tags: dict[int, str | bytes], expected: str
) -> None:
    assert time(tags) == expected


@given(st.binary(max_size=200), st.sampled_from([b"", b"II*\0", b"MM\0*", b"II*\0\x08\0\0\0"]))
def test_no_block_raises(rest: bytes, start: bytes) -> None:
    read_exif(start + rest)


def test_many_entries_that_share_their_bytes_take_no_memory() -> None:
    entries = b"".join(struct.pack("<HHII", 0x9003, 2, 2**31, 8) for _ in range(60_000))
    assert read_exif(b"II*\0\x08\0\0\0" + struct.pack("<H", 60_000) + entries).time is None
