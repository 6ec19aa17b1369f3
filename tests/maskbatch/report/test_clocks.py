"""Which cameras had a wrong clock, and which archives have none."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.config import ReportConfig
from maskbatch.model.checkpoint import Checkpoint
from maskbatch.report.cells import HISTOGRAMS, NUM_BINS, SCHEMA, SUMS
from maskbatch.report.clocks import find_clock_alerts, find_wrong_clocks, set_times_unknown
from maskbatch.report.figures import collect_figures
from maskbatch.report.make import make_report
from maskbatch.report.page import render
from maskbatch.report.survey import survey_runs
from maskbatch.review.corrections import find_latest_judgements, read_run_judgements
from maskbatch.runs.committed import CommittedRun, open_committed
from tests.maskbatch.samples import LAYOUT, Run, speckle, stage_run, write_files

OCTOBER = date(2026, 10, 1)
Counts = dict[tuple[str, date], int]


def days(camera: str, first: date, num: int, each: int = 20, step: int = 1) -> Counts:
    return {(camera, first + timedelta(days=step * k)): each for k in range(num)}


def join(parts: Iterable[Counts]) -> Counts:
    return {key: count for part in parts for key, count in part.items()}


def month(num_cameras: int, first: date = OCTOBER, start: int = 1) -> Counts:
    return join(days(f"c{k:02}", first, 31) for k in range(start, start + num_cameras))


def cells_of(counts: Counts) -> pa.Table:
    rows = [
        {
            **dict.fromkeys(SCHEMA.names), "site": "north", "camera": camera, "date": str(day), "hour": 9,
            "status": "ok", "label": "with_mask", "needs_review": False, "region_kind": "picture", "count": count,
            **dict.fromkeys(SUMS, 1.0), **dict.fromkeys(HISTOGRAMS, [count] + [0] * (NUM_BINS - 1)),
        }
        for (camera, day), count in counts.items()
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, SCHEMA)


def wrong(counts: Counts) -> dict[str, tuple[int, str, str]]:
    """Images, first and last date by camera."""
    return {
        row["camera"]: (row["images"], row["first"], row["last"])
        for row in find_wrong_clocks(cells_of(counts))
    }


RESET = date(2000, 1, 1)


@pytest.mark.parametrize("lasted", [1, 9, 31])
def test_a_camera_of_twelve_that_was_reset_is_found(lasted: int) -> None:
    found = wrong(month(11) | days("c12", RESET, lasted))
    assert found == {"c12": (20 * lasted, "2000-01-01", str(RESET + timedelta(days=lasted - 1)))}


def test_two_images_of_219_are_found_whoever_took_them() -> None:
    one = days("c1", OCTOBER, 31, 7)
    assert wrong(one | {("c1", RESET): 2}) == {"c1": (2, "2000-01-01", "2000-01-01")}
    both = days("c1", OCTOBER, 31, 4) | days("c2", OCTOBER, 31, 3) | {("c1", RESET): 1, ("c2", RESET): 1}
    assert set(wrong(both)) == {"c1", "c2"}


def test_a_power_cut_that_reset_every_camera_for_some_days_is_found() -> None:
    cut = join(days(f"c{k:02}", RESET, 3) for k in range(1, 13))
    assert len(wrong(month(12) | cut)) == 12


@pytest.mark.parametrize("years", [-1, 1])
def test_a_clock_that_is_a_year_off_is_found(years: int) -> None:
    other = OCTOBER.replace(year=2026 + years)
    assert set(wrong(month(11) | days("c12", other, 31))) == {"c12"}
    assert set(wrong(month(3) | days("c12", other, 31))) == {"c12"}
    part = month(11) | days("c12", OCTOBER, 15) | days("c12", other + timedelta(days=15), 16)
    assert wrong(part)["c12"][0] == 16 * 20


@given(st.integers(1, 12), st.integers(1, 31))
def test_a_night_that_holds_many_images_of_a_reset_clock_names_it(num_cameras: int, lasted: int) -> None:
    night = join(days(f"c{k:02}", OCTOBER, 1) for k in range(1, num_cameras + 1))
    cells = cells_of(night | days("c01", RESET, lasted, 100))
    (row,) = find_wrong_clocks(cells)
    assert (row["camera"], row["images"], row["archive_first"]) == ("c01", 100 * lasted, str(OCTOBER))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 31), st.integers(1, 31))
def test_clocks_that_fell_back_are_found_however_many_they_are(
    num_right: int, num_reset: int, right_days: int, reset_days: int
) -> None:
    right = join(days(f"c{k:02}", OCTOBER, right_days) for k in range(num_right))
    reset = join(days(f"r{k:02}", RESET, reset_days) for k in range(num_reset))
    assert set(wrong(right | reset)) == {camera for camera, _ in reset}


def test_two_months_and_a_reset_camera_have_one_wrong_clock() -> None:
    assert set(wrong(month(12) | month(12, date(2025, 3, 1)) | days("c05", RESET, 4, 5))) == {"c05"}


# no false alarm


dates = st.dates(date(2005, 1, 1), date(2026, 12, 1))
counts = st.integers(1, 400)


@given(dates, st.integers(1, 400), counts)
def test_one_stretch_of_any_length_is_right(first: date, num: int, each: int) -> None:
    assert wrong(days("c1", first, num, each) | days("c2", first, num)) == {}


@given(dates, dates, st.integers(1, 12), st.booleans())
def test_two_months_are_right(one: date, other: date, num_cameras: int, same_cameras: bool) -> None:
    start = 1 if same_cameras else 1 + num_cameras
    assert wrong(month(num_cameras, one) | month(num_cameras, other, start)) == {}


@given(st.lists(st.tuples(dates, st.integers(5, 30)), min_size=1, max_size=40))
def test_a_camera_that_is_visited_now_and_then_is_right(visits: list[tuple[date, int]]) -> None:
    assert wrong(join({("c1", day): each} for day, each in visits)) == {}


@given(st.integers(1, 12), st.integers(2000, 2010))
def test_sparse_years_are_right_even_before_a_month_of_many_images(num_years: int, first: int) -> None:
    visits = join({("c1", date(first + k, 7, 1)): 3} for k in range(3, 3 + num_years))
    assert wrong(visits | {("c1", date(2020, 1, 1)): 4}) == {}
    assert num_years < 3 or wrong(visits | days("c1", OCTOBER, 31, 50)) == {}


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(30, 400)), min_size=1, max_size=15))
def test_cameras_that_came_late_or_left_early_are_right(spans: list[tuple[int, int]]) -> None:
    """One camera is there all the time."""
    whole = days("c00", date(2024, 1, 1), 1100, 2)
    parts = (
        days(f"c{k + 1:02}", date(2024, 1, 1) + timedelta(days=start), num)
        for k, (start, num) in enumerate(spans)
    )
    assert wrong(whole | join(parts)) == {}


@given(st.integers(2, 12), st.integers(1, 5))
def test_a_camera_that_was_there_for_a_pilot_and_then_with_all_others_is_right(
    num: int, gap_years: int
) -> None:
    assert wrong(month(num) | days("c01", date(2026 - gap_years, 3, 1), 31)) == {}


def test_an_archive_of_the_year_2000_is_right() -> None:
    assert wrong(month(12, RESET)) == {}


def test_an_archive_without_times_has_no_clocks() -> None:
    assert find_wrong_clocks(cells_of({})) == []


# what becomes of them


@given(st.integers(1, 31), st.integers(1, 50))
def test_images_of_a_wrong_clock_lose_their_day_and_nothing_else(num: int, each: int) -> None:
    cells = cells_of(month(11) | days("c12", RESET, num, each))
    clocks = find_wrong_clocks(cells)
    changed = set_times_unknown(cells, clocks)
    unknown = changed.filter(pc.equal(changed["date"], "unknown"))
    assert unknown["hour"].null_count == len(unknown) == 1
    assert unknown["count"].to_pylist() == [num * each]
    for name in ("count", *SUMS):
        assert pc.sum(changed[name]).as_py() == pytest.approx(pc.sum(cells[name]).as_py())
    assert find_wrong_clocks(changed) == []
    (alert,) = find_clock_alerts(clocks)
    assert alert["camera"] == "c12" and "the archive spans 2026-10-01 to 2026-10-31" in alert["sentence"]
    assert "the clock of this camera is wrong" in alert["sentence"] and "dates" not in alert


# the report


def make_values(run: CommittedRun, counts: Counts) -> dict[str, Any]:
    """The values of report.json of a run that has `counts` in place of its own images."""
    times = {str(day): (datetime(day.year, day.month, day.day, 9),) * 2 for _, day in counts}
    survey = replace(survey_runs([run]), cells=cells_of(counts), times=times, stretches=[])
    nobody = find_latest_judgements(read_run_judgements(run))
    return collect_figures([run], survey, ReportConfig(), nobody, None, "of a test")[0]


@pytest.fixture(scope="module")
def one_run(committed: Run) -> CommittedRun:
    return open_committed(committed.run)


def test_a_reset_clock_stretches_nothing_and_every_image_stays_in_the_totals(one_run: CommittedRun) -> None:
    values = make_values(one_run, month(11) | days("c12", RESET, 31))
    plain = make_values(one_run, month(11))
    assert values["period"] == plain["period"] | {"wrong_clock": 620}
    assert values["period"]["first"] == "2026-10-01T09:00:00" and values["period"]["unknown_time"] == 0
    assert values["coverage"] == plain["coverage"] and values["coverage"]["gaps"] == []
    assert values["overall"][0]["listed"] == plain["overall"][0]["listed"] + 620
    assert [row["listed"] for row in values["by_camera"]] == [620] * 12
    assert {row["date"] for row in values["by_day"]} == {
        str(OCTOBER + timedelta(days=k)) for k in range(31)
    } | {"unknown"}
    assert (
        sum(row["listed"] for row in values["by_day"])
        == sum(row["listed"] for row in values["by_hour"])
        == 12 * 620
    )
    assert [alert["kind"] for alert in values["alerts"]] == ["clock"] and not plain["alerts"]
    page = render(values)
    assert "the clock of this camera is wrong: 620 images dated 2000-01-01 to 2000-01-31" in page
    assert "Clocks that are wrong" in page and "Clocks that are wrong" not in render(plain)


@pytest.mark.slow
def test_the_page_of_any_archive_stays_small(one_run: CommittedRun) -> None:
    """3,000 cameras with odd names; ten years of days of 60; and 40 clocks that are wrong."""
    many = join(days(f"<camera> & {'long ' * 30}{k}", OCTOBER, 31, 3, 6) for k in range(3000))
    clocks = join(days(f"reset{k}", RESET, 3) for k in range(40))
    values = make_values(one_run, many | clocks)
    assert len(values["clocks"]["cameras"]) == 40 and len(values["by_camera"]) == 3040
    page = render(values)
    assert len(page.encode()) < 2_000_000
    assert "more in by_camera.parquet" in page and "more in alerts.json" in page
    years = make_values(one_run, join(days(f"c{k}", date(2016, 1, 1), 3650 // 7, 3, 7) for k in range(60)))
    page = render(years)
    assert len(page.encode()) < 2_000_000 and "more in by_day.parquet" in page


@pytest.mark.slow
def test_the_report_of_a_night_names_the_camera_whose_clock_fell_back(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    files = [f"north/gate-{k}/2026-10-0{day}/12000{k}.jpg" for k in range(3) for day in (1, 2)]
    files += [f"north/hall/2000-01-01/00000{k}.jpg" for k in range(5)]
    archive = write_files(tmp_path / "archive", {name: speckle(k) for k, name in enumerate(files)})
    days = {"since": "2026-10-02", "until": "2026-10-03"}
    staged = stage_run(tmp_path / "night", archive, checkpoint, layout=LAYOUT, **days)
    staged.commit()
    report = make_report([staged.run], tmp_path / "report")
    (alert,) = report.values["alerts"]
    assert (alert["kind"], alert["camera"], alert["images"]) == ("clock", "hall", 5)
    assert report.overall["listed"] == 8
    other = stage_run(
        tmp_path / "a", archive, checkpoint, layout=LAYOUT, since="2026-10-01", until="2026-10-02"
    )
    other.commit()
    both = make_report([staged.run, other.run], tmp_path / "both")
    assert both.overall["listed"] == 3 + 3 + 5 and len(both.values["alerts"]) == 1
    own = make_report([staged.run], tmp_path / "own", ReportConfig(own_days=True))  # as nights are compared
    assert own.overall["listed"] == 3 and not own.values["alerts"]
