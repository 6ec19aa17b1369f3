"""The keys of a bucket, page by page, and a tree of them split into prefixes that are listed side by side."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from maskbatch.archives.tree import PREFIXES, File, Page, Part, Tree
from maskbatch.stores.uris import encode_name

if TYPE_CHECKING:
    from maskbatch.stores.s3 import S3
from maskbatch.stores.s3 import Keys

MAX_DEPTH = 6
"""Levels of folders that a listing looks into for prefixes to list side by side."""


MAX_LEVEL_PAGES = 20
"""Pages of one level that it reads for that; a level of more keys is listed as it comes."""


class BucketTree:
    """Lists one tree of a bucket."""

    def __init__(self, store: "S3", tree: Tree) -> None:
        self.store, self.tree = store, tree
        self.base, self.stem = store.key(tree.base), store.key(tree.base + tree.stem)

    def parts(self) -> Iterator[Part]:
        """The tree as prefixes to be listed, and the files between them, in the order of the keys."""
        yield from self._split(self.store.key(self.tree.base + self.tree.lead), 0)

    def _split(self, prefix: str, depth: int) -> Iterator[Part]:
        """`prefix`, a key ending in `/` or empty, split until there are several prefixes in it."""
        level = list(islice(self._pages(max(prefix, self.stem, key=len), Delimiter="/"), MAX_LEVEL_PAGES + 1))
        folders = [folder for page in level for folder in page.folders if self._enters(folder)]
        if len(level) > MAX_LEVEL_PAGES:
            yield partial(self._below, prefix)
            return
        files = {key: (key, size, etag) for page in level for key, size, etag in page.keys}
        for key in sorted([*folders, *files], key=str.encode):
            if key in files:
                yield self._files([files[key]])
            elif len(folders) < PREFIXES and depth < MAX_DEPTH:
                yield from self._split(key, depth + 1)
            else:
                yield partial(self._below, key)

    def _enters(self, folder: str) -> bool:
        return self.tree.enters(encode_name(folder[len(self.base) :]))

    def _below(self, prefix: str) -> Iterator[Page]:
        for page in self._pages(max(prefix, self.stem, key=len)):
            yield self._files(page.keys)

    def _pages(self, prefix: str, **params: str) -> Iterator[Keys]:
        page = Keys([], [], "")
        while page.token is not None:
            token = {"ContinuationToken": page.token} if page.token else {}
            page = self.store.page(Prefix=prefix, **token, **params)
            yield page

    def _files(self, keys: list[tuple[str, int, str | None]]) -> Page:
        files = []
        for key, size, etag in keys:
            relative = encode_name(key[len(self.base) :])
            exact = self.tree.takes(relative)
            if exact is not None and not (key.endswith("/") and size == 0):
                files.append(File(self.tree.base + relative, relative, size, etag, exact=exact))
        return files
