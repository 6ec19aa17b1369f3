"""Command lines in texts, and whether the programs that they call would take them."""

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from ray.scripts.scripts import cli as ray_cli

from maskbatch import config
from maskbatch.cli.commands import app as maskbatch_app

SENT = ("nightly", "audit", "score")
"""What jobs.submit sends to a cluster: commands of maskbatch, by the same names."""
LINE = re.compile(
    r"(?:^(?:[A-Z_]+=\S+ )*|&& |(?:(?<=[\s=])|^)[\w./~]*bin/)(maskbatch|ray|python -m [\w.]+) (\S.*)",
    re.MULTILINE,
)
END = re.compile(r" (?:>>?|2>&1|\|\|?|&&) |\)$|\"$")


def command_of(program: str) -> Any:
    """What parses the arguments of `maskbatch`, `ray` or `python -m MODULE`; none for a benchmark."""
    if program in ("maskbatch", "python -m maskbatch"):
        return typer.main.get_command(maskbatch_app)
    if program == "ray":
        return ray_cli
    module: Any = import_module(program.removeprefix("python -m "))
    if module.__name__.startswith("training."):
        app = typer.Typer()
        app.command()(module.main)
        return typer.main.get_command(app)
    return typer.main.get_command(module.app) if module.__name__.startswith("jobs.") else None


def command_lines(text: str) -> list[tuple[str, list[str]]]:
    """The program and the arguments of each command line."""
    text = re.sub(r"\\\n\s*", "", text.replace(r"\%", "%"))
    return [(program, shlex.split(END.split(rest)[0], comments=True)) for program, rest in LINE.findall(text)]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def check(program: str, words: list[str]) -> None:
    """Raises what the program would: click's error for a flag, UsageError for a setting."""
    command = command_of(program)
    if command is None:
        source = Path(str(import_module(program.removeprefix("python -m ")).__file__)).read_text()
        assert all(f'"{word}"' in source for word in words if word.startswith("--")), words
        return
    context = parse(command, words)
    if program == "python -m jobs.submit" and context.info_name in SENT:
        check("maskbatch", [context.info_name, *context.params["arguments"]])
    elif program != "ray" and "training" not in program:
        check_settings(context.params)


def parse(command: Any, words: list[str]) -> Any:
    """The context of a command line, down to its subcommand; click's UsageError where it would refuse."""
    context = command.make_context(command.name or "-", list(words))
    if not hasattr(command, "resolve_command"):
        return context
    name, inner, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    return inner.make_context(name, rest, parent=context)


def check_settings(params: dict[str, Any]) -> None:
    """Raises UsageError for a value that no run or report takes."""
    values = {config.LONG_NAMES.get(name, name): value for name, value in params.items()}
    kinds = (config.PlanConfig, config.ScoreConfig, config.JobConfig, config.ReportConfig)
    for kind in kinds if values.get("archives") else kinds[1:]:
        config.make_config(kind, values)


def flags_of(command: Any) -> set[str]:
    """Every flag of a command and of those below it."""
    inner = getattr(command, "commands", {}).values()
    own = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    return own.union(*map(flags_of, inner))
