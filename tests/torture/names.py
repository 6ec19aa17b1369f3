"""Folders and files with hostile names, on disk and in containers: each image once, and no output forged."""

import io
import json
import os
import random
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow.compute as pc

from tests.conftest import save_untrained, table_of
from tests.maskbatch.samples import speckle
from tests.torture.command import call
from tests.torture.table import Promise

NAMES = {
    "line break": "a\nverified: all is well",
    "carriage return": "a\rverified: all is well",
    "escape sequence": "\x1b[2J\x1b[1;1Hwell",
    "backspaces": "bad\b\b\bgood",
    "bell and tab": "a\x07b\tc",
    "C1 control": "a\x9b31mred",
    "right to left": "a\u202egpj.elif",
    "isolates": "a\u2066b\u2069",
    "zero width": "ca\u200bm",
    "line separator": "a\u2028b",
    "no UTF-8": os.fsdecode(b"caf\xe9"),
    "decomposed accent": "cafe\u0301",
    "composed accent": "caf\u00e9",
    "emoji": "cam \U0001f637",
    "two colons": "a::b",
    "percent": "100%41 %2F %",
    "query and fragment": "a?b=c#d&e",
    "pattern": "[0-9]*{x}?",
    "markup": "[bold red]x[/] {{ 7*7 }} <script>alert(1)</script> $x$",
    "backslash": "a\\b\\c",
    "blanks": " a  b ",
    "option": "--out=x",
    "long": "x" * 200,
    "key": "camera=x;y",
}
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
"""What changes how a line shows without being seen; a tab and the line's own end may stand."""


def name(folder: Path, chance: random.Random, _: int) -> Iterator[Promise]:
    """Plan, score, verify and report each kind of archive with all of NAMES in it."""
    checkpoint = save_untrained(folder, (32, 32))
    num_lost = num_forged = num_lines = 0
    for kind, archive in _make_archives(folder).items():
        out = folder / f"out {kind}"
        scored = call("score", archive, "--out", out, "--checkpoint", checkpoint, "--json")
        texts = [scored.stdout, scored.stderr]
        for command in ("plan", archive, "--dry-run"), ("verify", out), ("report", out), ("status", out):
            done = call(*command)
            texts += [done.stdout, done.stderr]
        texts.append((out / "report/report.html").read_text())
        lines = [line for text in texts for line in text.split("\n")]
        num_lines += len(lines)
        num_forged += sum(bool(HIDDEN.search(line)) or line.startswith("verified: all is") for line in lines)
        num_lost += len(NAMES) - _count_sound(out, json.loads(scored.stdout))
    yield Promise("An image of a hostile name is planned and scored once", 3 * len(NAMES), num_lost)
    yield Promise("No name forges or hides a line of output", num_lines, num_forged, f"{len(NAMES)} names")


def _count_sound(out: Path, result: Mapping[str, object]) -> int:
    rows = table_of(out)
    sound = rows.filter(pc.equal(rows["status"], "ok"))
    return pc.count_distinct(sound["uri"]).as_py() if result["planned"] == rows.num_rows else 0


def _make_archives(folder: Path) -> dict[str, Path]:
    pictures = {f"{text}/{text[:100]}.jpg": speckle(k) for k, text in enumerate(NAMES.values())}
    tree, tar, zipped = folder / "tree", folder / "names.tar", folder / "names.zip"
    for path, data in pictures.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    with tarfile.open(tar, "w") as members:
        for path, data in pictures.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            members.addfile(member, io.BytesIO(data))
    with zipfile.ZipFile(zipped, "w") as zip_file:
        for path, data in pictures.items():
            zip_file.writestr(path.encode("utf-8", "replace").decode(), data)  # a zip holds text
    return {"tree": tree, "tar": tar, "zip": zipped}
