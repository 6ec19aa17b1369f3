import io
import json
import os
import random
import re
import struct
import subprocess
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.archives.entries import Entry
from maskbatch.archives.members import Container
from maskbatch.archives.tars import explain_compression, list_tar
from maskbatch.archives.zips import extract_member, list_zip
from maskbatch.clock import parse_time
from maskbatch.errors import ImageError, RunFailedError, UsageError
from maskbatch.stores.uris import decode_name

JPEG = bytes(random.Random(5).randbytes(3000))
LIMIT = 1 << 20
ENTRIES = {"tar": list_tar, "zip": list_zip}


class Store(io.BytesIO):
    """A remote file: it refuses reads of more than 64 MiB, and remembers what was read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[int] = []

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > 64 << 20:
            raise OSError(f"{size} bytes in one read")
        self.reads.append(size)
        return super().read(size)


def container(data: bytes, kind: str = "tar", name: str = "days/1.tar", keep: str | None = None) -> Container:
    uri = f"s3://b/days/1.{kind}"
    return Container(file=Store(data), size=len(data), uri=uri, relative=name, version="v1", keep_column=keep)


def index(
    data: bytes, kind: str = "tar", keep_column: str | None = None
) -> tuple[list[Entry], dict[str, int]]:
    source = container(data, kind, keep=keep_column)
    return list(ENTRIES[kind](source)), dict(source.skipped)


def fetch(data: bytes, entry: Entry, max_bytes: int = LIMIT) -> bytes:
    assert entry.offset is not None and entry.length is not None
    part = data[entry.offset : entry.offset + entry.length]
    return extract_member(part, entry.uri, entry.encoding, entry.num_bytes, max_bytes)


def info(name: str, **fields: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


Item = tuple[str | tarfile.TarInfo, bytes]


def make_tar(*items: Item, format: int = tarfile.PAX_FORMAT, **options: Any) -> bytes:  # noqa: A002
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format, **options) as tar:
        for name, data in items:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    """A tar header whose size field says whatever it is told."""
    field = b"%011o\0" % size if 0 <= size < 8**11 else bytes([0x80 if size >= 0 else 0xFF])
    field = field if len(field) == 12 else field + (size % 256**11).to_bytes(11, "big")
    block = bytearray(
        struct.pack("100s8s8s8s12s12s8sc", name, *[b"0000644\0"] * 3, field, b"0" * 11, b" " * 8, kind)
    )
    block += bytes(512 - len(block))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def make_zip(*items: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in items:
            archive.writestr(name, data)
    return file.getvalue()


class Pipe(io.RawIOBase):
    """A file that cannot seek, so that zipfile writes data descriptors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


@contextmanager
def at_most(num_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < num_bytes
    finally:
        tracemalloc.stop()


# --- tar ---


def test_a_member_of_a_tar_is_a_range_of_it() -> None:
    data = make_tar(("a/1.jpg", JPEG), ("a/2.PNG", b""), ("notes.txt", b"x"), ("readme", b"y"))
    entries, skipped = index(data)
    assert [fetch(data, entry) for entry in entries] == [JPEG, b""]
    assert skipped == {".txt": 1, "no extension": 1}
    assert entries[0] == Entry(
        uri="tar://a/1.jpg::s3://b/days/1.tar", relative="days/1.tar/a/1.jpg", inner="a/1.jpg",
        container="s3://b/days/1.tar", offset=512, length=3000, num_bytes=3000, version="v1",
    )  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("name", [f"{'d' * 90}/{'e' * 90}/{'f' * 90}.jpg", "日本/é.jpg", "x" * 3000 + ".jpg"])
def test_long_and_foreign_names_survive_in_both_formats(form: int, name: str) -> None:
    data = make_tar((name, JPEG), ("b.jpg", b"2"), format=form)
    entries, _ = index(data)
    assert [entry.inner for entry in entries] == [name, "b.jpg"]
    assert [fetch(data, entry) for entry in entries] == [JPEG, b"2"]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_name_that_is_not_utf_8_is_percent_encoded(form: int) -> None:
    data = make_tar(("cam\udcff/50%25::.jpg", JPEG), format=form, encoding="utf-8", errors="surrogateescape")
    (entry,), _ = index(data)
    assert entry.inner == "cam%FF/50%2525%3A%3A.jpg"
    assert decode_name(entry.inner) == b"cam\xff/50%25::.jpg"
    assert entry.uri == f"tar://{entry.inner}::s3://b/days/1.tar"


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"], ["--format=ustar"], ["--format=v7"]])
def test_what_the_tar_command_makes_is_read(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "in/cam1").mkdir(parents=True)
    files = {f"cam1/{i}.jpg": random.Random(i).randbytes(i * 300) for i in range(5)}
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    os.symlink("0.jpg", tmp_path / "in/cam1/link.jpg")
    os.link(tmp_path / "in/cam1/3.jpg", tmp_path / "in/hard.jpg")
    subprocess.run(
        ["tar", "-C", tmp_path / "in", "-cf", tmp_path / "x.tar", "--sort=name", *options, "."], check=True
    )
    data = (tmp_path / "x.tar").read_bytes()
    entries, skipped = index(data)
    assert {entry.inner: fetch(data, entry) for entry in entries if not entry.status} == files
    assert {entry.inner: entry.error for entry in entries if entry.status == "unsupported"} == {
        "cam1/link.jpg": "a link, not a file of its own",
        "hard.jpg": "a link, not a file of its own",
    }
    assert skipped == {}
    assert not any(entry.inner and entry.inner.startswith(".") for entry in entries)


@pytest.mark.parametrize("options", [["--format=gnu"], *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))])  # fmt: skip
def test_sparse_members_are_refused_and_their_neighbours_read(tmp_path: Path, options: list[str]) -> None:
    with open(tmp_path / "b.jpg", "wb") as file:
        for i in range(40):  # more holes than one GNU header holds
            file.seek(i * 65536)
            file.write(b"x" * 4096)
    for name in ("a.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(JPEG)
    subprocess.run(["tar", "-cSf", "x.tar", *options, "a.jpg", "b.jpg", "c.jpg"], cwd=tmp_path, check=True)
    data = (tmp_path / "x.tar").read_bytes()
    (a, b, c), skipped = index(data)
    assert fetch(data, a) == fetch(data, c) == JPEG
    assert (b.inner, b.status, b.offset) == ("b.jpg", "unsupported", None)
    assert b.error == "a sparse file; pack it again without --sparse"
    assert skipped == {}


@pytest.mark.parametrize(
    "name",
    [
        "/etc/x.jpg",
        "../x.jpg",
        "a/../../x.jpg",
        "a/..//x.jpg",
        "C:/x.jpg",
        "c:x.jpg",
        "a\\x.jpg",
        "x.txt\0.jpg",
    ],
)
def test_a_name_that_leaves_the_archive_is_refused(name: str) -> None:
    member = info("x.jpg", pax_headers={"path": name})
    if "\0" in name:
        records = b"%d path=%s\n" % (len(name) + 9, name.encode())
        data = header(b"x", len(records), b"x") + records.ljust(512, b"\0") + header(b"x", 0) + bytes(1024)
    else:
        data = make_tar((member, JPEG))
    (entry,), skipped = index(data)
    assert (entry.status, entry.offset, entry.length, entry.num_bytes) == ("unsupported", None, None, None)
    assert entry.error and entry.error.startswith("its name is absolute, or has a '..'")
    assert skipped == {}


@pytest.mark.parametrize("name", ["a..b/x..jpg.jpg", "..a/x.jpg", "10:30:00.jpg", "cam 1/x.jpg"])
def test_a_name_that_only_looks_unsafe_is_read(name: str) -> None:
    data = make_tar((name, JPEG))
    (entry,), _ = index(data)
    assert fetch(data, entry) == JPEG


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"])  # fmt: skip
def test_links_devices_and_unknown_types_are_refused(kind: bytes) -> None:
    data = make_tar((info("x.jpg", type=kind, linkname="/etc/passwd"), b""), ("y.jpg", JPEG))
    (x, y), _ = index(data)
    assert (x.status, x.container, x.offset) == ("unsupported", "s3://b/days/1.tar", None)
    assert fetch(data, y) == JPEG


def test_apple_double_members_and_folders_are_no_images() -> None:
    items = [("__MACOSX/a/._1.jpg", b""), ("./a/._1.jpg", b""), ("a/._1.json", b"{}"), ("._x.txt", b"")]
    folder = info("album.jpg", type=tarfile.DIRTYPE)
    entries, skipped = index(make_tar(*items, (folder, b"")))
    assert (entries, skipped) == ([], {"AppleDouble": 4})


def test_a_leading_dot_is_dropped() -> None:
    entries, _ = index(make_tar(("./a.jpg", JPEG), (".//./b/c.jpg", JPEG)))
    assert [entry.relative for entry in entries] == ["days/1.tar/a.jpg", "days/1.tar/b/c.jpg"]
    assert entries[0].uri == "tar://a.jpg::s3://b/days/1.tar"


def test_only_headers_of_a_plain_tar_are_read_and_few_are_held() -> None:
    data = make_tar(*((f"{i}.jpg", b"x") for i in range(2000)))
    source = container(data)
    assert isinstance(source.file, Store)
    found = list_tar(source)
    next(found)
    with at_most(200_000):
        assert sum(1 for _ in found) == 1999
    assert set(source.file.reads[:-1]) == {512}


def test_a_tar_cut_inside_a_member_says_what_is_lost() -> None:
    data = make_tar(("a.jpg", JPEG), ("b.jpg", JPEG), ("c.jpg", JPEG))
    second = 512 + 3072
    (a, b, lost), _ = index(data[: second + 512 + 100])
    assert a.status is None
    assert (b.status, b.error, b.offset) == ("truncated", "the tar ends inside this member", None)
    assert lost == Entry(
        uri="s3://b/days/1.tar", relative="days/1.tar", version="v1", status="corrupt",
        error=f"the tar is damaged after byte {second}; members behind it are not known",
    )  # fmt: skip


@pytest.mark.parametrize("cut", [512 + 3072 + 1, 512 + 3072 + 300])
def test_a_tar_cut_inside_a_header_is_damaged(cut: int) -> None:
    (a, lost), _ = index(make_tar(("a.jpg", JPEG), ("b.jpg", JPEG))[:cut])
    assert (a.status, lost.error) == (
        None,
        "the tar is damaged after byte 3584; members behind it are not known",
    )


@pytest.mark.parametrize("end", [512 + 3000, 512 + 3072, 512 + 3072 + 512, 512 + 3072 + 700])
def test_a_tar_without_its_last_blocks_is_whole(end: int) -> None:
    data = make_tar(("a.jpg", JPEG))[:end]
    (entry,), _ = index(data)
    assert fetch(data, entry) == JPEG


def test_garbage_behind_the_end_is_no_damage_but_another_tar_is() -> None:
    data = make_tar(("a.jpg", JPEG))
    assert len(index(data + b"garbage" * 1000)[0]) == 1
    assert len(index(b"\0" * 10240)[0]) == 0
    (_, lost), _ = index(data + make_tar(("b.jpg", JPEG)))
    assert lost.error == "the tar is damaged after byte 3584; members behind it are not known"
    first = data[:3584]
    assert index(first + bytes(512) + first)[0][-1].status == "corrupt"


@pytest.mark.parametrize("first", [3584, 7168])
def test_a_damaged_header_keeps_what_came_before(first: int) -> None:
    data = bytearray(make_tar(*((f"{i}.jpg", JPEG) for i in range(4))))
    data[first + 5] ^= 1
    entries, _ = index(bytes(data))
    assert [entry.status for entry in entries] == [None] * (first // 3584) + ["corrupt"]
    assert entries[-1].error == f"the tar is damaged after byte {first}; members behind it are not known"


@pytest.mark.parametrize("size", [8**11 - 1, 2**62, 2**80, -1, -(2**40)])
@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"g", b"S", b"K", b"X", b"1", b"?"])
def test_a_lying_size_never_allocates_and_loses_only_what_follows(size: int, kind: bytes) -> None:
    good = make_tar(("a.jpg", JPEG))[:3584]
    with at_most(20 << 20):
        entries, _ = index(good + header(b"b.jpg", size, kind) + bytes(4096))
    assert entries[0].status is None
    assert all(entry.offset is None for entry in entries[1:])
    assert (entries[-1].status == "corrupt") is (kind != b"1" or size < 0)


def test_a_chain_of_extension_headers_is_followed_without_recursion() -> None:
    record = b"12 a=bcdefg\n"
    bomb = (header(b"x", len(record), b"x") + record.ljust(512, b"\0")) * 5000
    (entry,), _ = index(bomb + make_tar(("a.jpg", JPEG)))
    assert entry.inner == "a.jpg"
    (lost,), _ = index(bomb)
    assert lost.status == "corrupt"


@pytest.mark.parametrize(
    "payload", [b"2 " * 400_000 + b"=", b"1" * 900_000, b"0 a=b\n", b"9999999 a=b\n", b"5 a=b"]
)
def test_a_pax_bomb_is_damage_and_quickly_so(payload: bytes) -> None:
    padded = payload.ljust(-(-len(payload) // 512) * 512, b"\0")
    began = time.monotonic()
    with at_most(20 << 20):
        (lost,), _ = index(header(b"x", len(payload), b"x") + padded + make_tar(("a.jpg", JPEG)))
    assert lost.status == "corrupt"
    assert time.monotonic() - began < 5


def test_a_pax_header_may_give_the_size_and_a_huge_one_is_refused() -> None:
    record = b"13 size=3000\n"
    head = header(b"x", len(record), b"x") + record.ljust(512, b"\0") + header(b"a.jpg", 0)
    data = head + JPEG.ljust(3072, b"\0") + make_tar(("b.jpg", b"2"))
    assert [fetch(data, entry) for entry in index(data)[0]] == [JPEG, b"2"]
    huge = make_tar((info("a.jpg", pax_headers={"comment": "x" * (2 << 20)}), JPEG))
    assert [entry.status for entry in index(huge)[0]] == ["corrupt"]


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff" * 5000, bytes(1 << 20), JPEG, b"PK\3\4" + bytes(600)]
)
def test_what_is_no_tar_is_one_corrupt_row(data: bytes) -> None:
    (entry,), _ = index(data)
    assert (entry.uri, entry.status, entry.error) == ("s3://b/days/1.tar", "corrupt", "this is no tar")


@pytest.mark.parametrize(
    ("tool", "extension"), [("gzip", "gz"), ("bzip2", "bz2"), ("xz", "xz"), ("zstd", "zst")]
)
def test_a_compressed_tar_is_refused_with_the_command_that_helps(
    tool: str, extension: str, tmp_path: Path
) -> None:
    plain = make_tar(("a.jpg", JPEG))
    head = subprocess.run([tool, "-c"], input=plain, capture_output=True, check=True).stdout
    name = f"days/day 1.tar.{extension}"
    (tmp_path / "days").mkdir()
    (tmp_path / name).write_bytes(head)
    with pytest.raises(UsageError, match=tool) as caught:
        list(list_tar(container(head, name=name)))
    command = str(caught.value).rpartition(": ")[2]
    assert command == f"{tool} -dc 'days/day 1.tar.{extension}' > 'days/day 1.tar'"
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "days/day 1.tar").read_bytes() == plain


@pytest.mark.parametrize(
    ("name", "head", "command"),
    [
        ("a.tgz", b"", "gzip -dc a.tgz > a.tar"),
        ("a.TXZ", b"", "xz -dc a.TXZ > a.tar"),
        ("a.tar", b"\x1f\x8b\x08\0", "gzip -dc a.tar > a.plain.tar"),
        ("a.tar.gz", make_tar(("BZh1.jpg", b"")), None),
        ("a.tar", b"", None),
        ("log.gz", b"", None),
        ("a.gz", b"\x1f\x8b\x08\0", "gzip -dc a.gz > a.plain.tar"),
    ],
)
def test_magic_bytes_decide_what_is_compressed_and_else_the_name(
    name: str, head: bytes, command: str | None
) -> None:
    sentence = explain_compression(name, head)
    assert (sentence and sentence.rpartition(": ")[2]) == command


def test_a_store_that_fails_is_not_taken_for_damage() -> None:
    for kind, data in {"tar": make_tar(("a.jpg", JPEG)), "zip": make_zip(("a.jpg", JPEG))}.items():
        source = container(data, kind)
        source.file.close = lambda: None  # type: ignore[method-assign]

        def fail(size: int = -1) -> bytes:
            raise OSError("connection reset")

        source.file.read = fail  # type: ignore[method-assign, assignment]
        with pytest.raises(RunFailedError, match=r"cannot read s3://b/days/1\.\w+: connection reset"):
            list(ENTRIES[kind](source, Counter()))


# --- WebDataset ---


def columns(entry: Entry) -> tuple[Any, ...]:
    return (entry.inner, entry.site, entry.camera, entry.time, entry.kept)


def test_a_sidecar_before_or_after_its_images_gives_them_columns() -> None:
    said = {
        "site": "north",
        "camera": 7,
        "captured_at": "2026-10-01T13:00:00+02:00",
        "shift": "late",
        "x": {},
    }
    text = json.dumps(said).encode()
    data = make_tar(
        ("0/a.json", text), ("0/a.left.jpg", JPEG), ("0/a.right.jpg", b"2"),
        ("0/b.jpg", JPEG), ("0/b.json", text), ("0/b.cls", b"3\n"),
        ("1/b.jpg", JPEG), ("1/c.cls", b"3\n"), ("1/c.json", b"{}"), ("d.meta.json", b"{}"), ("d.jpg", b""),
    )  # fmt: skip
    entries, skipped = index(data, keep_column="shift")
    assert [columns(entry)[1:3] + columns(entry)[4:] for entry in entries] == [
        *[("north", "7", "late")] * 3,
        *[(None, None, None)] * 2,
    ]
    assert entries[0].time == datetime(2026, 10, 1, 11, tzinfo=UTC)
    assert skipped == {".cls": 2, ".json": 2}
    kept, skipped = index(data, keep_column="cls")
    assert [entry.kept for entry in kept] == [None, None, "3", None, None]
    assert skipped == {".cls": 1, ".json": 2}
    assert [fetch(data, entry) for entry in entries] == [JPEG, b"2", JPEG, JPEG, b""]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[1]",
        b"\xff{}",
        b"{",
        b'{"a": 1}' + b" " * 70_000,
        b"[" * 60_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_an_unreadable_sidecar_is_counted(text: bytes) -> None:
    (entry,), skipped = index(make_tar(("a.json", text), ("a.jpg", JPEG)))
    assert columns(entry) == ("a.jpg", None, None, None, None)
    assert skipped == {"unreadable .json": 1}


def test_what_a_sidecar_says_becomes_text_that_can_be_stored() -> None:
    said = {"site": "  \ud800x ", "camera": "", "captured_at": [], "k": True}
    (entry,), _ = index(make_tar(("a.json", json.dumps(said).encode()), ("a.jpg", JPEG)), keep_column="k")
    assert columns(entry) == ("a.jpg", "?x", None, None, "true")


def test_many_images_of_one_key_are_flushed_in_order() -> None:
    items = [(f"cam.{i}.jpg", b"x") for i in range(150)]
    middle: list[Item] = [("cam.json", b'{"site": "s"}')]
    entries, skipped = index(make_tar(*items[:100], *middle, *items[100:]))
    assert [entry.inner for entry in entries] == [name for name, _ in items]
    assert [entry.site for entry in entries] == [None] * 64 + ["s"] * 86
    assert skipped == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-10-01T13:45:10", datetime(2026, 10, 1, 13, 45, 10)),
        (" 2026-10-01 13:45 ", datetime(2026, 10, 1, 13, 45)),
        ("2026-10-01T13:45:10Z", datetime(2026, 10, 1, 13, 45, 10, tzinfo=UTC)),
        ("2026-10-01T13:45:10+02:00", datetime(2026, 10, 1, 11, 45, 10, tzinfo=UTC)),
        ("20261001T134510", datetime(2026, 10, 1, 13, 45, 10)),
        ("20261001", datetime(2026, 10, 1)),
        (datetime(2026, 10, 1), datetime(2026, 10, 1)),
        *[(value, datetime(2026, 10, 1, tzinfo=UTC)) for value in (1790812800, "1790812800", 1790812800.0, "1790812800.0")],
        *[(value, datetime(2026, 10, 1, tzinfo=UTC)) for value in (1790812800000, "1790812800000")],
        (1790812800.5, datetime(2026, 10, 1, 0, 0, 0, 500000, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        *[(value, None) for value in ("", "soon", "2026-13-01", "20261301", None, True, [], {}, b"2026-10-01")],
        *[(value, None) for value in (float("nan"), float("inf"), 1e300, 10**400, "9" * 400, pd.NaT, "١٢٣٤٥٦٧٨٩")],
    ],
)  # fmt: skip
def test_times_are_read_as_manifests_and_sidecars_write_them(
    value: object, expected: datetime | None
) -> None:
    assert parse_time(value) == expected


# --- zip ---


@pytest.mark.parametrize(
    ("method", "encoding"), [(zipfile.ZIP_STORED, "raw"), (zipfile.ZIP_DEFLATED, "deflate")]
)
def test_a_member_of_a_zip_is_a_range_of_it(method: int, encoding: str) -> None:
    text = b"mask " * 900
    data = make_zip(("a/1.jpg", text), ("a/", b""), ("n.json", b"{}"), ("b.png", JPEG), method=method)
    (a, b), skipped = index(data, "zip")
    assert (fetch(data, a), fetch(data, b)) == (text, JPEG)
    assert skipped == {".json": 1}
    assert a.uri == "zip://a/1.jpg::s3://b/days/1.zip"
    assert (a.relative, a.inner, a.container) == ("days/1.tar/a/1.jpg", "a/1.jpg", "s3://b/days/1.zip")
    assert (a.offset, a.encoding, a.num_bytes, a.version) == (0, encoding, 4500, "v1")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("zip64", [False, True])
@pytest.mark.parametrize("signed", [True, False])
def test_data_descriptors_and_zip64_streams_are_read(method: int, zip64: bool, signed: bool) -> None:
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", method) as archive:  # type: ignore[arg-type]
        for name in ("a.jpg", "b.jpg"):
            with archive.open(name, "w", force_zip64=zip64) as file:
                file.write(JPEG)
    data = bytes(pipe.data)
    assert b"PK\7\x08" in data
    if not signed:  # the same descriptors without their optional signature
        crc = struct.pack("<L", zlib.crc32(JPEG))
        data = data.replace(b"PK\7\x08" + crc, crc + b"\0\0\0\0")
    assert [fetch(data, entry) for entry in index(data, "zip")[0]] == [JPEG, JPEG]
    wrong = data.replace(struct.pack("<L", zlib.crc32(JPEG)), b"abcd")
    with pytest.raises(ImageError, match="its checksum differs"):
        fetch(wrong, index(wrong, "zip")[0][0])


def test_what_the_zip_command_makes_is_read(tmp_path: Path) -> None:
    (tmp_path / "é").mkdir()
    (tmp_path / "é" / "日.jpg").write_bytes(JPEG * 3)
    (tmp_path / "b.jpg").write_bytes(b"mask" * 1000)
    os.symlink("b.jpg", tmp_path / "link.jpg")
    subprocess.run(["zip", "-qry", "x.zip", "é", "b.jpg", "link.jpg"], cwd=tmp_path, check=True)
    subprocess.run(["zip", "-qe", "-P", "secret", "x.zip", "b.jpg"], cwd=tmp_path, check=True)
    data = (tmp_path / "x.zip").read_bytes()
    found = {entry.inner: entry for entry in index(data, "zip")[0]}
    assert fetch(data, found["é/日.jpg"]) == JPEG * 3
    assert (found["b.jpg"].status, found["b.jpg"].error) == ("unsupported", "encrypted")
    assert found["link.jpg"].error == "a link, not a file of its own"


def test_a_prefixed_zip_and_one_with_a_comment_are_read() -> None:
    file = io.BytesIO(make_zip(("a.jpg", JPEG), ("b.jpg", JPEG)))
    with zipfile.ZipFile(file, "a") as archive:
        archive.comment = b"x" * 60_000
    data = b"#!/bin/sh\n" * 100 + file.getvalue()
    assert [fetch(data, entry) for entry in index(data, "zip")[0]] == [JPEG, JPEG]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_method_is_refused_by_name(method: int) -> None:
    (entry,), _ = index(make_zip(("a.jpg", JPEG), method=method), "zip")
    name = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "LZMA"}[method]
    assert entry.error == f"compressed with {name}; only stored and deflated members are read"
    assert (entry.status, entry.offset) == ("unsupported", None)


def patched(data: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """`data` with other bytes at `offset` of the last record with this signature."""
    at = data.rindex(signature) + offset
    return data[:at] + value + data[at + len(value) :]


@pytest.mark.parametrize(
    ("offset", "value", "error"),
    [
        (8, b"\1\0", "encrypted"),
        (10, b"\x63\0", "compressed with method 99; only stored and deflated members are read"),
        (34, b"\1\0", "in another part of a split zip; join the parts with zip -s 0 --out"),
        (38, struct.pack("<L", 0o060644 << 16), "not a regular file"),
        (42, b"\xf0\xff\xff\x7f", "the zip's directory contradicts itself about this member"),
        (20, b"\xf0\xff\xff\x7f", "the zip's directory contradicts itself about this member"),
        (24, b"\xf0\xff\xff\x7f", "the zip's directory contradicts itself about this member"),
    ],
)  # fmt: skip
def test_a_member_that_cannot_be_read_says_why(offset: int, value: bytes, error: str) -> None:
    data = patched(make_zip(("a.jpg", JPEG), ("b.jpg", JPEG)), b"PK\1\2", offset, value)
    found = {entry.inner: entry for entry in index(data, "zip")[0]}
    assert fetch(data, found["a.jpg"]) == JPEG
    assert (found["b.jpg"].error, found["b.jpg"].offset, found["b.jpg"].num_bytes) == (error, None, None)


@pytest.mark.parametrize("name", ["/x.jpg", "../x.jpg", "C:/x.jpg", "a\\x.jpg", "x.txt?.jpg"])
def test_a_zip_name_that_leaves_the_archive_is_refused(name: str) -> None:
    data = make_zip((name, JPEG)).replace(b"?", b"\0")
    (entry,), _ = index(data, "zip")
    assert entry.status == "unsupported" and entry.error and entry.error.startswith("its name is absolute")


def test_a_utf_8_name_without_its_flag_is_understood() -> None:
    data = make_zip(("日本.jpg", JPEG))
    for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        data = patched(data, signature, offset, b"\0\0")
    assert index(data, "zip")[0][0].inner == "日本.jpg"
    old = data.replace("日本".encode(), b"\x82\x82\x82\x82\x82\x82")
    assert index(old, "zip")[0][0].inner == "éééééé.jpg"


@pytest.mark.parametrize(
    "data", [b"", b"hello", JPEG * 30, make_zip(("a.jpg", JPEG))[:-30], make_tar(("a.jpg", JPEG))]
)
def test_what_is_no_zip_is_one_corrupt_row(data: bytes) -> None:
    (entry,), _ = index(data, "zip")
    assert (entry.uri, entry.status) == ("s3://b/days/1.zip", "corrupt")
    assert entry.error == "this is no zip, or its directory is damaged"


def test_a_directory_that_lists_fewer_members_than_it_says_is_counted() -> None:
    data = make_zip(("a.jpg", JPEG), ("b.jpg", JPEG))
    assert len(index(data, "zip")[0]) == 2
    for size in (0, 51):
        entries, _ = index(patched(data, b"PK\5\6", 12, struct.pack("<L", size)), "zip")
        assert entries[-1].status == "corrupt"


def test_an_empty_zip_has_no_images() -> None:
    assert index(make_zip(), "zip") == ([], {})


def test_duplicate_names_are_both_listed() -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        data = make_zip(("a.jpg", JPEG), ("a.jpg", b"2"))
    assert [fetch(data, entry) for entry in index(data, "zip")[0]] == [JPEG, b"2"]


def test_overlapping_members_share_no_more_than_their_ranges() -> None:
    data = make_zip(("a.jpg", JPEG), ("b.jpg", JPEG))
    entries, _ = index(patched(data, b"PK\1\2", 42, struct.pack("<L", 0)), "zip")
    assert [(entry.offset, entry.num_bytes) for entry in entries] == [(0, 3000), (0, 3000)]
    inside, _ = index(patched(data, b"PK\1\2", 42, struct.pack("<L", 50)), "zip")
    for entry in inside:
        with pytest.raises(ImageError) as caught:
            fetch(data, entry)
        assert caught.value.status in ("truncated", "corrupt")


def test_a_zip_bomb_allocates_no_more_than_allowed() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1000)) + packer.flush()
    record = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(packed), 0, 5, 0) + b"a.jpg" + packed
    for num_bytes, status in ((1000 << 20, "too_large"), (LIMIT, "corrupt"), (10, "corrupt")):
        with at_most(4 * LIMIT), pytest.raises(ImageError) as caught:
            extract_member(record, "zip://a.jpg::file:///x.zip", "deflate", num_bytes, LIMIT)
        assert caught.value.status == status
    assert str(ImageError("too_large", "x")) and caught.value.__reduce__()


def test_a_huge_directory_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_zip(*((f"{i:05}.jpg", b"") for i in range(3000)))
    assert len(index(data, "zip")[0]) == 3000
    monkeypatch.setattr("maskbatch.archives.zips.MAX_DIRECTORY_BYTES", 100_000)
    assert [entry.status for entry in index(data, "zip")[0]] == ["corrupt"]


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (lambda part: part[:20], "truncated", "the zip ends inside this member"),
        (lambda part: part[:-50], "truncated", "the compressed data ends early"),
        (lambda part: b"XX" + part[2:], "corrupt", "no member begins where the zip's directory says"),
        (lambda part: part[:8] + b"\0" + part[9:], "corrupt", "its header contradicts the zip's directory"),
        (lambda part: part[:14] + b"abcd" + part[18:], "corrupt", "its checksum differs"),
        (lambda part: part[:35] + b"\xff" * 100 + part[135:], "corrupt", "the compressed data is damaged"),
    ],
)
def test_damaged_bytes_of_a_member_are_told_apart(
    change: Callable[[bytes], bytes], status: str, message: str
) -> None:
    data = make_zip(("a.jpg", JPEG))
    (entry,), _ = index(data, "zip")
    assert entry.offset is not None and entry.length is not None
    with pytest.raises(ImageError) as caught:
        extract_member(change(data[: entry.length]), entry.uri, entry.encoding, entry.num_bytes, LIMIT)
    assert (caught.value.status, caught.value.message) == (status, message)


@pytest.mark.parametrize("num_bytes", [2999, 3001, 0])
def test_a_size_that_is_not_the_directorys_is_corrupt(num_bytes: int) -> None:
    data = make_zip(("a.jpg", JPEG))
    with pytest.raises(ImageError, match=re.escape("its size differs from the zip's directory")):
        extract_member(data, "zip://a.jpg::x", "deflate", num_bytes, LIMIT)


def test_a_member_of_a_tar_is_what_was_fetched() -> None:
    assert extract_member(b"abc", "tar://a.jpg::x", "raw", 3, 3) == b"abc"
    with pytest.raises(ImageError, match="more than the 2 bytes allowed"):
        extract_member(b"abc", "tar://a.jpg::x", "raw", 3, 2)
    with pytest.raises(ImageError, match="the tar ends inside this member"):
        extract_member(b"ab", "tar://a.jpg::x", "raw", 3, 3)


# --- both ---

names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\\:/"), min_size=1, max_size=120
)
contents = st.dictionaries(names.map(lambda name: f"d/_{name}.jpg"), st.binary(max_size=2000), max_size=6)


@given(contents, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_every_member_of_a_tar_comes_back_through_its_range(files: dict[str, bytes], form: int) -> None:
    data = make_tar(*files.items(), format=form)
    entries, skipped = index(data)
    assert [(decode_name(entry.inner or "").decode(), fetch(data, entry)) for entry in entries] == [
        *files.items()
    ]
    assert [entry.offset for entry in entries] == sorted(entry.offset or 0 for entry in entries)
    assert skipped == {}


@given(contents, st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_every_member_of_a_zip_comes_back_through_its_range(files: dict[str, bytes], method: int) -> None:
    data = make_zip(*files.items(), method=method)
    entries, _ = index(data, "zip")
    assert [(decode_name(entry.inner or "").decode(), fetch(data, entry)) for entry in entries] == [
        *files.items()
    ]


def fuzz_seeds() -> dict[str, list[bytes]]:
    pipe = Pipe()
    with (
        zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive,  # type: ignore[arg-type]
        archive.open("é.jpg", "w", force_zip64=True) as file,
    ):
        file.write(b"mask" * 50)
    items: list[Item] = [
        ("a.jpg", b"x" * 700),
        ("é" * 120 + ".jpg", b"y"),
        ("b.json", b'{"site": "n"}'),
        ("b.jpg", b""),
    ]
    return {
        "tar": [make_tar(*items, format=form) for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)],
        "zip": [make_zip(("a.jpg", b"mask" * 50), ("b.jpg", JPEG[:50])), bytes(pipe.data)],
    }


def mend(data: bytearray) -> None:
    """Make the header that a mutation hit pass its checksum, so that the rest of the parser is reached."""
    for at in range(0, len(data) - 511, 512):
        block = data[at : at + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(block)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_flipped_bytes_never_raise_anything_else(kind: str) -> None:
    chance = random.Random(11)
    statuses: Counter[str | None] = Counter()
    for data in fuzz_seeds()[kind]:
        for _ in range(1500):
            bad = bytearray(data[: chance.choice([len(data)] * 4 + [chance.randrange(len(data))])])
            for _ in range(chance.choice([1, 1, 2, 5, 20])):
                if bad:
                    bad[chance.randrange(min(len(bad), 6000))] = chance.choice(
                        [0, 255, 128, 48, 57, chance.randrange(256)]
                    )
            if chance.random() < 0.7 and kind == "tar":
                mend(bad)
            try:
                entries, _ = index(bytes(bad), kind, "cls")
            except UsageError:
                continue
            for entry in entries:
                entry.uri.encode(), entry.relative.encode()
                status = entry.status
                if status is None:
                    assert entry.offset is not None and entry.length is not None
                    assert 0 <= entry.offset <= entry.offset + entry.length <= len(bad)
                    try:
                        assert len(fetch(bytes(bad), entry)) == entry.num_bytes
                    except ImageError as error:
                        status = error.status
                statuses[status] += 1
    assert {None, "corrupt", "unsupported", "truncated"} <= set(statuses)
