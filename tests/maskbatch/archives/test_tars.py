"""The index of a tar: every member by its range, damage as a row, sidecars as columns."""

import json
import os
import random
import subprocess
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.archives.entries import Entry
from maskbatch.archives.tars import explain_compression, list_tar
from maskbatch.errors import UsageError
from maskbatch.stores.uris import decode_name
from tests.maskbatch.containers import (
    CONTENTS,
    JPEG,
    Item,
    Store,
    at_most,
    container,
    fetch,
    header,
    index,
    info,
    make_tar,
)


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
        "../x.jpg",
        "a/../../x.jpg",
        "a/..//x.jpg",
        "/../x.jpg",
        "a\\..\\x.jpg",
        "C:\\..\\x.jpg",
        "../x.jpg\0.txt",
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
    assert entry.error == "its name has a '..', which leads out of its folder"
    assert skipped == {}


@pytest.mark.parametrize("name", ["a..b/x..jpg.jpg", "a../x.jpg", "10:30:00.jpg", "cam 1/x.jpg"])
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
    source = container(make_tar(*items, (folder, b"")))
    assert (list(list_tar(source)), source.skipped) == ([], {})
    assert source.hidden == {"__MACOSX": 1, "._*": 3}


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
    began = time.process_time()
    with at_most(20 << 20):
        (lost,), _ = index(header(b"x", len(payload), b"x") + padded + make_tar(("a.jpg", JPEG)))
    assert lost.status == "corrupt"
    assert time.process_time() - began < 5


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


@given(CONTENTS, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_every_member_of_a_tar_comes_back_through_its_range(files: dict[str, bytes], form: int) -> None:
    data = make_tar(*files.items(), format=form)
    entries, skipped = index(data)
    assert [(decode_name(entry.inner or "").decode(), fetch(data, entry)) for entry in entries] == [
        *files.items()
    ]
    assert [entry.offset for entry in entries] == sorted(entry.offset or 0 for entry in entries)
    assert skipped == {}
