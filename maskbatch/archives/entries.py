"""One image as listing finds it, in any kind of archive."""

import os
from dataclasses import dataclass
from datetime import datetime

IMAGE_EXTENSIONS = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif",
    ".avif", ".heic", ".heif", ".hif", ".jxl", ".jp2", ".j2k", ".jpx",
))  # fmt: skip
"""Pictures, those too that cannot be read everywhere: they get a row that says so. Raw camera files are left
out, as most lie beside their JPEG."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One image of an archive. If it can never be read, `status` and `error` say why."""

    uri: str
    """As the plan and the reports show it: no login, no query."""
    relative: str
    """Path below the archive, encoded like the uri; a member's continues its container's."""
    inner: str | None = None
    """A member's path inside its container. A layout tries it before `relative`."""
    container: str | None = None
    """Uri of the file that holds it as a range of bytes or a row."""
    offset: int | None = None
    length: int | None = None
    encoding: str = "raw"
    num_bytes: int | None = None
    version: str | None = None
    """Changes with the file, or the member's container: an etag, or the mtime in nanoseconds."""
    status: str | None = None
    error: str | None = None
    site: str | None = None
    """From a manifest or a sidecar, as `camera` and `time`: it wins over the path."""
    camera: str | None = None
    time: datetime | None = None
    """Local and naive, or aware."""
    has_hour: bool = True
    """Whether `time` is more than a date."""
    kept: str | None = None
    """The value of --keep-column."""
    apart: str | None = None
    """The uri for it where another member has `uri`: by the name as its container writes it."""
    fetch: str | None = None
    """The whole uri, if `uri` had to lose its query or login."""


def is_image(name: str) -> bool:
    """Whether a file's name is an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS
