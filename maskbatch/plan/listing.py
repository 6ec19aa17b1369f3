"""What listing an archive found."""

from collections import Counter
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from maskbatch.archives.tally import Tally


@dataclass(kw_only=True, slots=True)
class Listing(Tally):
    """What planning found and left out: one of these counts has every file of the archive."""

    num_images: int = 0
    """Planned rows."""
    num_bytes: int = 0
    first_time: datetime | None = None
    """Local."""
    last_time: datetime | None = None
    cameras: Counter[str] = field(default_factory=Counter)
    """Planned images by `site/camera`."""
    refused: Counter[str] = field(default_factory=Counter)
    """Planned images that cannot be read, as listing them shows, by the reason."""
    layouts: Counter[str] = field(default_factory=Counter)
    """Planned images by the layout that they follow, where there are several."""
    times: str | None = None
    """Whose times these are, such as `local at Europe/Paris; names in UTC`."""
    example: str | None = None
    """The first image's path below the archive."""
    misfit: str | None = None
    """The first planned path that follows no layout."""

    @property
    def mean_bytes(self) -> float:
        """Of an image; 0 where their sizes are not known."""
        return self.num_bytes / max(1, self.num_images)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, for run.json."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: str(v) if isinstance(v, datetime) else v for name, v in values.items()}
