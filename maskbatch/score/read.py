"""Plan rows to encoded bytes, or the reason why there are none.

One request reads neighbouring members of a container; threads read AHEAD_BYTES ahead of the decoder.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, BinaryIO, cast

import pyarrow as pa

from maskbatch.archives.rowfiles import NO_BYTES, GroupReader
from maskbatch.archives.zips import extract_member
from maskbatch.decode.source import Encoded
from maskbatch.errors import ImageError
from maskbatch.stores.access import Access
from maskbatch.stores.base import CHANGED, Info, RefusedError, TooLargeError, TransientError
from maskbatch.stores.fetch import fetch_bytes, fetch_info
from maskbatch.stores.remote_file import RemoteFile
from maskbatch.stores.uris import SCHEME, local_path

LOCAL_THREADS = 8
"""Files that one worker reads at a time: more than a local disk needs, enough for a network mount."""
AHEAD_BYTES = 48 * 2**20
"""What one worker reads ahead of the decoder."""
GAP_BYTES = 2**16
"""One request reads members that are nearer to each other than this: the gap costs less than a request."""
MERGED_BYTES = 4 * 2**20
HEADER_BYTES = 2**18
"""A zip's member may be this much longer than its data; a hostile one claims any length."""
GROUP_ROWS = 256
"""Rows of a row group that are read together: their size is known only then."""
OPEN_READERS = 2
"""Parquet files that a worker keeps open; each holds a page, which pyarrow writes 100 MB large."""
UNKNOWN_BYTES = 2**20
"""What an image of unknown size counts as."""
PlanRow = Mapping[str, Any]
READ_COLUMNS = [
    "uri", "container", "offset", "length", "encoding", "num_bytes", "version", "fetch", "status", "error",
]  # fmt: skip
"""The columns of the plan that reading needs."""


def read_images(rows: Sequence[PlanRow], access: Access, max_bytes: int) -> Iterator[Encoded]:
    """Yield the images of plan `rows`, in order, whatever happens to each."""
    local = all((row["container"] or row["uri"]).startswith(SCHEME) for row in rows)
    pool = _pool(LOCAL_THREADS if local else access.max_requests)
    ahead: deque[tuple[int, Future[list[Encoded]]]] = deque()
    size = 0
    try:
        for request in _requests(rows):
            num_bytes = sum(row["num_bytes"] or UNKNOWN_BYTES for row in request)
            ahead.append((num_bytes, pool.submit(_read, request, access, max_bytes)))
            size += num_bytes
            while size > AHEAD_BYTES or len(ahead) > access.max_requests:
                size -= ahead[0][0]
                yield from ahead.popleft()[1].result()
        while ahead:
            yield from ahead.popleft()[1].result()
    finally:
        for _, future in ahead:
            future.cancel()


@lru_cache(maxsize=4)
def _pool(num_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(num_threads, thread_name_prefix="read")


def _requests(rows: Sequence[PlanRow]) -> Iterator[list[PlanRow]]:
    """Consecutive rows that one request reads."""
    together: list[PlanRow] = []
    for row in rows:
        if together and not _fits(together, row):
            yield together
            together = []
        together.append(row)
    if together:
        yield together


def _fits(together: Sequence[PlanRow], row: PlanRow) -> bool:
    first, last = together[0], together[-1]
    if row["status"] or first["status"] or not row["container"] or row["container"] != first["container"]:
        return False
    if row["encoding"] == "row" or first["encoding"] == "row":
        same = row["encoding"] == first["encoding"] and row["offset"] == first["offset"]
        return bool(same and len(together) < GROUP_ROWS)
    gap = row["offset"] - (last["offset"] + last["length"])
    whole = row["offset"] + row["length"] - first["offset"]
    return bool(abs(gap) <= GAP_BYTES and row["offset"] >= first["offset"] and whole <= MERGED_BYTES)


def _read(request: Sequence[PlanRow], access: Access, max_bytes: int) -> list[Encoded]:
    """The images of one request; if it fails, each of them has failed."""
    first = request[0]
    try:
        if first["status"]:
            return [Encoded(None, first["status"], first["error"])]
        if first["encoding"] == "row":
            return _read_rows(request, access, max_bytes)
        if first["container"]:
            return _read_members(request, access, max_bytes)
        num_bytes = first["num_bytes"]
        if (num_bytes or 0) > max_bytes:
            raise TooLargeError
        data = fetch_bytes(access, first["fetch"] or first["uri"], num_bytes=num_bytes, max_bytes=max_bytes)
        return [Encoded(data, num_bytes=len(data))]
    except FileNotFoundError:
        failed = Encoded(None, "missing", "the file is not there any more")
    except PermissionError:
        failed = Encoded(None, "read_error", "Permission denied")
    except TooLargeError:
        failed = Encoded(None, "too_large", f"more than the {max_bytes:,} bytes allowed")
    except RefusedError as error:
        failed = Encoded(None, "read_error", str(error))
    except TimeoutError:
        failed = Encoded(None, "timeout", "the store did not answer in time")
    except TransientError:
        failed = Encoded(None, "read_error", "the store kept failing")
    return [failed] * len(request)


def _read_members(request: Sequence[PlanRow], access: Access, max_bytes: int) -> list[Encoded]:
    wanted = [row for row in request if not _too_large(row, max_bytes)]
    if not wanted:
        raise TooLargeError
    container, start, version = (wanted[0][name] for name in ("container", "offset", "version"))
    stop = max(row["offset"] + row["length"] for row in wanted)
    data = memoryview(fetch_bytes(access, container, (start, stop), version=version) if stop > start else b"")
    return [_member(row, data[row["offset"] - start :][: row["length"]], max_bytes) for row in request]


def _too_large(row: PlanRow, max_bytes: int) -> bool:
    return bool(max(row["num_bytes"] or 0, row["length"] - HEADER_BYTES) > max_bytes)


def _member(row: PlanRow, data: memoryview, max_bytes: int) -> Encoded:
    try:
        if _too_large(row, max_bytes):
            raise ImageError("too_large", f"more than the {max_bytes:,} bytes allowed")
        member = extract_member(bytes(data), row["uri"], row["encoding"], row["num_bytes"], max_bytes)
    except ImageError as error:
        return Encoded(None, error.status, error.message)
    return Encoded(member, num_bytes=len(member))


def _read_rows(request: Sequence[PlanRow], access: Access, max_bytes: int) -> list[Encoded]:
    """Rows of one row group of a Parquet file."""
    missing = Encoded(None, "missing", NO_BYTES)
    images = dict.fromkeys((row["length"] for row in request), missing)
    try:
        with _reader(request[0], access) as reader:
            for number, data in reader.read(list(images), max_bytes):
                if data is not None and len(data) > max_bytes:
                    images[number] = Encoded(None, "too_large", f"more than the {max_bytes:,} bytes allowed")
                elif data is not None:
                    images[number] = Encoded(data, num_bytes=len(data))
    except (FileNotFoundError, PermissionError, TimeoutError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error.__cause__, (TransientError, RefusedError, OSError)):
            raise error.__cause__ from error  # the store failed, not the file
        raise RefusedError("the Parquet file is damaged here") from error
    return [images[row["length"]] for row in request]


_readers: OrderedDict[tuple[Any, ...], GroupReader] = OrderedDict()
"""Readers that stopped inside a row group: the next shard goes on there, not at the first page."""


@contextmanager
def _reader(row: PlanRow, access: Access) -> Iterator[GroupReader]:
    """A reader of the row's group that has not passed the row; nobody else has it meanwhile."""
    info = fetch_info(access, row["container"])
    if row["version"] and info.version and info.version != row["version"]:
        raise RefusedError(CHANGED)
    key = (row["container"], info.version, row["offset"])
    reader = _readers.pop(key, None)
    if reader is not None and reader.first > row["length"]:
        reader.file.close()
        reader = None
    file = reader.file if reader else _open(row["container"], access, info)
    try:
        reader = reader or GroupReader(file, row["offset"])
        yield reader
    except BaseException:
        file.close()
        raise
    _readers[key] = reader
    while len(_readers) > OPEN_READERS:
        _readers.popitem(last=False)[1].file.close()


def _open(container: str, access: Access, info: Info) -> BinaryIO:
    if container.startswith(SCHEME):
        return open(local_path(container), "rb")
    return cast(BinaryIO, RemoteFile(access, container, info))
