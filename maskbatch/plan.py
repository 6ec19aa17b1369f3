"""List the archive once into Parquet: one row an image, `id` 0..N-1, nothing opened.

After it nothing lists again. Workers read the plan rows of their shard by row group.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch import archive, schema
from maskbatch.archives.entries import IMAGE_EXTENSIONS, Entry
from maskbatch.clock import Clock, parse_bound
from maskbatch.config import PlanConfig
from maskbatch.errors import NoImagesError, NothingToPlanError, RunFailedError, UsageError
from maskbatch.layout import Parsed, Template, parse_hive
from maskbatch.progress import Step
from maskbatch.stores.access import Access
from maskbatch.stores.files import Location, open_file, write_whole

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


def plan_rows(config: PlanConfig, clock: Clock, listing: Listing, access: Access) -> Iterator[Row]:
    """Every image of the archives, filtered and parsed, in the plan's order; `listing` counts along.

    Raises UsageError for an archive or a layout that cannot be used.
    """
    template = Template(config.layout) if config.layout else None
    since, until = parse_bound("--since", config.since), parse_bound("--until", config.until)
    matched = num_kept = 0
    for entry in archive.entries(config, access, listing.skipped, listing.notes):
        listing.example = listing.example or entry.relative
        num_kept += entry.kept is not None
        parsed = _parsed(entry, template)
        fits, parsed = parsed is not None, _told(entry, parsed or Parsed())
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
    if config.keep_column and not num_kept:
        where = "a manifest, a Parquet file or a .json or .cls beside an image in a tar"
        raise UsageError(f"--keep-column {config.keep_column}: no image has it; it is a column of {where}")


def _parsed(entry: Entry, template: Template | None) -> Parsed | None:
    """What the entry's path says; a member's is read from inside its container first."""
    if template is None:
        return parse_hive(entry.relative)
    inside = template.parse(entry.inner) if entry.inner else None
    return inside or template.parse(entry.relative)


def _told(entry: Entry, parsed: Parsed) -> Parsed:
    """`parsed`, over it what a manifest or a sidecar says."""
    if not (entry.site or entry.camera or entry.time):
        return parsed
    return Parsed(
        entry.site or parsed.site,
        entry.camera or parsed.camera,
        entry.time or parsed.time,
        parsed.has_hour or entry.time is not None,
    )


def _left_out(
    config: PlanConfig,
    parsed: Parsed,
    local: datetime | None,
    since: datetime | None,
    until: datetime | None,
) -> str | None:
    """The filter that leaves this image out, or None; an unknown time passes the time filters."""
    if config.camera and not {parsed.camera, f"{parsed.site}/{parsed.camera}"} & set(config.camera):
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


def _check(config: PlanConfig, template: Template | None, matched: int, listing: Listing) -> None:
    more = len(config.archives) - 3
    where = ", ".join(config.archives[:3]) + (f" and {more:,} more" if more > 0 else "")
    if listing.example is None:
        found = ", ".join(f"{count:,} {kind}" for kind, count in listing.skipped.most_common(5))
        kinds = " ".join(sorted(IMAGE_EXTENSIONS))
        nothing = "no file at all; check the path"
        message = f"{where}: no image found ({found or nothing}); one of {kinds} expected"
        inside = [kind for kind in (".tar", ".zip", ".parquet") if kind in listing.skipped]
        if inside:
            message += f", or name what is inside the files by a pattern: '{config.archives[0]}/*{inside[0]}'"
        raise NothingToPlanError(message)
    if template and not matched:
        message = (
            f"--layout {template.text} matches none of the images; the first, '{listing.example}', "
            f"gives {template.explain(listing.example)}; write the layout for such a path of {where}"
        )
        if len(config.archives) > 3:
            message += ", and where a shell has expanded a pattern, quote it: a lone file's path is its name"
        raise UsageError(message)
    if not listing.num_images:
        flags = ", ".join(f"{count:,} by {flag}" for flag, count in listing.filtered.items())
        raise NoImagesError(f"{where}: every image was left out ({flags}); widen the filters")


def part_path(folder: Location, first: int) -> Location:
    """The plan's file that begins with id `first`, a multiple of FILE_ROWS."""
    return folder / f"part-{first:012d}.parquet"


def write_plan(folder: Location, rows: Iterator[Row], step: Step) -> None:
    """Write `rows` to `folder` as they come, in files of FILE_ROWS named by their first id."""
    batches = iter(lambda: list(islice(rows, GROUP_ROWS)), [])
    write_groups(folder, (pa.Table.from_pylist(batch, schema.PLAN) for batch in batches), step)


def write_groups(folder: Location, groups: Iterator[pa.Table], step: Step) -> None:
    """As `write_plan`, of tables that have GROUP_ROWS rows each, the last one fewer or as many."""
    first = 0
    for group in groups:
        with (
            write_whole(part_path(folder, first)) as partial,
            pq.ParquetWriter(partial, schema.PLAN, compression="zstd") as writer,
        ):
            for part in chain([group], islice(groups, FILE_ROWS // GROUP_ROWS - 1)):
                writer.write_table(part, row_group_size=GROUP_ROWS)
                first += part.num_rows
                step.advance(part.num_rows)


def read_plan(folder: Location, start: int, stop: int) -> pa.Table:
    """The plan rows with start <= id < stop."""
    parts = []
    while start < stop:
        first = start // FILE_ROWS * FILE_ROWS
        group = (start - first) // GROUP_ROWS
        path = part_path(folder, first)
        table = _read_group(path, _version(path), group)
        offset = start - first - group * GROUP_ROWS
        if offset >= table.num_rows:
            raise RunFailedError(f"{path}: the plan ends at id {start}, {stop - 1} expected; restore it")
        part = table.slice(offset, min(stop - start, table.num_rows - offset))
        parts.append(part)
        start += part.num_rows
    return pa.concat_tables(parts) if parts else schema.PLAN.empty_table()


@lru_cache(maxsize=2)
def _read_group(path: Location, version: str, group: int) -> pa.Table:
    """One row group; `version` keeps the cache from serving a plan that was thrown away."""
    with open_file(path) as file:
        return pq.ParquetFile(file, pre_buffer=True).read_row_group(group)


def _version(path: Location) -> str:
    return str(path.stat().st_mtime_ns) if isinstance(path, Path) else str(path.fs.ukey(path.path))
