"""What an ARCHIVE argument names, on any store and of any kind, as one stream of entries.

    folder, bucket, prefix         every image below it
    path with * ? [...] **         what matches; a tar, zip, Parquet file or manifest among it is opened
    path with {date:%Y/%m/%d}      one of these for each day from --since to --until, and --margin-days around
    .tar .zip .parquet             the images inside: members, rowfiles
    .csv .jsonl .parquet, manifest.json of an S3 Inventory     the images listed: manifest

Order: the arguments', then by path bytewise; inside a tar, zip, Parquet file or manifest, its own.
"""

import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain, pairwise
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch import manifest, members, rowfiles, tars, zips
from maskbatch.archives.entries import Entry, is_image
from maskbatch.clock import parse_bound
from maskbatch.config import JobConfig, PlanConfig
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.listing import MAGIC, File, Tree, list_tree
from maskbatch.stores.access import Access
from maskbatch.stores.base import RefusedError, TooLargeError, TransientError
from maskbatch.stores.fetch import fetch_bytes, fetch_info
from maskbatch.stores.options import StorageOptions
from maskbatch.stores.remote_file import RemoteFile
from maskbatch.stores.retry import FIRST_TRIES
from maskbatch.stores.uris import SCHEME, encode_name, local_path
from maskbatch.unique import unique, unique_so_far

DATE = re.compile(r"\{date:([^}]*)\}")
CONTAINERS = (".tar", ".zip", ".parquet")
MANIFEST_BYTES = 2**31
"""Of a manifest whose server does not serve ranges, read whole."""
NO_RANGES = "its server does not serve ranges; copy it to a folder or a bucket"
UNREACHABLE = (TransientError, TimeoutError, RefusedError, PermissionError, RunFailedError)


@dataclass(frozen=True, slots=True)
class Source:
    """One ARCHIVE argument, or one day of it."""

    tree: Tree
    single: bool
    """One file, named outright: nothing is listed."""
    dated: bool = False
    """One day of a template: it may have nothing."""

    @property
    def stem(self) -> str:
        """What the uri of everything in it begins with."""
        return self.tree.base + self.tree.stem

    @property
    def may_repeat(self) -> bool:
        """Whether an image may come twice: a container or a manifest may be in it."""
        name = self.tree.pattern[-1] if self.tree.pattern else ""
        return bool(MAGIC.search(name) and not is_image(name)) or _container(name) is not None


def canonical(archive: str) -> str:
    """An ARCHIVE argument as run.json holds it: an absolute path, or a URL. Raises UsageError."""
    scheme, separator, rest = archive.partition("://")
    scheme = {"s3a": "s3", "s3n": "s3"}.get(scheme.lower(), scheme.lower())
    if not separator or scheme in ("file", "local"):
        try:
            return os.path.normpath(Path(rest if separator else archive).expanduser().absolute())
        except RuntimeError as error:  # ~name
            raise UsageError(f"archive {archive}: there is no such user; check the path") from error
    host, slash, path = rest.partition("/")
    web = scheme in ("http", "https")
    if (web and "?" in rest) or ("@" in host and (web or ":" in host)):
        shown = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".partition("?")[0]
        remedy = "list it in a manifest, a CSV with a column uri" if web else "say it in --storage-options"
        raise UsageError(f"archive {shown}: a URL with a query or a password is kept in no run; {remedy}")
    if not rest.strip("/") or (web and not path.strip("/")):
        example = f"{scheme}://HOST/NAME.tar" if web else f"{scheme}://BUCKET/PREFIX"
        raise UsageError(f"archive {archive}: names nothing; write it like {example}")
    return f"{scheme}://{rest.rstrip('/')}"


def access_of(config: PlanConfig, options: StorageOptions, job: JobConfig | None = None) -> Access:
    """How a run reaches its archives; http may redirect into their own folders and --allow-prefix."""
    own = (archive.rpartition("/")[0] + "/" for archive in config.archives if archive.startswith("http"))
    job = job or JobConfig()
    return Access(
        options=options,
        prefixes=(*config.allow_prefix, *own),
        request_timeout_s=job.request_timeout_s,
        image_timeout_s=job.image_timeout_s,
        max_requests=job.max_requests,
    )


def sources(config: PlanConfig, access: Access) -> list[Source]:
    """What the arguments name, templates expanded; nothing is listed. Raises UsageError."""
    found = []
    for archive in config.archives:
        dated = DATE.search(archive)
        if dated:
            before = _root_and_names(f"{archive[: dated.start()]}x")[1][:-1]
            fixed = next((i for i, name in enumerate(before) if MAGIC.search(name)), len(before))
            days = dict.fromkeys(_dates(archive, config))
            found += [replace(_source(day, fixed, access), dated=True) for day in days]
        else:
            found.append(_source(archive, None, access))
    return found


def _dates(archive: str, config: PlanConfig) -> Iterator[str]:
    """The archive's name for each day, or hour, from --since to --until, with --margin-days around."""
    since, until = parse_bound("--since", config.since), parse_bound("--until", config.until)
    if since is None or until is None:
        raise UsageError(f"archive {archive}: {{date:...}} needs --since and --until, which say which days")
    margin = timedelta(days=config.margin_days)
    since, until = since - margin, until + margin
    letters = "".join(re.findall("%(.)", "".join(DATE.findall(archive))))
    if not letters or letters.strip("YymdjH"):
        raise UsageError(f"archive {archive}: {{date:...}} knows %Y %y %m %d %j and %H")
    each = timedelta(hours=1) if "H" in letters else timedelta(days=1)
    time = since.replace(hour=since.hour if "H" in letters else 0, minute=0, second=0, microsecond=0)
    while time < until:
        yield DATE.sub(lambda form, at=time: at.strftime(form[1]), archive)  # type: ignore[misc]
        time += each


def _root_and_names(archive: str) -> tuple[str, list[str]]:
    """The uri of an archive's store, ending in `/`, and the encoded names of the path below it."""
    scheme, separator, path = archive.partition("://")
    if not separator:
        return f"{SCHEME}/", encode_name(archive).split("/")[1:]
    if scheme in ("s3", "gs", "gcs", "az", "abfs", "abfss", "http", "https"):
        bucket, _, path = path.partition("/")
        path = path if scheme.startswith("http") else encode_name(path)  # which is sent as it is
        return f"{scheme}://{bucket}/", path.split("/") if path else []
    first = "/" if path.startswith("/") else ""
    return f"{scheme}://{first}", [name for name in encode_name(path).split("/") if name]


def _source(archive: str, fixed: int | None, access: Access) -> Source:
    """`fixed`: how many names of the path are the archive's own folder; None finds it."""
    root, names = _root_and_names(archive)
    if root.startswith("http") and any(map(MAGIC.search, names)):
        message = (
            "a web server has no folders to list, so no pattern can be matched; list its files in a manifest"
        )
        raise UsageError(f"archive {archive}: {message}")
    single = False
    if fixed is None:
        magic = [bool(MAGIC.search(name)) for name in names]
        if not any(magic) or (root == f"{SCHEME}/" and os.path.lexists(archive)):
            single = _is_file(root + "/".join(names), access)
            fixed = len(names) - single
        else:
            fixed = magic.index(True)
    base = root + "".join(f"{name}/" for name in names[:fixed])
    return Source(Tree(base, tuple(names[fixed:])), single or root.startswith("http"))


def _is_file(uri: str, access: Access) -> bool:
    """Whether a path without patterns is a file. Raises UsageError where a local one is nothing."""
    if uri.startswith("http"):
        return True
    if uri.startswith(SCHEME):
        path = Path(os.fsdecode(local_path(uri)))
        if not path.exists():
            raise UsageError(f"archive {path}: no such folder or file; check the path")
        return not path.is_dir()
    name = uri.rpartition("/")[2]
    if not (is_image(name) or _kind(name)):
        return False
    try:
        fetch_info(access, uri, FIRST_TRIES)
    except FileNotFoundError:
        return False
    except UNREACHABLE as error:
        raise _unreachable(uri, error) from error
    return True


def _unreachable(uri: str, error: Exception) -> UsageError:
    why = "permission denied" if isinstance(error, PermissionError) else str(error) or type(error).__name__
    return UsageError(f"archive {uri}: cannot be read: {why}; check the URL and your access to it")


def _container(name: str) -> str | None:
    """`.tar`, `.zip`, `.parquet` or `manifest`, by a file's name, else None."""
    extension = os.path.splitext(name)[1].lower()
    return extension if extension in CONTAINERS else "manifest" if manifest.is_manifest(name) else None


def _kind(name: str) -> str | None:
    """`_container`, but a compressed tar raises UsageError."""
    sentence = tars.compressed(name, b"")
    if sentence:
        raise UsageError(sentence)
    return _container(name)


def entries(
    config: PlanConfig, access: Access, skipped: Counter[str], notes: Counter[str]
) -> Iterator[Entry]:
    """Every image of the archives, each uri once. What is none is counted in `skipped`. Raises UsageError."""
    found = sources(config, access)
    stream = chain.from_iterable(
        _Reader(source, config, access, skipped, notes).entries() for source in found
    )
    if not _may_repeat(found):
        return stream
    return unique(stream, skipped) if config.limit is None else unique_so_far(stream, skipped)


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
            kind = _kind(file.uri.removeprefix(SCHEME) if local else name) if file.exact else None
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
            raise _unreachable(uri, error) from error

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
            index = tars.tar_entries if kind == ".tar" else zips.zip_entries
            yield from index(container, self.skipped, self.config.keep_column)

    def _rows(self, opened: BinaryIO, file: File, version: str | None) -> Iterator[Entry]:
        """A Parquet file's rows: images, or a manifest of them."""
        listed, named = False, self.source.single or self.source.tree.pattern[-1].endswith(".parquet")
        with suppress(pa.ArrowException, OSError):
            schema = pq.read_schema(opened)
            columns = set(map(str.lower, schema.names))
            listed = "uri" in columns or rowfiles.image_column(schema) is None
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
            yield from rowfiles.rowfile_entries(
                opened, file.uri, file.relative, version, keep, self.skipped, self.notes
            )

    def _listed(self, file: File) -> Iterator[Entry]:
        yield from manifest.manifest_entries(
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
            raise _unreachable(uri, error) from error

    def _read_whole(self, uri: str) -> bytes:
        try:
            return fetch_bytes(self.access, uri, max_bytes=MANIFEST_BYTES)
        except TooLargeError as error:
            raise UsageError(f"archive {uri}: {NO_RANGES}") from error
        except UNREACHABLE as error:
            raise _unreachable(uri, error) from error


def _whole(file: File) -> Entry:
    return Entry(
        uri=file.uri,
        relative=file.relative,
        num_bytes=file.num_bytes,
        version=file.version,
        status="unsupported" if file.error else None,
        error=file.error,
    )
