"""What an ARCHIVE argument names, on any store and of any kind.

folder, bucket, prefix         every image below it
path with * ? [...] **         what matches; a tar, zip, Parquet file or manifest among it is opened
path with {date:%Y/%m/%d}      one of these for each day from --since to --until, and --margin-days around
.tar .zip .parquet             the images inside: members, rowfiles
.csv .tsv .jsonl .parquet, manifest.json of an S3 Inventory     the images listed: manifest, inventory
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from maskbatch.archives import tars
from maskbatch.archives.entries import is_image
from maskbatch.archives.manifest import is_manifest
from maskbatch.archives.tree import MAGIC, File, Tree
from maskbatch.clock import EARLIEST, Clock, parse_bound
from maskbatch.config import JobConfig, PlanConfig
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.layout import DATE_DIRECTIVES, fill_dates, find_dates
from maskbatch.stores.access import Access
from maskbatch.stores.base import RefusedError, TransientError
from maskbatch.stores.fetch import fetch_info
from maskbatch.stores.options import StorageOptions
from maskbatch.stores.retry import FIRST_TRIES
from maskbatch.stores.uris import SCHEME, local_path, parse_argument

CONTAINERS = (".tar", ".zip", ".parquet")
UNREACHABLE = (TransientError, TimeoutError, RefusedError, PermissionError, RunFailedError)


@dataclass(frozen=True, slots=True)
class Source:
    """One ARCHIVE argument, or one day of it."""

    tree: Tree
    file: File | None = None
    """A single file, named outright. A web server has not been asked for its size and version yet."""
    dated: bool = False
    """One day of a template: it may have nothing."""

    @property
    def stem(self) -> str:
        """How the uri of everything in it begins."""
        return self.tree.base + self.tree.stem

    @property
    def name(self) -> str:
        """The last name of its pattern, or of the file."""
        return self.tree.pattern[-1] if self.tree.pattern else ""

    @property
    def may_repeat(self) -> bool:
        """Whether an image may come twice: a container or a manifest may be in it."""
        is_open = MAGIC.search(self.name) is not None and not is_image(self.name)
        return is_open or container_kind(self.name) is not None

    @property
    def is_remote(self) -> bool:
        """Whether reading its images may wait for a network; a manifest may point anywhere."""
        return not self.tree.base.startswith(SCHEME) or is_manifest(self.name)


def make_access(config: PlanConfig, options: StorageOptions, job: JobConfig | None = None) -> Access:
    """How a run reaches its archives. http may redirect into their own folders and --allow-prefix."""
    own = (f"{archive.rpartition('/')[0]}/" for archive in config.archives if archive.startswith("http"))
    job = job or JobConfig()
    return Access(
        options=options,
        prefixes=(*config.allow_prefix, *own),
        request_timeout_s=job.request_timeout_s,
        image_timeout_s=job.image_timeout_s,
        max_requests=job.max_requests,
    )


def find_sources(config: PlanConfig, access: Access) -> list[Source]:
    """What the arguments name, one source for each day of a template. Lists nothing. Raises UsageError."""
    sources = []
    for archive in config.archives:
        dates = find_dates(archive)
        if dates:
            before = _split(f"{archive[: dates[0].start()]}x")[1][:-1]
            fixed = next((i for i, name in enumerate(before) if MAGIC.search(name)), len(before))
            days = dict.fromkeys(_fill_days(archive, dates, config))
            sources += [replace(_find_source(day, fixed, access), dated=True) for day in days]
        else:
            sources.append(_find_source(archive, None, access))
    return sources


def _fill_days(archive: str, dates: Sequence[re.Match[str]], config: PlanConfig) -> Iterator[str]:
    """The archive's name for each day, or hour, from --since to --until, with --margin-days around."""
    since, until = parse_bound("--since", config.since), parse_bound("--until", config.until)
    if since is None or until is None:
        raise UsageError(f"archive {archive}: {{date:...}} needs --since and --until, which say which days")
    letters = set(re.findall("%-?(.)", "".join(date["format"] for date in dates)))
    if not letters or not letters <= set(DATE_DIRECTIVES):
        raise UsageError(f"archive {archive}: {{date:...}} knows %{' %'.join(DATE_DIRECTIVES)}, and %-d")
    clock, margin = (
        Clock.parse(config.timezone, EARLIEST, config.names_in),
        timedelta(days=config.margin_days),
    )
    time, until = min(clock.to_names(since)) - margin, max(clock.to_names(until)) + margin
    hourly = "H" in letters
    time = time.replace(hour=time.hour if hourly else 0, minute=0, second=0, microsecond=0)
    while time < until:
        yield fill_dates(archive, time)
        time += timedelta(hours=1) if hourly else timedelta(days=1)


def _split(archive: str) -> tuple[str, list[str]]:
    """The uri of an archive's store, ending in `/`, and the encoded names of the path below it."""
    place = parse_argument(archive)
    path = place.encode(place.path[1:])
    return f"{place.root}/", path.split("/") if path else []


def _find_source(archive: str, num_fixed: int | None, access: Access) -> Source:
    """`num_fixed`: how many names of the path are the archive's own folder; None: find out."""
    root, names = _split(archive)
    uri, file, magic = root + "/".join(names), None, [bool(MAGIC.search(name)) for name in names]
    if root.startswith("http"):
        if any(magic):
            message = "a web server has no folders to list, so no pattern can be matched"
            raise UsageError(f"archive {archive}: {message}; list its files in a manifest")
        file = File(uri, names[-1], exact=True)
    elif num_fixed is None and (not any(magic) or (uri.startswith(SCHEME) and os.path.lexists(archive))):
        file = _find_file(uri, access)
        magic = []
    if num_fixed is None:
        num_fixed = magic.index(True) if any(magic) else len(names) - (file is not None)
    base = root + "".join(f"{name}/" for name in names[:num_fixed])
    return Source(Tree(base, tuple(names[num_fixed:])), file)


def _find_file(uri: str, access: Access) -> File | None:
    """The file of a path without patterns; None for a folder. Raises UsageError where there is nothing."""
    name = uri.rpartition("/")[2]
    if uri.startswith(SCHEME):
        path = Path(os.fsdecode(local_path(uri)))
        if not path.exists():
            raise UsageError(f"archive {path}: no such folder or file; check the path")
        if path.is_dir():
            return None
    elif not (is_image(name) or file_kind(name)):
        return None
    with explain_unreachable(uri), suppress(FileNotFoundError):
        return File(uri, name, *fetch_info(access, uri, FIRST_TRIES), exact=True)
    return None


@contextmanager
def explain_unreachable(uri: str) -> Iterator[None]:
    """Turn what a store raises that does not give an archive into a UsageError."""
    try:
        yield
    except UNREACHABLE as error:
        denied = isinstance(error, PermissionError)
        why = "permission denied" if denied else str(error) or type(error).__name__
        message = f"archive {uri}: cannot be read: {why}; check the URL and your access to it"
        raise UsageError(message) from error


def container_kind(name: str) -> str | None:
    """`.tar`, `.zip`, `.parquet` or `manifest`, by a file's name, else None."""
    extension = os.path.splitext(name)[1].lower()
    return extension if extension in CONTAINERS else "manifest" if is_manifest(name) else None


def file_kind(name: str) -> str | None:
    """As `container_kind`. Raises UsageError for a compressed tar."""
    sentence = tars.explain_compression(name, b"")
    if sentence:
        raise UsageError(sentence)
    return container_kind(name)
