import re
from dataclasses import fields

import pytest
from typer.main import get_command

from maskbatch import config
from maskbatch.cli import flags
from maskbatch.cli.commands import app
from tests.conftest import Cli

KINDS = (config.PlanConfig, config.ScoreConfig, config.JobConfig, config.ReportConfig)
DEFAULTS = {item.name: item.default for kind in KINDS for item in fields(kind)}
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


def test_every_setting_has_one_flag_and_every_flag_is_a_setting() -> None:
    assert set(flags.SETTINGS) == set(DEFAULTS) - set(config.NO_FLAG) | {"checkpoint", "detector"}


@pytest.mark.parametrize("name", ["score", "plan", "estimate", "predict", "nightly", "report"])
def test_a_help_text_shows_the_default_of_its_dataclass_and_the_flag_itself_has_none(name: str) -> None:
    options = {option.name: option for option in COMMANDS[name].params}
    shared = set(options) & set(DEFAULTS)
    assert shared
    for setting in shared:
        assert options[setting].default is None, setting
        if type(DEFAULTS[setting]) in (int, float):
            assert options[setting].help.endswith(f"[{DEFAULTS[setting]}]."), setting


def test_a_flag_overrules_the_settings_file(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("archive")
    (folder / "a.jpg").write_bytes(b"x")
    (folder / "b.jpg").write_bytes(b"x")
    toml = folder / "month.toml"
    toml.write_text("limit = 1\n")
    found = cli("plan", folder, "--dry-run", "--config", toml)
    assert "Planned 1 image," in found.stdout, found.stderr
    found = cli("plan", folder, "--dry-run", "--config", toml, "--limit", 2)
    assert "Planned 2 images" in found.stdout, found.stderr


def test_the_version_is_printed(cli: Cli) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", cli("--version").stdout)
