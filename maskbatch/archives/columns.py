"""Column names of manifests and of Parquet files of images, and their values as text."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, cast

import pyarrow as pa

from maskbatch.stores.uris import redact
from maskbatch.times import has_clock, parse_time

Row = dict[str, str | None]
"""One row by the names of COLUMNS and `kept`; blanks are None."""
COLUMNS = {
    "uri": ("uri",), "bucket": ("bucket",), "key": ("key",), "site": ("site", "site_id", "site_name"),
    "camera": ("camera", "camera_id", "camera_name", "cam"),
    "captured_at": ("captured_at", "capture_time", "taken_at", "date_taken", "timestamp", "datetime"),
    "num_bytes": ("num_bytes", "size", "file_size"), "version": ("version", "etag"),
    "is_latest": ("is_latest",), "is_delete_marker": ("is_delete_marker",),
}  # fmt: skip
"""Names that a column may have, in any `plain_column` spelling; the first one present counts."""
URI_NAMES = (
    "path", "file_path", "full_path", "file", "file_name", "url", "image", "image_path", "image_url",
    "image_file", "snapshot", "snapshot_url",
)  # fmt: skip
"""Other names for uri, where a table has neither uri nor bucket and key, and only one of these."""


UNREADABLE_TIME = "captured_at not readable"


def describe_row(row: Row, notes: Counter[str]) -> dict[str, Any]:
    """`site`, `camera`, `kept` and those of `read_time`. Counts a time that cannot be read."""
    return {
        **{name: row.get(name) for name in ("site", "camera", "kept")},
        **read_time(row.get("captured_at"), notes),
    }


def read_time(value: object, notes: Counter[str]) -> dict[str, Any]:
    """`time` and `has_hour` of an Entry. Counts a time that cannot be read, with the first as an example."""
    time = parse_time(value)
    if time is None and value not in (None, ""):
        known = next((note for note in notes if note.startswith(UNREADABLE_TIME)), None)
        notes[known or f"{UNREADABLE_TIME}, such as '{redact(str(value))}'"] += 1
    return {"time": time, "has_hour": time is None or has_clock(value, time)}


@lru_cache(maxsize=64)
def choose_columns(names: tuple[str, ...], keep_column: str | None) -> dict[str, str]:
    """A table's own names for those of COLUMNS that it has, and for `kept`."""
    own_names = {plain_column(name): name for name in reversed(names)}
    wanted = COLUMNS | ({"kept": (keep_column,)} if keep_column else {})
    found = {column: map(own_names.get, map(plain_column, known)) for column, known in wanted.items()}
    chosen = {column: own for column, owns in found.items() if (own := next(filter(None, owns), None))}
    if keep_column in names:
        chosen["kept"] = keep_column
    if not ("uri" in chosen or {"bucket", "key"} <= chosen.keys()):
        others = find_uri_columns(names)
        chosen |= {"uri": others[0]} if len(others) == 1 else {}
    if "uri" in chosen:
        for column in ("bucket", "key", "is_latest", "is_delete_marker"):
            chosen.pop(column, None)
    return chosen


def plain_column(name: str) -> str:
    """A column's name without case, blanks, `_` and `-`: `Captured At`, `capturedAt`, CAPTURED_AT are one."""
    return re.sub(r"[\s_-]+", "", name).lower()


def find_uri_columns(names: Sequence[str]) -> list[str]:
    """The columns that may have the uris where none is named so."""
    known = set(map(plain_column, URI_NAMES))
    return [name for name in names if plain_column(name) in known]


def check_columns(chosen: Collection[str], names: Sequence[str], keep_column: str | None) -> None:
    """Raises ValueError if the column to keep is missing."""
    if keep_column is not None and "kept" not in chosen:
        raise ValueError(f"has no column {keep_column} to keep, but {redact(', '.join(names))}")


def clean_row(columns: Collection[str], values: Sequence[str | None]) -> Row:
    """Blanks become None. Strips values, but not a key, which is literal."""
    pairs = zip(columns, values, strict=True)
    return {c: (v if c == "key" else v.strip()) if v and not v.isspace() else None for c, v in pairs}


def is_text(kind: pa.DataType) -> bool:
    """Whether a column is of text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def to_texts(column: pa.Array) -> list[str | None]:
    """A column's values as text; times in ISO 8601 to the microsecond, with `Z` if the type has a zone."""
    kind = column.type
    if not pa.types.is_timestamp(kind):
        return cast(list[str | None], column.cast(pa.string()).to_pylist())
    naive = column.view(pa.int64()).view(pa.timestamp(kind.unit))
    if kind.unit == "ns":
        naive = naive.cast(pa.timestamp("us"), safe=False)
    return [time and time + ("Z" if kind.tz else "") for time in naive.cast(pa.string()).to_pylist()]
