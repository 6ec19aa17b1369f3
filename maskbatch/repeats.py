"""Which hashes come more than once among any number of them, in bounded memory."""

import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
BUCKETS = 64
"""Of 6 MB each for 50 million rows, compared one at a time."""
HEX_DIGIT = np.zeros(256, np.uint64)
HEX_DIGIT[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16, dtype=np.uint64)


def repeated(parts: Iterable[Hashes]) -> Hashes:
    """The values that come more than once in all `parts` together, sorted."""
    with tempfile.TemporaryDirectory(prefix="maskbatch-") as name, ExitStack() as stack:
        paths = [Path(name) / str(k) for k in range(BUCKETS)]
        files = [stack.enter_context(path.open("wb")) for path in paths]
        for hashes in parts:
            hashes = np.sort(hashes)
            cuts = np.searchsorted(hashes, np.arange(1, BUCKETS, dtype=np.uint64) << np.uint64(58))
            for file, bucket in zip(files, np.split(hashes, cuts), strict=True):
                file.write(bucket.tobytes())
        stack.close()
        return np.concatenate([_repeated(np.fromfile(path, np.uint64)) for path in paths])


def _repeated(hashes: Hashes) -> Hashes:
    hashes.sort()
    return np.unique(hashes[1:][hashes[1:] == hashes[:-1]])


def digest_hashes(sha256: pa.ChunkedArray) -> Hashes:
    """The first 64 bits of each sha256 in lower-case hex, (N,) uint64; 0 where it is null."""
    texts = sha256.fill_null("0" * 64).combine_chunks()
    start, stop = texts.offset * 64, (texts.offset + len(texts)) * 64
    digits = np.frombuffer(texts.buffers()[2] or b"", np.uint8)[start:stop].reshape(-1, 64)[:, :16]
    hashes = np.zeros(len(digits), np.uint64)
    for k in range(16):
        hashes = hashes << np.uint64(4) | HEX_DIGIT[digits[:, k]]
    return hashes


def text_hashes(texts: pa.ChunkedArray) -> Hashes:
    """A 64-bit hash of each string, (N,) uint64, the same in every process."""
    hashes: Hashes = pd.util.hash_array(texts.to_pandas().to_numpy(object), categorize=False)
    return hashes
