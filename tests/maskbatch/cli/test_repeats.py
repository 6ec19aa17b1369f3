"""A flag given twice is refused, whatever the command."""

import pytest
from typer.main import get_command

from maskbatch.cli.commands import app
from maskbatch.cli.repeats import refuse_repeats
from maskbatch.errors import UsageError
from tests.conftest import Cli

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = [
    (name, option.opts[0], option.multiple)
    for name, command in COMMANDS.items()
    for option in command.params
    if option.param_type_name == "option" and not option.is_flag
]


@pytest.mark.parametrize(("command", "flag", "is_repeatable"), OPTIONS)
def test_every_flag_of_one_value_is_refused_with_two_and_every_other_takes_them(
    command: str, flag: str, is_repeatable: bool
) -> None:
    arguments = [command, "x", flag, "1", "--json-logs", f"{flag}=2"]
    if is_repeatable:
        refuse_repeats(get_command(app), arguments)
        return
    with pytest.raises(UsageError, match=f"^{flag} takes one value, and is given 1 and 2; give it once$"):
        refuse_repeats(get_command(app), arguments)
    refuse_repeats(get_command(app), [command, "x", flag, "1", flag, "1"])


def test_a_program_refuses_a_repeated_flag_in_one_sentence(cli_here: Cli) -> None:
    refused = cli_here("score", ".", "--out", "a", "--out", "b")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "maskbatch: --out takes one value, and is given a and b; give it once\n"
