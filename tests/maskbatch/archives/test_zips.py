"""The index of a zip, and a member's bytes from its range."""

import io
import os
import re
import struct
import subprocess
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.archives.zips import extract_member, list_zip
from maskbatch.errors import ImageError
from maskbatch.stores.uris import decode_name
from tests.maskbatch.containers import (
    CONTENTS,
    JPEG,
    LIMIT,
    Pipe,
    at_most,
    container,
    fetch,
    index,
    make_tar,
    make_zip,
)


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


@pytest.mark.parametrize("name", ["../x.jpg", "/a/../x.jpg", "a\\..\\x.jpg", "../x.jpg?.txt"])
def test_a_zip_name_that_leaves_the_archive_is_refused(name: str) -> None:
    data = make_zip((name, JPEG)).replace(b"?", b"\0")
    (entry,), _ = index(data, "zip")
    assert (entry.status, entry.offset) == ("unsupported", None)
    assert entry.error == "its name has a '..', which leads out of its folder"


def test_a_name_ends_at_a_nul() -> None:
    data = make_zip(("x.txt?.jpg", JPEG), ("a.jpg?.txt", JPEG)).replace(b"?", b"\0")
    (entry,), skipped = index(data, "zip")
    assert (entry.inner, skipped) == ("a.jpg", {".txt": 1})


def test_a_utf_8_name_without_its_flag_is_understood() -> None:
    data = make_zip(("日本.jpg", JPEG))
    for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        data = patched(data, signature, offset, b"\0\0")
    assert index(data, "zip")[0][0].inner == "日本.jpg"
    source = container(data.replace("日本".encode(), b"\x82\x82\x82\x82\x82\x82"), "zip")
    assert [entry.inner for entry in list_zip(source)] == ["éééééé.jpg"]
    assert source.notes == {"member name not in utf-8 (see --zip-encoding)": 1}


def unflagged(name: bytes, extra: bytes = b"") -> bytes:
    """A zip whose one name does not say its encoding."""
    with io.BytesIO() as file, zipfile.ZipFile(file, "w") as archive:
        member = zipfile.ZipInfo("x" * len(name))
        member.extra = extra
        archive.writestr(member, JPEG)
        archive.close()
        return file.getvalue().replace(b"x" * len(name), name)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("cp932", "東門/表示.jpg"), ("gbk", "东门/1.jpg"), ("cp1252", "Süd/é.jpg"), ("cp1251", "Ворота/1.jpg"), ("cp866", "Ворота/1.jpg")],
)  # fmt: skip
def test_a_name_is_read_in_the_encoding_that_is_given(encoding: str, name: str) -> None:
    data = unflagged(name.encode(encoding))
    source = replace(container(data, "zip"), zip_encoding=encoding)
    (entry,) = list_zip(source)
    assert entry.inner == name and fetch(data, entry) == JPEG
    assert not source.notes


def test_a_name_that_is_not_in_the_encoding_given_is_read_without_it_and_counted() -> None:
    source = replace(container(unflagged("日本.jpg".encode()), "zip"), zip_encoding="ascii")
    assert [entry.inner for entry in list_zip(source)] == ["日本.jpg"]
    assert source.notes == {"member name not in ascii (see --zip-encoding)": 1}


@pytest.mark.parametrize(("crc_of", "inner"), [(b"\x93\x8c.jpg", "東.jpg"), (b"other.jpg", "ôî.jpg")])
def test_the_unicode_name_beside_a_name_counts_where_its_checksum_fits(crc_of: bytes, inner: str) -> None:
    field = struct.pack("<BL", 1, zlib.crc32(crc_of)) + "東.jpg".encode()
    data = unflagged(b"\x93\x8c.jpg", b"\x99\x99\1\0z" + struct.pack("<2H", 0x7075, len(field)) + field)
    assert [entry.inner for entry in list_zip(container(data, "zip"))] == [inner]


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
    megabyte = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)  # which stands by itself
    packed = 1000 * megabyte + packer.flush()
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


@given(CONTENTS, st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
def test_every_member_of_a_zip_comes_back_through_its_range(files: dict[str, bytes], method: int) -> None:
    data = make_zip(*files.items(), method=method)
    entries, _ = index(data, "zip")
    assert [(decode_name(entry.inner or "").decode(), fetch(data, entry)) for entry in entries] == [
        *files.items()
    ]
