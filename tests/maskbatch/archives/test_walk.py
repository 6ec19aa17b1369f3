"""Local folders: links to folders are followed once, and folders that may not be read are named."""

import os
from pathlib import Path
from typing import Any

import pytest

from maskbatch.archives import arguments, reader
from maskbatch.archives.tally import Tally
from maskbatch.archives.walk import FOLLOWED, LOOP, TWICE
from maskbatch.config import PlanConfig
from maskbatch.errors import UsageError
from maskbatch.stores.options import NO_OPTIONS
from tests.maskbatch.samples import write_files


def listed(*archives: object, **settings: Any) -> tuple[list[str], Tally]:
    config, tally = PlanConfig(archives=tuple(map(str, archives)), **settings), Tally()
    access = arguments.make_access(config, NO_OPTIONS)
    sources = arguments.find_sources(config, access)
    return [entry.relative for entry in reader.list_entries(sources, config, access, tally)], tally


def lay_out(root: Path, files: list[str], links: dict[str, str]) -> Path:
    write_files(root, dict.fromkeys(files, b"x"))
    for name, target in links.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, root / name)
    return root / "archive"


def test_camera_folders_on_other_disks_are_read_under_their_own_names(tmp_path: Path) -> None:
    files = ["archive/cam1/a.jpg", "disk2/cams/two/b.jpg", "disk3/c.jpg", "disk3/deep/d.jpg"]
    links = {"archive/cam2": "../disk2/cams/two", "archive/cam3.jpg": f"{tmp_path}/disk3"}
    root = lay_out(tmp_path, files, links)
    found, tally = listed(root)
    assert found == ["cam1/a.jpg", "cam2/b.jpg", "cam3.jpg/c.jpg", "cam3.jpg/deep/d.jpg"]
    assert (tally.links, tally.skipped) == ({FOLLOWED: 2}, {})
    assert listed(f"{root}/cam[23]*")[0] == found[1:]
    assert listed(f"{root}/*/*.jpg")[0] == found[:3]


def test_a_folder_that_two_links_lead_to_is_read_once(tmp_path: Path) -> None:
    files = ["disk/a.jpg", "disk/sub/b.jpg", "archive/x.jpg"]
    links = {"archive/1": "../disk", "archive/2": "../disk", "archive/3": "../disk/sub"}
    found, tally = listed(lay_out(tmp_path, files, links))
    assert found == ["1/a.jpg", "1/sub/b.jpg", "x.jpg"]
    assert tally.links == {FOLLOWED: 1, TWICE: 2}


def test_a_folder_that_was_read_before_is_left_out_of_the_one_around_it(tmp_path: Path) -> None:
    links = {"archive/1": "../disk/sub", "archive/2": "../disk"}
    found, _ = listed(lay_out(tmp_path, ["disk/a.jpg", "disk/sub/b.jpg"], links))
    assert found == ["1/b.jpg", "2/a.jpg"]


def test_a_link_into_the_archive_reads_nothing_twice(tmp_path: Path) -> None:
    links = {"archive/0": "cam/sub", "archive/cam/z": "../other", "archive/9": "../archive-2/cam"}
    files = ["archive/cam/sub/a.jpg", "archive/other/b.jpg", "archive-2/cam/c.jpg"]
    found, tally = listed(lay_out(tmp_path, files, links))
    assert found == ["9/c.jpg", "cam/sub/a.jpg", "other/b.jpg"]
    assert tally.links == {TWICE: 2, FOLLOWED: 1}


def test_a_link_into_a_part_that_is_not_read_otherwise_is_followed(tmp_path: Path) -> None:
    links = {"archive/cam1": "store/one", "archive/cam2": "../archive/.store/two"}
    root = lay_out(tmp_path, ["archive/store/one/a.jpg", "archive/.store/two/b.jpg"], links)
    assert listed(f"{root}/cam*")[0] == ["cam1/a.jpg", "cam2/b.jpg"]
    assert listed(root)[0] == ["cam2/b.jpg", "store/one/a.jpg"]


def test_two_archives_share_what_links_lead_to(tmp_path: Path) -> None:
    links = {"archive/a/link": "../../disk", "archive/b/link": "../../disk", "archive/a/other": "../b"}
    root = lay_out(tmp_path, ["disk/x.jpg", "archive/b/y.jpg"], links)
    assert listed(root / "a", root / "b")[0] == ["link/x.jpg", "y.jpg"]


def test_a_link_to_a_folder_above_another_archive_reads_the_rest_of_it(tmp_path: Path) -> None:
    files = ["archive/1.jpg", "ext/x/1.jpg", "ext/y/2.jpg"]
    root = lay_out(tmp_path, files, {"archive/lnk": "../ext"})
    for archives in ((root, tmp_path / "ext/x"), (tmp_path / "ext/x", root)):
        found, tally = listed(*archives)
        assert sorted(found) == ["1.jpg", "1.jpg", "lnk/y/2.jpg"]
        assert tally.links == {FOLLOWED: 1}


def test_a_link_into_a_folder_that_exclude_path_leaves_out_is_followed(tmp_path: Path) -> None:
    root = lay_out(tmp_path, ["archive/old/cam/1.jpg", "archive/old/2.jpg"], {"archive/cam": "old/cam"})
    found, tally = listed(root, exclude_path=("old",))
    assert (found, tally.links) == (["cam/1.jpg"], {FOLLOWED: 1})
    assert tally.filtered == {"--exclude-path old": 2}


@pytest.mark.parametrize(
    ("spellings", "expected"),
    [
        (("archive", "alias"), ["cam/1.jpg", "cam/2.jpg"]),
        (("alias", "archive"), ["cam/1.jpg", "cam/2.jpg"]),
        (("archive", "alias/cam"), ["cam/1.jpg", "cam/2.jpg"]),
        (("alias/cam", "archive"), ["cam/1.jpg", "cam/2.jpg"]),
        (("archive/*/1.jpg", "alias/*/1.jpg"), ["cam/1.jpg"]),
        (("archive/*/1.jpg", "alias/*/2.jpg"), ["cam/1.jpg", "cam/2.jpg"]),
        (("archive/cam/*", "archive/mac/*"), ["1.jpg", "2.jpg"]),
        (("archive/.x", "archive"), ["1.jpg", "cam/1.jpg", "cam/2.jpg"]),
        (("alias/.x", "archive"), ["1.jpg", "cam/1.jpg", "cam/2.jpg"]),
    ],
)
def test_an_archive_that_is_given_in_two_spellings_is_read_once(
    tmp_path: Path, spellings: tuple[str, ...], expected: list[str]
) -> None:
    files = ["archive/cam/1.jpg", "archive/cam/2.jpg", "archive/.x/1.jpg"]
    links = {"alias": "archive", "archive/mac": "cam"}
    lay_out(tmp_path, files, links)
    found, _ = listed(*(tmp_path / spelling for spelling in spellings))
    assert sorted(found) == expected


def test_a_day_that_is_a_link_to_another_day_is_read_once(tmp_path: Path) -> None:
    root = lay_out(tmp_path, ["archive/2026-10-01/a.jpg"], {"archive/2026-10-02": "2026-10-01"})
    found, tally = listed(f"{root}/{{date:%Y-%m-%d}}/*", since="2026-10-01", until="2026-10-03")
    assert (found, tally.links) == (["2026-10-01/a.jpg"], {TWICE: 1})


def test_days_of_a_camera_on_another_disk_are_all_read(tmp_path: Path) -> None:
    days = [f"2026-10-0{day}" for day in (1, 2, 3)]
    files = [f"disk/{day}/{day}.jpg" for day in days]
    root = lay_out(tmp_path, [*files, "archive/cam1/2026-10-01/a.jpg"], {"archive/cam7": "../disk"})
    template = f"{root}/*/{{date:%Y-%m-%d}}"
    found, _ = listed(template, since="2026-10-01", until="2026-10-04")
    assert sorted(found) == ["cam1/2026-10-01/a.jpg", *(f"cam7/{day}/{day}.jpg" for day in days)]
    assert len(listed(f"{root}/*/{days[0]}", f"{root}/*/{days[1]}")[0]) == 3


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*/*/*.jpg", ["1/deep/b.jpg", "2/sub/a.jpg"]),
        ("*/sub/*", ["2/sub/a.jpg", "2/sub/deep/b.jpg"]),
        ("**/deep/*", ["1/deep/b.jpg", "2/sub/deep/b.jpg"]),
        ("**/*.jpg", ["1/a.jpg", "1/deep/b.jpg"]),
        ("**", ["1/a.jpg", "1/deep/b.jpg"]),
    ],
)
def test_a_pattern_loses_nothing_where_links_cross(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    links = {"archive/1": "../disk/sub", "archive/2": "../disk", "disk/back": "../far", "far/d": "../disk"}
    root = lay_out(tmp_path, ["disk/sub/a.jpg", "disk/sub/deep/b.jpg", "archive/x.txt"], links)
    found = [name for name in listed(f"{root}/{pattern}")[0] if "back" not in name]
    assert found == expected


@pytest.mark.parametrize("target", [".", "..", "../..", "/"])
def test_a_link_to_a_folder_above_it_is_counted_and_not_followed(tmp_path: Path, target: str) -> None:
    root = lay_out(tmp_path, ["archive/cam/a.jpg", "elsewhere/b.jpg"], {"archive/cam/up": target})
    found, tally = listed(root)
    assert (found, tally.links) == (["cam/a.jpg"], {LOOP: 1})


def test_links_on_another_disk_do_not_go_round(tmp_path: Path) -> None:
    links = {
        "archive/1": "../disk", "disk/back": "../archive", "disk/self": ".", "disk/far": "../far", "far/d": "../disk",
    }  # fmt: skip
    found, tally = listed(lay_out(tmp_path, ["archive/a.jpg", "disk/b.jpg", "far/c.jpg"], links))
    assert found == ["1/b.jpg", "1/far/c.jpg", "a.jpg"]
    assert tally.links == {FOLLOWED: 2, LOOP: 3}


def test_a_link_to_nothing_is_named_and_among_no_others(tmp_path: Path) -> None:
    links = {"archive/cam7": "/not/mounted", "archive/loop": "loop", "archive/gone.jpg": "nowhere.jpg"}
    found, tally = listed(lay_out(tmp_path, ["archive/a.jpg"], links))
    assert found == ["a.jpg", "gone.jpg"]  # reading will report the image missing
    assert (tally.links, tally.skipped) == ({"broken": 2}, {})
    assert tally.notes == {"link to nothing (will be missing)": 1}
    names = ("cam7", "gone.jpg", "loop")
    assert tally.examples == {"broken": tuple(f"{tmp_path}/archive/{name}" for name in names)}


def test_a_link_whose_own_name_leaves_it_out_is_not_followed(tmp_path: Path) -> None:
    root = lay_out(tmp_path, ["archive/a.jpg", "disk/b.jpg"], {"archive/.latest": "../disk"})
    found, tally = listed(root)
    assert (found, tally.hidden) == (["a.jpg"], {".*/ (a folder, not entered)": 1})


def test_a_run_that_lies_inside_the_archive_is_left_out_and_counted(tmp_path: Path) -> None:
    files = [
        "a.jpg",
        "new/_lease.json",
        "new/report/x.png",
        "old/run.json",
        "old/plan/p.parquet",
        "old/x.png",
    ]
    root = lay_out(tmp_path, [f"archive/{name}" for name in [*files, "cam/run.json", "cam/b.jpg"]], {})
    found, tally = listed(root)
    assert (found, tally.hidden) == (["a.jpg", "cam/b.jpg"], {"run of maskbatch (a folder, not entered)": 2})
    assert tally.skipped == {".json": 1}


def close(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make the folders of these names such as this user may not list; a test may be run by root."""
    scandir, access = os.scandir, os.access

    def refuse(folder: Path) -> Any:
        if Path(folder).name in names:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name not in names and access(path, mode))


def test_a_link_to_an_open_folder_inside_a_closed_one_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = lay_out(tmp_path, ["archive/locked/cam/1.jpg", "archive/z.jpg"], {"archive/cam": "locked/cam"})
    close(monkeypatch, "locked")
    found, tally = listed(root, skip_unreadable=True)
    assert (found, tally.links, tally.unreadable) == (["cam/1.jpg", "z.jpg"], {FOLLOWED: 1}, 1)


def test_folders_that_may_not_be_read_are_passed_over_if_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = lay_out(tmp_path, ["archive/cam1/a.jpg", *(f"archive/closed{i}/b.jpg" for i in range(5))], {})
    close(monkeypatch, *(f"closed{i}" for i in range(5)))
    with pytest.raises(UsageError, match=r"cannot list .*/closed0: Permission denied; .*--skip-unreadable"):
        listed(root)
    found, tally = listed(root, skip_unreadable=True)
    assert (found, tally.unreadable) == (["cam1/a.jpg"], 5)
    assert tally.examples["unreadable"] == tuple(f"{root}/closed{i}/" for i in range(3))


def test_an_archive_that_may_not_be_read_itself_is_refused_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = lay_out(tmp_path, ["archive/a.jpg"], {})
    close(monkeypatch, "archive")
    with pytest.raises(UsageError, match=r"cannot list .*/archive: Permission denied; mend it$"):
        listed(root, skip_unreadable=True)


def test_a_closed_folder_that_is_left_out_anyway_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("lost+found", "System Volume Information", "old")
    root = lay_out(tmp_path, ["archive/a.jpg", *(f"archive/{name}/b.jpg" for name in names)], {})
    close(monkeypatch, *names)
    found, tally = listed(root, exclude_path=("old",))
    assert found == ["a.jpg"]
    labels = ("lost+found", "System Volume Information")
    assert tally.hidden == {f"{label} (a folder, not entered)": 1 for label in labels}
    assert tally.filtered == {"--exclude-path old (a link or a closed folder, not entered)": 1}


def test_what_exclude_path_leaves_out_counts_as_that_images_links_and_all(tmp_path: Path) -> None:
    files = ["archive/x.jpg", "archive/nas/a.jpg", "disk/b.jpg", "disk/c.jpg"]
    root = lay_out(tmp_path, files, {"archive/nas/1": "../../disk", "archive/nas/2": "../../disk"})
    found, tally = listed(root, exclude_path=("nas",))
    excluded = "--exclude-path nas"
    assert (found, tally.hidden) == (["x.jpg"], {})
    assert tally.filtered == {excluded: 1, f"{excluded} (a link or a closed folder, not entered)": 2}
