"""What listing counts beside the images that it gives: nothing of an archive is left out uncounted."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from maskbatch.stores.uris import SCHEME

NUM_EXAMPLES = 3
UNREADABLE = "unreadable"
BROKEN = "broken"
BROKEN_IMAGE = "link to nothing (will be missing)"


@dataclass(kw_only=True, slots=True)
class Tally:
    """Counts of what is not planned, or lacks something."""

    skipped: Counter[str] = field(default_factory=Counter)
    """Files that are not images, by extension."""
    hidden: Counter[str] = field(default_factory=Counter)
    """Files left out by their name or that of a folder above, by the pattern of `hidden` that it matches."""
    filtered: Counter[str] = field(default_factory=Counter)
    """Images left out by a filter, by its flag; and the links and folders that --exclude-path passes by."""
    notes: Counter[str] = field(default_factory=Counter)
    """Planned images that lack something, such as a time."""
    links: Counter[str] = field(default_factory=Counter)
    """Links to folders, by what became of them."""
    unreadable: int = 0
    """Folders that --skip-unreadable passed over."""
    examples: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Paths of the first `unreadable` folders and `broken` links."""

    def count_lost(self, kind: str, uri: str, *, is_planned: bool = False) -> None:
        """Count a folder that cannot be read, or a link to nothing; keep the first names."""
        if kind == UNREADABLE:
            self.unreadable += 1
        elif is_planned:
            self.notes[BROKEN_IMAGE] += 1
        else:
            self.links[kind] += 1
        self.examples[kind] = (*self.examples.get(kind, ()), uri.removeprefix(SCHEME))[:NUM_EXAMPLES]


def describe_unreadable(listing: Mapping[str, Any]) -> str:
    """How many folders could not be read, and the first of them, from a Listing as JSON has it."""
    count, names = listing["unreadable"], listing["examples"].get("unreadable", ())
    more = " ..." if count > len(names) else ""
    return f"{count:,} {'folder' if count == 1 else 'folders'} could not be read ({', '.join(names)}{more})"
