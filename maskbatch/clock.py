"""Local camera times: archives and reports use wall-clock time, rows carry UTC too."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from maskbatch.errors import UsageError
from maskbatch.times import parse_time as parse_time  # for those who have a Clock

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)


def now() -> datetime:
    """The present, UTC, to the second. A run counts `tomorrow` from it."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True, slots=True)
class Clock:
    """The zones of an archive's sites, and which times are believable."""

    latest: datetime
    """Later times, a day past planning, are unknown."""
    default: ZoneInfo = field(default_factory=lambda: ZoneInfo("UTC"))
    by_site: dict[str, ZoneInfo] = field(default_factory=dict)

    @classmethod
    def parse(cls, timezones: Sequence[str], now: datetime) -> "Clock":
        """From `ZONE` and `SITE=ZONE` options; without any, times are UTC."""
        default, by_site = ZoneInfo("UTC"), {}
        for option in timezones:
            site, equals, name = option.rpartition("=")
            try:
                zone = ZoneInfo(name)
            except (ZoneInfoNotFoundError, ValueError, OSError) as error:
                remedy = "write it like Europe/Paris or gate2=Asia/Tokyo"
                raise UsageError(f"--timezone {option}: no such zone; {remedy}") from error
            if equals:
                by_site[site] = zone
            else:
                default = zone
        return cls(now + timedelta(days=1), default, by_site)

    def zone(self, site: str | None) -> ZoneInfo:
        """The zone of `site`, or else the default."""
        return self.by_site.get(site, self.default) if site else self.default

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
