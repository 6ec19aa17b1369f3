import glob
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.archives import listing
from maskbatch.archives import tree as tree_module
from maskbatch.archives.listing import list_tree, merge_parts
from maskbatch.archives.tree import File, Page, Part, Tree
from maskbatch.errors import UsageError
from maskbatch.stores.access import Access
from maskbatch.stores.uris import SCHEME, encode_name, local_path

TRICKY = [
    b"a", b"a.jpg", b"a0.jpg", b"A.jpg", b"a b.jpg", b"a-b/x.jpg", b"a!/x.jpg", b"b/x.jpg", b"b.jpg", b"b-/x.jpg",
    b"%41.jpg", b"100%.jpg", b"%zz.jpg", b"x::y.jpg", b"x:::.jpg", b"d::e/::.jpg", b"new\nline.jpg",
    "é.jpg".encode(), "日本/ö.JPG".encode(), b"\xff\xfe.jpg", b"d\xff/z.jpeg", b"%\xff.jpg", b"\xe9.jpg",
]  # fmt: skip


def touch(root: Path, *names: bytes) -> list[bytes]:
    paths = [os.path.join(os.fsencode(root), name) for name in names]
    for path in paths:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
    return paths


def tree_of(root: Path, *pattern: str) -> Tree:
    return Tree(f"{SCHEME}{encode_name(str(root))}/", pattern)


def listed(tree: Tree) -> list[File]:
    return list(list_tree(tree, Access()))


def test_a_folder_is_listed_once_in_bytewise_order_of_its_uris_whatever_the_names(tmp_path: Path) -> None:
    paths = touch(tmp_path, *TRICKY)
    uris = [file.uri for file in listed(tree_of(tmp_path))]
    assert uris == sorted(uris, key=str.encode)
    assert sorted(map(local_path, uris)) == sorted(paths)


def test_a_file_carries_its_path_below_the_base_its_size_and_its_mtime(tmp_path: Path) -> None:
    (tmp_path / "cam").mkdir()
    (tmp_path / "cam" / "x.jpg").write_bytes(b"12345")
    os.utime(tmp_path / "cam" / "x.jpg", ns=(7, 1_700_000_000_123_456_789))
    uri = f"file://{tmp_path}/cam/x.jpg"
    assert listed(tree_of(tmp_path)) == [File(uri, "cam/x.jpg", 5, "1700000000123456789")]


def test_a_linked_file_is_listed_and_a_dangling_link_too(tmp_path: Path) -> None:
    touch(tmp_path, b"a.jpg")
    for name, target in (("b.jpg", "a.jpg"), ("c.jpg", "nowhere.jpg"), ("cam07", "/not/mounted")):
        os.symlink(target, tmp_path / name)
    found = {file.relative: (file.num_bytes, file.lost) for file in listed(tree_of(tmp_path))}
    assert found == {
        "a.jpg": (0, None), "b.jpg": (0, None), "c.jpg": (None, "broken"), "cam07": (None, "broken"),
    }  # fmt: skip


def test_what_is_no_regular_file_is_listed_with_the_reason(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (file,) = listed(tree_of(tmp_path))
    assert file.error == "not a regular file"


@pytest.mark.parametrize("name", ["loop", "loop.txt", "loop.jpg"])
def test_a_link_to_itself_does_not_stop_the_listing(tmp_path: Path, name: str) -> None:
    touch(tmp_path, b"x.jpg")
    os.symlink(name, tmp_path / name)
    assert {file.relative for file in listed(tree_of(tmp_path))} == {"x.jpg", name}


def test_a_folder_that_cannot_be_listed_stops_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, b"a/x.jpg", b"closed/y.jpg")
    scandir = os.scandir

    def refuse(folder: Path) -> Any:
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        UsageError, match=f"cannot list {tmp_path}/closed: Permission denied; .* --skip-unreadable"
    ):
        listed(tree_of(tmp_path))


names = st.text("aA0-.!é日% +", min_size=1, max_size=4).filter(lambda name: name.strip("."))
paths = st.lists(st.lists(names, min_size=1, max_size=3).map("/".join), max_size=12, unique=True)


def without_clashes(chosen: list[str]) -> list[str]:
    """Without the paths that would be a file and a folder at once."""
    return [path for path in chosen if not any(other.startswith(f"{path}/") for other in chosen)]


@given(paths)
def test_every_store_gives_the_same_paths_in_bytewise_order(chosen: list[str]) -> None:
    chosen = without_clashes(chosen)
    memory, prefix = fsspec.filesystem("memory"), f"/{uuid.uuid4().hex}"
    memory.mkdir(prefix)
    with TemporaryDirectory() as folder:
        touch(Path(folder), *map(str.encode, chosen))
        for path in chosen:
            memory.pipe(f"{prefix}/{path}", b"")
        here = [file.relative for file in listed(tree_of(Path(folder)))]
        there = [file.relative for file in listed(Tree(f"memory:/{prefix}/"))]
    memory.rm(prefix, recursive=True)
    assert here == there == sorted(map(encode_name, chosen), key=str.encode)


few = st.sampled_from(["a", "b", "ab", "ba", "1"])
few_paths = st.lists(st.lists(few, min_size=1, max_size=4).map("/".join), max_size=20, unique=True)
segments = st.sampled_from(["a", "b", "ab", "*", "?", "a*", "*b", "[ab]", "[!a]", "**"])


@given(few_paths, st.lists(segments, min_size=1, max_size=4))
def test_a_pattern_takes_what_a_shell_would_and_all_below_the_folders_it_names(
    chosen: list[str], pattern: list[str]
) -> None:
    chosen, tree = without_clashes(chosen), Tree("", tuple(pattern))
    with TemporaryDirectory() as folder:
        touch(Path(folder), *map(str.encode, chosen))
        options: dict[str, Any] = {"root_dir": folder, "recursive": True, "include_hidden": True}
        matches = set(glob.glob("/".join(pattern), **options))
        found = listed(tree_of(Path(folder), *pattern))
    expected = {}
    for path in chosen:
        if path in matches:
            expected[path] = True
        elif any(path.startswith(f"{match.rstrip('/')}/") for match in matches):
            expected[path] = False
    assert {file.relative: file.exact for file in found} == expected
    assert all(path.startswith(tree.stem) for path in expected)


@pytest.mark.parametrize(
    ("pattern", "lead", "stem"),
    [
        ((), "", ""),
        (("x.tar",), "", "x.tar"),
        (("2026", "10", "01"), "2026/10/", "2026/10/01"),
        (("2026", "cam*", "x"), "2026/", "2026/cam"),
        (("**", "x.tar"), "", ""),
        (("a", "[0-9].zip"), "a/", "a/"),
    ],
)
def test_a_listing_begins_at_what_every_match_has_in_common(
    pattern: tuple[str, ...], lead: str, stem: str
) -> None:
    tree = Tree("s3://b/", pattern)
    assert (tree.lead, tree.stem) == (lead, stem)


def test_a_pattern_below_a_folder_that_is_not_there_matches_nothing(tmp_path: Path) -> None:
    touch(tmp_path, b"a")
    prefix = uuid.uuid4().hex
    fsspec.filesystem("memory").pipe(f"/{prefix}/a", b"")
    for pattern in (("no", "such", "*.jpg"), ("a", "*"), ("a", "b", "*")):
        assert listed(tree_of(tmp_path, *pattern)) == []
        assert listed(Tree(f"memory://{prefix}/", pattern)) == []


def test_an_archive_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"archive memory://no-such/: nothing is there"):
        listed(Tree("memory://no-such/"))


def page(*numbers: int) -> Page:
    return [File(f"s3://b/{number}", str(number)) for number in numbers]


def list_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "_fill" in thread.name]


def all_threads_end() -> bool:
    """Whether they end by themselves."""
    deadline = time.monotonic() + 60
    while list_threads() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not list_threads()


def test_parts_come_in_their_order_however_long_each_takes() -> None:
    def pages(number: int) -> Iterator[Page]:
        time.sleep(0.02 * (number % 3))
        yield page(number)
        yield page(number + 1, number + 2)

    parts: list[Part] = []
    for number in range(0, 400, 4):
        parts += [lambda number=number: pages(number), page(number + 3)]  # type: ignore[misc]
    assert [int(file.relative) for file in merge_parts(parts)] == list(range(400))
    assert all_threads_end()


def test_as_many_parts_as_allowed_are_listed_at_a_time() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def pages() -> Iterator[Page]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        yield page(1)

    assert len(list(merge_parts([pages] * 60))) == 60
    assert 1 < most <= tree_module.PREFIXES + 1  # and the one that is being taken


def test_what_fails_in_a_thread_comes_out_behind_what_was_listed_before_it() -> None:
    def fails() -> Iterator[Page]:
        yield page(2)
        raise UsageError("no access")

    found = []
    with pytest.raises(UsageError, match="no access"):
        for file in merge_parts([page(1), fails, page(3)]):
            found.append(file.relative)
    assert found == ["1", "2"]
    assert all_threads_end()


def test_a_listing_that_nobody_takes_on_stops_its_threads() -> None:
    asked = 0

    def endless() -> Iterator[Page]:
        nonlocal asked
        while True:
            asked += 1
            yield page(asked)

    files = merge_parts([endless] * 40)
    next(files)
    time.sleep(0.05)
    assert 1 < len(list_threads()) <= tree_module.PREFIXES + 1
    assert asked < (tree_module.PREFIXES + 1) * (listing.PAGES_AHEAD + 3)
    files.close()  # type: ignore[attr-defined]
    assert all_threads_end()
