"""One image as a row of the plan, from its path, manifest or sidecar."""

from dataclasses import fields
from datetime import datetime
from typing import Any

from maskbatch import schema
from maskbatch.archives.entries import Entry
from maskbatch.layout import Parsed

Row = dict[str, Any]
FROM_ENTRY = [item.name for item in fields(Entry) if item.name in schema.PLAN.names]


def overlay(entry: Entry, parsed: Parsed) -> Parsed:
    """`parsed`, but a manifest or a sidecar wins."""
    site, camera, time = entry.site or parsed.site, entry.camera or parsed.camera, entry.time or parsed.time
    has_hour = entry.has_hour if entry.time else parsed.has_hour
    return Parsed(site, camera, time, has_hour, parsed.unread)


def make_row(number: int, entry: Entry, parsed: Parsed, time: datetime | None) -> Row:
    """A row of `schema.PLAN`."""
    return {
        **dict.fromkeys(schema.PLAN.names),
        **{name: getattr(entry, name) for name in FROM_ENTRY},
        "id": number,
        "site": parsed.site,
        "camera": parsed.camera,
        "captured_at": time,
        "time_source": ("manifest" if entry.time else "path") if time else None,
    }
