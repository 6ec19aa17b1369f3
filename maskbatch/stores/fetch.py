"""Requests for a file's bytes: which to repeat, and how many at once.

The number of requests in flight halves when the store throttles, and grows by one for each window of
successes, as in TCP (V. Jacobson, "Congestion Avoidance and Control", 1988).
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from maskbatch.stores.access import Access
from maskbatch.stores.base import Info, RefusedError, Store, ThrottledError, TransientError
from maskbatch.stores.retry import MAX_TRIES, keep_trying


class Window:
    """How many requests one worker keeps in flight."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self._in_flight = 0
        self._halved_at = 0.0
        self._free = threading.Condition()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Wait for a place, and hold it while the block runs."""
        with self._free:
            self._free.wait_for(lambda: self._in_flight < max(1, int(self.limit)))
            self._in_flight += 1
        began = time.monotonic()
        try:
            yield
        except ThrottledError:
            with self._free:
                if began >= self._halved_at:  # requests sent before the last halving do not count
                    self.limit = max(1.0, self.limit / 2)
                    self._halved_at = time.monotonic()
            raise
        else:
            with self._free:
                self.limit = min(self.most, self.limit + 1 / max(self.limit, 1))
        finally:
            with self._free:
                self._in_flight -= 1
                self._free.notify_all()


_windows: dict[int, Window] = {}


def shared_window(access: Access) -> Window:
    """The window that all requests of this process share."""
    return _windows.setdefault(access.max_requests, Window(access.max_requests))


def fetch_bytes(
    access: Access,
    uri: str,
    span: tuple[int, int] | None = None,
    *,
    version: str | None = None,
    num_bytes: int | None = None,
    max_bytes: int = 2**62,
) -> bytes:
    """The bytes of a file, or of its `span`. Tries again while that may help.

    If a whole file has another size than `num_bytes`, which was listed, asks again, unless the store says
    that this is its size now. Raises what `Store.read` does, TimeoutError after `access.image_timeout_s`, and
    the last failure after MAX_TRIES.
    """
    store, limits = access.store(uri), shared_window(access)
    expected = span[1] - span[0] if span else num_bytes

    def ask() -> bytes:
        with limits.request():
            data = store.read(uri, span, version, max_bytes)
        if expected is None or len(data) == expected:
            return data
        if span is None and _size_now(store, uri) in (None, len(data)):
            return data  # the file was replaced since it was listed, or its manifest is wrong
        raise TransientError(f"{expected:,} bytes expected, the store sent others")

    return keep_trying(ask, access.image_timeout_s)


def _size_now(store: Store, uri: str) -> int | None:
    """None from a web server without ranges. Its Content-Length shows short answers."""
    try:
        return store.info(uri).size
    except RefusedError:
        return None


def fetch_info(access: Access, uri: str, tries: int = MAX_TRIES) -> Info:
    """Size and version of a file. Tries again and raises as `fetch_bytes`."""
    store = access.store(uri)
    return keep_trying(lambda: store.info(uri), access.image_timeout_s, tries)
