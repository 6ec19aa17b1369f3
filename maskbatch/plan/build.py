"""List the archive once: one numbered row an image. Later steps read only the plan."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from maskbatch.archives import reader
from maskbatch.archives.arguments import Source, container_kind
from maskbatch.archives.columns import UNREADABLE_TIME
from maskbatch.archives.entries import IMAGE_EXTENSIONS, Entry
from maskbatch.clock import Clock, fell_back, parse_bound
from maskbatch.config import PlanConfig
from maskbatch.errors import NoImagesError, NothingToPlanError, UsageError
from maskbatch.layout import Parsed
from maskbatch.plan.columns import Row, make_row, overlay
from maskbatch.plan.layouts import LEAST_JUDGED, Layouts, is_judged
from maskbatch.plan.listing import Listing
from maskbatch.plan.sites import Sites
from maskbatch.stores.access import Access

FELL_BACK = "dated by a clock that fell back (--since keeps them)"
OUT_OF_BOUNDS = "time out of bounds (1990 to tomorrow)"
MAX_NOTES = 40
"""Kinds of notes, as the name of a folder or a camera may be anything."""


def plan_rows(
    sources: Sequence[Source], config: PlanConfig, clock: Clock, listing: Listing, access: Access
) -> Iterator[Row]:
    """The rows of all images, filtered and counted in `listing`, in the plan's order. Raises UsageError."""
    layouts, sites, num_kept, num_times = Layouts.of(config), Sites(clock), 0, 0
    bounds = parse_bound("--since", config.since), parse_bound("--until", config.until)
    listing.times = clock.describe()
    for entry in reader.list_entries(sources, config, access, listing):
        listing.example = listing.example or entry.relative
        num_kept += entry.kept is not None
        num_times += entry.time is not None
        said, template = layouts.parse(entry)
        parsed = overlay(entry, said or Parsed())
        sites.add(parsed.site)
        read = clock.read_name if parsed.has_hour else clock.to_utc  # a date alone stays that day
        time = read(parsed.time, parsed.site)
        local = clock.to_local(time, parsed.site)
        is_reset = _is_reset(local, bounds[0])
        flag = _find_filter(config, parsed, None if is_reset else local, *bounds)
        if flag:
            listing.filtered[flag] += 1
            continue
        if config.limit is not None and listing.num_images >= config.limit:
            listing.filtered["--limit (the listing stops there)"] += 1
            break
        _count(listing, entry, parsed, local, is_reset=is_reset)
        if len(config.layout) > 1 and template:
            listing.layouts[template.text] += 1
        if said is None and is_judged(entry):
            listing.notes["path unlike --layout"] += 1
            listing.misfit = listing.misfit or entry.relative
        yield make_row(listing.num_images - 1, entry, parsed, time)
    _check_times(config, listing, num_times)
    _check(config, layouts, listing)
    sites.check(config, listing)
    if config.keep_column and not num_kept:
        where = "a manifest, a Parquet file or a .json or .cls beside an image in a tar"
        raise UsageError(f"--keep-column {config.keep_column}: no image has it; it is a column of {where}")


def _is_reset(local: datetime | None, since: datetime | None) -> bool:
    """Whether a clock that fell back has dated this image, so that it may be of the period after all."""
    return bool(local and since and fell_back(local.date(), local.date(), since.date()))


def _find_filter(
    config: PlanConfig, parsed: Parsed, local: datetime | None, since: datetime | None, until: datetime | None
) -> str | None:
    """The flag that leaves this image out, or None. An unknown time passes the time filters."""
    if config.camera and not {parsed.camera, f"{parsed.site}/{parsed.camera}"} & set(config.camera):
        return "--camera"
    if local and since and local < since:
        return "--since"
    if local and until and local >= until:
        return "--until"
    return None


def _count(listing: Listing, entry: Entry, parsed: Parsed, local: datetime | None, *, is_reset: bool) -> None:
    listing.num_images += 1
    listing.num_bytes += entry.num_bytes or 0
    camera = "/".join(filter(None, (parsed.site, parsed.camera or "unknown")))
    listing.cameras[camera] += 1
    if entry.error:
        listing.refused[entry.error] += 1
    for key in parsed.unread:
        _note(listing, f"folder {key}=... not read", "other folders KEY=... not read")
    if parsed.camera is None:
        listing.notes["camera unknown"] += 1
    if local is None and parsed.time:
        _note(listing, f"{OUT_OF_BOUNDS} of {camera}", f"{OUT_OF_BOUNDS} of other cameras")
        return
    if local is None:
        listing.notes["time unknown until decoded"] += 1
        return
    if is_reset:  # it says nothing of the archive's period
        listing.notes[FELL_BACK] += 1
        return
    listing.first_time = min(listing.first_time or local, local)
    listing.last_time = max(listing.last_time or local, local)
    if not parsed.has_hour:
        listing.notes["date without a time of day (stands at 00:00)"] += 1


def _note(listing: Listing, note: str, other: str) -> None:
    """Count a note that has a name of the archive's, or `other` where there are many of them."""
    is_known = note in listing.notes or len(listing.notes) < MAX_NOTES
    listing.notes[note if is_known else other] += 1


def _check(config: PlanConfig, layouts: Layouts, listing: Listing) -> None:
    more = len(config.archives) - 3
    where = ", ".join(config.archives[:3]) + (f" and {more:,} more" if more > 0 else "")
    if listing.example is None and not listing.filtered:
        left_out = listing.skipped + listing.hidden
        skipped = ", ".join(f"{count:,} {kind}" for kind, count in left_out.most_common(5))
        kinds = " ".join(sorted(IMAGE_EXTENSIONS))
        nothing = "no file at all; check the path"
        message = f"{where}: no image found ({skipped or nothing}); one of {kinds} expected"
        inside = [kind for kind in listing.skipped if container_kind(f"x{kind}")]
        if listing.hidden:
            message += "; --include-hidden plans what is left out by name"
        if inside:
            message += f", or name what is inside the files by a pattern: '{config.archives[0]}/*{inside[0]}'"
        raise NothingToPlanError(message)
    layouts.check(config, where)
    if not listing.num_images:
        flags = ", ".join(f"{count:,} by {flag}" for flag, count in listing.filtered.items())
        raise NoImagesError(f"{where}: every image was left out ({flags}); widen the filters")


def _check_times(config: PlanConfig, listing: Listing, num_read: int) -> None:
    """Raises UsageError where no time of manifests and sidecars can be read; `num_read` can."""
    note = next((note for note in listing.notes if note.startswith(UNREADABLE_TIME)), None)
    if note and not num_read and listing.notes[note] >= LEAST_JUDGED and not config.allow_unknown_times:
        what = f"all {listing.notes[note]:,} rows have a {note}"
        remedy = "write it like 2026-10-01 08:30:00, or give --allow-unknown-times"
        raise UsageError(f"{', '.join(config.archives[:3])}: {what}; {remedy}")
