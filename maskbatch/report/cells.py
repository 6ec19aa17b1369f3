"""Committed rows to cells, the small table from which every figure of the report follows.

A cell is (site, camera, date, hour, status, label, needs_review, condition, kept column, region kind, size
band, everyone complies) with its count, sums and histograms in fixed bins. In whole scenes, pictures and
faces have their own. Cells of several parts or runs add up exactly: values are rounded to 1 / 65,536 before
they are summed, so that the order of adding changes no digit.
"""

from calendar import day_name
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch.visible import shorten

NUM_BINS = 20
EDGES: dict[str, NDArray[np.float64]] = {
    "confidence": np.linspace(0.0, 1.0, NUM_BINS + 1),
    "brightness": np.linspace(0.0, 1.0, NUM_BINS + 1),
    # Laplacian variance spans five decades between a covered lens and noise: bins even in its logarithm.
    "sharpness": np.concatenate([[0.0], np.geomspace(1.0, 20_000.0, NUM_BINS)]),
}
"""Fixed bins: histograms of parts, of runs, and of a run and its checkpoint add up and compare."""
Camera = tuple[str | None, str | None]
"""(site, camera)."""
OF_SCENES = ("size_band", "everyone_complies")
"""Of faces the first, of pictures the second; null in runs of single faces."""
KEYS = (
    "site", "camera", "date", "hour", "status", "label", "needs_review", "condition", "kept", "region_kind",
    *OF_SCENES,
)  # fmt: skip
PICTURE, FACE = REGION_KINDS = "picture", "face"
MEASURES = tuple(EDGES)
SUMS = tuple(f"{measure}_sum" for measure in MEASURES)
HISTOGRAMS = tuple(f"{measure}_histogram" for measure in MEASURES)
COLUMNS = ("site", "camera", "captured_local", "status", "label", "needs_review", "region", *MEASURES)
GRAIN = 65_536
KEY_TYPES = {"hour": pa.int64(), "needs_review": pa.bool_(), "everyone_complies": pa.bool_()}
SCHEMA = pa.schema(
    [
        *[(key, KEY_TYPES.get(key, pa.string())) for key in KEYS],
        ("count", pa.int64()),
        *[(name, pa.float64()) for name in SUMS],
        *[(name, pa.list_(pa.int32(), NUM_BINS)) for name in HISTOGRAMS],
    ]
)


def bin_index(measure: str, values: NDArray[np.floating]) -> NDArray[np.int64]:
    """The bin (N,) int64 of each value, in [0, NUM_BINS); values beyond the last edge are in the last bin."""
    edges = EDGES[measure]
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, NUM_BINS - 1)


def count_bins(measure: str, values: NDArray[np.floating]) -> list[int]:
    """Counts (NUM_BINS,) of `values` (N,) in the bins of `measure`."""
    return list(map(int, np.bincount(bin_index(measure, values), minlength=NUM_BINS)))


def count_cells(
    rows: pa.Table, date: str, keep_column: str | None = None, condition: pa.Array | None = None
) -> pa.Table:
    """Count the cells of the rows of one local day.

    `rows` has at least COLUMNS and `keep_column`, and may have OF_SCENES; `condition` (N,) is that of each
    row, or null.
    """
    missing = pa.nulls(len(rows), pa.string())
    rows = rows.append_column("kept", rows[keep_column] if keep_column else missing)
    rows = rows.append_column("condition", missing if condition is None else condition)
    for name in OF_SCENES:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(len(rows), SCHEMA.field(name).type))
    is_face = pc.greater(rows["region"], 0).combine_chunks().cast(pa.int8())
    rows = rows.append_column("region_kind", pa.DictionaryArray.from_arrays(is_face, list(REGION_KINDS)))
    rows = rows.append_column("hour", pc.hour(rows["captured_local"]))
    rows = rows.append_column("date", pa.repeat(pa.scalar(date), len(rows)))
    keys, group = number_groups(rows)
    sums, histograms = [], []
    for measure in MEASURES:
        values = to_floats(rows[measure])
        known = ~np.isnan(values)
        grains = np.rint(values[known] * GRAIN)
        sums.append(np.bincount(group[known], grains, len(keys)) / GRAIN)
        bins = group[known] * NUM_BINS + bin_index(measure, values[known])
        histograms.append(np.bincount(bins, minlength=len(keys) * NUM_BINS))
    return _table(keys, np.bincount(group, minlength=len(keys)), sums, histograms)


def merge_cells(tables: Iterable[pa.Table]) -> pa.Table:
    """One table of cells from several: those of equal keys add up. The order of `tables` does not matter."""
    cells = pa.concat_tables([SCHEMA.empty_table(), *tables])
    keys, group = number_groups(cells)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(len(keys)))

    def add_up(values: NDArray[Any]) -> Any:
        return np.add.reduceat(values[order], starts, axis=0) if len(keys) else values

    return _table(
        keys,
        add_up(cells["count"].to_numpy()),
        [add_up(cells[name].to_numpy()) for name in SUMS],
        [add_up(read_histograms(cells, name)).ravel() for name in HISTOGRAMS],
    )


def select_kind(cells: pa.Table, kind: str) -> pa.Table:
    """The cells of pictures, or those of faces."""
    return cells.filter(pc.equal(cells["region_kind"], kind))


def to_floats(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """(N,) float64, nulls as NaN."""
    return np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")), np.float64)


def read_histograms(cells: pa.Table, name: str) -> NDArray[np.int32]:
    """The histograms (cells, NUM_BINS) of the column `name`, one of HISTOGRAMS."""
    return np.asarray(cells[name].combine_chunks().flatten(), np.int32).reshape(-1, NUM_BINS)


def number_groups(table: pa.Table, keys: Sequence[str] = KEYS) -> tuple[pa.Table, NDArray[np.int64]]:
    """The different values of `keys`, sorted, (G) rows, and the group of each row (N,) int64."""
    group = np.zeros(table.num_rows, np.int64)
    for key in keys:
        column = table[key]
        column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        column = column.unify_dictionaries().combine_chunks()
        values = column.indices.fill_null(-1).to_numpy().astype(np.int64) + 1
        if len(values) and np.ptp(values):  # else it tells no groups apart
            group = np.unique(group * (len(column.dictionary) + 1) + values, return_inverse=True)[1]
    _, first = np.unique(group, return_index=True)
    groups = table.select(keys).take(pa.array(first))
    groups = pa.table([groups[key].cast(SCHEMA.field(key).type) for key in keys], list(keys))
    rank = pc.sort_indices(groups, [(key, "ascending") for key in keys]).to_numpy()
    place = np.empty(len(rank), np.int64)
    place[rank] = np.arange(len(rank))
    return groups.take(pa.array(rank)), place[group]


def _table(
    keys: pa.Table, count: NDArray[Any], sums: Sequence[NDArray[Any]], histograms: Sequence[NDArray[Any]]
) -> pa.Table:
    columns = [*keys.columns, pa.array(count.astype(np.int64))]
    columns += [pa.array(s.astype(np.float64)) for s in sums]
    columns += [pa.FixedSizeListArray.from_arrays(pa.array(h.astype(np.int32)), NUM_BINS) for h in histograms]
    return pa.table(columns, SCHEMA)


def group_name(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The name of a group as people write it: `north/gate-1`, `Monday`, `08:00`; `overall` without keys."""
    return "/".join(_key_name(key, row[key]) for key in keys) or "overall"


def _key_name(key: str, value: Any) -> str:
    if value is None:
        return "unknown"
    if key == "weekday":
        return str(day_name[value - 1])
    return f"{value:02}:00" if key == "hour" else shorten(str(value))
