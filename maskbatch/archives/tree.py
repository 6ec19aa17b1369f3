"""The files below a folder of any store, or those that match a pattern below it."""

import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

MAGIC = re.compile(r"[*?\[]")
PREFIXES = 16
"""Prefixes of a bucket to list at a time."""


class File(NamedTuple):
    """One file of a tree."""

    uri: str
    relative: str
    """Path below the tree's base, encoded like the uri."""
    num_bytes: int | None = None
    version: str | None = None
    error: str | None = None
    """Why it can never be read, if it is not a regular file."""
    exact: bool = False
    """The pattern names this file itself, not a folder above it."""


Page = list[File]
Part = Page | Callable[[], Iterator[Page]]
"""Files, or a function that lists them."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder, and a pattern below it: `*`, `?` and `[...]` in a name, `**`. Without one, all below."""

    base: str
    """Uri of the folder, ending in `/`."""
    pattern: tuple[str, ...] = ()

    @property
    def lead(self) -> str:
        """The folders below the base that hold every match, ending in `/` or empty."""
        return "".join(f"{name}/" for name in takewhile(lambda n: not MAGIC.search(n), self.pattern[:-1]))

    @property
    def stem(self) -> str:
        """How every matching path below the base begins: the lead, and some of the next name."""
        next_name = "/".join(self.pattern)[len(self.lead) :].partition("/")[0]
        return self.lead + MAGIC.split(next_name, maxsplit=1)[0]

    def enters(self, folder: str) -> bool:
        """Whether something below `folder`, a path below the base ending in `/`, may match."""
        pairs = zip(folder.split("/")[:-1], takewhile("**".__ne__, self.pattern), strict=False)
        return all(fnmatch.fnmatchcase(name, segment) for name, segment in pairs)

    def takes(self, relative: str) -> bool | None:
        """Whether the pattern names the file itself, or (False) a folder above it; None without a match."""
        if not self.pattern:
            return False
        segments = relative.split("/")
        if _matches(segments, self.pattern):
            return True
        below = any(_matches(segments[:k], self.pattern) for k in range(1, len(segments)))
        return False if below else None


def _matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path's names match a pattern; `**` is any number of folders, at the end any path."""
    for i, segment in enumerate(pattern):
        if segment == "**":
            rest = pattern[i + 1 :]
            if not rest:
                return i < len(names)
            return any(_matches(names[k:], rest) for k in range(i, len(names)))
        if i >= len(names) or not fnmatch.fnmatchcase(names[i], segment):
            return False
    return len(names) == len(pattern)
