"""The rows of a file that lists images: CSV, JSON lines or Parquet, streamed."""

import codecs
import csv
import gzip
import io
import json
import re
from collections.abc import Iterator, Sequence
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
    find_uri_columns,
    is_text,
    plain_column,
    to_texts,
)
from maskbatch.stores.uris import redact

MAX_LINE = 1 << 20
"""Characters."""
SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_LINE = re.compile(r'"?sep=([^\w\r\n" ])"?[\r\n]*', re.IGNORECASE)
"""A spreadsheet's first line."""
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
"""UTF-32's begins as UTF-16's does."""
Rows = Iterator[tuple[str, Row]]
"""Rows, each with the place in the file that it is at, for messages."""


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


def _choose(names: Sequence[str], keep_column: str | None, is_sparse: bool = False) -> dict[str, str]:
    """As `choose_columns`, for a table that must say where its images are."""
    chosen = choose_columns(tuple(names), keep_column)
    if "uri" not in chosen and not {"bucket", "key"} <= chosen.keys():
        others = find_uri_columns(names)
        if len(others) > 1:
            raise ValueError(f"may have its uris in {redact(' or '.join(others))}; name the right one uri")
        if names and names[0].startswith("#"):
            raise ValueError("begins with a comment; a header with a column uri (or bucket and key) expected")
        raise ValueError(f"has no column uri (or bucket and key), but {redact(', '.join(names))}")
    for own in chosen.values():
        alike = [name for name in names if plain_column(name) == plain_column(own)]
        if len(alike) > 1 and (own != keep_column or alike.count(own) > 1):
            raise ValueError(f"has {len(alike)} columns {redact(own)}; keep one")
    if not is_sparse:
        check_columns(chosen, names, keep_column)
    return chosen


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
