"""Every file below a folder of any store, in a stable order, without opening a file or holding all in memory.

Walks local folders. In a bucket, lists several prefixes at a time, each some pages ahead, and merges them in
the order of the keys.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from maskbatch.archives.hidden import RULES, Rules
from maskbatch.archives.tree import PREFIXES, File, Page, Part, Tree
from maskbatch.archives.walk import Links, Walk, pass_over
from maskbatch.errors import UsageError
from maskbatch.stores.access import Access
from maskbatch.stores.filesystem import Fsspec, fsspec_info
from maskbatch.stores.uris import SCHEME, encode_name

PAGES_AHEAD = 16
"""Pages of 1,000 keys that each prefix may be ahead: 50 MB in all."""
Pages = queue.Queue[Page | BaseException | None]


def list_tree(tree: Tree, access: Access, rules: Rules = RULES, links: Links | None = None) -> Iterator[File]:
    """The files of `tree`, by path bytewise, with those that `rules` leave out. Raises UsageError.

    `links`: the folders that links led to before.
    """
    rules = rules.below(tree)
    if tree.base.startswith(SCHEME):
        yield from Walk(tree, rules, links or Links([tree], rules)).files()
        return
    store = access.store(tree.base)
    if tree.base.startswith("s3://"):
        from maskbatch.archives.s3_listing import BucketTree
        from maskbatch.stores.s3 import S3

        yield from merge_parts(BucketTree(cast(S3, store), tree, rules).parts())
    else:
        yield from merge_parts(_Folders(tree, rules, cast(Fsspec, store)).parts(tree.lead))


@dataclass(frozen=True, slots=True)
class _Folders:
    """Lists one tree of a store that fsspec opens, folder by folder."""

    tree: Tree
    rules: Rules
    store: Fsspec

    def parts(self, below: str) -> Iterator[Part]:
        """A folder's files, and its folders still to list, in the order of their paths."""
        try:
            items = self._list(below)
        except UsageError as error:
            yield [pass_over(self.tree, self.rules, below, str(error), error)]
            return
        for relative, exact, info in self.tree.select(below, items):
            uri = self.tree.base + relative
            if exact is None:
                snapshot = self.rules.find_snapshot(relative)
                yield [File(uri, relative, hidden=snapshot)] if snapshot else partial(self._pages, relative)
            else:
                hidden = self.rules.find_hidden(relative)
                yield [File(uri, relative, *fsspec_info(info), exact=exact, hidden=hidden)]

    def _list(self, below: str) -> list[tuple[str, bool, Any]]:
        folder = self.tree.base + below
        try:
            infos = self.store.files.ls(self.store.path(folder), detail=True)
        except FileNotFoundError:
            if below == self.tree.lead != "":
                return []
            raise UsageError(f"archive {folder}: nothing is there; check the URL") from None
        except Exception as error:  # each file system has its own
            what = f"cannot list {folder}: {type(error).__name__}: {error}"
            raise UsageError(f"{what}; check the URL and your access to it") from error
        own, items = self.store.path(folder).rstrip("/"), []
        for info in infos:
            path = str(info["name"]).rstrip("/")
            if path != own:  # the folder's own marker, or a file in its place
                items.append((encode_name(path.rpartition("/")[2]), info["type"] == "directory", info))
        return items

    def _pages(self, folder: str) -> Iterator[Page]:
        for part in self.parts(folder):
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
