"""Files of a run directory, in a local folder or below a store's prefix. Each appears whole, or not at all.

Relies on no rename of anything visible, and lists nothing whose name is known.
"""

import errno
import json
import os
import re
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from upath import UPath

from maskbatch.errors import FAILED, MaskbatchError, RunFailedError, UsageError
from maskbatch.stores.filesystem import list_paths, open_filesystem
from maskbatch.stores.options import NO_OPTIONS, StorageOptions
from maskbatch.stores.uris import SCHEME, Text, expand_path, parse_argument

STORE_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("azure.core.exceptions", "AzureError"),
)
PARTIAL = re.compile(r"\..+\.((?P<place>[0-9a-f]{8})-(?P<pid>\d{1,9})-)?[0-9a-f]{32}")
"""Names of files being written, with the writer's place and process; earlier ones had only a number."""
LEFT_S = 3600.0
"""After so long without a write, a file of a process elsewhere is left over."""
MAX_DEPTH = 64
"""Levels of JSON. What we write has ten at most; Python gives up at a thousand, or at a third of that."""
Location = Path | UPath
"""A path of this machine or of a store."""
Check = Callable[[], None]
"""Called right before a file is replaced or removed; raises where that may not be done any more."""


def no_check() -> None:
    """Let anything be done."""


def locate_folder(url: Text, options: StorageOptions = NO_OPTIONS) -> Location:
    """The local folder, absolute, or the prefix of a store that `url` names. Raises UsageError."""
    url = os.fspath(url)
    try:
        place = parse_argument(url)
        if place.root == SCHEME:
            return expand_path(re.sub("^(file|local)://", "", url, flags=re.IGNORECASE))
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from error
    url = place.root + place.path.rstrip("/")
    if place.login or re.search(r"[*?\[]|::", url):  # fsspec takes them for credentials, patterns and chains
        what = "name each folder; * ? [ :: cannot stand in its URL, and credentials go to --storage-options"
        raise UsageError(f"{url}: {what}")
    if url.startswith("http"):
        raise UsageError(f"{url}: a web server cannot hold a run; name a folder or a bucket")
    chosen = options.of(url)
    open_filesystem(url, chosen)
    path: UPath = UPath(url, use_listings_cache=False, **chosen)
    return path


def store_errors() -> tuple[type[Exception], ...]:
    """What reading or writing a Location may raise; a store's own errors once its library is loaded."""
    known = ((sys.modules.get(module), name) for module, name in STORE_ERRORS)
    # while another thread imports a library, it has only some of its names
    return (OSError, *(getattr(module, name) for module, name in known if hasattr(module, name)))


def known_errors() -> tuple[type[Exception], ...]:
    """What a person, a disk or a store can cause; `describe_failure` says it in one sentence."""
    return (MaskbatchError, *store_errors())


def explain(error: BaseException) -> str:
    """The first line of an error's message, or of the store's answer behind it."""
    answer = _answer(error).get("Error", {})
    said = answer.get("Message") or answer.get("Code") or getattr(error, "strerror", None) or str(error)
    return next(iter(str(said).strip().splitlines()), type(error).__name__)


def describe_failure(error: Exception) -> tuple[str, int]:
    """What a person is told of an error of ours, of a disk or of a store, and the exit code."""
    if isinstance(error, MaskbatchError):
        return str(error), error.exit_code
    name = getattr(error, "filename", None)
    where = f"{os.fsdecode(name)}: " if name else ""
    return f"{where}{explain(error)}; check the path and your access to it", FAILED


def _answer(error: BaseException) -> dict[str, Any]:
    """S3's answer, if s3fs made its error from one."""
    return dict(getattr(error.__cause__, "response", None) or {})


@contextmanager
def write_whole(
    path: Location, *, exclusive: bool = False, durable: bool = False, check: Check = no_check
) -> Iterator[Path]:
    """A temporary local path that becomes `path` if the block ends well, and otherwise leaves nothing.

    In a store it becomes one object by one put. `durable`: its bytes are on the disk before its name.
    `exclusive`: FileExistsError if the file system or the store says that `path` exists. `check` is called
    last. A full or read-only disk, or a refused put, raises RunFailedError.
    """
    try:
        with (
            _moved(path, exclusive, durable, check)
            if isinstance(path, Path)
            else _put(path, exclusive, check)
        ) as partial:
            yield partial
    except FileExistsError:
        raise
    except store_errors() as error:
        remedy = f"{'make room or ' if isinstance(path, Path) else ''}give access, then run the same command"
        raise RunFailedError(f"cannot write {path}: {explain(error)}; {remedy}") from error


@contextmanager
def _moved(path: Path, exclusive: bool, durable: bool, check: Check) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.{identify_place()}-{os.getpid()}-{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        check()
        if exclusive:
            _create(path, partial)
        else:
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _put(path: UPath, exclusive: bool, check: Check) -> Iterator[Path]:
    with TemporaryDirectory(prefix="maskbatch-") as scratch:
        partial = Path(scratch) / path.name
        yield partial
        check()
        try:
            path.fs.pipe_file(path.path, partial.read_bytes(), **({"mode": "create"} if exclusive else {}))
        except OSError as error:
            if _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode") == 412:
                # s3fs recognises this by a part of the answer that only AWS sends
                raise FileExistsError(str(path)) from error
            raise


@cache
def identify_place() -> str:
    """A hash of where process numbers mean what they mean here.

    A host name does not say it: containers may share one, and each may count its processes from 1.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):  # no Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return blake2b("\n".join(parts).encode(), digest_size=4).hexdigest()


def remove_leftovers(folder: Location, *, of_anyone: tuple[str, ...] = ()) -> None:
    """Remove what `write_whole` has left in a local folder for lack of an end, but nothing of a live process.

    Of a process elsewhere we know only for how long it has not written. `of_anyone`: files that the caller
    alone may write now.
    """
    if not isinstance(folder, Path):
        return  # a store has whole objects only
    own = tuple(f".{name}." for name in of_anyone)
    for name in list_names(folder):
        match, is_own = PARTIAL.fullmatch(name), name.startswith(own)
        with suppress(OSError):  # its writer was faster
            if (match or is_own) and _is_left(folder / name, match, is_own=is_own):
                (folder / name).unlink()


def _is_left(path: Path, match: re.Match[str] | None, *, is_own: bool) -> bool:
    """Whether nobody writes this file any more. `is_own`: another driver would have to hold the lease."""
    if match and match["place"] == identify_place():
        return not is_process_alive(int(match["pid"]))
    return is_own or time.time() - path.stat().st_mtime > LEFT_S


def is_process_alive(pid: int) -> bool:
    """Whether this machine has such a process, perhaps another user's."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _create(path: Path, partial: Path) -> None:
    """Make `path` from `partial`. Raises FileExistsError if it exists."""
    try:
        os.link(partial, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        with path.open("xb") as file:  # a file system without hard links
            file.write(partial.read_bytes())


def write_json(
    path: Location, values: dict[str, Any], *, exclusive: bool = False, check: Check = no_check
) -> None:
    """Write `values` as sorted JSON, durably; see `write_whole`."""
    with write_whole(path, exclusive=exclusive, durable=True, check=check) as partial:
        partial.write_text(json.dumps(values, indent=2, sort_keys=True, default=str) + "\n")


def parse_json(data: str | bytes) -> Any:
    """What JSON of a file or a store says. Raises ValueError, also for what is nested beyond all use."""
    try:
        values = json.loads(data)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep") from error
    level = [values]
    for _ in range(MAX_DEPTH):
        level = [item for part in level if isinstance(part, (dict, list)) for item in _items(part)]
    if level:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return values


def _items(part: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return part.values() if isinstance(part, dict) else part


def open_file(path: Location) -> IO[bytes]:
    """`path` for reading; in a store, each range is one request."""
    file: IO[bytes] = path.open("rb") if isinstance(path, Path) else path.open("rb", cache_type="none")
    return file


def list_names(folder: Location, at_most: int | None = None) -> list[str]:
    """Names directly below `folder`, sorted, of a store only the first ones; none if it does not exist."""
    try:
        if isinstance(folder, Path):
            return sorted(item.name for item in folder.iterdir())
        here = folder.path.rstrip("/")
        paths = list_paths(folder.fs, here, at_most)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(path.rpartition("/")[2] for path in paths if path != here)  # a folder may be an object too


def num_threads(folder: Location) -> int:
    """Files to read at a time."""
    return 8 if isinstance(folder, Path) else 32


def find_names(folder: Location) -> list[str]:
    """Every file below `folder`, named from it, sorted; none if it does not exist."""
    if isinstance(folder, Path):  # a link to a folder counts as a file: some readers follow it
        found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        return sorted(path.relative_to(folder).as_posix() for path in found)
    here = folder.path.rstrip("/") + "/"
    with suppress(FileNotFoundError):
        return sorted(path.removeprefix(here) for path in folder.fs.find(here))
    return []


def remove_files(folder: Location, check: Check, kept: Collection[str] = ()) -> None:
    """Remove the files below `folder` one by one, `check` before each, but not those `kept`.

    Raises RunFailedError if a store or a disk refuses.
    """
    try:
        for name in find_names(folder):
            if name not in kept:
                check()
                (folder / name).unlink(missing_ok=True)
    except store_errors() as error:
        raise _refuse_removal(folder, error) from error
    if isinstance(folder, Path):
        for place in sorted((path for path in (folder, *folder.rglob("*")) if path.is_dir()), reverse=True):
            with suppress(OSError):  # it holds a file
                place.rmdir()


def _refuse_removal(folder: Location, error: Exception) -> RunFailedError:
    return RunFailedError(f"cannot remove {folder}: {explain(error)}; give access, then run the same command")


def remove_tree(folder: Location) -> None:
    """Remove a folder and all below it, if it exists. Raises RunFailedError if a store refuses."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        with suppress(FileNotFoundError):
            folder.fs.rm(folder.path, recursive=True)
    except store_errors() as error:
        raise _refuse_removal(folder, error) from error
