from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from maskbatch.config import Expect
from maskbatch.coverage import coverage
from maskbatch.errors import UsageError

HOURS = range(6, 22)


def cells_of(counts: dict[tuple[str, int, int], int]) -> pa.Table:
    """Cells of (camera, day of October 2026, hour) -> snapshots."""
    return pa.Table.from_pylist(
        [
            {"site": "north", "camera": camera, "date": f"2026-10-{day:02d}", "hour": hour, "count": count}
            for (camera, day, hour), count in counts.items()
            if count
        ]
    )


def month(camera: str = "1", days: int = 30, each: int = 12) -> dict[tuple[str, int, int], int]:
    return {(camera, day, hour): each for day in range(1, days + 1) for hour in HOURS}


def covered(counts: dict[tuple[str, int, int], int], expect: str | None = None) -> dict[str, Any]:
    return coverage(cells_of(counts), Expect.parse(expect) if expect else None, lambda site, day: None)


def test_a_camera_that_keeps_its_pace_is_covered_and_has_no_gap() -> None:
    found = covered(month())
    assert found["gaps"] == []
    (camera,) = found["by_camera"]
    assert (camera["cadence_s"], camera["source"], camera["hours"]) == (300, "inferred", list(HOURS))
    assert (camera["expected"], camera["snapshots"], camera["coverage"]) == (5760, 5760, 1)


def test_hours_without_snapshots_are_a_gap_with_its_length_and_what_is_missing() -> None:
    counts = month() | {("1", 5, hour): 0 for hour in range(9, 13)} | {("1", 5, 9): 3}
    found = covered(counts)
    assert found["gaps"] == [
        {"site": "north", "camera": "1", "from": datetime(2026, 10, 5, 9), "to": datetime(2026, 10, 5, 13),
         "seconds": 4 * 3600, "missing": 45}
    ]  # fmt: skip
    assert found["by_camera"][0]["coverage"] == pytest.approx(1 - 45 / 5760)
    assert found["by_camera_day"][4] == {
        "site": "north", "camera": "1", "date": "2026-10-05", "snapshots": 147, "expected": 192,
    }  # fmt: skip


def test_a_camera_that_died_is_missed_until_the_archive_ends() -> None:
    found = covered(month("1") | month("2", days=9))
    (gap,) = found["gaps"]
    assert (gap["camera"], gap["from"], gap["to"]) == (
        "2",
        datetime(2026, 10, 10, 6),
        datetime(2026, 10, 30, 22),
    )
    assert found["by_camera"][1]["coverage"] == pytest.approx(9 / 30)


def test_more_in_one_hour_makes_up_for_nothing_in_another() -> None:
    found = covered(month() | {("1", 5, 9): 0, ("1", 5, 10): 24})
    assert found["by_camera"][0]["coverage"] == pytest.approx(1 - 12 / 5760)


def test_of_a_camera_that_keeps_no_pace_nothing_is_expected() -> None:
    rng = np.random.default_rng(1)
    counts = {key: int(rng.integers(0, 40)) for key in month()}
    found = covered(counts)
    (camera,) = found["by_camera"]
    assert (camera["expected"], camera["coverage"], camera["source"]) == (None, None, None)
    assert camera["snapshots"] == sum(counts.values())
    assert found["gaps"] == []


def test_one_night_is_held_to_the_pace_of_its_own_hours() -> None:
    found = covered({("1", 3, hour): 12 for hour in range(8, 20) if hour not in (13, 14)})
    (gap,) = found["gaps"]
    assert (gap["from"].hour, gap["to"].hour, gap["missing"]) == (13, 15, 24)


def test_what_is_expected_can_be_said() -> None:
    found = covered(month(), "1/5min@06-22")
    assert (found["by_camera"][0]["source"], found["gaps"]) == ("expected", [])
    all_day = covered(month(), "12/h")["by_camera"][0]
    assert (all_day["cadence_s"], all_day["num_gaps"]) == (300, 29)
    assert covered(month(each=1), "1/30min@06-22")["by_camera"][0]["coverage"] == 0.5
    slow = covered({("1", day, hour): 1 for day in range(1, 4) for hour in range(0, 24, 2)}, "1/2h")
    assert slow["gaps"] == []


def test_the_pace_of_a_camera_with_less_than_one_snapshot_an_hour_is_that_of_its_day() -> None:
    found = covered({("1", day, hour): 1 for day in range(1, 11) for hour in (6, 9, 12, 15)})
    (camera,) = found["by_camera"]
    assert (camera["cadence_s"], camera["hours"]) == (2.5 * 3600, list(range(6, 16)))
    assert (camera["expected"], camera["coverage"], found["gaps"]) == (40, 1, [])


@pytest.mark.parametrize("text", ["5min", "1/0min", "0/5min", "1/5min@22-06", "1/5min@6-25", "1/5 min", ""])
def test_what_cannot_be_expected_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"such as 1/5min"):
        Expect.parse(text)


def test_an_hour_that_clocks_skip_is_not_missed() -> None:
    counts = {("1", day, hour): 12 for day in range(24, 31) for hour in range(24)}
    counts[("1", 25, 2)] = 0
    cells = cells_of(counts)

    def skipped(site: str | None, day: date) -> int | None:
        return 2 if day == date(2026, 10, 25) else None

    assert len(coverage(cells, Expect.parse("1/5min"), lambda site, day: None)["gaps"]) == 1
    assert coverage(cells, Expect.parse("1/5min"), skipped)["gaps"] == []


def test_images_of_unknown_time_or_camera_are_no_trouble() -> None:
    cells = pa.Table.from_pylist(
        [
            {"site": None, "camera": None, "date": "unknown", "hour": None, "count": 4},
            {"site": None, "camera": None, "date": "2026-10-01", "hour": 3, "count": 4},
        ]
    )
    found = coverage(cells, None, lambda site, day: None)
    assert found["by_camera"][0]["camera"] is None
    assert coverage(cells.slice(0, 1), None, lambda site, day: None)["by_camera"] == []
