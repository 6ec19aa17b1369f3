"""Requests that may fail: which are worth another try, how many at once, and a remote file read ahead.

The number of requests in flight is halved when the store throttles and grows by one for each
window of successes, as TCP does (V. Jacobson, "Congestion Avoidance and Control", 1988).
"""

import errno
import io
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from maskbatch.stores import Access, Info, RefusedError, Store, ThrottledError, TransientError

Answer = TypeVar("Answer")

BLOCK_BYTES = 4 * 2**20
BLOCKS_AHEAD = 4
MAX_READ_BYTES = 2**30
"""One read of a container's index; a header that claims more is not believed."""
MAX_TRIES = 12
FIRST_TRIES = 6
"""Of the first requests to a store, which may not be there at all: 2 s."""


def backoff_s(attempt: int) -> float:
    """How long to wait after failed `attempt` 0, 1, ...: exponential, with full jitter, 10 s at most.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(10.0, 0.1 * 2**attempt))  # noqa: S311


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


def window(access: Access) -> Window:
    """The window that all requests of this process share."""
    most = access.max_requests
    return _windows.get(most) or _windows.setdefault(most, Window(most))


def fetch(
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
    store, limits = access.store(uri), window(access)
    expected = span[1] - span[0] if span else num_bytes

    def ask() -> bytes:
        with limits.request():
            data = store.read(uri, span, version, max_bytes)
        if expected is None or len(data) == expected:
            return data
        if span is None and _size_now(store, uri) in (None, len(data)):
            return data  # it was written anew since it was listed, or a manifest says another size
        raise TransientError(f"{expected:,} bytes expected, the store sent others")

    return tried(ask, access.image_timeout_s)


def _size_now(store: Store, uri: str) -> int | None:
    """None from a web server without ranges, whose short answers are noticed by their Content-Length."""
    try:
        return store.info(uri).size
    except RefusedError:
        return None


def look(access: Access, uri: str, tries: int = MAX_TRIES) -> Info:
    """Size and version of a file, asked for again while that may help. Raises what `fetch` does."""
    store = access.store(uri)
    return tried(lambda: store.info(uri), access.image_timeout_s, tries)


def tried(ask: Callable[[], Answer], patience_s: float, tries: int = MAX_TRIES) -> Answer:
    """`ask()`, called again while its failures may heal. Raises the last of them, or TimeoutError."""
    deadline = time.monotonic() + patience_s
    for attempt in range(tries):
        try:
            return ask()
        except (TransientError, TimeoutError) as error:
            if attempt + 1 == tries:
                raise
            wait_s = backoff_s(attempt)
            if time.monotonic() + wait_s > deadline:
                raise TimeoutError("the store did not answer in time") from error
        time.sleep(wait_s)
    raise AssertionError("unreachable")


class RemoteFile(io.RawIOBase):
    """A file of a store, seekable, read in blocks that are asked for ahead while reading goes forward.

    Holds at most BLOCKS_AHEAD + 2 blocks. One read of more than MAX_READ_BYTES is an OSError, as is
    what the store refuses.
    """

    def __init__(self, access: Access, uri: str, info: Info) -> None:
        self.access, self.uri, self.info = access, uri, info
        self._at = 0
        self._blocks: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._last = -1
        self._pool = ThreadPoolExecutor(BLOCKS_AHEAD, thread_name_prefix="index")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.info.size}[whence]
        if base + offset < 0:
            raise OSError("a place before the file's start")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self.read(self.info.size - self._at)

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.info.size - self._at)
        size = left if size is None or size < 0 else min(size, left)
        if size > MAX_READ_BYTES:
            raise OSError(f"{size:,} bytes asked for at once, {MAX_READ_BYTES:,} at most")
        parts = bytearray()
        while len(parts) < size:
            number, skip = divmod(self._at, BLOCK_BYTES)
            part = self._block(number)[skip : skip + size - len(parts)]
            parts += part
            self._at += len(part)
        return bytes(parts)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _block(self, number: int) -> bytes:
        ahead = BLOCKS_AHEAD if number in (self._last, self._last + 1) and self._last >= 0 else 0
        self._last = number
        for wanted in range(number, number + ahead + 1):
            if wanted not in self._blocks and wanted * BLOCK_BYTES < self.info.size:
                self._blocks[wanted] = self._pool.submit(self._fetch, wanted)
        while len(self._blocks) > BLOCKS_AHEAD + 2:
            oldest = next(n for n in self._blocks if n != number)
            self._blocks.pop(oldest).cancel()
        try:
            return self._blocks[number].result()
        except (TransientError, RefusedError, OSError) as error:
            # With a number, which Arrow's own errors of a damaged file have not.
            raise OSError(errno.EIO, str(error) or type(error).__name__, self.uri) from error

    def _fetch(self, number: int) -> bytes:
        start = number * BLOCK_BYTES
        span = start, min(start + BLOCK_BYTES, self.info.size)
        return fetch(self.access, self.uri, span, version=self.info.version)
