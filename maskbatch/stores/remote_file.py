"""A remote file that reads like a local one, in blocks and ahead."""

import errno
import io
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor

from maskbatch.stores.access import Access
from maskbatch.stores.base import Info, RefusedError, TransientError
from maskbatch.stores.fetch import fetch_bytes

BLOCK_BYTES = 4 * 2**20
BLOCKS_AHEAD = 4
MAX_READ_BYTES = 2**30
"""The most that one read of a container's index can need; a header that claims more is wrong."""


class RemoteFile(io.RawIOBase):
    """A seekable file of a store. Fetches blocks ahead while reading goes forward.

    Holds at most BLOCKS_AHEAD + 2 blocks. Reading more than MAX_READ_BYTES at once is an OSError, and so is
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

    readall = read

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
            # With a number: Arrow's own errors for a damaged file have none.
            raise OSError(errno.EIO, str(error) or type(error).__name__, self.uri) from error

    def _fetch(self, number: int) -> bytes:
        start = number * BLOCK_BYTES
        span = start, min(start + BLOCK_BYTES, self.info.size)
        return fetch_bytes(self.access, self.uri, span, version=self.info.version)
