"""The regions of an image's rows: 0 is the image, and 1 to its `num_faces` are its faces."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


def find_wrong_regions(table: pa.Table) -> NDArray[np.bool_]:
    """Which rows (N,) belong to an image whose regions are not 0 to the number of faces that it counts.

    `table` has the columns id and region, and of scenes num_faces, and is sorted by the first two.
    """
    ids, region = table["id"].to_numpy(), table["region"].to_numpy()
    counted = np.zeros(len(table), np.int64)
    if "num_faces" in table.column_names:
        counted = pc.fill_null(table["num_faces"], 0).to_numpy().astype(np.int64)
    starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1))
    num_rows = np.diff(starts, append=len(table))
    place = np.arange(len(table)) - np.repeat(starts, num_rows)
    wrong = (region != place) | np.repeat(num_rows != counted[starts] + 1, num_rows)
    return np.repeat(np.logical_or.reduceat(wrong, starts), num_rows) if len(table) else wrong
