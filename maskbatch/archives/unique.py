"""Every uri once, for any number of archives and manifests that list it.

Spools entries to a temporary file, and compares 128-bit hashes of their uris in buckets on disk.
"""

import pickle
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from maskbatch.archives.entries import Entry
from maskbatch.buckets import Buckets
from maskbatch.progress import Step

SPOOL_ENTRIES = 4096
HASH = np.dtype([("hash", "<u8"), ("rest", "<u8"), ("row", "<i8"), ("offset", "<i8")])
"""10 million rows make buckets of 5 MB."""
TWICE = "listed twice (planned once)"
REPLACED = "replaced by a later member of the same name"


def keep_unique(stream: Iterable[Entry], skipped: Counter[str]) -> Iterator[Entry]:
    """`stream` with every uri once. Counts the rest in `skipped`.

    Keeps the first; but the last of members of one container that share a name, as unpacking it does.
    """
    with tempfile.TemporaryFile(prefix="maskbatch-") as spool:
        repeated, replaced = _spool(stream, spool)
        counts = {REPLACED: replaced, TWICE: len(repeated) - replaced}
        skipped.update({what: count for what, count in counts.items() if count})
        upcoming = iter(repeated.tolist())
        drop = next(upcoming, -1)
        spool.seek(0)
        for row, entry in enumerate(_read_spool(spool)):
            if row == drop:
                drop = next(upcoming, -1)
            else:
                yield entry


def keep_first(stream: Iterable[Entry], skipped: Counter[str]) -> Iterator[Entry]:
    """As `keep_unique`, but in memory and always the first: a --limit stops reading early."""
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


def _spool(stream: Iterable[Entry], spool: BinaryIO) -> tuple[NDArray[np.int64], int]:
    """Write the entries to `spool`. Returns the rows to drop, ascending, and how many later ones replace."""
    row, stream, shown = 0, iter(stream), Step("list", None, "images")
    with Buckets(HASH, "hash") as buckets:
        while batch := list(islice(stream, SPOOL_ENTRIES)):
            pickle.dump(batch, spool, pickle.HIGHEST_PROTOCOL)
            hashes = np.empty(len(batch), HASH)
            digests = np.frombuffer(b"".join(map(_digest, batch)), "<u8").reshape(-1, 2)
            hashes["hash"], hashes["rest"] = digests.T
            hashes["row"] = np.arange(row, row + len(batch))
            hashes["offset"] = [-1 if entry.offset is None else entry.offset for entry in batch]
            buckets.write(hashes)
            row += len(batch)
            shown.advance(len(batch))
        return _find_repeated_rows(buckets)


def _find_repeated_rows(buckets: Buckets) -> tuple[NDArray[np.int64], int]:
    rows, replaced = [np.empty(0, np.int64)], 0
    for records in buckets.read():
        hashes = np.sort(records, order=("hash", "rest", "row"))
        earlier, later = hashes[:-1], hashes[1:]
        same = (earlier["hash"] == later["hash"]) & (earlier["rest"] == later["rest"])
        earlier, later = earlier[same], later[same]
        member = later["offset"] >= 0
        replaced += int((member & (earlier["offset"] != later["offset"])).sum())
        rows.append(np.where(member, earlier["row"], later["row"]))
    return np.sort(np.concatenate(rows)), replaced


def _read_spool(spool: BinaryIO) -> Iterator[Entry]:
    with suppress(EOFError):
        while True:
            yield from pickle.load(spool)  # noqa: S301  written above
