"""The README, the pages of docs/ and the maps of the packages are held to the code."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

import maskbatch
from maskbatch import errors, schema
from maskbatch.archives import arguments
from maskbatch.cli.commands import app
from maskbatch.report import figures
from maskbatch.review import corrections
from maskbatch.stores import options
from tests.command_lines import blocks, check, command_lines, command_of, flags_of

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
README = PAGES["README.md"]
pages = pytest.mark.parametrize("page", PAGES)
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PACKAGES = {path.parent.name for path in (ROOT / "maskbatch").glob("*/__init__.py")}
MODULES = {path.stem for path in (ROOT / "maskbatch").glob("*.py")} - {"__init__", "__main__"}
FENCED = re.compile(r"^```.*?^```\n", re.MULTILINE | re.DOTALL)
OTHERS = re.compile(r"`(?:aws|docker|kubectl|sudo|ssh) [^`]*`")
"""Commands of other programs in a sentence."""


def first_column(page: str, heading: str) -> list[str]:
    """The cells below `heading` in the table that it begins."""
    rows = page.split(f"\n| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    return [row.split("|")[1].strip() for row in rows]


def names(cells: list[str]) -> list[str]:
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


# commands


def test_the_readme_has_a_row_for_every_command() -> None:
    rows = re.findall(r"^\| `maskbatch (\w+)", README, re.MULTILINE)
    assert sorted(rows) == sorted(COMMANDS)


@pages
def test_every_command_line_of_a_page_is_one_that_its_program_takes(page: str) -> None:
    for block in blocks(PAGES[page], "bash"):
        for program, words in command_lines(block):
            check(program, words)


def test_command_lines_are_found_on_the_pages_that_have_them() -> None:
    found = {page: sum(len(command_lines(block)) for block in blocks(PAGES[page], "bash")) for page in PAGES}
    assert found["README.md"] >= 2
    assert found["docs/cluster.md"] >= 15
    assert found["docs/training.md"] >= 10
    assert sum(found.values()) >= 45


@pages
def test_every_flag_that_a_page_names_exists(page: str) -> None:
    programs = [
        "maskbatch",
        *(f"python -m training.{name}" for name in ("prepare", "finetune", "evaluate", "export")),
    ]
    if page == "docs/cluster.md":
        programs += ["ray", "python -m jobs.submit"]
    known = set().union(*(flags_of(command_of(program)) for program in programs)) | {"--help"}
    text = OTHERS.sub("", FENCED.sub("", PAGES[page]).replace("\n", " "))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= known


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_flag_has_a_sentence(name: str) -> None:
    command = COMMANDS[name]
    assert len(command.help.split()) > 5
    for option in command.params:
        assert option.param_type_name == "argument" or len(option.help.split()) > 2, option.name


@pages
def test_the_make_targets_and_files_that_a_page_names_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([\w-]+)", PAGES[page], re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"\b(?:tests|docs|jobs)/[\w./-]+\.\w+", PAGES[page]):
        assert (ROOT / path).exists(), path


# pages


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 170


def sentences(text: str) -> Iterator[str]:
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", FENCED.sub("\n", text))
    for paragraph in re.split(r"\n\s*\n|\n(?=- |\||#)|\|", text):
        yield from re.split(r"(?<=[.!?])\**\s+", " ".join(paragraph.split()))


def test_no_sentence_of_the_readme_has_more_than_30_words() -> None:
    assert [sentence for sentence in sentences(README) if len(sentence.split()) > 30] == []


@pages
def test_a_page_begins_with_its_question(page: str) -> None:
    title, _, opening = PAGES[page].splitlines()[:3]
    assert title.startswith("# ")
    if page != "README.md":
        assert opening.startswith("This page answers: ")


def targets(page: str) -> Iterator[tuple[Path, str]]:
    """The file and the anchor of each relative link."""
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if "://" not in link:
            path, _, anchor = link.partition("#")
            yield ((ROOT / page).parent / path if path else ROOT / page).resolve(), anchor


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.*)", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pages
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    for path, anchor in targets(page):
        assert path.exists(), path
        assert not anchor or anchor in anchors(path.read_text()), anchor


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, left = set[str](), ["README.md"]
    while left:
        page = left.pop()
        reached.add(page)
        linked = {path.relative_to(ROOT).as_posix() for path, _ in targets(page)}
        left += sorted((linked & set(PAGES)) - reached)
    assert reached == set(PAGES)


# what the code says


def test_the_statuses_conditions_and_exit_codes_of_the_pages_are_those_of_the_code() -> None:
    assert sorted(names(first_column(PAGES["docs/report.md"], "status"))) == sorted(schema.STATUSES)
    assert sorted(names(first_column(PAGES["docs/report.md"], "condition"))) == sorted(schema.CONDITIONS)
    codes = {kind.exit_code for kind in (errors.UsageError, errors.RunLockedError, errors.RunFailedError)}
    codes |= {errors.DONE, errors.TOO_MANY_FAILED_IMAGES, errors.ALERT, errors.INTERRUPTED}
    assert sorted(map(int, first_column(PAGES["docs/run-directory.md"], "code"))) == sorted(codes)


def test_the_pages_name_every_column_and_every_file() -> None:
    text = PAGES["docs/run-directory.md"].replace("\n", " ")
    listed = text.split("A row of `scores` has `")[1].split("`, and the column")[0]
    columns = set(re.sub(r"`.*?`", "", listed).replace(",", " ").split())
    assert columns == {*schema.scores(()).names, "prob_<class>"}
    files = PAGES["docs/run-directory.md"].split("OUT/report/")[1].split("OUT/corrections/")[0]
    for name in (
        *figures.LIST_TABLES,
        "cells",
        "review",
        "queue",
        "report.html",
        "report.json",
        "alerts.json",
    ):
        assert re.search(rf"\b{re.escape(name)}\b", files), name
    judgement = PAGES["docs/review.md"].split("Columns: `")[1].split("`")[0]
    assert judgement.split(", ") == corrections.SCHEMA.names


def test_the_pages_have_every_kind_of_archive_and_every_storage_option_of_s3() -> None:
    kinds = PAGES["docs/archives.md"].split("| ARCHIVE |")[1].split("\n\n")[0]
    for name in (*arguments.CONTAINERS, ".csv", ".jsonl", "manifest.json", "{date:", "**", "bucket"):
        assert name in kinds, name
    (example,) = blocks(PAGES["docs/object-stores.md"], "toml")
    for name in options.S3_OPTIONS:
        assert re.search(rf"\b{name}\b", example), name


def test_the_maps_name_exactly_the_packages_and_every_module() -> None:
    page = PAGES["docs/architecture.md"]
    assert sorted(re.findall(r"^\| `maskbatch\.(\w+)`", page, re.MULTILINE)) == sorted(PACKAGES)
    (layers,) = [block for block in blocks(page, "") if block.startswith("jobs")]
    assert set(re.findall(r"\w+", layers)) == {"jobs", "training"} | PACKAGES | MODULES
    assert set(re.findall(r"\w+", maskbatch.__doc__ or "")) >= PACKAGES | MODULES


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_the_map_of_a_package_names_every_module(package: str) -> None:
    modules = {path.stem for path in (ROOT / "maskbatch" / package).glob("*.py")} - {"__init__"}
    assert modules <= set(re.findall(r"\w+", import_module(f"maskbatch.{package}").__doc__ or ""))


# Python


def test_the_page_on_python_names_all_that_is_public() -> None:
    page = PAGES["docs/python.md"]
    public: list[str] = maskbatch.__all__  # type: ignore[attr-defined]
    functions = [name.partition("(")[0] for name in names(first_column(page, "function"))]
    exceptions = names(first_column(page, "exception"))
    assert set(functions) | set(exceptions) <= set(public)
    raised = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.MaskbatchError)
    ]
    assert sorted(exceptions) == sorted(kind.__name__ for kind in raised)
    for name in public:
        assert re.search(rf"\b{name}\b", page), name


@pytest.mark.slow
def test_the_python_and_the_sql_of_the_pages_run(archive: Path, tmp_path: Path) -> None:
    shutil.copytree(archive, tmp_path / "2026-10")
    code = "\n".join(
        block for name in ("python", "run-directory") for block in blocks(PAGES[f"docs/{name}.md"], "python")
    )
    (query,) = blocks(PAGES["docs/run-directory.md"], "sql")
    code += f'\nimport duckdb\nassert len(rows) == 200 == scores.count_rows()\nassert duckdb.sql("""{query}""").fetchall()\n'
    environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    done: Any = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "by_hour.png").stat().st_size > 1000
