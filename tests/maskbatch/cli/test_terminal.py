"""What a terminal says of a listing: everything that is not planned, by kind and count."""

import io
import os
from pathlib import Path

from rich.console import Console

from maskbatch.cli.terminal import print_listing
from maskbatch.config import PlanConfig
from maskbatch.runner import plan_archive
from tests.maskbatch.samples import write_files


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
    listing = plan_archive(PlanConfig(archives=(str(archive),), exclude_path=("old",)))
    text = io.StringIO()
    print_listing(listing.as_dict(), Console(file=text, width=500))
    lines = text.getvalue().splitlines()
    assert "Not images: 1 .txt." in lines
    assert "Files left out by name (--include-hidden plans them): 2 @eaDir, 1 ._*." in lines
    assert "Left out: 1 --exclude-path old." in lines
    assert "Links to folders: 1 followed, 1 broken." in lines
    assert f"Broken links: {archive}/cam3. Is a disk not mounted?" in lines
