"""Lists of images: CSV, JSON lines and Parquet, streamed row by row.

Whoever writes a manifest decides what is read. So a row may only point into the manifest's own folder or
below an --allow-prefix. Every spelling of a uri becomes one `Place` before it is compared or planned.
"""

import codecs
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
from itertools import chain, count
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch.archives.columns import (
    Row,
    check_columns,
    choose_columns,
    clean_row,
    describe_row,
    find_uri_columns,
    is_text,
    to_texts,
)
from maskbatch.archives.entries import Entry
from maskbatch.archives.hidden import Rules
from maskbatch.errors import UsageError
from maskbatch.stores.uris import DOT_SEGMENT, SCHEME, Place, decode_name, locate, parse_prefix, redact

RULES = Rules()
BUCKET = re.compile(r"[A-Za-z0-9._-]+")
MAX_LINE = 1 << 20
"""Characters."""
SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_LINE = re.compile(r'"?sep=([^\w\r\n" ])"?[\r\n]*')
"""A spreadsheet's first line."""
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""UTF-32's begins as UTF-16's does."""
HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
Rows = Iterator[tuple[str, Row]]
"""Rows, each with the place in the file that it is at, for messages."""


def is_manifest(name: str) -> bool:
    """Whether a file of this name lists images. A `.parquet` may list or hold them, see `reader`."""
    base = posixpath.basename(name).lower()
    return base == "manifest.json" or base.removesuffix(".gz").endswith((".csv", ".tsv", ".jsonl", ".ndjson"))


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
    encoding: str | None
    """Of CSV and JSON lines without a byte order mark; None: UTF-8."""
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
        is_uri = "uri" in row
        place = locate(_plain_uri(_name(row)), folder) if is_uri else object_place(row["bucket"], row["key"])
        if not any(bound.covers(place) for bound in bounds):
            top = shlex.quote(place.folder.uri if place.root == SCHEME else f"{place.root}/")
            raise ValueError(f"lies outside {folder.uri}; if it may be read, add --allow-prefix {top}")
        inside = folder.covers(place)
        below = place.encode(place.path[len(folder.path) :] if inside else place.path.lstrip("/"))
        unreadable = not is_uri and DOT_SEGMENT.search(place.path)  # an inventory cannot be mended
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
    encoding = manifest.encoding
    with explain_damage(manifest.uri, encoding), manifest.open_file(manifest.uri) as file:
        rows = read_rows(file, manifest.place.path, manifest.keep_column, encoding)
        first = next(rows, None)
        if first is None:
            manifest.skipped["manifest without a row"] += 1
        else:
            yield from manifest.entries(chain([first], rows))


@contextmanager
def explain_damage(uri: str, encoding: str | None = None) -> Iterator[None]:
    """Turn what a damaged, hostile or absent file raises into a UsageError that names it."""
    where = f"manifest {redact(uri)}"
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"{where}: no such file; check the path") from error
    except UnicodeError as error:
        what = f"{where} cannot be read: it is not {encoding or 'UTF-8'}"
        raise UsageError(f"{what}; name its encoding, as --encoding cp1252") from error
    except (pa.ArrowException, OSError, EOFError, zlib.error, csv.Error) as error:
        reason = f"{error}".partition("\n")[0]
        raise UsageError(f"{where} cannot be read ({redact(reason)}); write it again") from error
    except ValueError as error:
        raise UsageError(f"{where} {error}") from error


def _name(row: Row) -> str:
    return row["uri"] or "" if "uri" in row else f"s3://{row['bucket']}/{row['key']}"


def _plain_uri(text: str) -> str:
    """A relative path as Windows writes it, with `/`. Raises ValueError for a drive or a share."""
    if DRIVE.match(text):
        raise ValueError(
            "is a path of a Windows machine; a path below the manifest's folder, or a URL expected"
        )
    return text if HAS_SCHEME.match(text) else text.replace("\\", "/")


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
        others = find_uri_columns(names)
        if len(others) > 1:
            raise ValueError(f"may have its uris in {redact(' or '.join(others))}; name the right one uri")
        raise ValueError(f"has no column uri (or bucket and key), but {redact(', '.join(names))}")
    if not is_sparse:
        check_columns(chosen, names, keep_column)
    return chosen


def read_rows(
    file: BinaryIO,
    name: str,
    keep_column: str | None,
    encoding: str | None = None,
    header: Sequence[str] = (),
) -> Rows:
    """The rows of a file of this name; `header` is for a CSV without one."""
    name = name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return _parquet_rows(file, keep_column)
    if name.endswith((".jsonl", ".ndjson")):
        return _json_rows(_open_text(file, encoding), keep_column)
    if name.endswith((".csv", ".tsv")):
        return _csv_rows(_open_text(file, encoding), keep_column, header)
    raise ValueError("is no manifest by its name; .csv, .tsv, .jsonl, .ndjson or .parquet expected")


def _open_text(file: BinaryIO, encoding: str | None) -> io.TextIOWrapper:
    """The file's text, unzipped if it begins like a gzip file; a byte order mark overrules `encoding`."""
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    plain = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if zipped else file
    begin = plain.read(4)
    plain.seek(0)
    marked = (found for mark, found in BYTE_ORDER_MARKS.items() if begin.startswith(mark))
    return io.TextIOWrapper(plain, next(marked, encoding or "utf-8"), newline="")


def _csv_rows(text: io.TextIOWrapper, keep_column: str | None, header: Sequence[str]) -> Rows:
    with text:
        lines, before = _lines(text), 0
        separator = ","
        if not header:
            separator, first, before = _find_separator(lines, keep_column)
            lines = chain([first], lines)
        reader = csv.reader(lines, strict=True, delimiter=separator)
        names = header or next(reader, [])
        if "\0" in "".join(names):
            raise ValueError("has NULs in its header; if it is UTF-16, add --encoding utf-16-le")
        chosen = _choose(names, keep_column)
        places = [names.index(name) for name in chosen.values()]
        for values in reader:
            where = f"line {before + reader.line_num}"
            if len(values) >= len(names) and not any(values[len(names) :]):
                yield where, clean_row(chosen, [values[i] for i in places])
            elif any(value.strip() for value in values):
                raise ValueError(f"{where}: {len(values)} values, {len(names)} expected")


def _find_separator(lines: Iterator[str], keep_column: str | None) -> tuple[str, str, int]:
    """What stands between values, the header's first line, and how many lines came before it.

    A line `sep=;` says it; otherwise the separator that gives the header most of the columns that we know.
    """
    first, before, said = next(lines, ""), 0, None
    while first and (first.isspace() or (said is None and SEPARATOR_LINE.fullmatch(first))):
        said = said or SEPARATOR_LINE.fullmatch(first)
        first, before = next(lines, ""), before + 1
    if said:
        return said[1], first, before

    def count_known(separator: str) -> tuple[int, int]:
        names = tuple(next(csv.reader([first], delimiter=separator), []))
        return len(choose_columns(names, keep_column)), len(names)

    return max(SEPARATORS, key=count_known), first, before


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    for number, line in enumerate(iter(partial(text.readline, MAX_LINE), ""), 1):
        if len(line) == MAX_LINE and not line.endswith("\n"):
            raise ValueError(f"line {number}: more than {MAX_LINE:,} characters")
        yield line


def _json_rows(text: io.TextIOWrapper, keep_column: str | None) -> Rows:
    """Only the first line needs all columns."""
    names: list[str] = []
    seen: set[str] = set()
    with text:
        for number, line in enumerate(_lines(text), 1):
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


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
        if "\\u" in line:
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
        schema = parquet.schema_arrow
        others = {n for n in find_uri_columns(schema.names) if not is_text(schema.field(n).type)}
        chosen = _choose([name for name in schema.names if name not in others], keep_column)
        nested = [n for n in chosen.values() if pa.types.is_nested(schema.field(n).type)]
        if nested:
            raise ValueError(f"has no text in its column {nested[0]}")
        for batch in parquet.iter_batches(8192, columns=list(set(chosen.values())), use_threads=False):
            columns = [to_texts(batch.column(batch.schema.names.index(name))) for name in chosen.values()]
            for values in zip(*columns, strict=True):
                yield f"row {next(numbers)}", clean_row(chosen, values)
