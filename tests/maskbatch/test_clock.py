from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.clock import Clock, parse_bound
from maskbatch.errors import UsageError
from tests.maskbatch.samples import NOW

PARIS = Clock.parse(["Europe/Paris", "tokyo=Asia/Tokyo"], NOW)


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        ((2026, 7, 1, 12, 0), (2026, 7, 1, 10, 0)),
        ((2026, 10, 25, 2, 30), (2026, 10, 25, 0, 30)),  # ambiguous: the first of the two
        ((2026, 10, 25, 3, 30), (2026, 10, 25, 2, 30)),
        ((2026, 3, 29, 2, 30), (2026, 3, 29, 1, 30)),  # skipped: an hour on, 03:30 on the wall
    ],
)
def test_local_time_becomes_utc(local: tuple[int, ...], utc: tuple[int, ...]) -> None:
    assert PARIS.to_utc(datetime(*local), None) == datetime(*utc, tzinfo=UTC)


def test_a_site_has_its_own_zone_and_others_the_default() -> None:
    noon = datetime(2026, 7, 1, 12)
    assert PARIS.to_utc(noon, "tokyo") == datetime(2026, 7, 1, 3, tzinfo=UTC)
    assert PARIS.to_utc(noon, "lyon") == PARIS.to_utc(noon, None) == datetime(2026, 7, 1, 10, tzinfo=UTC)
    assert Clock.parse([], NOW).to_utc(noon, "tokyo") == datetime(2026, 7, 1, 12, tzinfo=UTC)


@given(st.datetimes(datetime(1990, 1, 2), datetime(2026, 11, 14)))
def test_a_time_comes_back_where_clocks_never_change(local: datetime) -> None:
    assert PARIS.to_local(PARIS.to_utc(local, "tokyo"), "tokyo") == local


def test_a_time_with_an_offset_keeps_it() -> None:
    aware = datetime(2026, 7, 1, 12, tzinfo=timezone(timedelta(hours=-5)))
    assert PARIS.to_utc(aware, "tokyo") == datetime(2026, 7, 1, 17, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time", "known"),
    [
        (None, False),
        (datetime(1989, 12, 31, 23), False),
        (datetime(1990, 1, 1, 1), True),
        (NOW.replace(tzinfo=None) + timedelta(days=1), True),
        (NOW.replace(tzinfo=None) + timedelta(days=1, hours=2), False),
        (datetime(1, 1, 1), False),
        (datetime(9999, 12, 31, 23, 59), False),
    ],
)
def test_times_outside_1990_to_tomorrow_are_unknown(time: datetime | None, known: bool) -> None:
    assert (PARIS.to_utc(time, None) is not None) is known
    if not known:
        assert PARIS.to_local(PARIS.to_utc(time, None), None) is None


@pytest.mark.parametrize(
    "option", ["Paris", "north=", "", "../etc/passwd", "Europe", "gate=Mars/Olympus", "/etc"]
)
def test_an_unknown_zone_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match="no such zone"):
        Clock.parse([option], NOW)


def test_a_bound_is_a_local_date_or_time() -> None:
    assert parse_bound("--since", None) is None
    assert parse_bound("--since", "2026-10-01") == datetime(2026, 10, 1)
    assert parse_bound("--until", "2026-10-01T06:30") == datetime(2026, 10, 1, 6, 30)


@pytest.mark.parametrize(
    "value", ["yesterday", "2026-13-01", "", "2026-10-01T06:00+02:00", "2026-10-01T06:00Z"]
)
def test_a_bound_that_is_no_local_time_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match="--until"):
        parse_bound("--until", value)
