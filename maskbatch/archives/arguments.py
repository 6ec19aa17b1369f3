"""What an ARCHIVE argument names, on any store and of any kind.

folder, bucket, prefix         every image below it
path with * ? [...] **         what matches; a tar, zip, Parquet file or manifest among it is opened
path with {date:%Y/%m/%d}      one of these for each day from --since to --until, and --margin-days around
.tar .zip .parquet             the images inside: members, rowfiles
.csv .jsonl .parquet, manifest.json of an S3 Inventory     the images listed: manifest
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from maskbatch.archives import manifest, tars
from maskbatch.archives.entries import is_image
from maskbatch.archives.tree import MAGIC, Tree
from maskbatch.clock import parse_bound
from maskbatch.config import JobConfig, PlanConfig
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.stores.access import Access
from maskbatch.stores.base import RefusedError, TransientError
from maskbatch.stores.fetch import fetch_info
from maskbatch.stores.options import StorageOptions
from maskbatch.stores.retry import FIRST_TRIES
from maskbatch.stores.uris import SCHEME, encode_name, local_path

DATE = re.compile(r"\{date:([^}]*)\}")


CONTAINERS = (".tar", ".zip", ".parquet")


UNREACHABLE = (TransientError, TimeoutError, RefusedError, PermissionError, RunFailedError)


@dataclass(frozen=True, slots=True)
class Source:
    """One ARCHIVE argument, or one day of it."""

    tree: Tree
    single: bool
    """One file, named outright: nothing is listed."""
    dated: bool = False
    """One day of a template: it may have nothing."""

    @property
    def stem(self) -> str:
        """What the uri of everything in it begins with."""
        return self.tree.base + self.tree.stem

    @property
    def may_repeat(self) -> bool:
        """Whether an image may come twice: a container or a manifest may be in it."""
        name = self.tree.pattern[-1] if self.tree.pattern else ""
        return bool(MAGIC.search(name) and not is_image(name)) or container_kind(name) is not None


def make_absolute(archive: str) -> str:
    """An ARCHIVE argument as run.json holds it: an absolute path, or a URL. Raises UsageError."""
    scheme, separator, rest = archive.partition("://")
    scheme = {"s3a": "s3", "s3n": "s3"}.get(scheme.lower(), scheme.lower())
    if not separator or scheme in ("file", "local"):
        try:
            return os.path.normpath(Path(rest if separator else archive).expanduser().absolute())
        except RuntimeError as error:  # ~name
            raise UsageError(f"archive {archive}: there is no such user; check the path") from error
    host, slash, path = rest.partition("/")
    web = scheme in ("http", "https")
    if (web and "?" in rest) or ("@" in host and (web or ":" in host)):
        shown = f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".partition("?")[0]
        remedy = "list it in a manifest, a CSV with a column uri" if web else "say it in --storage-options"
        raise UsageError(f"archive {shown}: a URL with a query or a password is kept in no run; {remedy}")
    if not rest.strip("/") or (web and not path.strip("/")):
        example = f"{scheme}://HOST/NAME.tar" if web else f"{scheme}://BUCKET/PREFIX"
        raise UsageError(f"archive {archive}: names nothing; write it like {example}")
    return f"{scheme}://{rest.rstrip('/')}"


def make_access(config: PlanConfig, options: StorageOptions, job: JobConfig | None = None) -> Access:
    """How a run reaches its archives; http may redirect into their own folders and --allow-prefix."""
    own = (archive.rpartition("/")[0] + "/" for archive in config.archives if archive.startswith("http"))
    job = job or JobConfig()
    return Access(
        options=options,
        prefixes=(*config.allow_prefix, *own),
        request_timeout_s=job.request_timeout_s,
        image_timeout_s=job.image_timeout_s,
        max_requests=job.max_requests,
    )


def find_sources(config: PlanConfig, access: Access) -> list[Source]:
    """What the arguments name, templates expanded; nothing is listed. Raises UsageError."""
    found = []
    for archive in config.archives:
        dated = DATE.search(archive)
        if dated:
            before = _root_and_names(f"{archive[: dated.start()]}x")[1][:-1]
            fixed = next((i for i, name in enumerate(before) if MAGIC.search(name)), len(before))
            days = dict.fromkeys(_dates(archive, config))
            found += [replace(_find_source(day, fixed, access), dated=True) for day in days]
        else:
            found.append(_find_source(archive, None, access))
    return found


def _dates(archive: str, config: PlanConfig) -> Iterator[str]:
    """The archive's name for each day, or hour, from --since to --until, with --margin-days around."""
    since, until = parse_bound("--since", config.since), parse_bound("--until", config.until)
    if since is None or until is None:
        raise UsageError(f"archive {archive}: {{date:...}} needs --since and --until, which say which days")
    margin = timedelta(days=config.margin_days)
    since, until = since - margin, until + margin
    letters = "".join(re.findall("%(.)", "".join(DATE.findall(archive))))
    if not letters or letters.strip("YymdjH"):
        raise UsageError(f"archive {archive}: {{date:...}} knows %Y %y %m %d %j and %H")
    each = timedelta(hours=1) if "H" in letters else timedelta(days=1)
    time = since.replace(hour=since.hour if "H" in letters else 0, minute=0, second=0, microsecond=0)
    while time < until:
        yield DATE.sub(lambda form, at=time: at.strftime(form[1]), archive)  # type: ignore[misc]
        time += each


def _root_and_names(archive: str) -> tuple[str, list[str]]:
    """The uri of an archive's store, ending in `/`, and the encoded names of the path below it."""
    scheme, separator, path = archive.partition("://")
    if not separator:
        return f"{SCHEME}/", encode_name(archive).split("/")[1:]
    if scheme in ("s3", "gs", "gcs", "az", "abfs", "abfss", "http", "https"):
        bucket, _, path = path.partition("/")
        path = path if scheme.startswith("http") else encode_name(path)  # which is sent as it is
        return f"{scheme}://{bucket}/", path.split("/") if path else []
    first = "/" if path.startswith("/") else ""
    return f"{scheme}://{first}", [name for name in encode_name(path).split("/") if name]


def _find_source(archive: str, fixed: int | None, access: Access) -> Source:
    """`fixed`: how many names of the path are the archive's own folder; None finds it."""
    root, names = _root_and_names(archive)
    if root.startswith("http") and any(map(MAGIC.search, names)):
        message = (
            "a web server has no folders to list, so no pattern can be matched; list its files in a manifest"
        )
        raise UsageError(f"archive {archive}: {message}")
    single = False
    if fixed is None:
        magic = [bool(MAGIC.search(name)) for name in names]
        if not any(magic) or (root == f"{SCHEME}/" and os.path.lexists(archive)):
            single = _is_file(root + "/".join(names), access)
            fixed = len(names) - single
        else:
            fixed = magic.index(True)
    base = root + "".join(f"{name}/" for name in names[:fixed])
    return Source(Tree(base, tuple(names[fixed:])), single or root.startswith("http"))


def _is_file(uri: str, access: Access) -> bool:
    """Whether a path without patterns is a file. Raises UsageError where a local one is nothing."""
    if uri.startswith("http"):
        return True
    if uri.startswith(SCHEME):
        path = Path(os.fsdecode(local_path(uri)))
        if not path.exists():
            raise UsageError(f"archive {path}: no such folder or file; check the path")
        return not path.is_dir()
    name = uri.rpartition("/")[2]
    if not (is_image(name) or file_kind(name)):
        return False
    try:
        fetch_info(access, uri, FIRST_TRIES)
    except FileNotFoundError:
        return False
    except UNREACHABLE as error:
        raise explain_unreachable(uri, error) from error
    return True


def explain_unreachable(uri: str, error: Exception) -> UsageError:
    why = "permission denied" if isinstance(error, PermissionError) else str(error) or type(error).__name__
    return UsageError(f"archive {uri}: cannot be read: {why}; check the URL and your access to it")


def container_kind(name: str) -> str | None:
    """`.tar`, `.zip`, `.parquet` or `manifest`, by a file's name, else None."""
    extension = os.path.splitext(name)[1].lower()
    return extension if extension in CONTAINERS else "manifest" if manifest.is_manifest(name) else None


def file_kind(name: str) -> str | None:
    """`_container`, but a compressed tar raises UsageError."""
    sentence = tars.explain_compression(name, b"")
    if sentence:
        raise UsageError(sentence)
    return container_kind(name)
