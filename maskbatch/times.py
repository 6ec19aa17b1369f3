"""Times as people and programs write them: every spelling that can be read in one way only.

dateutil and pandas guess the order of day and month row by row. Here 01.10.2026 and 10/1/2026 are no times.
"""

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

MIDNIGHT = datetime.min.time()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_TEXT = 80
"""Of any spelling here; the patterns never see longer ones."""
EPOCH_UNITS = ((11, 6), (14, 3), (17, 0), (20, -3))
"""Below 10 ** the first: s, ms, us, ns since 1970, by the power of ten that makes them microseconds."""
COMPACT = re.compile(
    r"(?:19|20)(?:\d{5}|\d{6}|\d{10}|\d{12}|\d{15}|\d{18})"
    r"|(?:199|20[0-2])\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])",
    re.ASCII,
)
"""2026274, 20261001, 2026100108, 202610010830, 20261001083000, and that with ms or us. As numbers since 1970
these would lie in the 1970s or far ahead: 2026100108 in 2034."""
NUMBER = re.compile(r"[+-]?(\d+)(?:\.(\d*))?(?:e([+-]?\d{1,2}))?", re.ASCII | re.IGNORECASE)
LEAST_SCIENTIFIC_DIGITS = 7
"""Spreadsheets round to six digits, which is hours off; Java and Go write all that there are."""
DAY_NUMBERS = range(20_000, 80_000)
"""Of a spreadsheet, 1954 to 2119; or seconds of a recorder that has just started. So neither is read."""

MONTHS = (
    "jan(?:uary)?", "feb(?:ruary)?", "mar(?:ch)?", "apr(?:il)?", "may", "june?", "july?", "aug(?:ust)?",
    "sept?(?:ember)?", "oct(?:ober)?", "nov(?:ember)?", "dec(?:ember)?",
)  # fmt: skip
MONTH_NUMBERS = {name[:3]: number for number, name in enumerate(MONTHS, 1)}
WEEKDAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]{0,6}\.?,? *)?"
MONTH = rf"(?P<b>{'|'.join(MONTHS)})\.?"
DAY = r"(?P<d>\d{1,2})(?:st|nd|rd|th)?"
YEAR = r"(?P<Y>\d{4})"
CLOCK = (
    r"(?P<H>\d{1,2})(?:(?P<between>[:._-]?)(?P<M>\d{1,2})(?:(?P=between)(?P<S>\d{1,2}))?)?"
    r"(?:[.,](?P<f>\d{1,12}))?(?: ?(?P<half>[ap])\.?m\.?)?"
)
ZONE = (
    r"(?: ?(?P<utc>z|utc|gmt))?(?: ?(?P<sign>[+-])(?P<zh>\d{1,2})(?::?(?P<zm>\d\d))?)?"
    r"(?: ?(?P<named>\[[^\]]*\]|\([^)]*\)))?"
)
REST = rf"(?:(?:t|[ ,_:;-]+|,? +at +){CLOCK}{ZONE})?"
SPELLINGS = [
    re.compile(WEEKDAY + spelling, re.ASCII | re.IGNORECASE)
    for spelling in (
        rf"{YEAR}(?P<dash>[-/.:_ ])(?P<m>\d{{1,2}})(?P=dash)(?P<d>\d{{1,2}}){REST}",
        rf"{YEAR}(?P<m>\d\d)(?P<d>\d\d){REST}",
        rf"{YEAR}(?P<m>\d\d)(?P<d>\d\d)(?P<H>\d\d)(?:(?P<M>\d\d)(?P<S>\d\d)?(?:[.,]?(?P<f>\d{{1,12}}))?)?{ZONE}",
        rf"{YEAR}-?(?P<j>\d{{3}}){REST}",
        rf"{YEAR}-?w(?P<W>\d\d)-?(?P<w>[1-7]){REST}",
        rf"{YEAR}(?P<dash>[-/ ]){MONTH}(?P=dash){DAY}{REST}",
        rf"{DAY}[-/ .]{{0,2}}{MONTH},?[-/ ]{{0,2}}{YEAR}{REST}",
        rf"{MONTH}[- ]{{1,2}}{DAY},?[- ]{YEAR}{REST}",
        rf"{MONTH} {{1,2}}{DAY} {CLOCK}{ZONE} {YEAR}",
    )
]
"""Year first, ISO 8601's day of the year and of the week, and with the month's English name."""


def parse_time(value: object) -> datetime | None:
    """A time from a manifest, a sidecar or EXIF: local and naive, or aware; None for anything else.

    Text, a datetime, or a number. A number is seconds, ms, us or ns since 1970 in UTC, by its digits. What is
    finer than a microsecond is cut off. Whether a time is believable, `Clock` says.
    """
    if isinstance(value, datetime):
        return value if value == value else None  # pandas' NaT is a datetime
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        text = str(value).strip()
        if len(text) > MAX_TEXT:
            return None
        # Most are so, and Python reads them 20 times faster; but it takes 08.30 and 08:30.5 for other times.
        if text[4:5] == text[7:8] == "-" and not {".", ","} & {*text[13:17:3]}:
            try:
                return datetime.fromisoformat(text)
            except ValueError:
                pass
        is_number = NUMBER.fullmatch(text) and not COMPACT.fullmatch(text.partition(".")[0])
        return parse_epoch(text) if is_number else _parse_spelling(text)
    except (ValueError, OverflowError):
        return None


def has_clock(value: object, time: datetime) -> bool:
    """Whether `value`, which is read as `time`, says a time of day: then no other may stand behind it."""
    is_midnight = time == datetime.combine(time, MIDNIGHT)  # never equal with a zone
    return not is_midnight or parse_time(f"{value} 08:00") is None


def parse_epoch(text: str) -> datetime | None:
    """The time of a number of seconds, ms, us or ns since 1970, by its digits; None for other text."""
    match = NUMBER.fullmatch(text)
    if match is None:
        return None
    whole, fraction, power = match.groups()
    if power and len((whole + (fraction or "")).strip("0")) < LEAST_SCIENTIFIC_DIGITS:
        return None
    number = Decimal(text)
    if int(number) in DAY_NUMBERS:
        return None
    shift = next((shift for digits, shift in EPOCH_UNITS if abs(number) < 10**digits), None)
    return None if shift is None else EPOCH + timedelta(microseconds=int(number.scaleb(shift)))


def _parse_spelling(text: str) -> datetime | None:
    for spelling in SPELLINGS:
        match = spelling.fullmatch(" ".join(text.split()))
        if match:
            parts = {name: part for name, part in match.groupdict().items() if part}
            time = _make_date(parts) + _make_clock(parts)
            return time.replace(tzinfo=_make_zone(parts))
    return None


def _make_date(parts: dict[str, str]) -> datetime:
    """Raises ValueError where there is no such day."""
    year = int(parts["Y"])
    if "W" in parts:
        return datetime.fromisocalendar(year, int(parts["W"]), int(parts["w"]))
    if "j" in parts:
        day = datetime(year, 1, 1) + timedelta(days=int(parts["j"]) - 1)
        if day.year != year:
            raise ValueError("no such day")
        return day
    month = MONTH_NUMBERS[parts["b"][:3].lower()] if "b" in parts else int(parts["m"])
    return datetime(year, month, int(parts["d"]))


def _make_clock(parts: dict[str, str]) -> timedelta:
    """The time of day; second 60 and hour 24:00 begin the next minute and day. Raises ValueError."""
    hour, minute, second = (int(parts.get(name, 0)) for name in "HMS")
    between, half, fraction = parts.get("between", ""), parts.get("half"), parts.get("f")
    if not between and any(len(parts.get(name, "00")) < 2 for name in "HMS" if "M" in parts):
        raise ValueError("digits without a sign between them: two for each expected")
    if between not in ("", ":") and "S" not in parts:
        raise ValueError("08.30 may be 8.3 hours, and 08-30 have an offset")
    if half:
        if not 1 <= hour <= 12:
            raise ValueError("an hour of 1 to 12 expected")
        hour = hour % 12 + 12 * (half.lower() == "p")
    if minute > 59 or second > 60 or hour > 24 or (fraction and "M" not in parts):
        raise ValueError("no such time")
    micros = int((fraction or "0")[:6].ljust(6, "0")) * (1 if "S" in parts else 60)
    time = timedelta(hours=hour, minutes=minute, seconds=second, microseconds=micros)
    if hour == 24 and time > timedelta(days=1):
        raise ValueError("no such time")
    return time


def _make_zone(parts: dict[str, str]) -> timezone | None:
    """Raises ValueError for a day or more, and for a zone by its name alone, as `[Europe/Paris]`."""
    if "sign" not in parts:
        if "named" in parts and "utc" not in parts:
            raise ValueError("a zone without its offset")
        return UTC if "utc" in parts else None
    offset = timedelta(hours=int(parts["zh"]), minutes=int(parts.get("zm", 0)))
    return timezone(-offset if parts["sign"] == "-" else offset)
