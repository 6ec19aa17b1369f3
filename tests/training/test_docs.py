"""The READMEs, the module map and the help of the training commands are held to the code."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import training
from maskbatch.model.checkpoint import default_path, open_checkpoint
from training.card import model_card
from training.recipe import FOLDER, read_recipe

ROOT = Path(__file__).parents[2]
TEXTS = {name: (ROOT / name).read_text() for name in ("README.md", "training/README.md")}
COMMANDS = ("prepare", "finetune", "evaluate", "export")


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    def text(name: str) -> str:
        module: Any = import_module(f"training.{name}")
        app = module.typer.Typer(rich_markup_mode=None)
        app.command()(module.main)
        return CliRunner().invoke(app, ["--help"], terminal_width=200).stdout

    return {name: text(name) for name in COMMANDS}


@pytest.mark.parametrize("name", TEXTS)
def test_every_training_command_of_a_readme_has_its_flags(name: str, helps: dict[str, str]) -> None:
    commands = re.findall(r"python -m training\.(\w+)((?:[^\n`]|\\\n)*)", TEXTS[name])
    assert commands
    for command, rest in commands:
        given = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest.partition("#")[0]))
        assert given <= set(re.findall(r"--[a-z][a-z-]*", helps[command])), command
        for recipe in re.findall(r"--recipe (\w+)", rest):
            read_recipe(recipe)


def test_every_training_command_stands_in_the_readme_and_explains_its_flags(helps: dict[str, str]) -> None:
    for name, text in helps.items():
        assert f"python -m training.{name}" in TEXTS["training/README.md"]
        for flag, rest in re.findall(r"^  \*?  (--[a-z-]+)(.*)", text, re.MULTILINE):
            assert len(rest.split()) > 2, (name, flag)


def test_every_recipe_stands_in_both_readmes() -> None:
    for recipe in FOLDER.glob("*.toml"):
        for name, text in TEXTS.items():
            assert f"| `{recipe.stem}` |" in text, (name, recipe.stem)


def test_the_module_map_names_every_module() -> None:
    named = set(re.findall(r"\w+", training.__doc__ or ""))
    modules = {path.stem for path in (ROOT / "training").glob("*.py")} - {"__init__"}
    assert modules <= named


def test_every_link_of_the_training_readme_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXTS["training/README.md"]):
        assert "://" in target or (ROOT / "training" / target).exists(), target


def test_the_packaged_model_card_is_what_its_checkpoint_states() -> None:
    card = open_checkpoint().card
    assert Path(default_path()).with_name("MODEL_CARD.md").read_text() == model_card(card)
