"""One rule leaves out what is no snapshot by its name, in folders, buckets, tars, zips and inventories."""

import uuid
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.archives import arguments, reader
from maskbatch.archives.hidden import LABELS, Rules, count_hidden
from maskbatch.archives.tally import Tally
from maskbatch.archives.tree import Tree
from maskbatch.config import PlanConfig
from maskbatch.errors import NothingToPlanError, UsageError
from maskbatch.runner import plan_archive
from maskbatch.stores.options import NO_OPTIONS
from tests.maskbatch.samples import make_tar, make_zip, write_files

SNAPSHOTS = [
    "cam1/a.jpg", "cam1/camera.part1.jpg", "recycle/b.jpg", "cam@eaDir01/c.jpg", "snapshot/d.jpg", "x.tmp/e.jpg",
    "tmp/f.jpg", "thumbs/g.jpg", "#cam/h.jpg", "@cam/i.jpg", "~cam/j.jpg", "cam$/k.jpg", "lost and found/l.jpg",
]  # fmt: skip
LEFT_OUT = {
    "cam1/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg": "@eaDir",
    "cam1/@EADIR/a.jpg": "@eaDir",
    "cam1/.@__thumb/a.jpg": ".@__thumb",
    "#recycle/cam1/z.jpg": "#recycle",
    "#recycle/@eaDir/z.jpg": "#recycle",
    "@Recycle/z.jpg": "@Recycle",
    "$RECYCLE.BIN/S-1-5/z.jpg": "$RECYCLE.BIN",
    "$Recycle.Bin/S-1-5/z.jpg": "$RECYCLE.BIN",
    ".Trash-1000/files/z.jpg": ".Trash-*",
    ".Trashes/501/z.jpg": ".Trashes",
    ".stversions/cam1/a~20261001.jpg": ".stversions",
    ".thumbnails/normal/1.png": ".thumbnails",
    "lost+found/1.jpg": "lost+found",
    "System Volume Information/1.jpg": "System Volume Information",
    "__MACOSX/cam1/1.jpg": "__MACOSX",
    "cam1/.AppleDouble/a.jpg": ".AppleDouble",
    "cam1/._a.jpg": "._*",
    "cam1/.DS_Store": ".DS_Store",
    "cam1/Thumbs.db": "Thumbs.db",
    "cam1/b.jpg.part": "*.part",
    "cam1/B.JPG.PART": "*.part",
    "cam1/b.jpg.filepart": "*.filepart",
    "cam1/.syncthing.b.jpg.tmp": "*.tmp",
    "cam1/~$b.jpg": "~$*",
    "cam1/.b.jpg": ".*",
    ".cache/b.jpg": ".*/",
    "..data/b.jpg": ".*/",
}


def count_labels() -> dict[str, int]:
    labels = list(LEFT_OUT.values())
    return {label: labels.count(label) for label in labels}


def listed(*archives: object, **settings: Any) -> tuple[list[str], Tally]:
    config, tally = PlanConfig(archives=tuple(map(str, archives)), **settings), Tally()
    access = arguments.make_access(config, NO_OPTIONS)
    sources = arguments.find_sources(config, access)
    found = [entry.inner or entry.relative for entry in reader.list_entries(sources, config, access, tally)]
    return sorted(found), tally


@pytest.mark.parametrize(("path", "label"), LEFT_OUT.items())
def test_a_name_is_left_out_and_counted_as_its_kind(path: str, label: str) -> None:
    assert Rules().find_hidden(path) == label
    assert label in LABELS
    assert Rules(include_hidden=True).find_hidden(path) is None


@pytest.mark.parametrize("path", [*SNAPSHOTS, "./a.jpg", "../a.jpg", "a/./b.jpg", "a//b.jpg"])
def test_a_name_that_merely_looks_like_one_is_an_image(path: str) -> None:
    assert Rules().find_hidden(path) is None


@given(
    st.lists(st.sampled_from(["cam", "@eaDir", ".x", "a b", "#recycle", "."]), max_size=5), st.integers(0, 5)
)
def test_what_lies_below_a_folder_left_out_is_left_out_as_it(names: list[str], at: int) -> None:
    path = "/".join([*names[:at], "@eaDir", *names[at:], "x.jpg"])
    above = Rules().find_hidden("".join(f"{name}/" for name in names[:at])) if names[:at] else None
    assert Rules().find_hidden(path) == (above or "@eaDir")


def as_folder(files: dict[str, bytes], tmp_path: Path) -> str:
    return str(write_files(tmp_path / "archive", files))


def as_store(files: dict[str, bytes], tmp_path: Path) -> str:
    root = f"memory://{uuid.uuid4().hex}"
    for name, data in files.items():
        fsspec.filesystem("memory").pipe(f"{root}/{name}", data)
    return root


def as_tar(files: dict[str, bytes], tmp_path: Path) -> str:
    (tmp_path / "a.tar").write_bytes(make_tar(files))
    return str(tmp_path / "a.tar")


def as_zip(files: dict[str, bytes], tmp_path: Path) -> str:
    (tmp_path / "a.zip").write_bytes(make_zip(files))
    return str(tmp_path / "a.zip")


KINDS = [as_folder, as_store, as_tar, as_zip]


@pytest.mark.parametrize("place", KINDS)
def test_every_kind_of_archive_leaves_out_and_counts_the_same(
    place: Callable[[dict[str, bytes], Path], str], tmp_path: Path
) -> None:
    root = place(dict.fromkeys([*SNAPSHOTS, *LEFT_OUT], b"x"), tmp_path)
    found, tally = listed(root)
    assert found == sorted(SNAPSHOTS)
    assert tally.hidden == count_labels()
    assert not tally.skipped
    images = [name for name in LEFT_OUT if name.lower().endswith((".jpg", ".png"))]
    assert listed(root, include_hidden=True)[0] == sorted([*SNAPSHOTS, *images])


@pytest.mark.parametrize("place", KINDS[:2])
def test_a_folder_of_snapshots_is_counted_and_not_entered(
    place: Callable[[dict[str, bytes], Path], str], tmp_path: Path
) -> None:
    root = place(
        dict.fromkeys(["a.jpg", ".snapshot/h.1/a.jpg", "#snapshot/h.2/a.jpg", "c/.zfs/a.jpg"], b"x"), tmp_path
    )
    found, tally = listed(root)
    assert found == ["a.jpg"]
    assert tally.hidden == {
        f"{name} (a folder, not entered)": 1 for name in (".snapshot", "#snapshot", ".zfs")
    }
    assert len(listed(root, include_hidden=True)[0]) == 4


def test_what_an_argument_names_is_read(tmp_path: Path) -> None:
    files = (
        "cam/.x/a.jpg",
        "cam/.x/.b.jpg",
        ".y/c.jpg",
        "#recycle/d.jpg",
        ".z/1.tar",
        ".cam1/e.jpg",
        ".cam2/@eaDir/f.jpg",
    )
    write_files(tmp_path, dict.fromkeys(files, b"x"))
    (tmp_path / ".z/1.tar").write_bytes(make_tar({"g.jpg": b"x", ".h.jpg": b"x"}))
    assert listed(tmp_path / "cam/.x")[0] == ["a.jpg"]
    assert listed(tmp_path / "cam/.x/.b.jpg")[0] == [".b.jpg"]
    assert listed(f"{tmp_path}/*/.x/*.jpg")[0] == ["cam/.x/a.jpg"]
    assert listed(f"{tmp_path}/**/.x")[0] == ["cam/.x/a.jpg"]
    assert listed(f"{tmp_path}/#recycle/*.jpg")[0] == ["d.jpg"]
    assert listed(tmp_path / ".z/1.tar")[0] == ["g.jpg"]
    assert listed(f"{tmp_path}/.cam*")[0] == [".cam1/e.jpg"]
    found, tally = listed(f"{tmp_path}/*/*.tar", f"{tmp_path}/*/c.jpg")
    assert (found, tally.hidden) == ([], {".*/": 2})


def test_a_manifest_names_its_images_outright(tmp_path: Path) -> None:
    write_files(tmp_path, {"@eaDir/a.jpg": b"x", "m.csv": b"uri\n@eaDir/a.jpg\n.b.jpg\n"})
    assert listed(tmp_path / "m.csv")[0] == [".b.jpg", "@eaDir/a.jpg"]


def test_paths_to_exclude_are_counted_by_pattern(tmp_path: Path) -> None:
    names = [
        "cam1/a.jpg",
        "cam1/a_thumb.jpg",
        "cam2/b.jpg",
        "old/2025/cam1/c.jpg",
        "old/d.jpg",
        "cam1/notes.txt",
    ]
    root = as_folder(dict.fromkeys(names, b"x"), tmp_path)
    found, tally = listed(root, exclude_path=("*_thumb.jpg", "old/**", "cam2/"))
    assert found == ["cam1/a.jpg"]
    assert tally.filtered == {
        "--exclude-path *_thumb.jpg": 1, "--exclude-path old/**": 2, "--exclude-path cam2/": 1,
    }  # fmt: skip
    assert tally.skipped == {".txt": 1}
    assert listed(root, exclude_path=("old/*/cam1",))[0] == [
        name for name in sorted(names[:5]) if "2025" not in name
    ]


@pytest.mark.parametrize("place", KINDS[2:])
def test_paths_inside_a_container_can_be_excluded(
    place: Callable[[dict[str, bytes], Path], str], tmp_path: Path
) -> None:
    root = place({"cam1/a.jpg": b"x", "cam2/b.jpg": b"x"}, tmp_path)
    found, tally = listed(root, exclude_path=("cam2",))
    assert (found, tally.filtered) == (["cam1/a.jpg"], {"--exclude-path cam2": 1})
    name = root.rpartition("/")[2]
    found, tally = listed(f"{tmp_path}/*{name[1:]}", exclude_path=(name,))
    assert (found, tally.filtered) == ([], {f"--exclude-path {name}": 1})


@pytest.mark.parametrize("pattern", ["", "/", "/archive/cam1", "./cam1", "../x"])
def test_a_pattern_that_is_no_path_below_the_archive_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError, match="a pattern of paths below the archive expected"):
        PlanConfig(archives=("/a",), exclude_path=(pattern,))


def test_an_archive_of_nothing_else_says_what_is_left_out(tmp_path: Path) -> None:
    root = as_folder({"@eaDir/a.jpg": b"x", "._b.jpg": b"x"}, tmp_path)
    expected = r"no image found \(1 .*@eaDir.*--include-hidden plans what is left out by name"
    with pytest.raises(NothingToPlanError, match=expected):
        plan_archive(PlanConfig(archives=(root,)))
    with pytest.raises(UsageError, match=r"every image was left out \(2 by --exclude-path"):
        plan_archive(PlanConfig(archives=(root,), include_hidden=True, exclude_path=("*.jpg",)))


def test_planned_uris_are_judged_below_the_tree_that_they_come_from() -> None:
    uris = {
        "file:///a/@eaDir/x.jpg": True,
        "file:///b/.cam/x.jpg": False,
        "file:///elsewhere/.x.jpg": False,
        "tar://cam/._x.jpg::file:///elsewhere/1.tar": True,
        "tar://cam/x.jpg::file:///elsewhere/.1.tar": False,
        "zip://cam/x.jpg::file:///a/#recycle/1.zip": True,
        "parquet://3::file:///a/1.parquet": False,
    }
    trees = [Tree("file:///a/"), Tree("file:///b/.cam/")]
    for uri, is_hidden in uris.items():
        assert count_hidden([uri], trees, Rules()) == is_hidden, uri


NAMES = st.sampled_from(
    ["a", "@eaDir", ".x", "b.jpg", "._b.jpg", "c.txt", "#recycle", "old", "d.jpg.part", "é.png"]
)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@given(st.lists(PATHS, max_size=12, unique=True))
def test_every_file_of_any_archive_is_in_one_count(paths: list[str]) -> None:
    paths = [path for path in paths if not any(other.startswith(f"{path}/") for other in paths)]
    counts = []
    for place in KINDS:
        with TemporaryDirectory() as folder:
            root = place(dict.fromkeys(paths, b"x"), Path(folder))
            Path(folder, "archive").mkdir(exist_ok=True)
            fsspec.filesystem("memory").mkdirs(root, exist_ok=True)
            found, tally = listed(root, exclude_path=("old",))
        left_out = tally.hidden + tally.filtered + tally.skipped
        assert len(found) + left_out.total() == len(paths)
        counts.append((found, left_out))
    assert all(count == counts[0] for count in counts)


def test_a_folder_of_a_store_that_may_not_be_listed_is_passed_over_if_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = as_store(
        dict.fromkeys(["a.jpg", "closed/b.jpg", "lost+found/c.jpg", "deep/closed/d.jpg"], b"x"), tmp_path
    )
    files = fsspec.filesystem("memory")
    list_folder = type(files).ls

    def refuse(self: Any, path: str, **options: Any) -> Any:
        if path.rstrip("/").endswith(("closed", "lost+found")):
            raise PermissionError("403")
        return list_folder(self, path, **options)

    monkeypatch.setattr(type(files), "ls", refuse)
    with pytest.raises(UsageError, match=r"cannot list .*closed/: PermissionError: 403; .*--skip-unreadable"):
        listed(root)
    found, tally = listed(root, skip_unreadable=True)
    assert (found, tally.unreadable) == (["a.jpg"], 2)
    assert tally.hidden == {"lost+found (a folder, not entered)": 1}
