import pickle
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.clock import Clock, name_zone, parse_bound, parse_zones
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
    "option",
    ["Paris", "north=", "", "../etc/passwd", "Europe", "gate=Mars/Olympus", "/etc", "+20:00", "UTC+2:75"],
)
def test_an_unknown_zone_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match="no such zone"):
        Clock.parse([option], NOW)


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("+02:00", 2), ("+0200", 2), ("+02", 2), ("+2", 2), ("-03:30", -3.5), ("UTC+1", 1), ("utc+01:00", 1),
        ("UTC-03:30", -3.5), ("GMT +2", 2), ("GMT+1", 1), ("UTC\u22125", -5), ("Etc/GMT+1", -1), ("UTC+0", 0), ("+14:00", 14),
    ],
)  # fmt: skip
def test_an_offset_is_a_zone_and_counts_east_as_plus(text: str, hours: float) -> None:
    for clock in (Clock.parse([text], NOW), Clock.parse([f"gate={text}"], NOW)):
        sent = pickle.loads(pickle.dumps(clock))
        noon = datetime(2026, 7, 1, 12)
        utc = sent.to_utc(noon, "gate")
        assert utc == noon.replace(tzinfo=UTC) - timedelta(hours=hours)
        assert sent.to_local(utc, "gate") == noon
        assert Clock.parse([name_zone(clock.zone("gate"))], NOW).to_utc(noon, None) == utc


@given(st.integers(-14 * 60, 14 * 60), st.datetimes(datetime(1990, 1, 2), datetime(2026, 11, 14)))
def test_every_offset_of_whole_minutes_is_named_so_that_it_reads_back(east: int, local: datetime) -> None:
    zone = timezone(timedelta(minutes=east))
    name = f"UTC{'-' if east < 0 else '+'}{abs(east) // 60:02d}:{abs(east) % 60:02d}"
    clock = Clock.parse([name], NOW)
    assert clock.to_utc(local, None) == local.replace(tzinfo=zone)
    assert name_zone(clock.default) == name


def test_names_have_their_own_zone_and_exif_has_that_of_the_site() -> None:
    clock = Clock.parse(["Europe/Paris", "tokyo=Asia/Tokyo"], NOW, ["UTC", "lab=+05:30"])
    noon = datetime(2026, 7, 1, 12)
    assert clock.read_name(noon, None) == clock.read_name(noon, "tokyo") == noon.replace(tzinfo=UTC)
    assert clock.read_name(noon, "lab") == datetime(2026, 7, 1, 6, 30, tzinfo=UTC)
    assert clock.to_utc(noon, "tokyo") == datetime(2026, 7, 1, 3, tzinfo=UTC)
    assert clock.to_local(clock.read_name(noon, "tokyo"), "tokyo") == datetime(2026, 7, 1, 21)
    assert (
        clock.read_name(in_new_york := noon.replace(tzinfo=timezone(timedelta(hours=-4))), None)
        == in_new_york
    )
    assert clock.describe() == "local at Europe/Paris, tokyo at Asia/Tokyo; names in UTC, of lab in UTC+05:30"
    assert PARIS.read_name(noon, "tokyo") == PARIS.to_utc(noon, "tokyo")
    assert Clock.parse(["Etc/GMT+1"], NOW).describe() == "local at Etc/GMT+1 (UTC-0100)"


@pytest.mark.parametrize("zones", [["Europe/Paris", "UTC"], ["a=UTC", "Europe/Paris", "a=+02:00"]])
def test_two_zones_for_the_same_sites_are_refused(zones: list[str]) -> None:
    with pytest.raises(UsageError, match="would have two zones"):
        Clock.parse(zones, NOW)
    with pytest.raises(UsageError, match=r"--names-in .* would have two zones"):
        Clock.parse([], NOW, zones)
    assert Clock.parse(zones[:1] * 2, NOW).default


def test_a_zone_in_other_letters_is_refused_with_its_own_name() -> None:
    with pytest.raises(UsageError, match="no such zone; write it like Asia/Tokyo,"):
        parse_zones("--timezone", ["asia/tokyo"])


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
