"""Files that are no snapshots, known by name: thumbnails, bins, file-system snapshots, temporary files.

One rule for folders, buckets, tars, zips and S3 Inventories; what a manifest or an ARCHIVE argument itself
names is read. `rules.find_hidden("cam/@eaDir/x.jpg/THUMB.jpg")` is `@eaDir`: the outermost name counts.
"""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from maskbatch.archives.tree import Tree, matches
from maskbatch.config import PlanConfig
from maskbatch.stores.uris import encode_name

SNAPSHOTS = (
    ".snapshot", ".snapshots", ".snap", ".ckpt", ".zfs", "#snapshot", "~snapshot", "@Recently-Snapshot",
    "@sharesnap", "@GMT-*",
)  # fmt: skip
"""Folders with earlier states of all the others, perhaps hundreds: counted, never entered."""
FOLDERS = (
    "@eaDir", ".@__thumb", ".thumbnails", "#recycle", "@Recycle", "@sharebin", "$RECYCLE.BIN", "Recycle Bin",
    ".Trash-*", ".Trashes", ".Trash", "Network Trash Folder", "Temporary Items", ".TemporaryItems", "@tmp",
    ".stversions", "files_trashbin", "files_versions", "lost+found", "System Volume Information", "__MACOSX",
    ".AppleDouble", ".Spotlight-V100", ".fseventsd", ".git",
)  # fmt: skip
FILES = (
    "._*", ".DS_Store", "Thumbs.db", "~$*", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.tmp",
    "*.temp",
)  # fmt: skip
DOT_FOLDER, DOT_FILE = ".*/", ".*"
"""All other names that begin with a dot, but `.` and `..`."""
NOT_ENTERED = "a folder, not entered"
EXCLUDED, NOT_FOLLOWED = "--exclude-path", "a link or a closed folder, not entered"


def _compile(globs: tuple[str, ...]) -> re.Pattern[str]:
    """One pattern for a whole name, in any case; its groups are the globs, then other names with a dot."""
    groups = ["[^/]*".join(map(re.escape, glob.split("*"))) for glob in globs]
    choices = "|".join(f"({group})" for group in (*groups, r"\.(?!\.?\Z).*"))
    return re.compile(choices, re.IGNORECASE | re.DOTALL)


FOLDER_LABELS, FILE_LABELS = (*SNAPSHOTS, *FOLDERS, DOT_FOLDER), (*FILES, DOT_FILE)
LABELS = FOLDER_LABELS + FILE_LABELS
FOLDER_NAME, FILE_NAME = _compile((*SNAPSHOTS, *FOLDERS)), _compile(FILES)


def _label_folder(name: str) -> str | None:
    match = FOLDER_NAME.fullmatch(name)
    return FOLDER_LABELS[(match.lastindex or 0) - 1] if match else None


def _label_file(name: str) -> str | None:
    match = FILE_NAME.fullmatch(name)
    return FILE_LABELS[(match.lastindex or 0) - 1] if match else None


@lru_cache(maxsize=1024)
def _label_path(folders: str, named: tuple[str, ...]) -> str | None:
    """The label of the outermost of these folders that has one; many files in a row ask for the same."""
    wild = (name for name in folders.split("/") if not _is_named(name, named))
    return next(filter(None, map(_label_folder, wild)), None)


def _is_named(name: str, named: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, wanted) for wanted in named)


@dataclass(frozen=True, slots=True)
class Rules:
    """What is left out of an archive."""

    include_hidden: bool = False
    exclude: tuple[str, ...] = ()
    """Patterns of --exclude-path."""
    skip_unreadable: bool = False
    named: tuple[str, ...] = ()
    """Hidden names that the ARCHIVE argument's own pattern has, such as `.cam*`: they are wanted."""

    @classmethod
    def of(cls, config: PlanConfig) -> "Rules":
        return cls(config.include_hidden, config.exclude_path, config.skip_unreadable)

    def below(self, tree: Tree) -> "Rules":
        """The rules for what a pattern matches."""
        named = tuple(name for name in tree.pattern if _label_folder(name) or _label_file(name))
        return replace(self, named=named)

    def find_hidden(self, relative: str) -> str | None:
        """The first of LABELS that leaves out a path below the archive, which ends in `/` for a folder."""
        if self.include_hidden:
            return None
        folders, _, name = relative.rpartition("/")
        label = _label_path(folders, self.named) if folders else None
        return label or (None if self.named and _is_named(name, self.named) else _label_file(name))

    def find_excluded(self, relative: str) -> str | None:
        """The first pattern of --exclude-path that leaves out a path below the archive."""
        return next((p for p in self.exclude if _excludes(p, relative)), None) if self.exclude else None

    def explain_closed(self, folder: str) -> str | None:
        """As what to count a folder, a path ending in `/`, that is left out anyway and may not be read."""
        if label := self.find_hidden(folder):
            return f"{label} ({NOT_ENTERED})"
        pattern = self.find_excluded(folder)
        return pattern and f"{EXCLUDED} {pattern} ({NOT_FOLLOWED})"

    def find_snapshot(self, folder: str) -> str | None:
        """As what to count a folder of earlier states, a path ending in `/`; None for any other."""
        last = folder.rstrip("/").rpartition("/")[2]
        is_snapshot = _label_folder(last) in SNAPSHOTS and self.find_hidden(folder)
        return self.explain_closed(folder) if is_snapshot else None


RULES = Rules()
"""Where nobody asks for others."""


@lru_cache(maxsize=64)
def _split(pattern: str) -> tuple[str, ...]:
    return tuple(encode_name(pattern).rstrip("/").split("/"))


def _excludes(pattern: str, relative: str) -> bool:
    """Whether a pattern matches a path or a folder above it; one without `/` matches any one name."""
    names, segments = relative.rstrip("/").split("/"), _split(pattern)
    if len(segments) == 1:
        return any(fnmatch.fnmatchcase(name, segments[0]) for name in names)
    return any(matches(names[:k], segments) for k in range(1, len(names) + 1))


def count_hidden(uris: Iterable[str], trees: Iterable[Tree], rules: Rules) -> int:
    """How many of these planned uris, of files of the trees and members of any container, are left out."""
    below = sorted(((tree.base, rules.below(tree)) for tree in trees), key=lambda pair: -len(pair[0]))
    count = 0
    for uri in uris:
        member, _, container = uri.rpartition("::")
        place = next(((base, own) for base, own in below if container.startswith(base)), None)
        label = rules.find_hidden(member.partition("://")[2]) if member else None
        count += bool(label or (place and place[1].find_hidden(container.removeprefix(place[0]))))
    return count
