"""Every uri once, for any number of archives and manifests that list it.

Spools entries to a temporary file, and compares 128-bit hashes of their uris in buckets on disk.
"""

import pickle
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from itertools import islice
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from maskbatch.archives.entries import Entry
from maskbatch.buckets import Buckets
from maskbatch.progress import Step

SPOOL_ENTRIES = 4096
HASH = np.dtype([("hash", "<u8"), ("rest", "<u8"), ("apart", "<u8"), ("row", "<i8"), ("offset", "<i8")])
"""`apart`: a hash of the uri of that name, 0 without. 10 million rows make buckets of 6 MB."""
TWICE = "listed twice (planned once)"
REPLACED = "replaced by a later member of the same name"


def keep_unique(stream: Iterable[Entry], skipped: Counter[str]) -> Iterator[Entry]:
    """`stream` with every uri once. Counts the rest in `skipped`.

    Keeps the first; but the last of members of one container that share a name, as unpacking it does. Members
    whose different names read as the same one are told apart.
    """
    with tempfile.TemporaryFile(prefix="maskbatch-") as spool:
        repeated, replaced, apart = _spool(stream, spool)
        counts = {REPLACED: replaced, TWICE: len(repeated) - replaced}
        skipped.update({what: count for what, count in counts.items() if count})
        upcoming = iter(repeated.tolist())
        drop = next(upcoming, -1)
        others = set(apart.tolist())
        spool.seek(0)
        for row, entry in enumerate(_read_spool(spool)):
            if row == drop:
                drop = next(upcoming, -1)
            else:
                yield _set_apart(entry) if row in others else entry


def keep_first(stream: Iterable[Entry], skipped: Counter[str]) -> Iterator[Entry]:
    """As `keep_unique`, but in memory and always the first: a --limit stops reading early."""
    seen: dict[bytes, str | None] = {}
    for listed in stream:
        entry, digest = listed, _digest(listed.uri)
        if seen.get(digest, listed.apart) != listed.apart:
            entry = _set_apart(listed)
            digest = _digest(entry.uri)
        if digest in seen:
            skipped[TWICE] += 1
        else:
            seen[digest] = entry.apart
            yield entry


def _set_apart(entry: Entry) -> Entry:
    """The entry under the uri of its own name; no other name begins with `./`."""
    return replace(entry, uri=entry.apart or entry.uri.replace("://", "://./", 1))


def _digest(uri: str, num_bytes: int = 16) -> bytes:
    return blake2b(uri.encode(), digest_size=num_bytes).digest()


def _spool(stream: Iterable[Entry], spool: BinaryIO) -> tuple[NDArray[np.int64], int, NDArray[np.int64]]:
    """Write the entries to `spool`. Returns what `_find_repeated_rows` says."""
    row, stream, shown = 0, iter(stream), Step("list", None, "images")
    with Buckets(HASH, "hash") as buckets:
        while batch := list(islice(stream, SPOOL_ENTRIES)):
            pickle.dump(batch, spool, pickle.HIGHEST_PROTOCOL)
            hashes = np.empty(len(batch), HASH)
            digests = np.frombuffer(b"".join(_digest(entry.uri) for entry in batch), "<u8").reshape(-1, 2)
            hashes["hash"], hashes["rest"] = digests.T
            hashes["apart"] = [_hash(entry.apart) if entry.apart else 0 for entry in batch]
            hashes["row"] = np.arange(row, row + len(batch))
            hashes["offset"] = [-1 if entry.offset is None else entry.offset for entry in batch]
            buckets.write(hashes)
            row += len(batch)
            shown.advance(len(batch))
        return _find_repeated_rows(buckets)


def _hash(uri: str) -> int:
    return int.from_bytes(_digest(uri, 8), "little") or 1


def _find_repeated_rows(buckets: Buckets) -> tuple[NDArray[np.int64], int, NDArray[np.int64]]:
    """The rows to drop, ascending; how many of them later ones replace; and the rows to set apart."""
    rows, others, replaced = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0
    for records in buckets.read():
        hashes = np.sort(records, order=("hash", "rest", "apart", "row"))
        earlier, later = hashes[:-1], hashes[1:]
        same = (earlier["hash"] == later["hash"]) & (earlier["rest"] == later["rest"])
        others.append(_find_others(hashes, same))
        same &= earlier["apart"] == later["apart"]
        earlier, later = earlier[same], later[same]
        member = later["offset"] >= 0
        replaced += int((member & (earlier["offset"] != later["offset"])).sum())
        rows.append(np.where(member, earlier["row"], later["row"]))
    return np.sort(np.concatenate(rows)), replaced, np.concatenate(others)


def _find_others(hashes: NDArray[np.void], same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The rows whose name is not their uri's first one; `same`: whether the uri is that of the row before."""
    begins = np.concatenate([[True], ~same])[: len(hashes)]
    first = np.maximum.accumulate(np.where(begins, np.arange(len(hashes)), 0))
    return cast(NDArray[np.int64], hashes["row"][hashes["apart"] != hashes["apart"][first]])


def _read_spool(spool: BinaryIO) -> Iterator[Entry]:
    with suppress(EOFError):
        while True:
            yield from pickle.load(spool)  # noqa: S301  written above
