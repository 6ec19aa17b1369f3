"""Rows are held to the plan and to themselves."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.clock import Clock
from maskbatch.schema import TIMESTAMP
from maskbatch.verify.result import Difference, Verification
from maskbatch.verify.rows import _check_local_times, _check_plan_columns, check_ids

EARLY, LATE = datetime(1990, 1, 2), datetime(2040, 1, 1)


def test_a_kept_column_and_a_time_that_the_plan_lacks_are_held_to_it() -> None:
    at = datetime(2026, 10, 1, tzinfo=UTC)
    same = {"uri": ["a", "b"], "site": [None, "s"], "camera": ["c", None]}
    columns = {**same, "file": ["f", "f"], "id": [0, 1], "lane": ["1", "3"], "captured_at": [at, at]}
    rows = pa.table({**columns, "time_source": ["exif", "path"]})
    times = pa.array([None, at], rows["captured_at"].type)
    planned = pa.table({**same, "kept": ["1", "2"], "captured_at": times, "time_source": [None, "path"]})
    found = Verification(success_sha256="", seed=0)
    _check_plan_columns(rows, planned, "lane", found)
    assert found.differences == [Difference("f", 1, "lane", "2", "3")]


@given(st.lists(st.tuples(st.sampled_from([None, "gate", "far"]), st.datetimes(EARLY, LATE)), max_size=20))
def test_local_times_verify_as_the_clock_gives_them_and_no_others(
    rows: list[tuple[str | None, datetime]],
) -> None:
    clock = Clock(
        LATE.replace(tzinfo=UTC), ZoneInfo("Europe/Paris"), {"far": ZoneInfo("Australia/Lord_Howe")}
    )
    times = [time.replace(tzinfo=UTC) for _, time in rows]
    table = pa.table(
        {
            "id": pa.array(range(len(rows)), pa.int64()),
            "file": pa.array(["f"] * len(rows), pa.string()),
            "site": pa.array([site for site, _ in rows], pa.string()),
            "captured_at": pa.array(times, TIMESTAMP),
            "captured_local": pa.array(
                [clock.to_local(time, site) for (site, _), time in zip(rows, times, strict=True)],
                pa.timestamp("us"),
            ),
        }
    )
    found = Verification(success_sha256="", seed=0)
    _check_local_times(table, clock, found)
    assert found.verified
    late = pc.add(table["captured_local"], pa.scalar(timedelta(minutes=30)))
    _check_local_times(table.set_column(4, "captured_local", late), clock, found)
    assert found.num_differences == len(rows)


@given(st.lists(st.integers(-2, 11), max_size=14))
def test_ids_verify_only_where_each_is_there_once(ids: list[int]) -> None:
    rows = pa.table({"id": pa.array(ids, pa.int64()), "file": pa.array(["f"] * len(ids), pa.string())})
    found = Verification(success_sha256="", seed=0)
    kept = check_ids(rows, range(10), found, all_read=True)
    assert found.verified == (sorted(ids) == list(range(10)))
    assert {d.id for d in found.differences} == {k for k in range(-2, 12) if ids.count(k) != (0 <= k < 10)}
    assert kept["id"].to_pylist() == sorted({k for k in ids if 0 <= k < 10})
