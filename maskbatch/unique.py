"""Every uri once, however many archives and manifests list it, for any number of them.

Entries are spooled to a temporary file; 128-bit hashes of their uris lie in buckets on disk, and are
compared one bucket at a time.
"""

import pickle
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from maskbatch.entries import Entry
from maskbatch.progress import Step

SPOOL_ENTRIES = 4096
BUCKETS = 64
"""Of 5 MB each for 10 million rows."""
HASH = np.dtype([("hash", "S16"), ("row", "<i8"), ("offset", "<i8")])
TWICE = "listed twice (planned once)"
REPLACED = "replaced by a later member of the same name"


def unique(stream: Iterable[Entry], skipped: Counter[str]) -> Iterator[Entry]:
    """`stream` with every uri once; all else is counted in `skipped`.

    The first that comes is taken, but the last of the members of one container that share a name:
    so does whoever unpacks it.
    """
    with tempfile.TemporaryDirectory(prefix="maskbatch-") as name:
        folder = Path(name)
        _spool(stream, folder)
        repeated, replaced = _repeated_rows(folder)
        counts = {REPLACED: replaced, TWICE: len(repeated) - replaced}
        skipped.update({what: count for what, count in counts.items() if count})
        upcoming = iter(repeated.tolist())
        drop, row = next(upcoming, -1), 0
        with (folder / "entries").open("rb") as spool:
            while batch := _next_batch(spool):
                for entry in batch:
                    if row == drop:
                        drop = next(upcoming, -1)
                    else:
                        yield entry
                    row += 1


def unique_so_far(stream: Iterable[Entry], skipped: Counter[str]) -> Iterator[Entry]:
    """As `unique`, at once and in memory, the first of each: what is behind a --limit is not to be read."""
    seen: set[bytes] = set()
    for entry in stream:
        digest = _digest(entry)
        if digest in seen:
            skipped[TWICE] += 1
        else:
            seen.add(digest)
            yield entry


def _digest(entry: Entry) -> bytes:
    return blake2b(entry.uri.encode(), digest_size=16).digest()


def _spool(stream: Iterable[Entry], folder: Path) -> None:
    row, stream, shown = 0, iter(stream), Step("list", None, "images")
    with (folder / "entries").open("wb") as spool:
        while batch := list(islice(stream, SPOOL_ENTRIES)):
            pickle.dump(batch, spool, pickle.HIGHEST_PROTOCOL)
            digests = [_digest(entry) for entry in batch]
            hashes = np.empty(len(batch), HASH)
            hashes["hash"], hashes["row"] = digests, np.arange(row, row + len(batch))
            hashes["offset"] = [-1 if entry.offset is None else entry.offset for entry in batch]
            buckets = np.array([digest[0] % BUCKETS for digest in digests])
            for bucket in np.unique(buckets):
                with (folder / f"{bucket}").open("ab") as file:
                    hashes[buckets == bucket].tofile(file)
            row += len(batch)
            shown.advance(len(batch))


def _repeated_rows(folder: Path) -> tuple[NDArray[np.int64], int]:
    """The rows to leave out, ascending, and how many of them a later member replaces."""
    found, replaced = [np.empty(0, np.int64)], 0
    for path in folder.glob("[0-9]*"):
        hashes: NDArray[Any] = np.sort(np.fromfile(path, HASH), order=("hash", "row"))
        earlier, later = hashes[:-1], hashes[1:]
        same = earlier["hash"] == later["hash"]
        earlier, later = earlier[same], later[same]
        member = later["offset"] >= 0
        replaced += int((member & (earlier["offset"] != later["offset"])).sum())
        found.append(np.where(member, earlier["row"], later["row"]))
    return np.sort(np.concatenate(found)), replaced


def _next_batch(spool: BinaryIO) -> list[Entry]:
    try:
        batch: list[Entry] = pickle.load(spool)  # noqa: S301  written above
    except EOFError:
        return []
    return batch
