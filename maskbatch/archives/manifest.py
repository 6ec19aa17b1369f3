"""Lists of images: CSV, JSON lines and Parquet, streamed row by row.

Whoever writes a manifest decides what is read. So a row may only point into the manifest's own folder or
below an --allow-prefix. Every spelling of a uri becomes one `Place` before it is compared or planned.
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
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch.archives.columns import Row, check_columns, choose_columns, clean_row, describe_row, to_texts
from maskbatch.archives.entries import Entry
from maskbatch.archives.hidden import Rules
from maskbatch.errors import UsageError
from maskbatch.stores.uris import DOT_SEGMENT, SCHEME, Place, decode_name, locate, parse_prefix, redact

RULES = Rules()
BUCKET = re.compile(r"[A-Za-z0-9._-]+")
MAX_LINE_BYTES = 1 << 20
Rows = Iterator[tuple[str, Row]]
"""Rows, each with the place in the file that it is at, for messages."""


def is_manifest(name: str) -> bool:
    """Whether a file of this name lists images. A `.parquet` may list or hold them, see `reader`."""
    base = posixpath.basename(name).lower()
    return base == "manifest.json" or base.removesuffix(".gz").endswith((".csv", ".jsonl", ".ndjson"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """A list of images, and what its rows are checked against."""

    uri: str
    """As the plan has it."""
    relative: str
    """Path below the archive."""
    open_file: Callable[[str], BinaryIO]
    """Opens any uri for reading, seekable. Raises FileNotFoundError or another OSError."""
    allow_prefix: Sequence[str]
    keep_column: str | None
    skipped: Counter[str]
    """Rows without an image, by reason."""
    notes: Counter[str]
    rules: Rules = RULES
    """What is left out of an inventory, which is a listing; a list of images names what it names."""
    hidden: Counter[str] = field(default_factory=Counter)

    @property
    def place(self) -> Place:
        """Where it lies. Relative uris start in its folder."""
        place = locate(self.uri)
        if place.root.startswith(("file", "http")):
            return place
        return place._replace(path=os.fsdecode(decode_name(place.path)))

    @property
    def bounds(self) -> list[Place]:
        """Where its rows may point."""
        return [self.place.folder, *map(parse_prefix, self.allow_prefix)]

    def entries(self, rows: Rows) -> Iterator[Entry]:
        """The images of `rows`. Raises ValueError naming the row for one that may not be read."""
        folder, bounds = self.place.folder, self.bounds
        for where, row in rows:
            reason = _no_image(row)
            if reason:
                self.skipped[reason] += 1
                continue
            try:
                yield self._entry(row, folder, bounds)
            except ValueError as error:
                raise ValueError(f"{where}: {redact(_name(row))} {error}") from error

    def _entry(self, row: Row, folder: Place, bounds: list[Place]) -> Entry:
        """`relative` is below the archive inside the manifest's folder, else below bucket, host or `/`."""
        place = locate(_name(row), folder) if "uri" in row else object_place(row["bucket"], row["key"])
        if not any(bound.covers(place) for bound in bounds):
            top = shlex.quote(place.folder.uri if place.root == SCHEME else f"{place.root}/")
            raise ValueError(f"lies outside {folder.uri}; if it may be read, add --allow-prefix {top}")
        inside = folder.covers(place)
        below = place.encode(place.path[len(folder.path) :] if inside else place.path.lstrip("/"))
        unreadable = "uri" not in row and DOT_SEGMENT.search(place.path)  # an inventory cannot be mended
        return Entry(
            uri=place.uri,
            relative=posixpath.join(posixpath.dirname(self.relative), below) if inside else below,
            num_bytes=_whole_number(row.get("num_bytes")),
            version=(row.get("version") or "").strip('"') or None,
            status="unsupported" if unreadable else None,
            error="a `.` or `..` in its key, which clients resolve before they ask" if unreadable else None,
            fetch=place.fetch,
            **describe_row(row, self.notes),
        )


def list_manifest(manifest: Manifest) -> Iterator[Entry]:
    """Every image of a table, in its order. Raises UsageError naming the row that may not be read."""
    with explain_damage(manifest.uri), manifest.open_file(manifest.uri) as file:
        yield from manifest.entries(read_rows(file, manifest.place.path, manifest.keep_column))


@contextmanager
def explain_damage(uri: str) -> Iterator[None]:
    """Turn what a damaged, hostile or absent file raises into a UsageError that names it."""
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


def _name(row: Row) -> str:
    return row["uri"] or "" if "uri" in row else f"s3://{row['bucket']}/{row['key']}"


def _no_image(row: Row) -> str | None:
    """Why a row lists no image."""
    if not all(row[name] for name in ("uri", "bucket", "key") if name in row):
        return "row without a uri"
    if (row.get("is_delete_marker") or "false").lower() != "false":
        return "delete marker"
    if (row.get("is_latest") or "true").lower() != "true":
        return "not the latest version"
    return "folder marker" if _name(row).endswith("/") else None


def object_place(bucket: str | None, key: str | None) -> Place:
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
    """As `choose_columns`, for a table that must say where its images are."""
    chosen = choose_columns(tuple(names), keep_column)
    if "uri" not in chosen and not {"bucket", "key"} <= chosen.keys():
        raise ValueError(f"has no column uri (or bucket and key), but {redact(', '.join(names))}")
    if not is_sparse:
        check_columns(chosen, names, keep_column)
    return chosen


def read_rows(file: BinaryIO, name: str, keep_column: str | None, header: Sequence[str] = ()) -> Rows:
    """The rows of a file of this name; `header` is for a CSV without one."""
    name = name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return _parquet_rows(file, keep_column)
    if name.endswith((".jsonl", ".ndjson")):
        return _json_rows(_unzipped(file), keep_column)
    if name.endswith(".csv"):
        return _csv_rows(_unzipped(file), keep_column, header)
    raise ValueError("is no manifest by its name; .csv, .jsonl, .ndjson or .parquet expected")


def _unzipped(file: BinaryIO) -> BinaryIO:
    """The file, unzipped if it begins like a gzip file."""
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if zipped else file


def _csv_rows(file: BinaryIO, keep_column: str | None, header: Sequence[str]) -> Rows:
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
    for number, line in enumerate(iter(partial(text.readline, MAX_LINE_BYTES), ""), 1):
        if len(line) == MAX_LINE_BYTES and not line.endswith("\n"):
            raise ValueError(f"line {number}: more than {MAX_LINE_BYTES:,} characters")
        yield line


def _json_rows(file: BinaryIO, keep_column: str | None) -> Rows:
    """Only the first line needs all columns."""
    names: list[str] = []
    seen: set[str] = set()
    for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES + 1), b""), 1):
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


def _parquet_rows(file: BinaryIO, keep_column: str | None) -> Rows:
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
