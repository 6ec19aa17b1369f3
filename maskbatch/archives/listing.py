"""Every file below a folder of any store, in the order of the paths, without opening a file.

Memory stays bounded: local folders are walked; a bucket is listed by prefix, several in parallel,
each a few pages ahead of what the caller has taken.
"""

import os
import queue
import stat
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

from maskbatch.archives.tree import PREFIXES, File, Page, Part, Tree
from maskbatch.errors import UsageError
from maskbatch.stores.access import Access
from maskbatch.stores.filesystem import Fsspec, fsspec_info
from maskbatch.stores.uris import encode_name, local_path

PAGES_AHEAD = 16
"""Pages of 1,000 keys that each of them may be ahead: 50 MB in all."""


def list_tree(tree: Tree, access: Access, skipped: Counter[str]) -> Iterator[File]:
    """The files of `tree` in the bytewise order of their paths. Counts links to folders in `skipped`.

    Raises UsageError if a folder cannot be listed.
    """
    if tree.base.startswith("file://"):
        yield from _walk(tree, tree.lead, skipped)
        return
    store = access.store(tree.base)
    if isinstance(store, Fsspec):
        yield from merge_parts(_fsspec_parts(tree, store, tree.lead))
    else:
        from maskbatch.archives.s3_listing import BucketTree
        from maskbatch.stores.s3 import S3

        yield from merge_parts(BucketTree(cast(S3, store), tree).parts())


def _walk(tree: Tree, below: str, skipped: Counter[str]) -> Iterator[File]:
    folder = Path(os.fsdecode(local_path(tree.base + below)))
    try:
        with os.scandir(folder) as found:
            items = [(encode_name(item.name), item) for item in found]
    except OSError as error:
        if below == tree.lead != "" and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return  # a template's day without a folder
        message = f"cannot list {folder}: {error.strerror}; mend it, or name the folders that can be read"
        raise UsageError(message) from error
    # Folders sort as `name/`: this gives the bytewise order of whole paths.
    names = [(f"{name}/" if item.is_dir(follow_symlinks=False) else name, item) for name, item in items]
    for name, item in sorted(names, key=lambda pair: pair[0].encode()):
        if name.endswith("/"):
            if tree.enters(below + name):
                yield from _walk(tree, below + name, skipped)
        else:
            exact = tree.takes(below + name)
            if exact is not None:
                yield from _local_file(item, tree, below + name, exact, skipped)


def _local_file(
    item: "os.DirEntry[str]", tree: Tree, relative: str, exact: bool, skipped: Counter[str]
) -> Iterator[File]:
    uri = tree.base + relative
    try:
        info = item.stat()
    except OSError:  # a dangling link or a deleted file: reading it will report it missing
        yield File(uri, relative, exact=exact)
        return
    if stat.S_ISDIR(info.st_mode):
        skipped["link to a folder (not followed)"] += 1
    elif not stat.S_ISREG(info.st_mode):
        yield File(uri, relative, error="not a regular file", exact=exact)
    else:
        yield File(uri, relative, info.st_size, str(info.st_mtime_ns), exact=exact)


def _fsspec_parts(tree: Tree, store: Fsspec, below: str) -> Iterator[Part]:
    """A folder's files and the folders to list, in the order of their paths."""
    folder = tree.base + below
    try:
        found = store.files.ls(store.path(folder), detail=True)
    except FileNotFoundError:
        if below == tree.lead != "":
            return
        raise UsageError(f"archive {folder}: nothing is there; check the URL") from None
    except Exception as error:  # each file system has its own kinds
        message = (
            f"cannot list {folder}: {type(error).__name__}: {error}; check the URL and your access to it"
        )
        raise UsageError(message) from error
    names = []
    own = store.path(folder).rstrip("/")
    for info in found:
        if str(info["name"]).rstrip("/") == own:
            continue  # the folder's own marker, or a file of its name
        name = encode_name(str(info["name"]).rstrip("/").rpartition("/")[2])
        names.append((f"{name}/" if info["type"] == "directory" else name, info))
    for name, info in sorted(names, key=lambda pair: pair[0].encode()):
        relative = below + name
        if name.endswith("/"):
            if tree.enters(relative):
                yield partial(_below, tree, store, relative)
        else:
            exact = tree.takes(relative)
            if exact is not None:
                yield [File(tree.base + relative, relative, *fsspec_info(info), exact=exact)]


def _below(tree: Tree, store: Fsspec, folder: str) -> Iterator[Page]:
    for part in _fsspec_parts(tree, store, folder):
        if callable(part):
            yield from part()
        else:
            yield part


def merge_parts(parts: Iterable[Part]) -> Iterator[File]:
    """The files of `parts` in their order. Lists up to PREFIXES of them ahead, in threads."""
    stop = threading.Event()
    ahead: deque[Page | queue.Queue[Page | BaseException | None]] = deque()
    todo, running = iter(parts), 0
    try:
        while True:
            while running < PREFIXES and len(ahead) < 4096:
                part = next(todo, None)
                if part is None:
                    break
                if callable(part):
                    pages: queue.Queue[Page | BaseException | None] = queue.Queue(PAGES_AHEAD)
                    # No pool: with one, Ctrl-C waits until a hung store times out.
                    threading.Thread(target=_fill, args=(part, pages, stop), daemon=True).start()
                    ahead.append(pages)
                    running += 1
                else:
                    ahead.append(part)
            if not ahead:
                return
            first = ahead.popleft()
            if isinstance(first, list):
                yield from first
            else:
                running -= 1
                yield from _drain(first)
    finally:
        stop.set()


def _fill(
    listing: Callable[[], Iterator[Page]],
    pages: "queue.Queue[Page | BaseException | None]",
    stop: threading.Event,
) -> None:
    last: BaseException | None = None
    try:
        for page in listing():
            _put(pages, page, stop)
            if stop.is_set():
                return
    except BaseException as error:  # the waiting thread must see whatever ends this one
        last = error
    _put(pages, last, stop)


def _put(
    pages: "queue.Queue[Page | BaseException | None]",
    item: Page | BaseException | None,
    stop: threading.Event,
) -> None:
    while not stop.is_set():
        try:
            pages.put(item, timeout=0.5)
        except queue.Full:
            continue
        return


def _drain(pages: "queue.Queue[Page | BaseException | None]") -> Iterator[File]:
    while (page := pages.get()) is not None:
        if isinstance(page, BaseException):
            raise page
        yield from page
