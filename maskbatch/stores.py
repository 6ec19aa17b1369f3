"""Where archives lie: size, version and bytes of a file by its uri, one class a kind of store.

    file://            Local, here
    s3://              s3.S3      obstore, with the credentials that botocore finds
    http:// https://   web.Http   requests; every redirect is checked
    anything else      Fsspec, here: gs:// and az:// with their extras, memory:// ...

All are called from threads, and raise what `fetch` sorts by whether it is worth another try.
"""

import json
import os
import threading
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from maskbatch.entries import decode_name, local_path
from maskbatch.errors import UsageError

S3_OPTIONS = ("endpoint_url", "region", "profile", "anon", "requester_pays", "key", "secret", "token")
"""What --storage-options may say for s3://; elsewhere the names are those of the fsspec file system."""
S3_FLAGS = ("anon", "requester_pays")


class TransientError(Exception):
    """The request failed in a way that may heal: a reset, a server error, a body that ends early."""


class ThrottledError(TransientError):
    """The store asks for fewer requests."""


class RefusedError(Exception):
    """The store answered, and another try would give the same; the message becomes the image's error."""


class TooLargeError(Exception):
    """The file has more bytes than allowed; none was read."""


class Info(NamedTuple):
    """What a store says of a file without reading it."""

    size: int
    version: str | None


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """Credentials and endpoints by URL prefix, from --storage-options; never shown, logged or written."""

    content: str = field(default="{}", repr=False)
    """JSON of prefix -> options."""

    @classmethod
    def from_toml(cls, path: Path) -> "StorageOptions":
        """From a TOML file of one table a URL prefix. Raises UsageError, which quotes no value of it."""
        remedy = 'a table for each URL prefix expected, such as ["s3://bucket/"] with endpoint_url = "..."'
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--storage-options {path}: cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"--storage-options {path}: is no TOML; {remedy}") from error
        for prefix, options in values.items():
            if "://" not in prefix or not isinstance(options, dict):
                raise UsageError(f"--storage-options {path}: {prefix!r} is no table of a prefix; {remedy}")
            unknown = sorted(set(options) - set(S3_OPTIONS)) if prefix.startswith("s3") else []
            if unknown:
                known = f"one of {', '.join(S3_OPTIONS)} expected"
                raise UsageError(f"--storage-options {path}: {unknown[0]!r} is not known; {known}")
            kinds = {name: bool if name in S3_FLAGS else str for name in S3_OPTIONS}
            wrong = [n for n, v in options.items() if prefix.startswith("s3") and type(v) is not kinds[n]]
            if wrong:
                expected = "true or false" if kinds[wrong[0]] is bool else "a string"
                raise UsageError(f"--storage-options {path}: {wrong[0]} of {prefix!r}: {expected} expected")
        try:
            return cls(json.dumps(values))
        except TypeError as error:  # TOML has dates
            raise UsageError(f"--storage-options {path}: has a value that is no option; {remedy}") from error

    def of(self, url: str) -> dict[str, Any]:
        """The options of the longest prefix of `url`, by fsspec's names for its file system."""
        chosen = dict(_tables(self.content).get(self.prefix(url), {}))
        region = chosen.pop("region", None) if url.startswith("s3://") else None
        if region:
            chosen["client_kwargs"] = {"region_name": region}
        return chosen

    def prefix(self, url: str) -> str:
        """The longest prefix of `url` that has options, or ''."""
        fitting = [p for p in _tables(self.content) if f"{url}/".startswith(f"{p.rstrip('/')}/")]
        return max(fitting, key=len, default="")


@lru_cache(maxsize=4)
def _tables(content: str) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = json.loads(content)
    return values


NO_OPTIONS = StorageOptions()


class Store(Protocol):
    """One store. Every method takes a uri as the plan has it."""

    def info(self, uri: str) -> Info:
        """Size and version of a file. Raises FileNotFoundError."""

    def read(self, uri: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        """The whole file, or its bytes from span[0] to before span[1].

        With a span, a file that is not of `version` any more is a RefusedError.
        Raises FileNotFoundError, PermissionError, RefusedError, TooLargeError, TransientError.
        """


CHANGED = "the file that holds it changed since it was planned"


class Local:
    """Files of this machine, and mounts."""

    def info(self, uri: str) -> Info:
        found = os.stat(local_path(uri))  # noqa: PTH116  bytes
        return Info(found.st_size, str(found.st_mtime_ns))

    def read(self, uri: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        try:
            with open(local_path(uri), "rb") as file:
                if span is None:
                    data = file.read(max_bytes + 1)
                    if len(data) > max_bytes:
                        raise TooLargeError
                    return data
                if version and str(os.fstat(file.fileno()).st_mtime_ns) != version:
                    raise RefusedError(CHANGED)
                return os.pread(file.fileno(), span[1] - span[0], span[0])
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            raise RefusedError(error.strerror or type(error).__name__) from error


class Fsspec:
    """Whatever else fsspec can open."""

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        self.files = filesystem(root, options)

    def path(self, uri: str) -> str:
        """fsspec's path of a uri."""
        text = decode_name(uri).decode(errors="surrogateescape")
        return str(self.files._strip_protocol(text))

    def info(self, uri: str) -> Info:
        found = self._try(lambda: self.files.info(self.path(uri)))
        if found["type"] == "directory":
            raise FileNotFoundError(uri)
        return fsspec_info(found)

    def read(self, uri: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        if span is None:
            data = self._try(lambda: self.files.cat_file(self.path(uri), 0, max_bytes + 1))
            if len(data) > max_bytes:
                raise TooLargeError
            return bytes(data)
        data = self._try(lambda: self.files.cat_file(self.path(uri), *span))
        if version and self.info(uri).version not in (None, version):
            raise RefusedError(CHANGED)
        return bytes(data)

    def _try(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (FileNotFoundError, PermissionError):
            raise
        except (TimeoutError, ConnectionError) as error:
            raise TransientError("the store cannot be reached") from error
        except Exception as error:  # each file system has its own; what heals is not known
            names = ("status", "status_code", "code")  # of aiohttp, Azure, Google
            if any(str(getattr(error, name, None)) in ("401", "403") for name in names):
                raise PermissionError from error
            raise TransientError(f"the store's answer failed ({type(error).__name__})") from error


def filesystem(url: str, options: Mapping[str, Any]) -> Any:
    """fsspec's file system of a URL. Raises UsageError where it cannot be made."""
    import fsspec

    scheme = url.partition("://")[0]
    extra = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}.get(scheme)
    if scheme not in fsspec.available_protocols():
        raise UsageError(f"{scheme}://: Protocol not known; a path, s3://, gs:// or https:// expected")
    try:
        named = fsspec.get_filesystem_class(scheme)._get_kwargs_from_urls(url)  # such as Azure's account
        return fsspec.filesystem(scheme, **{"use_listings_cache": False, **named, **options})
    except ImportError as error:
        remedy = f"pip install 'maskbatch[{extra}]'" if extra else str(error)
        raise UsageError(f"{scheme}:// cannot be opened without its library; {remedy}") from error
    except Exception as error:  # credentials, most often; each file system says it by its own exception
        message = f"{scheme}://: {type(error).__name__}: {error}; mend the credentials or --storage-options"
        raise UsageError(message) from error


VERSION_NAMES = ("ETag", "etag", "e_tag", "generation", "md5Hash", "last_modified", "mtime", "created")


def fsspec_info(info: Mapping[str, Any]) -> Info:
    """Size and version of what fsspec lists, by whichever name its file system gives the version."""
    version = next((str(info[name]) for name in VERSION_NAMES if info.get(name) is not None), None)
    return Info(int(info["size"] or 0), plain_etag(version))


def plain_etag(etag: str | None) -> str | None:
    """An etag without its quotes, and without the mark of a weak one."""
    return etag.removeprefix("W/").strip('"') if etag else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """How a run reaches its archives; small, and sent to every worker."""

    options: StorageOptions = NO_OPTIONS
    prefixes: tuple[str, ...] = ()
    """Where http redirects may lead."""
    request_timeout_s: float = 30.0
    image_timeout_s: float = 120.0
    """All tries of one image."""
    max_requests: int = 32
    """Requests in flight in one worker."""

    def store(self, uri: str) -> Store:
        """The store of a uri. Raises UsageError where it cannot be opened at all."""
        scheme, _, rest = uri.partition("://")
        bucket = "" if scheme in ("file", "http", "https", "memory") else rest.partition("/")[0]
        with _one_at_a_time:  # or every thread makes a client of its own, 0.1 s each
            return _store(scheme, bucket, self, self.options.prefix(uri))


_one_at_a_time = threading.Lock()


@lru_cache(maxsize=64)
def _store(scheme: str, bucket: str, access: Access, prefix: str) -> Store:
    """One client for each bucket and prefix of options, kept: it holds the open connections."""
    if scheme == "file":
        return Local()
    if scheme == "s3":
        from maskbatch.s3 import S3

        return S3(bucket, access.options.of(prefix or f"s3://{bucket}"), access.request_timeout_s)
    if scheme in ("http", "https"):
        from maskbatch.places import allowed
        from maskbatch.web import Http

        return Http(lambda uri: allowed(uri, access.prefixes), access.request_timeout_s)
    return Fsspec(f"{scheme}://{bucket}/", access.options.of(prefix or f"{scheme}://"))
