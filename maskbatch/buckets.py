"""Any number of hashes, compared in bounded memory: on disk, one bucket at a time."""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import DTypeLike, NDArray

Hashes = NDArray[np.uint64]
Records = NDArray[Any]
NUM_BUCKETS = 64
"""Plain hashes of 50 million rows make buckets of 6 MB."""
SHIFT = np.uint64(58)
"""The upper bits of a hash name its bucket, so that buckets are in the order of the hashes."""


class Buckets(ExitStack):
    """Records of one dtype in NUM_BUCKETS files of a temporary folder, by the 64-bit hash in field `key`.

    Write and read inside the `with` block: the folder goes with it.
    """

    def __init__(self, dtype: DTypeLike, key: str | None = None, folder: Path | None = None) -> None:
        """`key` None: the records are the hashes themselves. `folder`: holds the temporary one."""
        super().__init__()
        self._dtype, self._key, self._folder = np.dtype(dtype), key, folder

    def __enter__(self) -> "Buckets":
        name = self.enter_context(tempfile.TemporaryDirectory(prefix="maskbatch-", dir=self._folder))
        self._paths = [Path(name) / str(k) for k in range(NUM_BUCKETS)]
        self._files = [self.enter_context(path.open("wb")) for path in self._paths]
        return self

    def write(self, records: Records) -> None:
        """Add records (N,)."""
        hashes = records if self._key is None else records[self._key]
        order = np.argsort(hashes, kind="stable")
        cuts = np.searchsorted(hashes[order], np.arange(1, NUM_BUCKETS, dtype=np.uint64) << SHIFT)
        for file, part in zip(self._files, np.split(records[order], cuts), strict=True):
            part.tofile(file)

    def read(self) -> Iterator[Records]:
        """Each bucket's records, in the order of the hashes' upper bits."""
        for path, file in zip(self._paths, self._files, strict=True):
            file.flush()
            yield np.fromfile(path, self._dtype)


def find_repeated(parts: Iterable[Hashes]) -> Hashes:
    """The values that occur more than once in all `parts` together, sorted."""
    with Buckets(np.uint64) as buckets:
        for hashes in parts:
            buckets.write(hashes)
        return np.concatenate([_find_repeated(hashes) for hashes in buckets.read()])


def _find_repeated(hashes: Hashes) -> Hashes:
    hashes.sort()
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def hash_digests(sha256: pa.ChunkedArray) -> Hashes:
    """The first 64 bits of each sha256 in hex, (N,) uint64; 0 for a null."""
    texts = sha256.fill_null("0" * 64).combine_chunks()
    text = str(texts.buffers()[2] or b"", "ascii")[texts.offset * 64 :][: len(texts) * 64]
    return np.frombuffer(bytes.fromhex(text), ">u8")[::4].astype(np.uint64)


def hash_texts(texts: pa.ChunkedArray) -> Hashes:
    """A 64-bit hash of each string, (N,) uint64, the same in every process."""
    return np.asarray(pd.util.hash_array(texts.to_pandas().to_numpy(object), categorize=False))
