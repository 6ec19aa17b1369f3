"""Walks local folders. Links to folders are followed, each real folder once."""

import os
import stat
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maskbatch.archives.entries import is_image
from maskbatch.archives.hidden import NOT_ENTERED, Rules
from maskbatch.archives.tally import BROKEN, UNREADABLE
from maskbatch.archives.tree import File, Tree
from maskbatch.errors import UsageError
from maskbatch.stores.uris import SCHEME, encode_name, local_path

FOLLOWED = "followed"
TWICE = "to a folder that is read elsewhere in the archive (read once)"
LOOP = "to a folder above themselves (not followed)"
Chain = tuple[str, ...]
"""Real paths of the folders that links led to, from the archive down to a folder."""
LEASE, RUN = "_lease.json", {"run.json", "plan"}
"""A run directory, such as an OUT that lies inside the archive, has one or the other."""
GO_ON = "--skip-unreadable goes on and counts it"


@dataclass(slots=True)
class Links:
    """Where links of one or several local trees lead, so that no folder is read twice."""

    trees: Sequence[Tree]
    rules: Rules
    counts: Counter[str] = field(default_factory=Counter)
    _bases: list[tuple[str, Tree]] = field(init=False)
    """The trees, each with the real path of its folder."""
    _read: set[tuple[int, int, Hashable]] = field(default_factory=set)
    """Device and inode of the folders that links led to, and of those below, and what was wanted of them."""
    _starts: dict[tuple[str, tuple[str, ...]], str] = field(default_factory=dict)
    """Where trees began, by the real path and what was wanted there."""

    def __post_init__(self) -> None:
        local = [tree for tree in self.trees if tree.base.startswith(SCHEME)]
        real = {base: os.path.realpath(_path(base)) for base in {tree.base for tree in local}}
        self._bases = [(real[tree.base], tree) for tree in local]

    def begin(self, tree: Tree) -> bool:
        """Whether to read a tree; False, and counted, where the same is read under another spelling."""
        start = tree.base + tree.lead
        real, wanted = os.path.realpath(_path(start)), tree.pattern[tree.lead.count("/") :]
        is_first = self._starts.setdefault((real, wanted), start) == start
        others = ((base, other) for base, other in self._bases if not tree.base.startswith(other.base))
        if is_first and (tree.pattern or not any(self._holds(*other, real) for other in others)):
            return True
        self.counts[TWICE] += 1
        return False

    def _holds(self, base: str, other: Tree, real: str) -> bool:
        """Whether all of the folder `real` is read by its own path as a part of another tree."""
        if other.pattern or real == base or not _is_below(real, base):
            return False
        return not self._leaves_out(other, _name_below(base, real))

    def _leaves_out(self, tree: Tree, folder: str) -> bool:
        """Whether a tree does not get to a folder below its base: for its name, or for a closed one above."""
        rules = self.rules.below(tree)
        names = folder.split("/")[:-2]
        above = (_path(tree.base + "/".join(names[: k + 1])) for k in range(len(names)))
        is_closed = rules.skip_unreadable and not all(os.access(path, os.R_OK) for path in above)
        return is_closed or bool(rules.find_hidden(folder) or rules.find_excluded(folder))

    def follow(self, tree: Tree, relative: str, chain: Chain) -> Chain | None:
        """The chain of links with this one, to a folder at `relative`; None to pass it by. Raises OSError.

        `chain`: the real folders of the links above it. Counts what becomes of it.
        """
        path = _path(tree.base + relative.rstrip("/"))
        real, holder = os.path.realpath(path), os.path.realpath(path.parent)
        how = FOLLOWED
        own_base = os.path.realpath(_path(tree.base))
        if any(_is_below(folder, real) for folder in (holder, *chain, own_base)):
            how = LOOP
        elif not self.mark(tree, relative):
            how = TWICE
        self.counts[how] += 1
        return (*chain, real) if how == FOLLOWED else None

    def mark(self, tree: Tree, relative: str) -> bool:
        """Note that a folder is read now; False if the same of it was read before, or comes by its own path.

        Raises OSError.
        """
        if self._comes_by_itself(tree, relative, os.path.realpath(_path(tree.base + relative))):
            return False
        info = _path(tree.base + relative).stat()
        wanted = _describe_rest(tree, relative)
        if wanted is None:
            return True
        key = (info.st_dev, info.st_ino, wanted)
        is_new = key not in self._read
        self._read.add(key)
        return is_new

    def _comes_by_itself(self, tree: Tree, relative: str, real: str) -> bool:
        """Whether the same of the folder `real` is read by its own path, as it lies in a tree."""
        wanted = _describe_rest(tree, relative)
        for base, other in self._bases:
            if wanted is not None and _is_below(real, base):
                own = _name_below(base, real)
                same = not other.pattern or _describe_rest(other, own) == wanted
                if same and other.enters(own) and not self._leaves_out(other, own):
                    return True
        return False


def _describe_rest(tree: Tree, folder: str) -> Hashable:
    """What a tree wants of a folder that it enters, equal for folders of which it wants the same.

    None where that depends on the folder's own names, as for `**/x/*.jpg`.
    """
    pattern, depth = tree.pattern, folder.count("/")
    if "**" in pattern:
        at = pattern.index("**")
        return (pattern, min(depth, at)) if len(pattern) <= at + 2 else None
    return (pattern, depth) if pattern else ()


def _name_below(base: str, real: str) -> str:
    """A folder's encoded path below another, ending in `/`."""
    return encode_name(real[len(base.rstrip("/")) + 1 :]) + "/"


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
        return self._folder(self.tree.lead, ()) if self.links.begin(self.tree) else iter(())

    def _folder(self, below: str, chain: Chain) -> Iterator[File]:
        try:
            with os.scandir(_path(self.tree.base + below)) as listed:
                items = [(encode_name(item.name), _is_folder(item), item) for item in listed]
        except OSError as error:
            yield from self._explain(below, error)
            return
        names = {name for name, _, _ in items}
        if (
            below
            and not (self.tree.pattern or self.rules.include_hidden)
            and (LEASE in names or names >= RUN)
        ):
            yield File(self.tree.base + below, below, hidden=f"run of maskbatch ({NOT_ENTERED})")
            return
        for relative, exact, item in self.tree.select(below, items):
            if exact is None:
                yield from self._enter(relative, item, chain)
            elif hidden := self.rules.find_hidden(relative):
                yield File(self.tree.base + relative, relative, exact=exact, hidden=hidden)
            else:
                yield from self._file(item, relative, exact)

    def _enter(self, relative: str, item: "os.DirEntry[str]", chain: Chain) -> Iterator[File]:
        label = self.rules.find_snapshot(relative)
        if label or item.is_symlink():
            label = label or self.rules.explain_closed(relative)
        if label:
            yield File(self.tree.base + relative, relative, hidden=label)
            return
        entered: Chain | None = chain
        try:
            if item.is_symlink():
                entered = self.links.follow(self.tree, relative, chain)
            elif chain and not self.links.mark(self.tree, relative):
                return  # another link has led here
        except OSError as error:
            yield from self._explain(relative, error)
            return
        if entered is not None:
            yield from self._folder(relative, entered)

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
