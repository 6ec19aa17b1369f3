"""Which store serves a uri, and how a run reaches it."""

import threading
from dataclasses import dataclass
from functools import lru_cache

from maskbatch.stores.base import Store
from maskbatch.stores.filesystem import Fsspec
from maskbatch.stores.local import Local
from maskbatch.stores.options import NO_OPTIONS, StorageOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """How a run reaches its archives; sent to every worker, so small."""

    options: StorageOptions = NO_OPTIONS
    prefixes: tuple[str, ...] = ()
    """Where http redirects may lead."""
    request_timeout_s: float = 30.0
    """Of one try."""
    image_timeout_s: float = 120.0
    """Of all tries of one image."""
    max_requests: int = 32
    """Requests in flight in one worker."""

    def store(self, uri: str) -> Store:
        """The store of a uri. Raises UsageError if it cannot be opened at all."""
        scheme, _, rest = uri.partition("://")
        bucket = "" if scheme in ("file", "http", "https", "memory") else rest.partition("/")[0]
        with _one_at_a_time:  # otherwise every thread makes its own client, 0.1 s each
            return _store(scheme, bucket, self, self.options.prefix(uri))


_one_at_a_time = threading.Lock()


@lru_cache(maxsize=64)
def _store(scheme: str, bucket: str, access: Access, prefix: str) -> Store:
    """One client for each bucket and prefix of options, kept for its open connections."""
    if scheme == "file":
        return Local()
    if scheme == "s3":
        from maskbatch.stores.s3 import S3

        return S3(bucket, access.options.of(prefix or f"s3://{bucket}"), access.request_timeout_s)
    if scheme in ("http", "https"):
        from maskbatch.stores.uris import is_allowed
        from maskbatch.stores.web import Http

        return Http(lambda uri: is_allowed(uri, access.prefixes), access.request_timeout_s)
    return Fsspec(f"{scheme}://{bucket}/", access.options.of(prefix or f"{scheme}://"))
