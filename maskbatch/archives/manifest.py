"""Lists of images: CSV, JSON lines, Parquet and S3 Inventories, streamed a row at a time.

Whoever writes a manifest decides what is read, so a row may only point into the manifest's own folder
or below an `--allow-prefix`. Every spelling of a uri becomes one `Place` before it is compared or planned.
"""

import csv
import gzip
import io
import json
import os
import posixpath
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch.archives.columns import Row, check_columns, choose_columns, clean_row, describe_row, to_texts
from maskbatch.archives.entries import Entry, is_image
from maskbatch.errors import UsageError
from maskbatch.stores.uris import DOT_SEGMENT, SCHEME, Place, decode_name, locate, parse_prefix, redact

Open = Callable[[str], BinaryIO]
"""Opens any uri for reading, seekable; raises FileNotFoundError or another OSError."""


BUCKET = re.compile(r"[A-Za-z0-9._-]+")


MAX_LINE_BYTES = 1 << 20


MAX_INVENTORY_BYTES = 1 << 24
"""Of manifest.json itself: 200 bytes for each data file."""


def is_manifest(name: str) -> bool:
    """Whether a file of this name lists images; a `.parquet` may as well hold them, see `rowfiles`."""
    base = posixpath.basename(name).lower()
    return base == "manifest.json" or base.removesuffix(".gz").endswith((".csv", ".jsonl", ".ndjson"))


def list_manifest(
    uri: str,
    relative: str,
    open_file: Open,
    allow_prefix: Sequence[str],
    keep_column: str | None,
    skipped: Counter[str],
    notes: Counter[str],
) -> Iterator[Entry]:
    """Every image that the manifest at `uri`, a uri of the plan, lists, in its order.

    Entry.relative goes on from the folder of `relative` for what lies in the manifest's folder; for the rest
    it is the path below the bucket, the host or `/`. Rows without an image count in `skipped`. Raises
    UsageError naming the row for one that may not be read.
    """
    with _explained(uri):
        own = locate(uri)
        if not own.root.startswith(("file", "http")):
            own = own._replace(path=os.fsdecode(decode_name(own.path)))
        bounds = [own.folder, *map(parse_prefix, allow_prefix)]
        manifest = _Manifest(own.folder, bounds, posixpath.dirname(relative), keep_column, skipped, notes)
        with open_file(uri) as file:
            if posixpath.basename(own.path).lower() == "manifest.json":
                yield from _inventory_entries(manifest, file.read(MAX_INVENTORY_BYTES + 1), open_file)
            else:
                yield from manifest.entries(_rows(file, own.path, keep_column))


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns what a damaged, hostile or absent file raises into a sentence that names it."""
    where = f"manifest {redact(uri)}"
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"{where}: no such file; check the path") from error
    except (pa.ArrowException, OSError, EOFError, zlib.error, csv.Error, UnicodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeError) else f"{error}".partition("\n")[0]
        raise UsageError(f"{where} cannot be read ({redact(reason)}); write it again") from error
    except ValueError as error:
        raise UsageError(f"{where} {error}") from error


@dataclass(frozen=True, slots=True)
class _Manifest:
    """What every row is held against."""

    folder: Place
    bounds: list[Place]
    above: str
    """The folder of the manifest's own `relative`."""
    keep_column: str | None
    skipped: Counter[str]
    notes: Counter[str]

    def entries(self, rows: Iterator[tuple[str, Row]]) -> Iterator[Entry]:
        for where, row in rows:
            reason = _no_image(row)
            if reason:
                self.skipped[reason] += 1
                continue
            try:
                yield self._entry(row)
            except ValueError as error:
                raise ValueError(f"{where}: {redact(_name(row))} {error}") from error

    def _entry(self, row: Row) -> Entry:
        place = locate(_name(row), self.folder) if "uri" in row else _object(row["bucket"], row["key"])
        if not any(bound.covers(place) for bound in self.bounds):
            top = shlex.quote(place.folder.uri if place.root == SCHEME else f"{place.root}/")
            raise ValueError(f"lies outside {self.folder.uri}; if it may be read, add --allow-prefix {top}")
        inside = self.folder.covers(place)
        below = place.encode(place.path[len(self.folder.path) :] if inside else place.path.lstrip("/"))
        unreadable = "uri" not in row and DOT_SEGMENT.search(place.path)  # an inventory cannot be mended
        return Entry(
            uri=place.uri,
            relative=posixpath.join(self.above, below) if inside else below,
            num_bytes=_whole_number(row.get("num_bytes")),
            version=(row.get("version") or "").strip('"') or None,
            status="unsupported" if unreadable else None,
            error="a `.` or `..` in its key, which clients resolve before they ask" if unreadable else None,
            fetch=place.fetch,
            **describe_row(row, self.notes),
        )


def _name(row: Row) -> str:
    return row["uri"] or "" if "uri" in row else f"s3://{row['bucket']}/{row['key']}"


def _no_image(row: Row) -> str | None:
    """Why a row lists no image, as it is counted."""
    if not all(row[name] for name in ("uri", "bucket", "key") if name in row):
        return "row without a uri"
    if (row.get("is_delete_marker") or "false").lower() != "false":
        return "delete marker"
    if (row.get("is_latest") or "true").lower() != "true":
        return "not the latest version"
    return "folder marker" if _name(row).endswith("/") else None


def _object(bucket: str | None, key: str | None) -> Place:
    """The place of an object by its literal key."""
    if not bucket or not BUCKET.fullmatch(bucket):
        raise ValueError("names no bucket")
    return Place(f"s3://{bucket}", f"/{key}")


def _whole_number(text: str | None) -> int | None:
    try:
        number = int(float(text or ""))
    except (ValueError, OverflowError):
        return None
    return number if 0 <= number < 1 << 63 else None


def _choose(names: Sequence[str], keep_column: str | None, is_sparse: bool = False) -> dict[str, str]:
    """`choose_columns` of a table that has to say where its images are."""
    chosen = choose_columns(tuple(names), keep_column)
    if "uri" not in chosen and not {"bucket", "key"} <= chosen.keys():
        raise ValueError(f"has no column uri (or bucket and key), but {redact(', '.join(names))}")
    if not is_sparse:
        check_columns(chosen, names, keep_column)
    return chosen


def _rows(
    file: BinaryIO, name: str, keep_column: str | None, header: Sequence[str] = ()
) -> Iterator[tuple[str, Row]]:
    """The rows of a file of this name, each with where it stands; `header` is that of a CSV without one."""
    name = name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return _parquet_rows(file, keep_column)
    if name.endswith((".jsonl", ".ndjson")):
        return _json_rows(_unzipped(file), keep_column)
    if name.endswith(".csv"):
        return _csv_rows(_unzipped(file), keep_column, header)
    raise ValueError("is no manifest by its name; .csv, .jsonl, .ndjson or .parquet expected")


def _unzipped(file: BinaryIO) -> BinaryIO:
    """The file, or what is in it where it begins as gzip does."""
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if zipped else file


def _csv_rows(file: BinaryIO, keep_column: str | None, header: Sequence[str]) -> Iterator[tuple[str, Row]]:
    with io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        reader = csv.reader(_lines(text), strict=True)
        names = header or next(reader, [])
        chosen = _choose(names, keep_column)
        places = [names.index(name) for name in chosen.values()]
        for values in reader:
            if len(values) == len(names):
                yield f"line {reader.line_num}", clean_row(chosen, [values[i] for i in places])
            elif values:
                raise ValueError(f"line {reader.line_num}: {len(values)} values, {len(names)} expected")


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    for number in count(1):
        line = text.readline(MAX_LINE_BYTES)
        if len(line) == MAX_LINE_BYTES and not line.endswith("\n"):
            raise ValueError(f"line {number}: more than {MAX_LINE_BYTES:,} characters")
        if not line:
            return
        yield line


def _json_rows(file: BinaryIO, keep_column: str | None) -> Iterator[tuple[str, Row]]:
    """Any line but the first may leave out what it does not know."""
    names: list[str] = []
    seen: set[str] = set()
    for number in count(1):
        line = file.readline(MAX_LINE_BYTES + 1)
        if not line:
            break
        if line.isspace():
            continue
        values = _json_object(line, f"line {number}")
        first, names = not names, list(values)
        chosen = _choose(names, keep_column, True) if first else choose_columns(tuple(names), keep_column)
        seen |= chosen.keys()
        row = clean_row(chosen, [_text(values[name]) for name in chosen.values()])
        yield f"line {number}", row if {"bucket", "key"} <= row.keys() else {"uri": row.get("uri")} | row
    if names:
        check_columns(seen, names, keep_column)


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"{where}: more than {MAX_LINE_BYTES:,} bytes")
    try:
        values = json.loads(line.decode("utf-8-sig"))
        if b"\\u" in line:
            json.dumps(values, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: no JSON ({redact(str(error))})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where}: a JSON object expected")
    return values


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parquet_rows(file: BinaryIO, keep_column: str | None) -> Iterator[tuple[str, Row]]:
    numbers = count(1)
    with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as parquet:
        names = parquet.schema_arrow.names
        chosen = _choose(names, keep_column)
        nested = [n for n in chosen.values() if pa.types.is_nested(parquet.schema_arrow.field(n).type)]
        if nested:
            raise ValueError(f"has no text in its column {nested[0]}")
        for batch in parquet.iter_batches(8192, columns=list(set(chosen.values())), use_threads=False):
            columns = [to_texts(batch.column(batch.schema.names.index(name))) for name in chosen.values()]
            for values in zip(*columns, strict=True):
                yield f"row {next(numbers)}", clean_row(chosen, values)


def _inventory_entries(manifest: _Manifest, text: bytes, open_file: Open) -> Iterator[Entry]:
    """The images of an S3 Inventory, which lists everything in a bucket.

    Source: docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
    """
    kind, destination, header, keys = _inventory(text)
    for key in keys:
        uri, file = _open_data(manifest, _object(destination, key), open_file)
        with _explained(uri), file:
            rows = _rows(file, f".{kind}", manifest.keep_column, header)
            yield from manifest.entries(_image_rows(rows, kind, manifest.skipped))


def _inventory(text: bytes) -> tuple[str, str, list[str], list[str]]:
    """What manifest.json says: the kind of its data files, their bucket, the header they lack, their keys."""
    try:
        said = json.loads(text)
        kind = str(said["fileFormat"]).lower()
        bucket = str(said["destinationBucket"]).rpartition(":")[2]  # arn:aws:s3:::name, or the name
        header = [name.strip() for name in str(said["fileSchema"]).split(",")]
        keys = [str(file["key"]) for file in said["files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = "is no S3 Inventory; destinationBucket, fileFormat, fileSchema and files expected in it"
        raise ValueError(message) from error
    if kind not in ("csv", "parquet"):
        raise ValueError(f"lists {redact(kind.upper())} files; configure the inventory as CSV or Parquet")
    return kind, bucket, header, keys


def _open_data(manifest: _Manifest, stored: Place, open_file: Open) -> tuple[str, BinaryIO]:
    """A data file of an inventory: in its bucket, or near a manifest that was copied with its data."""
    name = posixpath.basename(stored.path)
    tried = [locate(f"{way}{name}", manifest.folder) for way in ("data/", "../data/", "./")]
    if manifest.folder.root == stored.root:
        tried.insert(0, stored)
    elif any(bound.covers(stored) for bound in manifest.bounds):
        tried.append(stored)
    for place in tried:
        try:
            return place.uri, open_file(place.fetch or place.uri)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
    message = f"its data file {redact(stored.uri)} is not there; copy data/ beside the manifest"
    raise ValueError(f"{message}, or add --allow-prefix {shlex.quote(stored.root)}/")


def _image_rows(
    rows: Iterator[tuple[str, Row]], kind: str, skipped: Counter[str]
) -> Iterator[tuple[str, Row]]:
    """Rows of images and of no object at all. CSV has its keys URL-encoded, a space as `+`; Parquet not."""
    for where, row in rows:
        key = row["key"] = unquote_plus(row["key"] or "") if kind == "csv" else row["key"] or ""
        if key and not key.endswith("/") and not is_image(key):
            skipped[os.path.splitext(key)[1].lower() or "no extension"] += 1
        else:
            yield where, row
