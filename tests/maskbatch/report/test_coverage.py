from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from maskbatch.config import Expect
from maskbatch.errors import UsageError
from maskbatch.report.coverage import measure_coverage

HOURS = range(6, 22)
OPEN = (None, None)
OCTOBER = (datetime(2026, 10, 1), datetime(2026, 11, 1))


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


def covered(
    counts: dict[tuple[str, int, int], int],
    expect: str | None = None,
    period: tuple[datetime | None, datetime | None] = OPEN,
) -> dict[str, Any]:
    shown = {("north", camera) for camera, _, _ in counts}
    told = Expect.parse(expect) if expect else None
    return measure_coverage(cells_of(counts), told, lambda site, day: None, period, shown)


def every(
    cadence_s: float, phase: float = 0, days: int = 31, keep: slice = slice(None)
) -> dict[tuple[str, int, int], int]:
    """Snapshots of camera 1 by day and hour, from a share `phase` of the first cadence on."""
    return at(np.arange(phase * cadence_s, days * 86400, cadence_s)[keep] // 3600)


def at(hours: NDArray[Any]) -> dict[tuple[str, int, int], int]:
    """Snapshots of camera 1 by day and hour, one in each of `hours` since the month began."""
    values, counts = np.unique(hours.astype(int), return_counts=True)
    return {("1", int(h) // 24 + 1, int(h) % 24): int(n) for h, n in zip(values, counts, strict=True)}


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


def test_more_in_one_hour_makes_up_for_one_in_another_at_most() -> None:
    found = covered(month() | {("1", 5, 9): 0, ("1", 5, 10): 24})
    assert found["by_camera"][0]["coverage"] == pytest.approx(1 - 11 / 5760)


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


@pytest.mark.parametrize(
    ("counts", "cadence_s"), [([1], None), ([5, 14], None), ([12, 0, 5, 14], None), ([20, 25], 3600 / 21.25)]
)
def test_a_night_of_a_few_images_far_apart_has_its_numbers_and_no_warning(
    counts: list[int], cadence_s: float | None
) -> None:
    (camera,) = covered({("1", 3, 8 + hour): count for hour, count in enumerate(counts)})["by_camera"]
    assert (camera["snapshots"], camera["cadence_s"]) == (sum(counts), cadence_s)
    assert (camera["coverage"] is None) is (cadence_s is None)


def test_what_is_expected_can_be_said() -> None:
    found = covered(month(), "1/5min@06-22")
    assert (found["by_camera"][0]["source"], found["gaps"]) == ("expected", [])
    all_day = covered(month(), "12/h")["by_camera"][0]
    assert (all_day["cadence_s"], all_day["num_gaps"]) == (300, 29)
    assert covered(month(each=1), "1/30min@06-22", OCTOBER)["coverage"] == pytest.approx(15 / 31)
    slow = covered({("1", day, hour): 1 for day in range(1, 4) for hour in range(0, 24, 2)}, "1/2h")
    assert slow["gaps"] == []


def test_the_pace_of_a_camera_with_less_than_one_snapshot_an_hour_is_that_of_its_day() -> None:
    found = covered({("1", day, hour): 1 for day in range(1, 11) for hour in (6, 9, 12, 15)})
    (camera,) = found["by_camera"]
    assert (camera["cadence_s"], camera["hours"]) == (3 * 3600, list(range(6, 16)))
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

    assert len(measure_coverage(cells, Expect.parse("1/5min"), lambda site, day: None, OPEN, ())["gaps"]) == 1
    assert measure_coverage(cells, Expect.parse("1/5min"), skipped, OPEN, ())["gaps"] == []


def test_images_of_unknown_time_or_camera_are_no_trouble() -> None:
    cells = pa.Table.from_pylist(
        [
            {"site": None, "camera": None, "date": "unknown", "hour": None, "count": 4},
            {"site": None, "camera": None, "date": "2026-10-01", "hour": 3, "count": 4},
        ]
    )
    found = measure_coverage(cells, None, lambda site, day: None, OPEN, {(None, None)})
    assert found["by_camera"][0]["camera"] is None
    assert found["by_camera_day"][0]["snapshots"] == 4
    nothing = measure_coverage(cells.slice(0, 1), None, lambda site, day: None, OPEN, ())
    assert (nothing["by_camera"], nothing["coverage"]) == ([], None)
    late = covered({("1", 1, 3): 4}, None, (datetime(2026, 10, 2), None))
    assert (late["by_camera"], late["stray_images"]) == ([], 4)


@settings(deadline=None, max_examples=50)
@given(st.integers(10, 86400), st.floats(0, 0.999), st.booleans(), st.booleans())
@example(420, 0.3, False, False)
@example(7200, 0.9, True, True)
@example(7201, 0.496, True, False)
def test_a_camera_that_keeps_any_cadence_is_covered_and_one_that_misses_half_is_half(
    cadence_s: int, phase: float, inferred: bool, whole: bool
) -> None:
    expect, period = None if inferred else f"1/{cadence_s}s", OCTOBER if whole else OPEN
    found = covered(every(cadence_s, phase), expect, period)
    assert found["coverage"] == pytest.approx(1, abs=0.005 if inferred else 0)
    assert found["gaps"] == []
    (camera,) = found["by_camera"]
    assert camera["cadence_s"] == pytest.approx(cadence_s, rel=0.05 if cadence_s > 10000 else 0.02)
    half = covered(every(cadence_s, phase, keep=slice(None, None, 2)), f"1/{cadence_s}s", OCTOBER)
    assert half["coverage"] == pytest.approx(0.5, abs=0.1 if cadence_s > 10000 else 0.06)


def test_a_slow_camera_misses_what_did_not_come_and_a_day_without_is_a_gap() -> None:
    counts = {key: n for key, n in every(7200, 0.6).items() if key[1] != 9}
    for expect in (None, "1/2h"):
        found = covered(counts, expect)
        (gap,) = found["gaps"]
        assert (gap["from"].day, gap["to"] - gap["from"] >= timedelta(hours=23), gap["missing"]) == (
            9,
            True,
            12,
        )
        assert found["coverage"] == pytest.approx(1 - 12 / 372, abs=0.001)
    assert covered(every(86400, keep=slice(1, None)), "1/24h", OCTOBER)["coverage"] == pytest.approx(30 / 31)


def test_the_pace_of_hours_that_rest_at_night_is_that_of_the_day() -> None:
    found = covered({("1", day, hour): 1 for day in range(1, 31) for hour in (6, 8, 11, 14, 16, 19, 22)})
    assert found["by_camera"][0]["cadence_s"] == 9600
    assert found["coverage"] == 1


def test_a_camera_that_loses_some_at_random_is_not_covered() -> None:
    rng = np.random.default_rng(2)
    lossy = {key: int(rng.binomial(12, 0.96)) for key in month()}
    assert covered(lossy)["coverage"] == pytest.approx(0.97, abs=0.01)


@pytest.mark.parametrize("a_day", [1, 3, 10, 30])
def test_of_a_slow_camera_that_a_sensor_triggers_nothing_is_expected(a_day: int) -> None:
    rng = np.random.default_rng(a_day)
    found = covered(at(rng.integers(0, 30 * 24, 30 * a_day)))
    assert (found["coverage"], found["gaps"]) == (None, [])


def test_a_camera_must_keep_its_pace_in_six_hours_of_ten() -> None:
    rng = np.random.default_rng(3)
    keys = list(month())
    for share, steady in ((0.7, True), (0.5, False)):
        off = set(map(int, rng.choice(len(keys), round(len(keys) * (1 - share)), replace=False)))
        counts = {key: 12 + (8 if k % 2 else -8) * (k in off) for k, key in enumerate(keys)}
        assert (covered(counts)["coverage"] is not None) is steady


def test_of_a_camera_most_of_whose_snapshots_come_at_odd_hours_nothing_is_expected() -> None:
    counts = {("1", day, 6): 12 for day in range(1, 31)}
    counts |= {("1", day, 7 + day % 14): 40 for day in range(1, 31)}
    assert covered(counts)["coverage"] is None


@pytest.mark.parametrize(("left", "missing"), [(2, 1), (1, 2)])
def test_a_gap_is_under_half_of_an_hour_and_two_snapshots_at_least(left: int, missing: int) -> None:
    few = {("1", day, hour): 3 for day in range(1, 31) for hour in HOURS}
    gaps = covered(few | {("1", 5, 9): left}, "3/h@06-22")["gaps"]
    assert [gap["missing"] for gap in gaps] == [missing] * (left == 1)
    assert len(covered(month() | {("1", 5, 9): 6})["gaps"]) == 0
    assert len(covered(month() | {("1", 5, 9): 5})["gaps"]) == 1
    lone = {("1", day, hour): 1 for day in range(1, 31) for hour in HOURS} | {("1", 5, 9): 0}
    assert covered(lone)["gaps"] == []
    assert covered(lone)["coverage"] == pytest.approx(1 - 1 / 480)


def test_images_of_a_clock_that_was_reset_are_counted_and_stretch_nothing() -> None:
    cells = cells_of(month(days=10))
    old = cells.slice(0, 1).set_column(2, "date", [["2000-01-01"]]).set_column(4, "count", [[1]])
    found = measure_coverage(
        pa.concat_tables([old, cells]), None, lambda site, day: None, OPEN, {("north", "1")}
    )
    assert (found["stray_images"], found["coverage"], len(found["by_camera_day"])) == (1, 1, 10)


def test_a_first_day_of_few_images_is_no_stray() -> None:
    found = covered({key: n for key, n in month().items() if key[1] > 20} | {("1", 1, 9): 1})
    assert (found["stray_images"], len(found["by_camera_day"])) == (0, 30)


def test_what_was_asked_for_is_due_to_its_end_even_where_no_camera_reached_it() -> None:
    found = covered(month(days=25), None, (datetime(2026, 10, 1), datetime(2026, 10, 31)))
    (gap,) = found["gaps"]
    assert (gap["from"], gap["to"]) == (datetime(2026, 10, 26, 6), datetime(2026, 10, 30, 22))
    assert found["coverage"] == pytest.approx(25 / 30)
    early = covered(month(days=25), None, (datetime(2026, 9, 30, 10), None))
    assert early["gaps"][0]["from"] == datetime(2026, 9, 30, 10)
    part = covered(month(days=25), None, (None, datetime(2026, 10, 25, 12)))
    assert (part["stray_images"], part["gaps"]) == (120, [])


def test_an_archive_may_begin_and_end_within_an_hour() -> None:
    counts = month() | {("1", 1, 6): 3, ("1", 30, 21): 2}
    assert (covered(counts)["coverage"], covered(counts)["gaps"]) == (1, [])
    asked = covered(counts, None, (datetime(2026, 10, 1, 6, 45), datetime(2026, 10, 30, 21, 10)))
    assert (asked["coverage"], asked["gaps"]) == (1, [])


def test_of_a_camera_with_few_snapshots_or_with_dates_alone_nothing_is_expected() -> None:
    few = {("1", 3, hour): 1 for hour in range(11)}
    dates = {("2", day, 0): 40 for day in range(1, 11)}
    daily = {("3", day, 0): 1 for day in range(1, 13)}
    found = covered(few | dates | daily)["by_camera"]
    assert [row["coverage"] for row in found] == [None, None, 1]
    assert covered({**few, ("1", 3, 11): 1})["coverage"] == 1
    assert covered(dates, "1/5min")["coverage"] is None
    assert covered({("2", 1, 0): 12}, "1/5min", (OCTOBER[0], datetime(2026, 10, 2)))["coverage"] < 0.1


def test_the_share_over_all_cameras_weighs_each_by_what_is_due_and_days_are_of_those_shown() -> None:
    cells = cells_of(month("1") | month("2", days=15, each=24))
    found = measure_coverage(cells, None, lambda site, day: None, OPEN, {("north", "2")})
    assert found["coverage"] == pytest.approx((30 * 12 + 15 * 24) / (30 * 36))
    assert {row["camera"] for row in found["by_camera_day"]} == {"2"}
