"""One image as a listing finds it, whatever kind of archive it lies in."""

import os
from dataclasses import dataclass
from datetime import datetime

IMAGE_EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif")
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One image of an archive, or one that can never be read and why."""

    uri: str
    """As the plan and the reports show it: no user-info, no query."""
    relative: str
    """Path below the archive, encoded like the uri; a member's goes on from its container's."""
    inner: str | None = None
    """A member's path inside its container, which a layout is tried on first."""
    container: str | None = None
    """The uri of the file that holds it as a range of bytes or a row."""
    offset: int | None = None
    length: int | None = None
    encoding: str = "raw"
    num_bytes: int | None = None
    version: str | None = None
    """Changes whenever the file, or the member's container, does: an etag, or the mtime in nanoseconds."""
    status: str | None = None
    """Of an image that is never read; `error` says why."""
    error: str | None = None
    site: str | None = None
    """What a manifest or a sidecar says goes before what the path says; so for `camera` and `time`."""
    camera: str | None = None
    time: datetime | None = None
    """Local and naive, or aware."""
    kept: str | None = None
    """The value of --keep-column."""
    fetch: str | None = None
    """The whole uri where `uri` had to lose its query or user-info."""


def is_image(name: str) -> bool:
    """Whether a file's name is one of an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS
