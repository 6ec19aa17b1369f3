"""What an archive says, printed as it is: a name can neither forge a line nor steer a terminal.

Names of files, cameras and columns, and errors of decoders, may hold anything. Every console, plain line and
page shows what has no picture of its own as an escape such as `\\x1b` or `\\u202e`. Files of data keep it.
"""

import io
import re
import sys
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any
from unicodedata import category

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from jinja2 import Environment

UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories: control, format and direction marks, surrogates, private, unassigned, ends of lines."""
BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Joiners, fillers and a blank that count as letters or marks."""
COLOUR = re.compile(r"\x1b\[[\d;]*m")
LONGEST = 200
"""Characters of a name that a line or a table shows."""


def make_visible(text: str) -> str:
    """`text` on one line, without anything that is not seen."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if _is_unseen(c) else c for c in text)


def _is_unseen(character: str) -> bool:
    return (
        category(character) in UNSEEN or character in BLANK or "\U000e0100" <= character <= "\U000e01ef"
    )  # the last are variation selectors beyond those of emoji


def make_lines_visible(text: str) -> str:
    """As `make_visible`, but the lines of a log stay lines; its colours are dropped."""
    lines = COLOUR.sub("", text).split("\n")
    return "\n".join(make_visible(line.replace("\t", "    ").removesuffix("\r")) for line in lines)


@cache
def open_templates(package: str) -> "Environment":
    """The templates of a package, as pages fill them in: escaped, everything seen, no name left out."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader(package),
        autoescape=True,
        finalize=_show_text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _show_text(value: Any) -> Any:
    """A value of a template as the page shows it; what is markup already stays."""
    return make_visible(value) if type(value) is str else value


def shorten(name: str) -> str:
    """At most LONGEST characters of a name, from its start and its end."""
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[1 - half :]}"


def show(*lines: object) -> None:
    """Print lines to stdout."""
    for line in lines:
        print(make_visible(str(line)))


def accept_any_text() -> None:
    """Write an escape for what the encoding of stdout lacks, rather than fail."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


class PlainConsole(Console):
    """A console that takes text as it is: no markup, no emoji by name, and everything seen."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Every str, also in a cell, a title or a heading of a table, goes through here."""
        return super().render_str(make_visible(text), **settings)


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines, none of which is cut: what follows a cut would stand at the start of a line."""
    for line in lines:
        console.print(make_visible(line), soft_wrap=True)
