"""What a terminal says of a listing: everything that is not planned, by kind and count."""

import io
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from maskbatch.cli.terminal import print_listing
from maskbatch.config import PlanConfig
from maskbatch.runner import plan_archive
from tests.maskbatch.samples import write_files


def print_plan(*archives: Path, **settings: Any) -> list[str]:
    text = io.StringIO()
    listing = plan_archive(PlanConfig(archives=tuple(map(str, archives)), **settings))
    print_listing(listing.as_dict(), Console(file=text, width=500))
    return text.getvalue().splitlines()


def test_containers_and_manifests_beside_images_are_named_with_what_opens_them(tmp_path: Path) -> None:
    names = ["a.jpg", "z/1.zip", "z/2.zip", "z/m.csv", "z/m.txt"]
    lines = print_plan(write_files(tmp_path / "a", dict.fromkeys(names, b"x")))
    remedy = "To read what is in them, add a pattern such as 'ARCHIVE/**/*.zip'."
    assert f"Not opened: 2 .zip, 1 .csv. {remedy}" in lines
    assert "Not opened" not in "".join(print_plan(write_files(tmp_path / "b", {"a.jpg": b"x", "b.txt": b""})))


def test_a_listing_says_what_is_left_out_and_where_links_lead(tmp_path: Path) -> None:
    names = [
        "cam1/a.jpg",
        "cam1/@eaDir/1.jpg",
        "cam1/@eaDir/2.jpg",
        "cam1/._a.jpg",
        "old/b.jpg",
        "cam1/n.txt",
    ]
    archive = write_files(tmp_path / "archive", dict.fromkeys(names, b"x"))
    write_files(tmp_path / "disk", {"c.jpg": b"x"})
    os.symlink(tmp_path / "disk", archive / "cam2")
    os.symlink("/not/mounted", archive / "cam3")
    lines = print_plan(archive, exclude_path=("old",))
    assert "Not planned: 1 .txt." in lines
    assert "Files left out by name (--include-hidden plans them): 2 @eaDir, 1 ._*." in lines
    assert "Left out: 1 --exclude-path old." in lines
    assert "Links to folders: 1 followed, 1 broken." in lines
    assert f"Broken links: {archive}/cam3. Is a disk not mounted?" in lines
