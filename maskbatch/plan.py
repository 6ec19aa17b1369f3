"""List the archive once into Parquet: one row an image, `id` 0..N-1, nothing opened.

After it nothing lists again. Workers read the plan rows of their shard by row group.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch import archive, schema
from maskbatch.archive import Entry
from maskbatch.clock import Clock, parse_bound
from maskbatch.config import PlanConfig
from maskbatch.errors import UsageError
from maskbatch.layout import Parsed, Template, parse_hive
from maskbatch.progress import Step
from maskbatch.rundir import whole

GROUP_ROWS = 16_384
"""Rows of a row group: what a worker reads at a time, a few milliseconds."""
FILE_ROWS = 64 * GROUP_ROWS

Row = dict[str, Any]


@dataclass(kw_only=True, slots=True)
class Listing:
    """What planning found and left out; every file of the archive is in one of these counts."""

    num_images: int = 0
    """Planned rows."""
    num_bytes: int = 0
    first_time: datetime | None = None
    """Local."""
    last_time: datetime | None = None
    cameras: Counter[str] = field(default_factory=Counter)
    """Planned images by `site/camera`."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Files that are not images, by extension."""
    filtered: Counter[str] = field(default_factory=Counter)
    """Images left out by a filter, by its flag."""
    notes: Counter[str] = field(default_factory=Counter)
    """Planned images of which the path does not say all."""
    example: str | None = None
    """The first image's path below the archive."""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, for run.json."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: str(v) if isinstance(v, datetime) else v for name, v in values.items()}


def plan_rows(config: PlanConfig, clock: Clock, listing: Listing) -> Iterator[Row]:
    """Every image of the archives, filtered and parsed, in the plan's order; `listing` counts along.

    Raises UsageError for an archive or a layout that cannot be used.
    """
    template = Template(config.layout) if config.layout else None
    since, until = parse_bound("--since", config.since), parse_bound("--until", config.until)
    matched = 0
    for entry in _entries(config.archives, listing.skipped):
        listing.example = listing.example or entry.relative
        parsed = template.parse(entry.relative) if template else parse_hive(entry.relative)
        fits, parsed = parsed is not None, parsed or Parsed()
        matched += fits
        time = clock.to_utc(parsed.time, parsed.site)
        local = clock.to_local(time, parsed.site)
        left_out = _left_out(config, parsed, local, since, until)
        if left_out:
            listing.filtered[left_out] += 1
            continue
        if config.limit is not None and listing.num_images >= config.limit:
            listing.filtered["--limit (the listing stops there)"] += 1
            break
        _count(listing, entry, parsed, local)
        if not fits:
            listing.notes["path unlike --layout"] += 1
        yield _row(listing.num_images - 1, entry, parsed, time)
    _check(config, template, matched, listing)


def _entries(archives: Iterable[str], skipped: Counter[str]) -> Iterator[Entry]:
    """All archives' images in the order of the arguments, one that lies under two of them once."""
    roots = [archive.local_root(name) for name in archives]
    for i, root in enumerate(roots):
        earlier = roots[:i]
        if any(root.is_relative_to(other) for other in earlier):
            skipped["folder of another archive argument"] += 1
        else:
            yield from archive.walk(root, skipped, frozenset(earlier))


def _left_out(
    config: PlanConfig,
    parsed: Parsed,
    local: datetime | None,
    since: datetime | None,
    until: datetime | None,
) -> str | None:
    """The filter that leaves this image out, or None; an unknown time passes the time filters."""
    if config.camera and parsed.camera not in config.camera:
        return "--camera"
    if local and since and local < since:
        return "--since"
    if local and until and local >= until:
        return "--until"
    return None


def _count(listing: Listing, entry: Entry, parsed: Parsed, local: datetime | None) -> None:
    listing.num_images += 1
    listing.num_bytes += entry.num_bytes or 0
    listing.cameras["/".join(filter(None, (parsed.site, parsed.camera))) or "unknown"] += 1
    if parsed.camera is None:
        listing.notes["camera unknown"] += 1
    if local is None:
        known = "time out of bounds (1990 to tomorrow)" if parsed.time else "time unknown until decoded"
        listing.notes[known] += 1
        return
    listing.first_time = min(listing.first_time or local, local)
    listing.last_time = max(listing.last_time or local, local)
    if not parsed.has_hour:
        listing.notes["date without a time of day (stands at 00:00)"] += 1


def _row(number: int, entry: Entry, parsed: Parsed, time: datetime | None) -> Row:
    return {
        "id": number,
        "uri": entry.uri,
        "encoding": "raw",
        "num_bytes": entry.num_bytes,
        "version": entry.version,
        "site": parsed.site,
        "camera": parsed.camera,
        "captured_at": time,
        "status": "unsupported" if entry.refused else None,
        "error": entry.refused,
    }


def _check(config: PlanConfig, template: Template | None, matched: int, listing: Listing) -> None:
    where = ", ".join(config.archives)
    if listing.example is None:
        found = ", ".join(f"{count:,} {kind}" for kind, count in listing.skipped.most_common(5))
        kinds = " ".join(sorted(archive.IMAGE_EXTENSIONS))
        raise UsageError(f"{where}: no image found ({found or 'no file at all'}); one of {kinds} expected")
    if template and not matched:
        message = (
            f"--layout {template.text} matches none of the images; the first, '{listing.example}', "
            f"gives {template.explain(listing.example)}; write the layout for the path below {where}"
        )
        raise UsageError(message)
    if not listing.num_images:
        flags = ", ".join(f"{count:,} by {flag}" for flag, count in listing.filtered.items())
        raise UsageError(f"{where}: every image was left out ({flags}); widen the filters")


def write_plan(folder: Path, rows: Iterator[Row], step: Step) -> None:
    """Write `rows` to `folder` as they come, in files of FILE_ROWS named by their first id."""
    first = 0
    while batch := list(islice(rows, GROUP_ROWS)):
        with (
            whole(folder / f"part-{first:012d}.parquet") as partial,
            pq.ParquetWriter(partial, schema.PLAN, compression="zstd") as writer,
        ):
            written = 0
            while batch:
                writer.write_table(pa.Table.from_pylist(batch, schema.PLAN), row_group_size=GROUP_ROWS)
                written += len(batch)
                step.advance(len(batch))
                batch = list(islice(rows, GROUP_ROWS)) if written < FILE_ROWS else []
        first += written


def read_plan(folder: Path, start: int, stop: int) -> pa.Table:
    """The plan rows with start <= id < stop."""
    parts = []
    while start < stop:
        first = start // FILE_ROWS * FILE_ROWS
        group = (start - first) // GROUP_ROWS
        path = folder / f"part-{first:012d}.parquet"
        table = _read_group(path, path.stat().st_mtime_ns, group)
        offset = start - first - group * GROUP_ROWS
        part = table.slice(offset, min(stop - start, table.num_rows - offset))
        parts.append(part)
        start += part.num_rows
    return pa.concat_tables(parts) if parts else schema.PLAN.empty_table()


@lru_cache(maxsize=2)
def _read_group(path: Path, mtime_ns: int, group: int) -> pa.Table:
    """One row group; `mtime_ns` keeps the cache from serving a plan that was thrown away."""
    with pq.ParquetFile(path) as file:
        return file.read_row_group(group)


def now() -> datetime:
    """The present, UTC, to the second: what `tomorrow` is counted from in a run."""
    return datetime.now(UTC).replace(microsecond=0)
