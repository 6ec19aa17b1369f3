"""Every file below a folder of any store, in a stable order, without opening a file or holding all in memory.

Walks local folders. In a bucket, lists several prefixes at a time, each some pages ahead, and merges them in
the order of the keys.
"""

import os
import queue
import stat
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

from maskbatch.archives.tree import PREFIXES, File, Page, Part, Tree
from maskbatch.errors import UsageError
from maskbatch.stores.access import Access
from maskbatch.stores.filesystem import Fsspec, fsspec_info
from maskbatch.stores.uris import SCHEME, encode_name, local_path

PAGES_AHEAD = 16
"""Pages of 1,000 keys that each prefix may be ahead: 50 MB in all."""
Pages = queue.Queue[Page | BaseException | None]


def list_tree(tree: Tree, access: Access, skipped: Counter[str]) -> Iterator[File]:
    """The files of `tree`, by path bytewise. Counts what cannot be a file in `skipped`. Raises UsageError."""
    if tree.base.startswith(SCHEME):
        yield from _walk(tree, tree.lead, skipped)
        return
    store = access.store(tree.base)
    if tree.base.startswith("s3://"):
        from maskbatch.archives.s3_listing import BucketTree
        from maskbatch.stores.s3 import S3

        yield from merge_parts(BucketTree(cast(S3, store), tree).parts())
    else:
        yield from merge_parts(_fsspec_parts(tree, cast(Fsspec, store), tree.lead))


def _walk(tree: Tree, below: str, skipped: Counter[str]) -> Iterator[File]:
    folder = Path(os.fsdecode(local_path(tree.base + below)))
    try:
        with os.scandir(folder) as listed:
            items = [(encode_name(item.name), item.is_dir(follow_symlinks=False), item) for item in listed]
    except OSError as error:
        if below == tree.lead != "" and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return  # a day of a template that has no folder
        message = f"cannot list {folder}: {error.strerror}; mend it, or name the folders that can be read"
        raise UsageError(message) from error
    for relative, exact, item in _select(tree, below, items):
        if exact is None:
            yield from _walk(tree, relative, skipped)
        else:
            yield from _local_file(item, tree.base + relative, relative, exact, skipped)


def _select(
    tree: Tree, below: str, items: Iterable[tuple[str, bool, Any]]
) -> Iterator[tuple[str, bool | None, Any]]:
    """Of (name, is_folder, info), what may match: (path, exact or None for a folder, info)."""
    # A folder sorts as `name/`, which gives the bytewise order of whole paths.
    named = [(f"{name}/" if is_folder else name, item) for name, is_folder, item in items]
    for name, item in sorted(named, key=lambda pair: pair[0].encode()):
        if name.endswith("/"):
            if tree.enters(below + name):
                yield below + name, None, item
        elif (exact := tree.takes(below + name)) is not None:
            yield below + name, exact, item


def _local_file(
    item: "os.DirEntry[str]", uri: str, relative: str, exact: bool, skipped: Counter[str]
) -> Iterator[File]:
    try:
        info = item.stat()
    except OSError:  # a dangling link, or a file gone since: plan it, reading will report it missing
        yield File(uri, relative, exact=exact)
        return
    if stat.S_ISDIR(info.st_mode):
        skipped["link to a folder (not followed)"] += 1
    elif not stat.S_ISREG(info.st_mode):
        yield File(uri, relative, error="not a regular file", exact=exact)
    else:
        yield File(uri, relative, info.st_size, str(info.st_mtime_ns), exact=exact)


def _fsspec_parts(tree: Tree, store: Fsspec, below: str) -> Iterator[Part]:
    """A folder's files, and its folders still to list, in the order of their paths."""
    folder = tree.base + below
    try:
        infos = store.files.ls(store.path(folder), detail=True)
    except FileNotFoundError:
        if below == tree.lead != "":
            return
        raise UsageError(f"archive {folder}: nothing is there; check the URL") from None
    except Exception as error:  # each file system has its own
        what = f"cannot list {folder}: {type(error).__name__}: {error}"
        raise UsageError(f"{what}; check the URL and your access to it") from error
    own, items = store.path(folder).rstrip("/"), []
    for info in infos:
        path = str(info["name"]).rstrip("/")
        if path != own:  # the folder's own marker, or a file in its place
            items.append((encode_name(path.rpartition("/")[2]), info["type"] == "directory", info))
    for relative, exact, info in _select(tree, below, items):
        if exact is None:
            yield partial(_list_folder, tree, store, relative)
        else:
            yield [File(tree.base + relative, relative, *fsspec_info(info), exact=exact)]


def _list_folder(tree: Tree, store: Fsspec, folder: str) -> Iterator[Page]:
    for part in _fsspec_parts(tree, store, folder):
        yield from part() if callable(part) else [part]


def merge_parts(parts: Iterable[Part]) -> Iterator[File]:
    """The files of `parts`, in their order. Lists up to PREFIXES of them at a time, ahead."""
    stop = threading.Event()
    ahead: deque[Page | Pages] = deque()
    todo, running = iter(parts), 0
    try:
        while True:
            while running < PREFIXES and len(ahead) < 4096 and (part := next(todo, None)) is not None:
                if callable(part):
                    pages = Pages(PAGES_AHEAD)
                    # No pool: Ctrl-C would wait for its threads, as long as they wait for a hung store.
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


def _fill(list_part: Callable[[], Iterator[Page]], pages: Pages, stop: threading.Event) -> None:
    last: BaseException | None = None
    try:
        for page in list_part():
            _put(pages, page, stop)
            if stop.is_set():
                return
    except BaseException as error:  # the waiting thread must hear of whatever ends this one
        last = error
    _put(pages, last, stop)


def _put(pages: Pages, item: Page | BaseException | None, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            pages.put(item, timeout=0.5)
        except queue.Full:
            continue
        return


def _drain(pages: Pages) -> Iterator[File]:
    while (page := pages.get()) is not None:
        if isinstance(page, BaseException):
            raise page
        yield from page
