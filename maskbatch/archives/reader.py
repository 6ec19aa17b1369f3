"""The images of every ARCHIVE argument as one stream of entries.

Order: the arguments', then by path bytewise; inside a tar, zip, Parquet file or manifest, its own.
"""

import io
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch.archives import manifest, members, rowfiles, tars, zips
from maskbatch.archives.arguments import UNREACHABLE, Source, explain_unreachable, file_kind, find_sources
from maskbatch.archives.entries import Entry, is_image
from maskbatch.archives.listing import list_tree
from maskbatch.archives.tree import File
from maskbatch.archives.unique import keep_first, keep_unique
from maskbatch.config import PlanConfig
from maskbatch.errors import UsageError
from maskbatch.stores.access import Access
from maskbatch.stores.base import RefusedError, TooLargeError
from maskbatch.stores.fetch import fetch_bytes, fetch_info
from maskbatch.stores.remote_file import RemoteFile
from maskbatch.stores.uris import SCHEME, local_path

MANIFEST_BYTES = 2**31
"""Of a manifest whose server does not serve ranges, read whole."""


NO_RANGES = "its server does not serve ranges; copy it to a folder or a bucket"


def list_entries(
    config: PlanConfig, access: Access, skipped: Counter[str], notes: Counter[str]
) -> Iterator[Entry]:
    """Every image of the archives, each uri once. What is none is counted in `skipped`. Raises UsageError."""
    found = find_sources(config, access)
    stream = chain.from_iterable(
        _Reader(source, config, access, skipped, notes).entries() for source in found
    )
    if not _may_repeat(found):
        return stream
    return keep_unique(stream, skipped) if config.limit is None else keep_first(stream, skipped)


def _may_repeat(found: list[Source]) -> bool:
    stems = sorted(source.stem for source in found)
    overlap = any(later.startswith(stem) for stem, later in pairwise(stems))
    return overlap or any(source.may_repeat for source in found)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one source into entries."""

    source: Source
    config: PlanConfig
    access: Access
    skipped: Counter[str]
    notes: Counter[str]

    def entries(self) -> Iterator[Entry]:
        files = self._files()
        if self.source.dated:
            first = next(files, None)
            if first is None:
                self.notes["day or hour of {date:...} without a file"] += 1
                return
            files = chain([first], files)
        local = self.source.tree.base.startswith(SCHEME)
        for file in files:
            name = file.relative.rpartition("/")[2]
            kind = file_kind(file.uri.removeprefix(SCHEME) if local else name) if file.exact else None
            if kind and not file.error:
                yield from self._inside(file, kind)
            elif is_image(name):
                yield _whole(file)
            elif self.source.single:
                kinds = "a folder, an image, .tar, .zip, .parquet, .csv, .jsonl or manifest.json"
                if file.uri.startswith("http"):
                    kinds = (
                        "a web server has no folders to list; a file of these, or a manifest of its images"
                    )
                where = file.uri.removeprefix(SCHEME)
                raise UsageError(f"archive {where}: its kind is not known; {kinds} expected")
            else:
                self.skipped[os.path.splitext(name)[1].lower() or "no extension"] += 1

    def _files(self) -> Iterator[File]:
        tree = self.source.tree
        if not self.source.single:
            return list_tree(tree, self.access, self.skipped)
        uri, name = tree.base + "/".join(tree.pattern), tree.pattern[-1]
        if uri.startswith("http") and not is_image(name):
            return iter([File(uri, name, exact=True)])
        try:
            return iter([File(uri, name, *fetch_info(self.access, uri), exact=True)])
        except FileNotFoundError as error:
            if self.source.dated:
                return iter(())
            raise UsageError(f"archive {uri}: nothing is there; check the path") from error
        except RefusedError:  # a server without ranges: what it has is seen when it is read
            return iter([File(uri, name, exact=True)])
        except UNREACHABLE as error:
            raise explain_unreachable(uri, error) from error

    def _inside(self, file: File, kind: str) -> Iterator[Entry]:
        if kind == "manifest":
            yield from self._listed(file)
            return
        try:
            found = self._open(file.uri)
        except FileNotFoundError as error:
            where = file.uri.removeprefix(SCHEME)
            raise UsageError(f"archive {where}: nothing is there; check the path") from error
        with closing(found) as opened:
            if isinstance(opened, io.BytesIO) and kind != ".parquet":
                raise UsageError(f"archive {file.uri}: {NO_RANGES}")
            size = opened.seek(0, io.SEEK_END)
            opened.seek(0)
            version = file.version or (opened.info.version if isinstance(opened, RemoteFile) else None)
            if kind == ".parquet":
                yield from self._rows(opened, file, version)
                return
            container = members.Container(
                file=opened,
                size=size,
                uri=file.uri,
                relative=file.relative,
                version=version,
                notes=self.notes,
            )
            index = tars.list_tar if kind == ".tar" else zips.list_zip
            yield from index(container, self.skipped, self.config.keep_column)

    def _rows(self, opened: BinaryIO, file: File, version: str | None) -> Iterator[Entry]:
        """A Parquet file's rows: images, or a manifest of them."""
        listed, named = False, self.source.single or self.source.tree.pattern[-1].endswith(".parquet")
        with suppress(pa.ArrowException, OSError):
            schema = pq.read_schema(opened)
            columns = set(map(str.lower, schema.names))
            listed = "uri" in columns or rowfiles.find_image_column(schema) is None
            own = {"id", "uri", "status", "error"} <= columns  # a run's, under a pattern like `**`
            if not named and listed and (own or not ("uri" in columns or {"bucket", "key"} <= columns)):
                self.skipped[".parquet of no images"] += 1
                return
        opened.seek(0)
        if listed:
            yield from self._listed(file)
        elif isinstance(opened, io.BytesIO):
            raise UsageError(f"archive {file.uri}: {NO_RANGES}")
        else:
            keep = self.config.keep_column
            yield from rowfiles.list_rows(
                opened, file.uri, file.relative, version, keep, self.skipped, self.notes
            )

    def _listed(self, file: File) -> Iterator[Entry]:
        yield from manifest.list_manifest(
            file.uri, file.relative, self._open, self.config.allow_prefix, self.config.keep_column,
            self.skipped, self.notes,
        )  # fmt: skip

    def _open(self, uri: str) -> BinaryIO:
        """A file of any store for reading, seekable. Raises UsageError, FileNotFoundError, OSError."""
        if uri.startswith(SCHEME):
            return open(local_path(uri), "rb")
        try:
            return cast(BinaryIO, RemoteFile(self.access, uri, fetch_info(self.access, uri)))
        except RefusedError:  # a server without ranges
            return io.BytesIO(self._read_whole(uri))
        except UNREACHABLE as error:
            raise explain_unreachable(uri, error) from error

    def _read_whole(self, uri: str) -> bytes:
        try:
            return fetch_bytes(self.access, uri, max_bytes=MANIFEST_BYTES)
        except TooLargeError as error:
            raise UsageError(f"archive {uri}: {NO_RANGES}") from error
        except UNREACHABLE as error:
            raise explain_unreachable(uri, error) from error


def _whole(file: File) -> Entry:
    return Entry(
        uri=file.uri,
        relative=file.relative,
        num_bytes=file.num_bytes,
        version=file.version,
        status="unsupported" if file.error else None,
        error=file.error,
    )
