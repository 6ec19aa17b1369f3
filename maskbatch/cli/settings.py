"""The flags of a command, from the settings that it takes: each stands once, in `config` and in `flags`."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from typer import Option

from maskbatch import config
from maskbatch.cli import flags

Command = TypeVar("Command", bound=Callable[..., Any])
Settings = dict[str, Any]
_CONFIGS = (config.PlanConfig, config.ScoreConfig, config.JobConfig, config.ReportConfig)
PLAN, SCORE, JOB, REPORT = (
    tuple(item.name for item in fields(kind) if item.name in flags.SETTINGS) for kind in _CONFIGS
)
"""Settings that are flags, by their dataclass."""
FILES = ("checkpoint", "detector")
"""Settings that name files of networks."""
VIEW = ("view", "detector", "detect_px")
"""Settings of whole scenes."""
HERE = tuple(name for name in SCORE if name != "decoder")
"""Settings of SCORE for single images, which the CPU decodes always."""


def takes(*settings: str, toml: bool = True) -> Callable[[Command], Command]:
    """Give a command the flags of `settings`; it gets those that are set, in its parameter `values`.

    With `toml` a --config file too, whose values the flags overrule. Every command has --json-logs.
    """

    def decorate(command: Command) -> Command:
        parameters = list(inspect.signature(command).parameters.values())
        wants_values = any(p.name == "values" for p in parameters)

        @wraps(command)
        def call(*, config_file: Path | None = None, json_logs: bool = False, **given: Any) -> Any:
            values = {name: given.pop(name, None) for name in settings}
            values = {name: value for name, value in values.items() if value is not None}
            if config_file:
                values = config.read_toml(config_file) | values
            return command(**given, **({"values": values} if wants_values else {}))

        parameters = [p for p in parameters if p.name != "values"]
        parameters += [_parameter(name) for name in settings]
        parameters += [_flag("config_file", flags.ConfigFile, None)] * toml
        parameters.append(_flag("json_logs", flags.JsonLogs, False))
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters]
        call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        call.__annotations__ = {p.name: p.annotation for p in parameters}
        return call  # type: ignore[return-value]

    return decorate


def _flag(name: str, kind: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _parameter(name: str) -> inspect.Parameter:
    """The flag of one setting; its default, None, leaves the setting's own in place."""
    flag, default = flags.SETTINGS[name], _DEFAULTS.get(name)
    shown = flag.otherwise or ("" if default in (None, ()) or default is False else str(default))
    text = f"{flag.help.removesuffix('.')} [{shown}]." if shown else flag.help
    option = Option(f"--{_SHORT.get(name, name).replace('_', '-')}", help=text, metavar=flag.metavar)
    return _flag(name, Annotated[_KINDS[name] | None, option], None)


def _kind(hint: Any) -> Any:
    """What a flag reads for a field of this type: several strings for a tuple, and never None."""
    if get_origin(hint) is tuple:
        return list[str]
    return next(kind for kind in (*get_args(hint), hint) if kind is not type(None))


_SHORT = {long: short for short, long in config.LONG_NAMES.items()}
_DEFAULTS = {item.name: item.default for kind in _CONFIGS for item in fields(kind)}
_KINDS = {name: _kind(hint) for kind in _CONFIGS for name, hint in get_type_hints(kind).items()}
_KINDS |= {"checkpoint": str, "detector": str, "exclude": str}
