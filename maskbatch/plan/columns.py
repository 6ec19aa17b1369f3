"""What a path, a manifest or a sidecar says of one image, as a row of the plan."""

from datetime import datetime
from typing import Any

from maskbatch.archives.entries import Entry
from maskbatch.layout import Parsed, Template, parse_hive

Row = dict[str, Any]


def parse_entry(entry: Entry, template: Template | None) -> Parsed | None:
    """What the entry's path says; a member's is read from inside its container first."""
    if template is None:
        return parse_hive(entry.relative)
    inside = template.parse(entry.inner) if entry.inner else None
    return inside or template.parse(entry.relative)


def overlay(entry: Entry, parsed: Parsed) -> Parsed:
    """`parsed`, over it what a manifest or a sidecar says."""
    if not (entry.site or entry.camera or entry.time):
        return parsed
    return Parsed(
        entry.site or parsed.site,
        entry.camera or parsed.camera,
        entry.time or parsed.time,
        parsed.has_hour or entry.time is not None,
    )


def make_row(number: int, entry: Entry, parsed: Parsed, time: datetime | None) -> Row:
    """A row of `schema.PLAN`."""
    return {
        "id": number,
        "uri": entry.uri,
        "container": entry.container,
        "offset": entry.offset,
        "length": entry.length,
        "encoding": entry.encoding,
        "num_bytes": entry.num_bytes,
        "version": entry.version,
        "site": parsed.site,
        "camera": parsed.camera,
        "captured_at": time,
        "time_source": ("manifest" if entry.time else "path") if time else None,
        "kept": entry.kept,
        "fetch": entry.fetch,
        "status": entry.status,
        "error": entry.error,
        "reuse_run": None,
        "reuse_id": None,
    }
