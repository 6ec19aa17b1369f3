import random
from collections import Counter
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.report import cells
from maskbatch.report.cells import (
    EDGES,
    MEASURES,
    NUM_BINS,
    bin_index,
    count_bins,
    count_cells,
    merge_cells,
)  # fmt: skip

SCHEMA = pa.schema(
    [
        ("site", pa.string()),
        ("camera", pa.string()),
        ("captured_local", pa.timestamp("us")),
        ("status", pa.string()),
        ("label", pa.string()),
        ("needs_review", pa.bool_()),
        ("region", pa.int16()),
        *[(measure, pa.float32()) for measure in MEASURES],
    ]
)


@st.composite
def row(draw: st.DrawFn) -> dict[str, Any]:
    ok = draw(st.booleans())
    hour = draw(st.none() | st.integers(0, 23))
    fraction = st.integers(0, 64).map(lambda n: n / 64)
    return {
        "site": draw(st.sampled_from([None, "north", "south"])),
        "camera": draw(st.sampled_from([None, "1", "2"])),
        "captured_local": None if hour is None else datetime(2026, 10, 3, hour, 5),
        "status": "ok" if ok else draw(st.sampled_from(["missing", "corrupt"])),
        "label": draw(st.sampled_from(["with_mask", "no_face"])) if ok else None,
        "needs_review": ok and draw(st.booleans()),
        "region": draw(st.sampled_from([0, 0, 0, 1])),
        "confidence": draw(fraction) if ok else None,
        "brightness": draw(fraction) if ok else None,
        "sharpness": draw(st.floats(0, 1e6, width=32)) if ok else None,
    }


tables = st.lists(row(), max_size=25).map(lambda rows: pa.Table.from_pylist(rows, SCHEMA))


@given(tables)
def test_cells_count_every_picture_and_every_face_once(rows: pa.Table) -> None:
    made = count_cells(rows, "2026-10-03")
    expected = Counter(
        (r["site"], r["camera"], r["captured_local"] and r["captured_local"].hour, r["status"], r["label"],
         "face" if r["region"] else "picture")
        for r in rows.to_pylist()
    )  # fmt: skip
    found: Counter[Any] = Counter()
    keys = ("site", "camera", "hour", "status", "label", "region_kind")
    for cell in made.to_pylist():
        found[tuple(cell[k] for k in keys)] += cell["count"]
        assert cell["date"] == "2026-10-03"
        known = cell["count"] if cell["status"] == "ok" else 0
        assert [sum(cell[f"{m}_histogram"]) for m in MEASURES] == [known] * len(MEASURES)
        assert cell["size_band"] is cell["everyone_complies"] is None
    assert found == expected
    assert sum(made["confidence_sum"].to_pylist()) == sum(r["confidence"] or 0 for r in rows.to_pylist())


@given(tables, tables)
def test_merged_cells_are_the_cells_of_all_rows_in_either_order(one: pa.Table, other: pa.Table) -> None:
    parts = [count_cells(one, "unknown"), count_cells(other, "unknown")]
    whole = count_cells(pa.concat_tables([one, other]), "unknown")
    assert merge_cells(parts).equals(whole)
    assert merge_cells(reversed(parts)).equals(whole)
    assert merge_cells([whole]).equals(whole)


def test_days_stay_apart_when_cells_merge() -> None:
    rows = pa.Table.from_pylist(
        [{"status": "ok", "region": 0, "confidence": 0.5, "needs_review": False}], SCHEMA
    )
    merged = merge_cells([count_cells(rows, "2026-10-01"), count_cells(rows, "2026-10-02")])
    assert merged["date"].to_pylist() == ["2026-10-01", "2026-10-02"]


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60), st.randoms())
def test_sums_are_the_same_to_the_last_bit_in_whatever_order_values_come(
    values: list[float], shuffled: random.Random
) -> None:
    rows = [
        {"status": "ok", "region": 0, "needs_review": False, "confidence": value, "brightness": value}
        for value in values
    ]
    whole = count_cells(pa.Table.from_pylist(rows, SCHEMA), "unknown")
    shuffled.shuffle(rows)
    parts = [count_cells(pa.Table.from_pylist([row], SCHEMA), "unknown") for row in rows]
    assert merge_cells(parts).equals(whole)
    assert whole["brightness_sum"][0].as_py() == pytest.approx(sum(values), abs=len(values) / cells.GRAIN)


def test_images_of_different_conditions_stay_apart() -> None:
    rows = pa.Table.from_pylist([{"status": "ok", "region": 0, "needs_review": False}] * 3, SCHEMA)
    made = count_cells(rows, "2026-10-01", condition=pa.array(["dark", None, "dark"]).dictionary_encode())
    assert made.select(["condition", "count"]).to_pylist() == [
        {"condition": "dark", "count": 2},
        {"condition": None, "count": 1},
    ]


def test_no_cells_merge_to_an_empty_table() -> None:
    assert merge_cells([]).equals(cells.SCHEMA.empty_table())


numbers = st.lists(st.floats(0, 1e7), max_size=50).map(lambda v: np.array(v, np.float64))


@pytest.mark.parametrize("measure", EDGES)
@given(numbers, numbers)
def test_histograms_of_parts_add_up(measure: str, one: np.ndarray, other: np.ndarray) -> None:
    added = np.add(count_bins(measure, one), count_bins(measure, other))
    assert added.sum() == len(one) + len(other)
    assert added.tolist() == count_bins(measure, np.concatenate([one, other]))


@pytest.mark.parametrize("measure", EDGES)
def test_a_bin_holds_its_lower_edge_and_the_last_bin_all_beyond(measure: str) -> None:
    edges = EDGES[measure]
    assert bin_index(measure, edges).tolist() == [*range(NUM_BINS), NUM_BINS - 1]
    assert bin_index(measure, np.nextafter(edges[1:], 0)).tolist() == list(range(NUM_BINS))
    assert bin_index(measure, np.array([1e30])).tolist() == [NUM_BINS - 1]
