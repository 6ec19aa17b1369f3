"""Column names of manifests and of Parquet files of images, and their values as text."""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

import pyarrow as pa

from maskbatch.stores.uris import redact
from maskbatch.times import parse_time

Row = dict[str, str | None]
"""One row by the names of COLUMNS and `kept`; blanks are None."""
COLUMNS = {
    "uri": ("uri",), "bucket": ("bucket",), "key": ("key",), "site": ("site",), "camera": ("camera",),
    "captured_at": ("captured_at",), "num_bytes": ("num_bytes", "size"),
    "version": ("version", "etag", "e_tag"), "is_latest": ("is_latest", "islatest"),
    "is_delete_marker": ("is_delete_marker", "isdeletemarker"),
}  # fmt: skip
"""Names that a column may have, in any case; the first one present counts."""


UNREADABLE_TIME = "captured_at not readable"


def describe_row(row: Row, notes: Counter[str]) -> dict[str, Any]:
    """`site`, `camera`, `time`, `kept` of an Entry. Counts a time that cannot be read."""
    text = row.get("captured_at")
    time = read_time(text, notes)
    return {"site": row.get("site"), "camera": row.get("camera"), "time": time, "kept": row.get("kept")}


def read_time(value: object, notes: Counter[str]) -> datetime | None:
    """As `parse_time`. Counts one that cannot be read, with the first as an example."""
    time = parse_time(value)
    if time is None and value not in (None, ""):
        known = next((note for note in notes if note.startswith(UNREADABLE_TIME)), None)
        notes[known or f"{UNREADABLE_TIME}, such as '{redact(str(value))}'"] += 1
    return time


@lru_cache(maxsize=64)
def choose_columns(names: tuple[str, ...], keep_column: str | None) -> dict[str, str]:
    """A table's own names for those of COLUMNS that it has, and for `kept`."""
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    wanted = COLUMNS | ({"kept": (keep_column.strip().lower(),)} if keep_column else {})
    present = {column: next(filter(by_lower.get, known), None) for column, known in wanted.items()}
    chosen = {column: by_lower[known] for column, known in present.items() if known}
    if keep_column in names:
        chosen["kept"] = keep_column
    if "uri" in chosen:
        for column in ("bucket", "key", "is_latest", "is_delete_marker"):
            chosen.pop(column, None)
    return chosen


def check_columns(chosen: Collection[str], names: Sequence[str], keep_column: str | None) -> None:
    """Raises ValueError if the column to keep is missing."""
    if keep_column is not None and "kept" not in chosen:
        raise ValueError(f"has no column {keep_column} to keep, but {redact(', '.join(names))}")


def clean_row(columns: Collection[str], values: Sequence[str | None]) -> Row:
    """Blanks become None. Strips values, but not a key, which is literal."""
    pairs = zip(columns, values, strict=True)
    return {c: (v if c == "key" else v.strip()) if v and not v.isspace() else None for c, v in pairs}


def to_texts(column: pa.Array) -> list[str | None]:
    """A column's values as text; times in ISO 8601 to the microsecond, with `Z` if the type has a zone."""
    kind = column.type
    if not pa.types.is_timestamp(kind):
        return cast(list[str | None], column.cast(pa.string()).to_pylist())
    naive = column.view(pa.int64()).view(pa.timestamp(kind.unit))
    if kind.unit == "ns":
        naive = naive.cast(pa.timestamp("us"), safe=False)
    return [time and time + ("Z" if kind.tz else "") for time in naive.cast(pa.string()).to_pylist()]
