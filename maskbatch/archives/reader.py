"""The images of every ARCHIVE argument as one stream of entries.

Order: by argument, then by path bytewise; inside a tar, zip, Parquet file or manifest, its own.
"""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch.archives import inventory, manifest, members, rowfiles, tars, zips
from maskbatch.archives.arguments import Source, container_kind, explain_unreachable, file_kind
from maskbatch.archives.columns import plain_column
from maskbatch.archives.entries import Entry, is_image
from maskbatch.archives.hidden import EXCLUDED, Rules
from maskbatch.archives.listing import list_tree
from maskbatch.archives.tally import UNREADABLE, Tally
from maskbatch.archives.tree import File
from maskbatch.archives.unique import keep_first, keep_unique
from maskbatch.archives.walk import Links
from maskbatch.config import PlanConfig
from maskbatch.errors import UsageError
from maskbatch.stores.access import Access
from maskbatch.stores.base import Info, RefusedError, TooLargeError
from maskbatch.stores.fetch import fetch_bytes, fetch_info
from maskbatch.stores.remote_file import RemoteFile
from maskbatch.stores.uris import SCHEME, local_path

MANIFEST_BYTES = 2**31
"""The largest manifest that is read whole, because its server does not serve ranges."""
KINDS = "a folder, an image, .tar, .zip, .parquet, .csv, .tsv, .jsonl (also .gz) or manifest.json"
WEB_KINDS = "a web server has no folders to list; a file of these, or a manifest of its images"
NO_RANGES = "its server does not serve ranges; copy it to a folder or a bucket"

FROM_FILE = ("uri", "relative", "num_bytes", "version", "error")


def list_entries(
    sources: Sequence[Source], config: PlanConfig, access: Access, tally: Tally
) -> Iterator[Entry]:
    """Every image of the archives, each uri once. Counts the rest in `tally`. Raises UsageError."""
    rules = Rules.of(config)
    links = Links([source.tree for source in sources if not source.file], rules, tally.links)
    readers = [_Reader(source, config, access, tally, rules, links) for source in sources]
    entries = chain.from_iterable(reader.entries() for reader in readers)
    stems = sorted(source.stem for source in sources)
    overlap = any(later.startswith(stem) for stem, later in pairwise(stems))
    if not overlap and not any(source.may_repeat for source in sources):
        return entries
    return keep_unique(entries, tally.skipped) if config.limit is None else keep_first(entries, tally.skipped)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one source into entries."""

    source: Source
    config: PlanConfig
    access: Access
    tally: Tally
    rules: Rules
    links: Links

    def entries(self) -> Iterator[Entry]:
        files = self._files()
        if self.source.dated:
            first = next(files, None)
            if first is None:
                self.tally.notes["day or hour of {date:...} without a file"] += 1
                return
            files = chain([first], files)
        for file in files:
            if file.hidden:
                is_excluded = file.hidden.startswith(EXCLUDED)
                (self.tally.filtered if is_excluded else self.tally.hidden)[file.hidden] += 1
            elif file.lost == UNREADABLE:
                self.tally.count_lost(UNREADABLE, file.uri)
            else:
                yield from self._file(file)

    def _file(self, file: File) -> Iterator[Entry]:
        name, where = file.relative.rpartition("/")[2], file.uri.removeprefix(SCHEME)
        pattern = self.rules.find_excluded(file.relative)
        if pattern and (is_image(name) or (file.exact and container_kind(name))):
            self.tally.filtered[f"{EXCLUDED} {pattern}"] += 1
            return
        kind = file_kind(where if where != file.uri else name) if file.exact else None
        if kind and not file.error:
            yield from self._keep(self._inside(file, kind))
        elif is_image(name) or (kind and file.heals):
            if file.lost:
                self.tally.count_lost(file.lost, file.uri, is_planned=True)
            place = {item: getattr(file, item) for item in FROM_FILE}
            failed = "read_error" if file.heals else "unsupported"
            yield Entry(**place, status=failed if file.error else None)
        elif self.source.file:
            kinds = WEB_KINDS if file.uri.startswith("http") else KINDS
            raise UsageError(f"archive {where}: its kind is not known; {kinds} expected")
        elif file.lost:
            self.tally.count_lost(file.lost, file.uri)
        else:
            self.tally.skipped[os.path.splitext(name)[1].lower() or "no extension"] += 1

    def _keep(self, entries: Iterator[Entry]) -> Iterator[Entry]:
        """What --exclude-path keeps of the inside of a file; counts the rest."""
        for entry in entries:
            pattern = self.rules.find_excluded(entry.relative)
            if pattern is None:
                yield entry
            else:
                self.tally.filtered[f"{EXCLUDED} {pattern}"] += 1

    def _files(self) -> Iterator[File]:
        file = self.source.file
        if file is None:
            return list_tree(self.source.tree, self.access, self.rules, self.links)
        if not (file.uri.startswith("http") and is_image(file.relative)):
            return iter([file])
        try:
            with explain_unreachable(file.uri), suppress(RefusedError):
                info = fetch_info(self.access, file.uri)  # refused: reading will show what the server has
                file = file._replace(num_bytes=info.size, version=info.version)
        except FileNotFoundError as error:
            if self.source.dated:
                return iter(())
            raise UsageError(f"archive {file.uri}: nothing is there; check the path") from error
        return iter([file])

    def _inside(self, file: File, kind: str) -> Iterator[Entry]:
        if kind == "manifest":
            yield from self._listed(file)
            return
        try:
            opened = self._open(file.uri)
        except FileNotFoundError as error:
            where = file.uri.removeprefix(SCHEME)
            raise UsageError(f"archive {where}: nothing is there; check the path") from error
        with closing(opened):
            if isinstance(opened, io.BytesIO) and kind != ".parquet":
                raise UsageError(f"archive {file.uri}: {NO_RANGES}")
            container = members.Container(
                file=opened,
                size=opened.seek(0, io.SEEK_END),
                uri=file.uri,
                relative=file.relative,
                version=file.version or (opened.info.version if isinstance(opened, RemoteFile) else None),
                keep_column=self.config.keep_column,
                zip_encoding=self.config.zip_encoding,
                rules=self.rules,
                skipped=self.tally.skipped,
                hidden=self.tally.hidden,
                notes=self.tally.notes,
            )
            opened.seek(0)
            if kind == ".parquet":
                yield from self._rows(container, file)
            else:
                yield from tars.list_tar(container) if kind == ".tar" else zips.list_zip(container)

    def _rows(self, container: members.Container, file: File) -> Iterator[Entry]:
        """The images in the rows of a Parquet file, or those that it lists."""
        lists, named = False, self.source.file or self.source.name.endswith(".parquet")
        with suppress(pa.ArrowException, OSError):
            schema = pq.read_schema(container.file)
            columns = set(map(plain_column, schema.names))
            several = rowfiles.find_image_lists(schema)
            lists = "uri" in columns or rowfiles.find_image_column(schema) is None
            own = {"id", "uri", "status", "error"} <= columns  # a run's table, under a pattern like `**`
            if lists and several and "uri" not in columns:
                where = file.uri.removeprefix(SCHEME)
                message = f"its column {several} has lists of images; write one image a row"
                raise UsageError(f"archive {where}: {message}")
            if not named and lists and (own or not ("uri" in columns or {"bucket", "key"} <= columns)):
                self.tally.skipped[".parquet of no images"] += 1
                return
        container.file.seek(0)
        if lists:
            yield from self._listed(file)
        elif isinstance(container.file, io.BytesIO):
            raise UsageError(f"archive {file.uri}: {NO_RANGES}")
        else:
            yield from rowfiles.list_rows(container)

    def _listed(self, file: File) -> Iterator[Entry]:
        is_inventory = file.uri.rpartition("/")[2].lower() == "manifest.json"
        list_images = inventory.list_inventory if is_inventory else manifest.list_manifest
        yield from list_images(
            manifest.Manifest(
                uri=file.uri,
                relative=file.relative,
                open_file=self._open,
                allow_prefix=self.config.allow_prefix,
                keep_column=self.config.keep_column,
                encoding=self.config.encoding,
                rules=self.rules,
                skipped=self.tally.skipped,
                hidden=self.tally.hidden,
                notes=self.tally.notes,
            )
        )

    def _open(self, uri: str) -> BinaryIO:
        """A file of any store for reading, seekable. Raises UsageError, FileNotFoundError, OSError."""
        if uri.startswith(SCHEME):
            return open(local_path(uri), "rb")
        known = self.source.file
        with explain_unreachable(uri):
            with suppress(RefusedError):  # a server without ranges
                if known and known.uri == uri and known.num_bytes is not None:
                    info = Info(known.num_bytes, known.version)
                else:  # not by what a listing said: fsspec's may give another version
                    info = fetch_info(self.access, uri)
                return cast(BinaryIO, RemoteFile(self.access, uri, info))
            try:
                return io.BytesIO(fetch_bytes(self.access, uri, max_bytes=MANIFEST_BYTES))
            except TooLargeError as error:
                raise UsageError(f"archive {uri}: {NO_RANGES}") from error
