"""A tree of a bucket, split into prefixes that can be listed in parallel."""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice

from maskbatch.archives.hidden import Rules
from maskbatch.archives.tree import PREFIXES, File, Page, Part, Tree
from maskbatch.archives.walk import pass_over
from maskbatch.stores.s3 import RESTORE_FIRST, S3, DeniedError, Keys
from maskbatch.stores.uris import encode_name

MAX_DEPTH = 6
"""Levels of folders to search for prefixes."""
MAX_LEVEL_PAGES = 20
"""Pages of one level to read for that. A level with more keys is listed in sequence."""


class BucketTree:
    """Lists one tree of a bucket."""

    def __init__(self, store: S3, tree: Tree, rules: Rules) -> None:
        self.store, self.tree, self.rules = store, tree, rules
        self.base, self.stem = store.key(tree.base), store.key(tree.base + tree.stem)

    def parts(self) -> Iterator[Part]:
        """The prefixes to list and the files between them, in the order of the keys."""
        yield from self._split(self.store.key(self.tree.base + self.tree.lead), 0)

    def _split(self, prefix: str, depth: int) -> Iterator[Part]:
        """Split `prefix`, empty or ending in `/`, until it gives enough prefixes."""
        pages = self._pages(max(prefix, self.stem, key=len), Delimiter="/")
        try:
            level = list(islice(pages, MAX_LEVEL_PAGES + 1))
        except DeniedError as error:
            yield [self._pass_over(prefix, error)]
            return
        listed = (folder for page in level for folder in page.folders)
        folders = [folder for folder in listed if self.tree.enters(encode_name(folder[len(self.base) :]))]
        if len(level) > MAX_LEVEL_PAGES:
            yield partial(self._below, prefix)
            return
        files = {key: (key, size, etag) for page in level for key, size, etag in page.keys}
        archived = {key: storage for page in level for key, storage in page.archived.items()}
        for key in sorted([*folders, *files], key=str.encode):
            if key in files:
                yield self._files([files[key]], archived)
            elif len(folders) < PREFIXES and depth < MAX_DEPTH:
                yield from self._split(key, depth + 1)
            else:
                yield partial(self._below, key)

    def _below(self, prefix: str) -> Iterator[Page]:
        try:
            for page in self._pages(max(prefix, self.stem, key=len)):
                yield self._files(page.keys, page.archived)
        except DeniedError as error:
            yield [self._pass_over(prefix, error)]

    def _pass_over(self, prefix: str, error: DeniedError) -> File:
        return pass_over(self.tree, self.rules, encode_name(prefix[len(self.base) :]), str(error), error)

    def _pages(self, prefix: str, **params: str) -> Iterator[Keys]:
        page = Keys([], [], "")
        while page.token is not None:
            token = {"ContinuationToken": page.token} if page.token else {}
            page = self.store.list_page(Prefix=prefix, **token, **params)
            yield page

    def _files(self, keys: list[tuple[str, int, str | None]], archived: Mapping[str, str]) -> Page:
        files = []
        for key, size, etag in keys:
            relative = encode_name(key[len(self.base) :])
            exact = self.tree.takes(relative)
            if exact is not None and not (key.endswith("/") and size == 0):
                hidden = self.rules.find_hidden(relative)
                file = File(self.tree.base + relative, relative, size, etag, exact=exact, hidden=hidden)
                if key in archived:
                    error = f"archived in storage class {archived[key]}; {RESTORE_FIRST}"
                    file = file._replace(error=error, heals=True)
                files.append(file)
        return files
