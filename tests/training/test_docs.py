"""docs/training.md, the module map and the help of the training commands are held to the code."""

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
PAGE = (ROOT / "docs/training.md").read_text()
COMMANDS = ("prepare", "finetune", "evaluate", "evaluate_scenes", "export")


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    def text(name: str) -> str:
        module: Any = import_module(f"training.{name}")
        app = module.typer.Typer(rich_markup_mode=None)
        app.command()(module.main)
        return CliRunner().invoke(app, ["--help"], terminal_width=200).stdout

    return {name: text(name) for name in COMMANDS}


def test_every_training_command_stands_on_the_page_and_explains_its_flags(helps: dict[str, str]) -> None:
    for name, text in helps.items():
        assert f"python -m training.{name}" in PAGE
        for flag, rest in re.findall(r"^  \*?  (--[a-z-]+)(.*)", text, re.MULTILINE):
            assert len(rest.split()) > 2, (name, flag)


def test_the_commands_of_the_pages_name_recipes_that_exist() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    named = re.findall(r"--recipe (\w+)", pages)
    assert len(named) >= 5
    for recipe in named:
        read_recipe(recipe)


def test_every_recipe_has_a_row() -> None:
    for recipe in FOLDER.glob("*.toml"):
        assert f"| `{recipe.stem}` |" in PAGE, recipe.stem


def test_the_module_map_names_every_module() -> None:
    named = set(re.findall(r"\w+", training.__doc__ or ""))
    modules = {path.stem for path in (ROOT / "training").glob("*.py")} - {"__init__"}
    assert modules <= named


def test_the_packaged_model_card_is_what_its_checkpoint_states() -> None:
    card = open_checkpoint().card
    assert Path(default_path()).with_name("MODEL_CARD.md").read_text() == model_card(card)
