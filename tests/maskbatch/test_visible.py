"""Names of an archive in a terminal, in a log and on the page."""

import io
import json
import os
import re
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.table import Table

from maskbatch.cli.commands import app
from maskbatch.cli.program import run_program
from maskbatch.model.checkpoint import Checkpoint
from maskbatch.runs.directory import RunDir
from maskbatch.visible import BLANK, PlainConsole, make_lines_visible, make_visible, print_lines, shorten
from tests.conftest import Cli
from tests.maskbatch.samples import LAYOUT, speckle, stage_run, write_files

FORGED = "verified: all is well"
HOSTILE = [
    f"a\n{FORGED}", f"b\r{FORGED}", f"c\r\n{FORGED}", f"d\x1b[2K\x1b[1G{FORGED}", f"e\x9b1G{FORGED}",
    f"f\b\b\b\b{FORGED}", f"g\u2028{FORGED}", f"h\u2029{FORGED}", f"i\x85{FORGED}", f"j\x0b{FORGED}",
    "\u202egnp.gpj\u202c", "\u2067k\u2069", "l\u200fm\u200e\u061c", "n\u200bo\ufeffp\u00adq", "\x7fdel\x01\x07",
    "[bold red]r[/]", "[/]", ":bell:", "{{ 7 * 7 }}{% x %}", "<script>alert(1)</script>", '"><img src=x onerror=y>',
    "$x_{1}$ $\\frac$", "%s %d {0} {site}", "\\x00\\n", "\u3164", "\ud7fc\U000e0041",
    f"{'s' * 90} {FORGED}", f"{' ' * 110}{FORGED}", "long" * 60,
]  # fmt: skip
READABLE = ["tür-1", "門口", "ворота", "بوابة", "👍🏽 gate", "❤️", "a b", "naïve", "हिन्दी", "gate\u00a01"]
UNSEEN = ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp")


def is_seen(text: str) -> bool:
    return not any(unicodedata.category(c) in UNSEEN for c in text)


@given(st.text(st.characters(codec=None, exclude_categories=())))
@example("\ud800\x00")
def test_whatever_a_text_holds_it_is_shown_on_one_line_and_seen(text: str) -> None:
    shown = make_visible(text)
    assert is_seen(shown) and len(shown.splitlines()) <= 1
    assert make_visible(shown) == shown
    assert shown == text or not is_seen(text) or set(text) & BLANK or max(text) >= "\U000e0100"


@pytest.mark.parametrize("name", READABLE)
def test_names_in_any_script_stay_as_they_are(name: str) -> None:
    assert make_visible(name) == name


def test_the_lines_of_a_log_stay_lines() -> None:
    assert make_lines_visible("\x1b[36ma\x1b[0m\tb\r\nc\x1b[2K\n") == "a    b\nc\\x1b[2K\n"


def test_a_long_name_keeps_both_ends() -> None:
    assert shorten("a" * 500 + "z").startswith("aaa") and shorten("a" * 500 + "z").endswith("az")
    assert len(shorten("a" * 500)) == 200 and shorten("a" * 200) == "a" * 200


@pytest.mark.parametrize("name", HOSTILE)
def test_a_console_takes_names_as_they_are(name: str) -> None:
    file = io.StringIO()
    console = PlainConsole(file=file, width=80)
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name)
    console.print(table)
    print_lines(console, [f"camera {name} is fine"])
    assert all(map(is_seen, file.getvalue().split("\n")))
    assert f"camera {make_visible(name)} is fine" in file.getvalue().split("\n")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive whose sites, cameras and files have every hostile name, and one that is no UTF-8."""
    root = tmp_path_factory.mktemp("hostile")
    for number, name in enumerate(HOSTILE):
        folder = root / name.replace("/", "|") / f"{name[:60]}".replace("/", "|") / "2026-10-01"
        write_files(
            folder,
            {
                "080000.jpg": speckle(number),
                "090000.jpg": b"no image",
                f"{name[:60]}.txt".replace("/", "|"): b"",
            },
        )
    odd = os.fsencode(root) + b"/odd\xff\xfe\n" + FORGED.encode() + b"/c\x80/2026-10-01"
    os.makedirs(odd)
    Path(os.fsdecode(odd + b"/080000.jpg")).write_bytes(speckle(99))
    return root


@pytest.fixture(scope="module")
def runs(hostile: Path, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    outs = [tmp_path_factory.mktemp("runs") / f"run\n{FORGED}{n}" for n in (1, 2)]
    for out, limit in zip(outs, (None, 40), strict=True):
        stage_run(out, hostile, checkpoint, limit=limit).commit()
    return outs


def call(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as done:
        patch.setattr(sys, "argv", ["maskbatch", *map(str, words)])
        run_program(app, "maskbatch COMMAND --help")
    return int(done.value.code or 0)


def find_forged(text: str) -> list[str]:
    """Lines with what is not seen, and those that begin as FORGED does and are no row of a table."""
    unseen = [line for line in text.split("\n") if not is_seen(line)]
    return unseen + [
        line
        for line in text.split("\n")
        if line.strip().startswith(FORGED) and not re.search(r"\d +\d", line)
    ]


@pytest.mark.parametrize("command", ["plan", "report", "verify", "status", "compare", "no run"])
def test_no_name_of_an_archive_forges_a_line_of_any_command(
    command: str, hostile: Path, runs: list[Path], checkpoint: Checkpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    words = {
        "plan": ["plan", hostile, "--dry-run", "--layout", LAYOUT],
        "report": ["report", runs[0]],
        "verify": ["verify", runs[0], "--sample", 5, "--checkpoint", checkpoint.path],
        "status": ["status", runs[0]],
        "compare": ["compare", *runs],
        "no run": ["report", f"nowhere\n{FORGED}"],
    }[command]
    code = call(*words)
    said = capfd.readouterr()
    assert code in ((2,) if command == "no run" else (0, 4)), said
    assert said.out if command != "no run" else "nowhere\\nverified" in said.err
    assert find_forged(said.out) + find_forged(said.err) == []


@pytest.mark.parametrize("run", [0, "nowhere"])
def test_the_lines_of_json_logs_hold_names_as_escapes(run: int | str, runs: list[Path], cli: Cli) -> None:
    done = cli(
        "report", str(runs[run]) if isinstance(run, int) else f"{run}\n{FORGED}", "--json-logs", "--json"
    )
    lines = done.stderr.splitlines() + done.stdout.splitlines()
    assert lines and all(isinstance(json.loads(line), dict) for line in lines)
    assert find_forged(done.stderr) + find_forged(done.stdout) == []


def test_the_page_and_its_plots_show_every_name_as_text(runs: list[Path]) -> None:
    call("report", runs[0])
    page = (RunDir.at(str(runs[0])).report / "report.html").read_text(encoding="utf-8")
    assert is_seen(page.replace("\n", ""))
    assert "<script>alert" not in page and "<img src=x" not in page
    assert "{{ 7 * 7 }}" in page and "&lt;script&gt;" in page and "\\u202egnp" in page
