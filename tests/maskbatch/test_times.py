"""Times in every spelling that can be read in one way."""

from datetime import UTC, datetime, timedelta, timezone

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.times import has_clock, parse_epoch, parse_time

HALF_PAST = datetime(2026, 10, 1, 8, 30)
TWO = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    "text",
    [
        "2026-10-01 08:30:00", "2026-10-01T08:30", "2026-10-01t08:30:00.000", "2026-10-01, 08:30", "2026-10-01 8:30",
        "2026-10-01  8:30:0", "2026-10-01_08:30:00", "2026-10-01-08-30-00", "2026-10-01 08.30.00", "2026_10_01_08_30_00",
        "2026-10-1 8:30", "2026-10-01T083000", "20261001T083000", "20261001T0830", "20261001-083000", "20261001_083000",
        "20261001 083000.000", "20261001083000", "20261001083000000", "202610010830", "20261001083000000000", "2026-274 08:30",
        "2026274T083000", "2026-W40-4T08:30:00", "2026W404T0830", "2026/10/01 08:30:00", "2026/10/1 8:30", "2026.10.01 08:30",
        "2026:10:01 08:30:00", "2026 10 01 08:30", "2026-10-01 08:30:00 AM", "2026/10/01 8:30am", "2026-10-01 8:30 a.m.",
        "01 Oct 2026 08:30", "1 October 2026, 08:30:00", "Oct 1, 2026 8:30 AM", "OCT 01 2026 08:30:00", "October 1st, 2026 at 8:30 AM",
        "Thu, 01 Oct 2026 08:30:00", "Thursday, October 1, 2026 8:30:00 AM", "Thu Oct  1 08:30:00 2026", "1-Oct-2026 08:30",
        "01OCT2026:08:30:00", "2026-Oct-01 08:30", "01/Oct/2026:08:30:00",
    ],
)  # fmt: skip
def test_a_local_time_is_read_in_every_unambiguous_spelling(text: str) -> None:
    assert parse_time(text) == HALF_PAST


@pytest.mark.parametrize(
    "text",
    [
        "2026-10-01T08:30:00+02:00", "2026-10-01T08:30:00+0200", "2026-10-01T08:30:00+02", "2026-10-01 08:30:00 +0200",
        "2026-10-01T06:30:00Z", "2026-10-01 06:30:00 UTC", "2026-10-01 06:30 GMT", "2026-10-01T063000Z", "20261001063000Z",
        "20261001T083000+0200", "Thu, 01 Oct 2026 08:30:00 +0200", "01/Oct/2026:08:30:00 +0200", "2026/10/01 08:30:00 UTC+2",
        "2026-10-01T08:30:00+02:00[Europe/Paris]", "Thu Oct 01 2026 08:30:00 GMT+0200 (Central European Summer Time)",
        "Thu Oct  1 06:30:00 UTC 2026", "2026-10-01T02:30:00-04:00", "2026-10-01 06:30:00 -0000", "2026-10-01T08:30+02",
        "1790836200", "1790836200.0", "1790836200000", "1790836200000000", "1790836200000000000", "1.7908362e9", "1.7908362E+09",
    ],
)  # fmt: skip
def test_a_time_with_an_offset_and_a_number_since_1970_are_aware(text: str) -> None:
    time = parse_time(text)
    assert time is not None and time.tzinfo is not None and time == HALF_PAST.replace(tzinfo=TWO)


@pytest.mark.parametrize(
    "text",
    [
        "01.10.2026 08:30", "13.10.2026 08:30", "10/1/2026 8:30:00 AM", "1-Oct-26", "01/02/03", "2026-10-01 08.30", "2026-10-01 08-30",
        "Thu Oct 01 08:30:00 CST 2026", "1.79084E+12", "46296.354166", "46296", "08:30", "2026-10", "Oct 2026", "NaT", "nan", "", " ",
        "soon", "2026-13-01", "20261301", "20261301083000", "2026-02-30", "2026-366", "2026-000", "2026-W54-1", "2026-10-01 24:01",
        "2026-10-01 25:00", "2026-10-01 08:60", "2026-10-01 08:30:61", "2026-10-01 13:30 PM", "2026-10-01 0:30 PM", "2026-10-01 083",
        "2026-10-01 08:30 +24:00", "2026-10-01 08:30 +99", "1" * 21, "9" * 400, "1e300", "1e-99", "١٢٣٤٥٦٧٨٩", "٢٠٢٦-10-01",
        "2026-10-01T08:30:00[Europe/Paris]", "2026-10-01 08:30:00 (CEST)", "Oct 1, 2026 8:30 AM [CET]",
        "2026-10-01" + " " * 80 + "08:30", "2026-10-01\0", "2026-10-01 08:30:00 2026-10-01 08:30:00",
    ],
)  # fmt: skip
def test_what_may_be_read_in_two_ways_or_in_none_is_not_read(text: str) -> None:
    assert parse_time(text) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-10-01T24:00:00", datetime(2026, 10, 2)),
        ("2026-10-01T23:59:60", datetime(2026, 10, 2)),
        ("2026-10-01 12:05 AM", datetime(2026, 10, 1, 0, 5)),
        ("2026-10-01 12:05 pm", datetime(2026, 10, 1, 12, 5)),
        ("2026-10-01T08:30.5", datetime(2026, 10, 1, 8, 30, 30)),
        ("2026-10-01 08:30:00,25", datetime(2026, 10, 1, 8, 30, 0, 250_000)),
        ("2026-10-01 08:30:00.123456789", datetime(2026, 10, 1, 8, 30, 0, 123_456)),
        ("20261001083000123", datetime(2026, 10, 1, 8, 30, 0, 123_000)),
        ("2024-366", datetime(2024, 12, 31)),
        (" 20261001 ", datetime(2026, 10, 1)),
        (20261001, datetime(2026, 10, 1)),
        (datetime(2026, 10, 1), datetime(2026, 10, 1)),
        (1790812800.5, datetime(2026, 10, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        (1790812800123, datetime(2026, 10, 1, 0, 0, 0, 123_000, tzinfo=UTC)),
        ("631152000000", datetime(1990, 1, 1, tzinfo=UTC)),
        ("2026100108", datetime(2026, 10, 1, 8)),
        (2026100108, datetime(2026, 10, 1, 8)),
        ("1999123123", datetime(1999, 12, 31, 23)),
        ("2026100124", datetime(2034, 3, 16, 5, 35, 24, tzinfo=UTC)),
        ("2026130108", datetime(2034, 3, 16, 13, 55, 8, tzinfo=UTC)),
        ("2034031608", datetime(2034, 6, 16, 0, 46, 48, tzinfo=UTC)),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        (-1, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        *[(value, None) for value in (None, True, [], {}, b"2026-10-01", float("nan"), float("inf"), 1e300, 10**400, pd.NaT)],
    ],
)  # fmt: skip
def test_ends_of_days_fractions_and_values_that_are_no_text(value: object, expected: datetime | None) -> None:
    assert parse_time(value) == expected


TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2099, 12, 31))
DATES = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y:%m:%d", "%d %b %Y", "%B %d, %Y", "%Y-%j", "%G-W%V-%u", "%a, %d %b %Y")  # fmt: skip
FORMATS = [
    f"{date}{between}{clock}{zone}"
    for date in DATES
    for between in ("T", " ", ", ")
    for clock in ("%H:%M:%S", "%H:%M:%S.%f", "%I:%M:%S %p", "%H%M%S")
    for zone in ("", "%z", " %z", " UTC%z")
]  # fmt: skip


@given(TIMES, st.sampled_from(FORMATS), st.sampled_from(DATES), st.booleans())
def test_midnight_is_a_time_of_day_and_a_date_alone_has_none(
    time: datetime, form: str, day: str, is_midnight: bool
) -> None:
    time = time.replace(hour=0, minute=0, second=0, microsecond=0) if is_midnight else time
    for text, has_hour in ((time.replace(tzinfo=UTC).strftime(form), True), (time.strftime(day), False)):
        read = parse_time(text)
        assert read and has_clock(text, read) == has_hour


@given(TIMES, st.sampled_from(FORMATS), st.integers(-14 * 60, 14 * 60))
def test_a_time_comes_back_from_every_spelling(time: datetime, form: str, offset: int) -> None:
    zone = timezone(timedelta(minutes=offset)) if "%z" in form else None
    time = time.replace(microsecond=time.microsecond if "%f" in form else 0, tzinfo=zone)
    assert parse_time(time.strftime(form)) == time


@given(TIMES, st.sampled_from([1, 10**3, 10**6, 10**9]))
def test_a_number_since_1970_is_read_by_its_digits(time: datetime, units: int) -> None:
    time = time.replace(tzinfo=UTC, microsecond=0)
    number = int(time.timestamp()) * units
    assert parse_time(number) == parse_time(str(number)) == parse_epoch(str(number)) == time


@given(st.text(max_size=90) | st.from_regex(r"[0-9TZ:. /,+-]{1,30}", fullmatch=True))
def test_no_text_makes_it_raise(text: str) -> None:
    parse_time(text)
