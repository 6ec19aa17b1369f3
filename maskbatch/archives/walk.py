"""Walks local folders. Links to folders are followed, each real folder once."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maskbatch.archives.entries import is_image
from maskbatch.archives.hidden import Rules
from maskbatch.archives.tally import BROKEN, UNREADABLE
from maskbatch.archives.tree import File, Tree
from maskbatch.errors import UsageError
from maskbatch.stores.uris import SCHEME, encode_name, local_path

FOLLOWED = "followed"
TWICE = "to a folder that is read elsewhere in the archive (read once)"
LOOP = "to a folder above themselves (not followed)"
GO_ON = "--skip-unreadable goes on and counts it"


@dataclass(slots=True)
class Links:
    """Where links of one or several local trees lead, so that no folder is read twice."""

    trees: Sequence[Tree]
    rules: Rules
    counts: Counter[str] = field(default_factory=Counter)
    _bases: dict[str, Tree] = field(init=False)
    """Trees by the real path of their folder."""
    _read: set[tuple[int, int]] = field(default_factory=set)
    """Device and inode of the folders that links led to, and of those below."""

    def __post_init__(self) -> None:
        self._bases = {os.path.realpath(_path(t.base)): t for t in self.trees if t.base.startswith(SCHEME)}

    def follows(self, path: str) -> bool:
        """Whether to enter the folder that the link `path` leads to; counts it. Raises OSError."""
        real, holder = os.path.realpath(path), os.path.realpath(Path(path).parent)
        how = FOLLOWED
        if any(_is_below(folder, real) for folder in (holder, *self._bases)):
            how = LOOP
        elif self._comes_by_itself(real) or not self.marks(path):
            how = TWICE
        self.counts[how] += 1
        return how == FOLLOWED

    def marks(self, path: str) -> bool:
        """Note that a folder below a link is read now; False if it was read before. Raises OSError."""
        info = Path(path).stat()
        key = (info.st_dev, info.st_ino)
        is_new = key not in self._read
        self._read.add(key)
        return is_new

    def _comes_by_itself(self, real: str) -> bool:
        """Whether the folder lies in a tree, which reads it by its own path."""
        for base, tree in self._bases.items():
            if _is_below(real, base):
                relative = encode_name(real[len(base.rstrip("/")) + 1 :]) + "/"
                if tree.enters(relative) and not self.rules.below(tree).find_hidden(relative):
                    return True
        return False


def _path(uri: str) -> Path:
    return Path(os.fsdecode(local_path(uri)))


def _is_below(path: str, folder: str) -> bool:
    """Whether `path` is `folder`, or lies below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


@dataclass(frozen=True, slots=True)
class Walk:
    """Lists one local tree."""

    tree: Tree
    rules: Rules
    links: Links

    def files(self) -> Iterator[File]:
        """Every file, by path bytewise. Raises UsageError for a folder that may not be read."""
        return self._folder(self.tree.lead, is_linked=False)

    def _folder(self, below: str, *, is_linked: bool) -> Iterator[File]:
        try:
            with os.scandir(_path(self.tree.base + below)) as listed:
                items = [(encode_name(item.name), _is_folder(item), item) for item in listed]
        except OSError as error:
            yield from self._explain(below, error)
            return
        for relative, exact, item in self.tree.select(below, items):
            if exact is None:
                yield from self._enter(relative, item, is_linked=is_linked)
            elif hidden := self.rules.find_hidden(relative):
                yield File(self.tree.base + relative, relative, exact=exact, hidden=hidden)
            else:
                yield from self._file(item, relative, exact)

    def _enter(self, relative: str, item: "os.DirEntry[str]", *, is_linked: bool) -> Iterator[File]:
        label = self.rules.find_snapshot(relative)
        if label or item.is_symlink():
            label = label or self.rules.explain_closed(relative)
        if label:
            yield File(self.tree.base + relative, relative, hidden=label)
            return
        try:
            is_new = self.links.follows(item.path) if item.is_symlink() else True
            if is_linked and not item.is_symlink():
                is_new = self.links.marks(item.path)
        except OSError as error:
            yield from self._explain(relative, error)
            return
        if is_new:
            yield from self._folder(relative, is_linked=is_linked or item.is_symlink())

    def _file(self, item: "os.DirEntry[str]", relative: str, exact: bool) -> Iterator[File]:
        uri = self.tree.base + relative
        try:
            info = item.stat()
        except PermissionError as error:
            if item.is_symlink() and not is_image(item.name):  # a folder, for all that we know
                yield from self._explain(f"{relative}/", error)
                return
            yield File(uri, relative, exact=exact)
        except OSError:  # a link to nothing, or a file gone since: plan an image, reading reports it missing
            yield File(uri, relative, exact=exact, lost=BROKEN if item.is_symlink() else None)
        else:
            if stat.S_ISREG(info.st_mode):
                yield File(uri, relative, info.st_size, str(info.st_mtime_ns), exact=exact)
            else:
                yield File(uri, relative, error="not a regular file", exact=exact)

    def _explain(self, below: str, error: OSError) -> Iterator[File]:
        """What stands for a folder that cannot be listed. Raises UsageError."""
        is_missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        if is_missing and below == self.tree.lead != "":
            return  # a day of a template that has no folder
        message = f"cannot list {_path(self.tree.base + below)}: {error.strerror}; mend it"
        yield pass_over(self.tree, self.rules, below, message, error)


def _is_folder(item: "os.DirEntry[str]") -> bool:
    """Whether it is a folder, or a link to one that can be reached."""
    try:
        return item.is_dir()
    except OSError:
        return False


def pass_over(tree: Tree, rules: Rules, below: str, message: str, error: Exception) -> File:
    """What stands for a folder that cannot be listed; for the archive's own, UsageError with `message`."""
    uri = tree.base + below
    if below:
        if label := rules.explain_closed(below):
            return File(uri, below, hidden=label)
        if rules.skip_unreadable:
            return File(uri, below, lost=UNREADABLE)
        message = f"{message}, or {GO_ON}"
    raise UsageError(message) from error
