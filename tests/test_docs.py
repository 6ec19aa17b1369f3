"""The README, the module map and the help are held to the code."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import maskbatch
from jobs import audit_month, nightly_report, submit
from maskbatch import errors, schema
from maskbatch.archives import arguments
from maskbatch.report import figures
from maskbatch.stores import options
from tests.conftest import Cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
COMMANDS = ("plan", "estimate", "score", "status", "report", "compare", "verify", "predict", "ui", "demo")


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    import sys

    def text(command: str) -> str:
        result = subprocess.run(
            [sys.executable, "-m", "maskbatch", command, "--help"], capture_output=True, text=True, check=True
        )
        return result.stdout

    return {command: text(command) for command in COMMANDS}


def test_every_command_has_help_and_stands_in_the_readme(helps: dict[str, str], cli: Cli) -> None:
    listed = set(re.findall(r"^  (\w+) ", cli("--help").stdout.split("Commands:")[1], re.MULTILINE))
    assert listed == set(COMMANDS)
    for command in COMMANDS:
        assert f"`maskbatch {command}" in README
        assert helps[command].count("\n") > 5


def test_every_flag_that_the_readme_names_exists(helps: dict[str, str]) -> None:
    known = set(re.findall(r"--[a-z][a-z-]+", " ".join(helps.values())))
    known |= {
        flag for job in (submit, nightly_report, audit_month) for flag in flags_of(get_command(job.app))
    }
    own = re.sub(
        r"python -m training[^\n]*(\\\n[^\n]*)*", "", README
    )  # tests/training holds these to the code
    in_code = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", own)) - {"--architecture"}
    assert in_code <= known


def flags_of(command: Any) -> set[str]:
    inner = getattr(command, "commands", {}).values()
    return {flag for option in command.params for flag in option.opts}.union(*map(flags_of, inner))


def test_every_flag_has_a_sentence(helps: dict[str, str]) -> None:
    for text in helps.values():
        for flag, rest in re.findall(r"^  (--[a-z-]+)(.*(?:\n {10,}.*)*)", text, re.MULTILINE):
            assert len(rest.split()) > 2, flag


def test_the_readme_explains_every_status_and_exit_code() -> None:
    for status in schema.STATUSES:
        assert f"`{status}`" in README
    codes = {kind.exit_code for kind in (errors.UsageError, errors.RunLockedError, errors.RunFailedError)}
    for code in codes | {errors.DONE, errors.TOO_MANY_FAILED_IMAGES, errors.ALERT, errors.INTERRUPTED}:
        assert f"\n| {code} | " in README


def test_the_readme_explains_every_condition_and_names_every_file_of_a_report() -> None:
    for name in schema.CONDITIONS:
        assert f"`{name}`" in README.split("| condition |")[1].split("\n\n")[0]
    files = README.split("OUT/report/")[1].split("```")[0]
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


def test_the_readme_names_every_column_of_scores() -> None:
    text = README.replace("\n", " ")
    for name in schema.scores(()).names:
        assert re.search(rf"\b{name}\b", text), name


def test_the_readme_has_a_row_for_every_kind_of_archive() -> None:
    kinds = README.split("| ARCHIVE |")[1].split("\n\n")[0]
    for name in (*arguments.CONTAINERS, ".csv", ".jsonl", "manifest.json", "{date:", "**", "bucket"):
        assert name in kinds, name


def test_the_readme_names_every_storage_option_of_s3() -> None:
    example = README.split("stores.toml`")[1].split("```")[1]
    for name in options.S3_OPTIONS:
        assert re.search(rf"\b{name}\b", example), name


def test_the_module_map_names_every_module() -> None:
    named = set(re.findall(r"\w+", maskbatch.__doc__ or ""))
    modules = {path.stem for path in (ROOT / "maskbatch").glob("*.py")} - {"__init__", "__main__"}
    assert modules <= named


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_the_make_targets_that_the_readme_names_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
