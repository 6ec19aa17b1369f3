"""Local camera times: archives and reports use wall-clock time, rows carry UTC too."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from maskbatch.errors import UsageError

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
OFFSET = re.compile(r"(?:(?:UTC|GMT) ?)?([+\u2212-])(\d{1,2})(?::?([0-5]\d))?", re.IGNORECASE | re.ASCII)
"""A zone that never changes: `+02:00`, `-0330`, `UTC+1`. East of Greenwich is `+`, unlike in `Etc/GMT+1`."""
MAX_OFFSET = timedelta(hours=14)
LAST_RESET, RESET_DAYS = date(2000, 1, 31), 5 * 365
"""Days that begin by then, and end so long before the archive begins, are of a clock that fell back."""


def now() -> datetime:
    """The present, UTC, to the second. A run counts `tomorrow` from it."""
    return datetime.now(UTC).replace(microsecond=0)


def fell_back(first: date, last: date, begins: date) -> bool:
    """Whether these days are of a clock that fell back, in an archive that begins on the day `begins`."""
    return first <= LAST_RESET and (begins - last).days >= RESET_DAYS


def parse_offset(text: str) -> timezone | None:
    """The zone of an OFFSET, or None."""
    match = OFFSET.fullmatch(text)
    if match is None:
        return None
    size = timedelta(hours=int(match[2]), minutes=int(match[3] or 0))
    hours, minutes = divmod(size // timedelta(minutes=1), 60)
    sign = "+" if match[1] == "+" or not size else "-"
    if size > MAX_OFFSET:
        return None
    return timezone(size if sign == "+" else -size, f"UTC{sign}{hours:02d}:{minutes:02d}")


def name_zone(zone: tzinfo) -> str:
    """As --timezone takes it."""
    return zone.key if isinstance(zone, ZoneInfo) else str(zone.tzname(None))


def parse_zones(flag: str, options: Sequence[str]) -> dict[str | None, tzinfo]:
    """`ZONE` and `SITE=ZONE` options by site, None for all other sites. Raises UsageError."""
    zones: dict[str | None, tzinfo] = {}
    for option in options:
        site, equals, name = option.rpartition("=")
        try:
            zone = parse_offset(name.strip()) or ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            near = next(
                (zone for zone in available_timezones() if zone.lower() == name.lower()), "Europe/Paris"
            )
            remedy = f"write it like {near}, +02:00 or gate2=Asia/Tokyo"
            raise UsageError(f"{flag} {option}: no such zone; {remedy}") from error
        key = site if equals else None
        first = zones.setdefault(key, zone)
        if first != zone:
            whose = f"the site {site}" if equals else "all sites"
            both = f"{name_zone(first)} and {name_zone(zone)}"
            raise UsageError(f"{flag} {option}: {whose} would have two zones, {both}; give one")
    return zones


@dataclass(frozen=True, slots=True)
class Clock:
    """The zones of an archive's sites, and which times are believable."""

    latest: datetime
    """Later times, a day past planning, are unknown."""
    default: tzinfo = field(default_factory=lambda: ZoneInfo("UTC"))
    by_site: dict[str, tzinfo] = field(default_factory=dict)
    names: dict[str | None, tzinfo] = field(default_factory=dict)
    """Zones of the times in names, by site, where they are others than the site's own."""

    @classmethod
    def parse(cls, timezones: Sequence[str], now: datetime, names_in: Sequence[str] = ()) -> "Clock":
        """From the options of --timezone and --names-in; without any, times are UTC."""
        zones, names = parse_zones("--timezone", timezones), parse_zones("--names-in", names_in)
        by_site = {site: zone for site, zone in zones.items() if site is not None}
        return cls(now + timedelta(days=1), zones.get(None, ZoneInfo("UTC")), by_site, names)

    def zone(self, site: str | None) -> tzinfo:
        """The zone of `site`, or else the default."""
        return self.by_site.get(site, self.default) if site else self.default

    def zone_of_names(self, site: str | None) -> tzinfo:
        """The zone of times in paths and manifests of `site`."""
        return self.names.get(site) or self.names.get(None) or self.zone(site)

    @property
    def sites(self) -> set[str]:
        """Those that have a zone of their own."""
        return {*self.by_site, *filter(None, self.names)}

    def describe(self) -> str:
        """Whose times these are: `local at Europe/Paris, osaka at Asia/Tokyo; names in UTC`."""
        zones = [f"local at {_describe_zone(self.default)}"]
        zones += [f"{site} at {_describe_zone(zone)}" for site, zone in self.by_site.items()]
        names = [
            f"in {_describe_zone(zone)}" if site is None else f"of {site} in {_describe_zone(zone)}"
            for site, zone in self.names.items()
        ]
        return ", ".join(zones) + (f"; names {', '.join(names)}" if names else "")

    def read_name(self, time: datetime | None, site: str | None) -> datetime | None:
        """As `to_utc`, for a time that a path or a manifest gives."""
        if time is not None and time.tzinfo is None:
            time = time.replace(tzinfo=self.zone_of_names(site), fold=0)
        return self.to_utc(time, site)

    def to_names(self, local: datetime) -> list[datetime]:
        """A naive local time as the names of any site may write it."""
        sites = [None, *self.sites]
        times = [local.replace(tzinfo=self.zone(site)).astimezone(self.zone_of_names(site)) for site in sites]
        return [time.replace(tzinfo=None) for time in times]

    def to_utc(self, time: datetime | None, site: str | None) -> datetime | None:
        """UTC of a local (naive) or aware time; None if it is unknown or not believable.

        An ambiguous hour is the first of the two, an hour that a clock change skips is the next one.
        """
        if time is None:
            return None
        try:
            aware = time if time.tzinfo else time.replace(tzinfo=self.zone(site), fold=0)
            utc = aware.astimezone(UTC)
        except OverflowError:
            return None
        return utc if EARLIEST <= utc <= self.latest else None

    def to_local(self, time: datetime | None, site: str | None) -> datetime | None:
        """Naive wall-clock time at `site` of a UTC time."""
        return time.astimezone(self.zone(site)).replace(tzinfo=None) if time else None


def _describe_zone(zone: tzinfo) -> str:
    """Its name, with the offset where the name reads as the opposite one: `Etc/GMT+1` is west."""
    name = name_zone(zone)
    return f"{name} (UTC{datetime.now(zone):%z})" if name.startswith("Etc/GMT") else name


def parse_bound(option: str, value: str | None) -> datetime | None:
    """A `--since` or `--until` value: a local date or time in ISO 8601."""
    if value is None:
        return None
    try:
        bound = datetime.fromisoformat(value)
    except ValueError as error:
        raise UsageError(f"{option} {value}: a date like 2026-10-01 or 2026-10-01T06:00 expected") from error
    if bound.tzinfo:
        raise UsageError(f"{option} {value}: a local time expected, without an offset; set --timezone")
    return bound
