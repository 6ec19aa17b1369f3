from collections import Counter
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import Run

from maskbatch import cells
from maskbatch.cells import MEASURES, cells_of_rows, cells_of_run, merge
from maskbatch.errors import UsageError

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
    fraction = st.integers(0, 64).map(lambda n: n / 64)  # sums of them are exact in any order
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
def test_cells_count_every_whole_image_once(rows: pa.Table) -> None:
    made = cells_of_rows(rows, "2026-10-03")
    whole = [r for r in rows.to_pylist() if r["region"] == 0]
    expected = Counter(
        (r["site"], r["camera"], r["captured_local"] and r["captured_local"].hour, r["status"], r["label"])
        for r in whole
    )
    found: Counter[Any] = Counter()
    for cell in made.to_pylist():
        found[tuple(cell[k] for k in ("site", "camera", "hour", "status", "label"))] += cell["count"]
        assert cell["date"] == "2026-10-03"
        known = cell["count"] if cell["status"] == "ok" else 0
        assert [sum(cell[f"{m}_histogram"]) for m in MEASURES] == [known] * len(MEASURES)
    assert found == expected
    assert sum(made["confidence_sum"].to_pylist()) == sum(r["confidence"] or 0 for r in whole)


@given(tables, tables)
def test_merged_cells_are_the_cells_of_all_rows_in_either_order(one: pa.Table, other: pa.Table) -> None:
    parts = [cells_of_rows(one, "unknown"), cells_of_rows(other, "unknown")]
    whole = cells_of_rows(pa.concat_tables([one, other]), "unknown")
    assert merge(parts).equals(whole)
    assert merge(reversed(parts)).equals(whole)
    assert merge([whole]).equals(whole)


def test_days_stay_apart_when_cells_merge() -> None:
    rows = pa.Table.from_pylist(
        [{"status": "ok", "region": 0, "confidence": 0.5, "needs_review": False}], SCHEMA
    )
    merged = merge([cells_of_rows(rows, "2026-10-01"), cells_of_rows(rows, "2026-10-02")])
    assert merged["date"].to_pylist() == ["2026-10-01", "2026-10-02"]


def test_no_cells_merge_to_an_empty_table() -> None:
    assert merge([]).equals(cells.SCHEMA.empty_table())


def test_the_cells_of_a_run_hold_every_planned_image(committed: Run) -> None:
    success = committed.run.read_success()
    made = cells_of_run(committed.run.path, success)
    by_status: Counter[str] = Counter()
    for cell in made.to_pylist():
        by_status[cell["status"]] += cell["count"]
    assert by_status == success["statuses"]
    assert np.sum(made["count"].to_numpy()) == committed.work.num_images


def test_a_committed_file_that_does_not_read_is_named(staged_at: Run) -> None:
    success = staged_at.commit()
    victim = next(item["name"] for item in success["files"] if item["name"].startswith("scores/"))
    (staged_at.run.path / victim).write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=victim):
        cells_of_run(staged_at.run.path, success)
    (staged_at.run.path / victim).unlink()
    with pytest.raises(UsageError, match=victim):
        cells_of_run(staged_at.run.path, success)
