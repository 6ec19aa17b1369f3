"""One request for a file's bytes: tried again while that may help, and so many at once.

The number of requests in flight is halved when the store throttles and grows by one for each
window of successes, as TCP does (V. Jacobson, "Congestion Avoidance and Control", 1988).
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from maskbatch.stores.access import Access
from maskbatch.stores.base import Info, RefusedError, Store, ThrottledError, TransientError
from maskbatch.stores.retry import MAX_TRIES, keep_trying


class Window:
    """How many requests one worker keeps in flight: halved by a throttling store, growing back after."""

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
                if began >= self._halved_at:  # not again for requests sent before the last halving
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
    most = access.max_requests
    return _windows.get(most) or _windows.setdefault(most, Window(most))


def fetch_bytes(
    access: Access,
    uri: str,
    span: tuple[int, int] | None = None,
    *,
    version: str | None = None,
    num_bytes: int | None = None,
    max_bytes: int = 2**62,
) -> bytes:
    """The bytes of a file, or of its `span`, tried again while that may help.

    `num_bytes`: the size that was listed; a whole file that comes shorter or longer is asked for again,
    unless the store says that this is its size now.

    Raises what `Store.read` does; TimeoutError once `access.image_timeout_s` is used up, the last
    failure once MAX_TRIES are.
    """
    store, limits = access.store(uri), shared_window(access)
    expected = span[1] - span[0] if span else num_bytes

    def ask() -> bytes:
        with limits.request():
            data = store.read(uri, span, version, max_bytes)
        if expected is None or len(data) == expected:
            return data
        if span is None and _size_now(store, uri) in (None, len(data)):
            return data  # it was written anew since it was listed, or a manifest says another size
        raise TransientError(f"{expected:,} bytes expected, the store sent others")

    return keep_trying(ask, access.image_timeout_s)


def _size_now(store: Store, uri: str) -> int | None:
    """None from a web server without ranges, whose short answers are noticed by their Content-Length."""
    try:
        return store.info(uri).size
    except RefusedError:
        return None


def fetch_info(access: Access, uri: str, tries: int = MAX_TRIES) -> Info:
    """Size and version of a file, asked for again while that may help. Raises what `fetch` does."""
    store = access.store(uri)
    return keep_trying(lambda: store.info(uri), access.image_timeout_s, tries)
