"""The sites that have a zone of their own, held against those of the archive."""

from datetime import timedelta

from maskbatch.clock import Clock, parse_bound
from maskbatch.config import PlanConfig
from maskbatch.errors import UsageError
from maskbatch.plan.listing import Listing

SHORT = timedelta(days=7)
"""A site may have no image for so long; a month without one is a name mistyped."""
MAX_NAMED = 12


class Sites:
    """Which sites of --timezone and --names-in no image listed so far has."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._missing = clock.sites
        self._found: dict[str, None] = {}

    def add(self, site: str | None) -> None:
        """One listed image, planned or not."""
        self._missing.discard(site or "")
        if site and len(self._found) <= MAX_NAMED:
            self._found[site] = None

    def check(self, config: PlanConfig, listing: Listing) -> None:
        """Raises UsageError for a site without an image; notes it where --limit or a few days are planned."""
        for site in sorted(self._missing):
            flag = "--timezone" if site in self._clock.by_site else "--names-in"
            if _is_short(config, listing):
                listing.notes[f"site of {flag} without an image ({site})"] += 1
                continue
            names = [*self._found][:MAX_NAMED]
            more = " and others" if len(self._found) > MAX_NAMED else ""
            there = f"the sites are {', '.join(names)}{more}" if names else "no image has a site"
            raise UsageError(
                f"{flag} {site}=...: no image is of that site; {there}; correct it or leave it out"
            )


def _is_short(config: PlanConfig, listing: Listing) -> bool:
    since, until = parse_bound("--since", config.since), parse_bound("--until", config.until)
    is_cut = config.limit is not None and any(flag.startswith("--limit") for flag in listing.filtered)
    return is_cut or (since is not None and until is not None and until - since < SHORT)
