"""The fixed bins of every histogram, in cells and in a checkpoint's reference.

With fixed edges, histograms of parts, of runs, and of a run and its checkpoint can be added and compared.
"""

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 20
EDGES: dict[str, NDArray[np.float64]] = {
    "confidence": np.linspace(0.0, 1.0, NUM_BINS + 1),
    "brightness": np.linspace(0.0, 1.0, NUM_BINS + 1),
    # Laplacian variance spans five decades between a covered lens and noise: bins even in its logarithm.
    "sharpness": np.concatenate([[0.0], np.geomspace(1.0, 20_000.0, NUM_BINS)]),
}


def bin_index(measure: str, values: NDArray[np.floating]) -> NDArray[np.int64]:
    """The bin (N,) int64 of each value, in [0, NUM_BINS); values beyond the last edge are in the last bin."""
    edges = EDGES[measure]
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, NUM_BINS - 1)


def count_bins(measure: str, values: NDArray[np.floating]) -> list[int]:
    """Counts (NUM_BINS,) of `values` (N,) in the bins of `measure`."""
    return list(map(int, np.bincount(bin_index(measure, values), minlength=NUM_BINS)))
