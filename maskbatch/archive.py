"""What lies in an archive: every file below a local folder, in a stable order, nothing opened.

Local folders today; an object store, a tar or a manifest adds a function beside `walk`.
"""

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from maskbatch.errors import UsageError

IMAGE_EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif")
)
SCHEME = "file://"


@dataclass(frozen=True, slots=True)
class Entry:
    """One image file of an archive."""

    uri: str
    relative: str
    """Path below the archive's root, with `/`, percent-encoded like the uri."""
    num_bytes: int | None = None
    version: str | None = None
    """Changes whenever the file does: its mtime in nanoseconds."""
    refused: str | None = None
    """Why it is never read, for something with an image's name that is no file."""


def local_root(archive: str) -> Path:
    """The absolute folder that a command-line ARCHIVE names, there or not. Raises UsageError for a store."""
    path = archive.removeprefix(SCHEME)
    if "://" in path:
        raise UsageError(f"archive {archive}: only local folders can be read yet; copy or mount it first")
    return Path(os.path.normpath(Path(path).expanduser().absolute()))


def check_root(root: Path) -> None:
    """Raises UsageError unless `root` is a folder."""
    if not root.exists():
        raise UsageError(f"archive {root}: no such folder; check the path")
    if not root.is_dir():
        raise UsageError(
            f"archive {root}: a file; only folders of images can be read yet (unpack a tar or zip first)"
        )


def encode_name(name: str) -> str:
    """A file name as it stands in a uri: percent-encoded only where it would be ambiguous or is not UTF-8."""
    name = re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", name).replace("::", "%3A%3A")
    return re.sub("[\udc80-\udcff]", lambda bad: f"%{os.fsencode(bad[0])[0]:02X}", name)


def local_path(uri: str) -> bytes:
    """The path that a `file://` uri made by `walk` stands for, as the bytes that the system uses."""
    path = uri.removeprefix(SCHEME)
    return unquote_to_bytes(path) if "%" in path else path.encode()


def walk(root: Path, skipped: Counter[str], covered: frozenset[Path] = frozenset()) -> Iterator[Entry]:
    """Every image file below `root`, by uri bytewise, holding one folder's names at a time.

    What is not planned is counted in `skipped` by what it is. Folders in `covered` are skipped:
    another archive argument lists them. Raises UsageError for a folder that cannot be listed.
    """
    check_root(root)
    yield from _walk(root, "", f"{SCHEME}{encode_name(str(root)).rstrip('/')}/", skipped, covered)


def _walk(
    folder: Path, relative: str, prefix: str, skipped: Counter[str], covered: frozenset[Path]
) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as found:
            items = [(encode_name(item.name), item) for item in found]
    except OSError as error:
        message = f"cannot list {folder}: {error.strerror}; mend it, or name the folders that can be read"
        raise UsageError(message) from error
    # A folder sorts as `name/`, which makes the walk's order the bytewise order of whole paths.
    tree = [(f"{name}/" if item.is_dir(follow_symlinks=False) else name, item) for name, item in items]
    for name, item in sorted(tree, key=lambda pair: pair[0].encode()):
        if not name.endswith("/"):
            entry = _entry(item, relative + name, prefix + name, skipped)
            if entry is not None:
                yield entry
        elif Path(item.path) in covered:
            skipped["folder of another archive argument"] += 1
        else:
            if Path(item.name).suffix.lower() in IMAGE_EXTENSIONS:
                skipped["folder named like an image"] += 1
            yield from _walk(Path(item.path), relative + name, prefix + name, skipped, covered)


def _entry(item: "os.DirEntry[str]", relative: str, uri: str, skipped: Counter[str]) -> Entry | None:
    extension = os.path.splitext(item.name)[1].lower()
    try:
        info = item.stat()
    except OSError:  # a dangling link, or gone since: planned, and found missing when it is read
        info = None
    if info and stat.S_ISDIR(info.st_mode):
        skipped["link to a folder (not followed)"] += 1
        return None
    if extension not in IMAGE_EXTENSIONS:
        skipped[extension or "no extension"] += 1
        return None
    if info is None:
        return Entry(uri, relative)
    if not stat.S_ISREG(info.st_mode):
        return Entry(uri, relative, refused="not a regular file")
    return Entry(uri, relative, info.st_size, str(info.st_mtime_ns))
