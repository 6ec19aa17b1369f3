"""Two runs of the same files, by the CPU decoder and by the GPU decoder: statuses, labels, probabilities."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.gpu_table import PAIR


def read_rows(out: Path, folder: str) -> pa.Table:
    """The committed rows of the files in one folder of the archive, by uri."""
    tables = [pq.ParquetFile(path).read() for path in sorted(out.glob("scores/*/*.parquet"))]
    rows = pa.concat_tables(tables, promote_options="permissive").sort_by("uri")
    return rows.filter(pa.array([f"/{folder}/" in uri for uri in rows["uri"].to_pylist()]))


def read_probs(rows: pa.Table) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    names = [name for name in rows.column_names if name.startswith("prob_")]
    return np.column_stack([rows[name].to_numpy(zero_copy_only=False) for name in names])


def compare_decoders(cpu: Path, gpu: Path) -> dict[str, float]:
    """Damaged files by pair of statuses, and photographs by label."""
    ours, theirs = (read_rows(out, "damaged") for out in (cpu, gpu))
    pairs = Counter(zip(ours["status"].to_pylist(), theirs["status"].to_pylist(), strict=True))
    same = sum(count for (first, second), count in pairs.items() if first == second)
    found = {"damaged": float(len(ours)), "status_same": 100 * same / len(ours)}
    found |= {f"{PAIR}{first} {second}": count for (first, second), count in pairs.items()}
    ours, theirs = (read_rows(out, "photographs") for out in (cpu, gpu))
    found["photographs"] = len(ours)
    if len(ours):
        same = np.equal(ours["label"].to_pylist(), theirs["label"].to_pylist()).mean()
        apart = np.nanmax(np.abs(read_probs(ours) - read_probs(theirs)))
        found |= {"labels_same": 100 * float(same), "prob_apart": float(apart)}
    return found
