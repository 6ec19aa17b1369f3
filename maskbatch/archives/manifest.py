"""Lists of images: CSV, JSON lines and Parquet, streamed row by row.

Whoever writes a manifest decides what is read. So a row may only point into the manifest's own folder or
below an --allow-prefix. Every spelling of a uri becomes one `Place` before it is compared or planned.
"""

import csv
import os
import posixpath
import re
import shlex
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import BinaryIO

import pyarrow as pa

from maskbatch.archives.columns import Row, describe_row
from maskbatch.archives.entries import Entry
from maskbatch.archives.hidden import RULES, Rules
from maskbatch.archives.rows import Rows, read_rows
from maskbatch.errors import UsageError
from maskbatch.stores.uris import DOT_SEGMENT, SCHEME, Place, decode_name, locate, parse_prefix, redact

BUCKET = re.compile(r"[A-Za-z0-9._-]+")
HAS_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


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
