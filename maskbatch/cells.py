"""Committed rows to cells: the small table that every figure of the report is a pure function of.

A cell is (site, camera, date, hour, status, label, needs_review, kept column) with its count, the sum of its
confidences and histograms in fixed bins. Cells of several parts or runs merge by adding.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from maskbatch.errors import UsageError
from maskbatch.histograms import EDGES, NUM_BINS, bin_index
from maskbatch.rundir import Location, opened, reason, store_errors

KEYS = ("site", "camera", "date", "hour", "status", "label", "needs_review", "kept")
MEASURES = tuple(EDGES)
COLUMNS = ("site", "camera", "captured_local", "status", "label", "needs_review", "region", *MEASURES)

SCHEMA = pa.schema(
    [
        ("site", pa.string()),
        ("camera", pa.string()),
        ("date", pa.string()),
        ("hour", pa.int64()),
        ("status", pa.string()),
        ("label", pa.string()),
        ("needs_review", pa.bool_()),
        ("kept", pa.string()),
        ("count", pa.int64()),
        ("confidence_sum", pa.float64()),
        *[(f"{measure}_histogram", pa.list_(pa.int64(), NUM_BINS)) for measure in MEASURES],
    ]
)


def cells_of_rows(rows: pa.Table, date: str, keep_column: str | None = None) -> pa.Table:
    """Cells of the whole-image rows of one local day; `rows` has at least COLUMNS and `keep_column`."""
    rows = rows.filter(pc.equal(rows["region"], 0))
    kept = rows[keep_column] if keep_column else pa.nulls(len(rows), pa.string())
    rows = rows.select(COLUMNS).append_column("kept", kept)
    hour = pc.hour(rows["captured_local"])
    keyed = rows.append_column("hour", hour).append_column("date", pa.array([date] * len(rows), pa.string()))
    confidence = _floats(rows["confidence"])
    adds = [np.ones(len(rows)), np.nan_to_num(confidence)]
    for measure in MEASURES:
        values = _floats(rows[measure])
        known = ~np.isnan(values)
        one_hot = np.zeros((len(rows), NUM_BINS))
        one_hot[np.flatnonzero(known), bin_index(measure, values[known])] = 1
        adds.append(one_hot)
    return _group(keyed, adds)


def merge(tables: Iterable[pa.Table]) -> pa.Table:
    """One table of cells from several, equal keys added; the order of `tables` does not matter."""
    cells = pa.concat_tables([SCHEMA.empty_table(), *tables])
    histograms = [
        cells[f"{m}_histogram"].combine_chunks().flatten().to_numpy().reshape(-1, NUM_BINS) for m in MEASURES
    ]
    return _group(cells, [cells["count"].to_numpy(), cells["confidence_sum"].to_numpy(), *histograms])


def _group(table: pa.Table, adds: Sequence[NDArray[Any]]) -> pa.Table:
    """Sum `adds`, each (N,) or (N, NUM_BINS), over equal keys; cells come in the order of their keys."""
    if not table.num_rows:
        return SCHEMA.empty_table()
    numbered = table.select(KEYS).append_column("row", pa.array(np.arange(table.num_rows)))
    groups = numbered.group_by(list(KEYS)).aggregate([("row", "list")])
    groups = groups.sort_by([(key, "ascending") for key in KEYS])
    rows = groups["row_list"].combine_chunks()
    order = rows.flatten().to_numpy()
    starts = rows.offsets.to_numpy()[:-1] - rows.offsets[0].as_py()
    count, confidence, *histograms = (np.add.reduceat(values[order], starts, axis=0) for values in adds)
    columns = [groups[key].cast(SCHEMA.field(key).type) for key in KEYS]
    columns += [pa.array(count.astype(np.int64)), pa.array(confidence.astype(np.float64))]
    columns += [
        pa.FixedSizeListArray.from_arrays(pa.array(h.astype(np.int64).ravel()), NUM_BINS) for h in histograms
    ]
    return pa.table(columns, SCHEMA)


def _floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """(N,) float64, nulls as NaN."""
    values: NDArray[np.float64] = pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy()
    return values


def read_scores(path: Location, item: dict[str, Any], columns: Sequence[str]) -> pa.Table:
    """Columns of one file that `_SUCCESS` lists. Raises UsageError where it is not as committed."""
    file = path / item["name"]
    try:
        with opened(file) as source:
            rows = pq.ParquetFile(source, pre_buffer=True).read(columns=list(columns))
    except (pa.ArrowInvalid, *store_errors()) as error:
        message = f"{file} does not read ({reason(error)}); restore it, or score to another --out"
        raise UsageError(message) from error
    if rows.num_rows != item["rows"]:
        message = f"{file} has {rows.num_rows:,} rows, {item['rows']:,} were committed; restore it"
        raise UsageError(message)
    return rows


def score_files(success: dict[str, Any]) -> list[dict[str, Any]]:
    """The files of scores/ that `_SUCCESS` lists."""
    return [item for item in success["files"] if item["name"].startswith("scores/")]


def cells_of_run(path: Location, success: dict[str, Any], keep_column: str | None = None) -> pa.Table:
    """Cells of the committed files that `_SUCCESS` lists, one file at a time."""
    parts: list[pa.Table] = []
    for item in score_files(success):
        date = item["name"].split("/")[1].removeprefix("date=")
        rows = read_scores(path, item, [*COLUMNS, *([keep_column] if keep_column else [])])
        parts.append(cells_of_rows(rows, date, keep_column))
        if len(parts) >= 256:
            parts = [merge(parts)]
    return merge(parts)
