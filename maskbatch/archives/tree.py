"""The files below a folder of any store, or those that match a pattern below it."""

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

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
    """Why it cannot be read: it is not a regular file, or archived."""
    exact: bool = False
    """The pattern names this file itself, not a folder above it."""
    hidden: str | None = None
    """As what to count it, if its name leaves it out: one of `hidden.LABELS`, or a folder not entered."""
    heals: bool = False
    """With an error, whether a later run may read it."""
    lost: str | None = None
    """`unreadable` for a folder that is passed over, `broken` for a link to nothing."""


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
        if matches(segments, self.pattern):
            return True
        below = any(matches(segments[:k], self.pattern) for k in range(1, len(segments)))
        return False if below else None

    def select(
        self, below: str, items: Iterable[tuple[str, bool, Any]]
    ) -> Iterator[tuple[str, bool | None, Any]]:
        """Of (name, is_folder, info), what may match: (path, exact or None for a folder, info)."""
        # A folder sorts as `name/`, which gives the bytewise order of whole paths.
        named = [(f"{name}/" if is_folder else name, item) for name, is_folder, item in items]
        for name, item in sorted(named, key=lambda pair: pair[0].encode()):
            if name.endswith("/"):
                if self.enters(below + name):
                    yield below + name, None, item
            elif (exact := self.takes(below + name)) is not None:
                yield below + name, exact, item


def matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path's names match a pattern; `**` is any number of folders, at the end any path."""
    for i, segment in enumerate(pattern):
        if segment == "**":
            rest = pattern[i + 1 :]
            if not rest:
                return i < len(names)
            return any(matches(names[k:], rest) for k in range(i, len(names)))
        if i >= len(names) or not fnmatch.fnmatchcase(names[i], segment):
            return False
    return len(names) == len(pattern)
