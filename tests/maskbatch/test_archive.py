import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.archive import SCHEME, check_root, encode_name, local_path, local_root, walk
from maskbatch.errors import UsageError

TRICKY = [
    b"a", b"a.jpg", b"a0.jpg", b"A.jpg", b"a b.jpg", b"a-b/x.jpg", b"a!/x.jpg", b"b/x.jpg", b"b.jpg", b"b-/x.jpg",
    b"%41.jpg", b"100%.jpg", b"%zz.jpg", b"x::y.jpg", b"x:::.jpg", b"d::e/::.jpg", b"new\nline.jpg",
    "é.jpg".encode(), "日本/ö.JPG".encode(), b"\xff\xfe.jpg", b"d\xff/z.jpeg", b"%\xff.jpg", b"\xe9.jpg",
]  # fmt: skip

names = st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & set(b"\0/"))


def touch(root: Path, name: bytes) -> bytes:
    path = os.path.join(os.fsencode(root), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        return path


@given(names)
def test_any_file_name_survives_the_way_into_a_uri_and_back(name: bytes) -> None:
    encoded = encode_name(os.fsdecode(name))
    assert local_path(f"{SCHEME}/{encoded}") == b"/" + name
    assert "::" not in encoded
    encoded.encode()


@pytest.mark.parametrize("name", ["gate 7.jpg", "100%.jpg", "%zz.jpg", "日本.jpg", "a:b.jpg"])
def test_a_name_without_ambiguity_stands_as_it_is(name: str) -> None:
    assert encode_name(name) == name


def test_a_walk_lists_every_image_once_in_bytewise_order_of_its_uri(tmp_path: Path) -> None:
    files = {touch(tmp_path, name) for name in TRICKY}
    skipped: Counter[str] = Counter()
    uris = [entry.uri for entry in walk(tmp_path, skipped)]
    assert uris == sorted(uris, key=str.encode)
    assert {local_path(uri) for uri in uris} == files - {os.fsencode(tmp_path / "a")}
    assert len(set(uris)) == len(uris)
    assert skipped == {"no extension": 1}


def test_an_entry_carries_its_path_below_the_root_its_size_and_its_mtime(tmp_path: Path) -> None:
    (tmp_path / "cam").mkdir()
    (tmp_path / "cam" / "x.jpg").write_bytes(b"12345")
    os.utime(tmp_path / "cam" / "x.jpg", ns=(7, 1_700_000_000_123_456_789))
    (entry,) = walk(tmp_path, Counter())
    assert (entry.relative, entry.num_bytes, entry.version) == ("cam/x.jpg", 5, "1700000000123456789")


def test_what_is_no_image_is_counted_by_what_it_is(tmp_path: Path) -> None:
    for name in (b"a.txt", b"b.TXT", b"c", b".jpg", b"d.mp4", b"x.jpg/inside.jpg", b"real/y.jpg"):
        touch(tmp_path, name)
    for link in ("album", "album.jpg"):
        os.symlink("real", tmp_path / link)
    os.symlink("nowhere", tmp_path / "dangling.txt")
    skipped: Counter[str] = Counter()
    assert [entry.relative for entry in walk(tmp_path, skipped)] == ["real/y.jpg", "x.jpg/inside.jpg"]
    assert skipped == {
        ".txt": 3,
        "no extension": 2,
        ".mp4": 1,
        "folder named like an image": 1,
        "link to a folder (not followed)": 2,
    }


def test_a_linked_image_is_listed_and_a_dangling_link_too(tmp_path: Path) -> None:
    touch(tmp_path, b"a.jpg")
    os.symlink("a.jpg", tmp_path / "b.jpg")
    os.symlink("nowhere.jpg", tmp_path / "c.jpg")
    found = {entry.relative: entry.num_bytes for entry in walk(tmp_path, Counter())}
    assert found == {"a.jpg": 0, "b.jpg": 0, "c.jpg": None}


def test_a_named_pipe_is_listed_as_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (entry,) = walk(tmp_path, Counter())
    assert entry.refused == "not a regular file"


@pytest.mark.parametrize("name", ["loop", "loop.txt", "loop.jpg"])
def test_a_link_to_itself_does_not_stop_the_walk(tmp_path: Path, name: str) -> None:
    touch(tmp_path, b"x.jpg")
    os.symlink(name, tmp_path / name)
    assert "x.jpg" in [entry.relative for entry in walk(tmp_path, Counter())]


@pytest.mark.parametrize(
    ("name", "expected"), [("nowhere", "no such folder"), ("file.jpg", "a file; only folders of images")]
)
def test_a_wrong_root_is_refused_in_a_sentence(tmp_path: Path, name: str, expected: str) -> None:
    touch(tmp_path, b"file.jpg")
    with pytest.raises(UsageError, match=expected):
        check_root(tmp_path / name)


def test_a_root_is_absolute_and_a_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert local_root("a/../b/") == local_root(f"file://{tmp_path}/b") == tmp_path / "b"
    with pytest.raises(UsageError, match="only local folders"):
        local_root("s3://bucket/month")
