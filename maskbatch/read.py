"""Bytes by URI: what the decoder gets, or why it gets nothing."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from maskbatch.archive import local_path

READ_THREADS = 8
"""Files read at a time in one worker; more than a local disk needs, enough for a network mount."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One image as it lies in the archive, or the reason it could not be read."""

    data: bytes | None
    status: str = "ok"
    error: str | None = None
    num_bytes: int | None = None


def read_images(uris: Sequence[str], max_bytes: int) -> Iterator[Encoded]:
    """Yield the images at `uris`, in order, reading at most READ_THREADS ahead of what was taken."""
    with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read") as pool:
        ahead: deque[Future[Encoded]] = deque()
        for uri in uris:
            ahead.append(pool.submit(read_image, uri, max_bytes))
            if len(ahead) > READ_THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def read_image(uri: str, max_bytes: int) -> Encoded:
    """The bytes at `uri`; a missing, unreadable or oversized file gives a status, never an exception."""
    try:
        with open(local_path(uri), "rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        return Encoded(None, "missing", "the file is not there any more")
    except OSError as error:
        return Encoded(None, "read_error", error.strerror or type(error).__name__)
    if len(data) > max_bytes:
        return Encoded(None, "too_large", f"more than the {max_bytes:,} bytes allowed")
    return Encoded(data, num_bytes=len(data))
