"""Two of one flag are never silently one: where it takes one value, the parser would keep the last."""

from collections.abc import Sequence
from copy import copy
from typing import Any

from maskbatch.errors import UsageError


def refuse_repeats(command: Any, arguments: Sequence[str]) -> None:
    """Raises UsageError where a flag that takes one value has several in `arguments`.

    Parses each level of commands as its own parser does, but keeps every value. Raises what that one raises.
    """
    while command is not None:
        keeping, singles = copy(command), [one for one in command.params if _takes_one(one)]
        keeping.params = [_keep_all(one) if one in singles else one for one in command.params]
        context = command.context_class(keeping, **command.context_settings)
        options, rest, _ = keeping.make_parser(context).parse_args(list(arguments))
        for single in singles:
            values = options.get(single.name)
            _refuse_different(max(single.opts, key=len), values if isinstance(values, list) else ())
        commands = getattr(command, "commands", {})
        command, arguments = (commands.get(rest[0]), rest[1:]) if commands and rest else (None, ())


def _refuse_different(flag: str, values: Sequence[Any]) -> None:
    texts = list(dict.fromkeys(map(str, values)))
    if len(texts) > 1:
        raise UsageError(f"{flag} takes one value, and is given {' and '.join(texts)}; give it once")


def _takes_one(parameter: Any) -> bool:
    is_option = parameter.param_type_name == "option"
    return is_option and not (parameter.is_flag or parameter.count or parameter.multiple)


def _keep_all(parameter: Any) -> Any:
    kept = copy(parameter)
    kept.multiple = True
    return kept
