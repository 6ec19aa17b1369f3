"""Site, camera and time from a path: by a template, or by hive-style `key=value` folders."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from urllib.parse import unquote

from maskbatch.errors import UsageError
from maskbatch.times import EPOCH, EPOCH_UNITS, MONTH_NUMBERS, MONTHS, has_clock, parse_time

DAYS = "(?:mon|tue|wed|thu|fri|sat|sun)"
LONE = r"(?<!\d)\d{1,%d}(?!\d)"
"""Fewer digits than usual, only where no other digit is beside them: 2026111 is no date."""
TWO = rf"(?:\d{{2}}|{LONE % 1})"
MONTH_NAME = f"(?i:{'|'.join(MONTHS)})"
DIRECTIVES = {
    "Y": r"\d{4}", "y": r"\d{2}", "m": TWO, "b": MONTH_NAME, "B": MONTH_NAME, "d": TWO,
    "j": rf"(?:\d{{3}}|{LONE % 2})", "H": TWO, "I": TWO, "p": "(?i:[ap]m)", "M": TWO, "S": TWO,
    "f": r"\d{1,9}", "z": r"(?:[+-]\d{2}(?::?\d{2})?|[Zz])", "s": r"(?<!\d)\d{9,19}(?!\d)",
    "a": f"(?i:{DAYS})", "A": f"(?i:{DAYS}[a-z]*day)",
}  # fmt: skip
"""strptime directives that a template may use, by what they match. `%s` is seconds since 1970 in UTC, or
milli-, micro- or nanoseconds by its digits; a weekday is read over."""
UNPADDED = "mdjHIMS"
"""Those that may stand with a dash: `%-d`."""
NUMERIC = "YymdjHIMSfs"
MORE_DAYS = frozenset("bBj")
"""Those that say a day again or otherwise than `%m` and `%d`."""
SHORT = {"%F": "%Y-%m-%d", "%T": "%H:%M:%S", "%R": "%H:%M", "%D": "%m/%d/%y", "%h": "%b"}
"""Directives that stand for several."""
DATE_DIRECTIVES = "YymbBdjHF"
"""Those of `{date:...}`, which names days or hours."""
TOKEN = re.compile(r"\{(?P<field>\w+)(?::(?P<format>[^}]*))?\}|(?P<stars>\*\*?)|(?P<text>[^{*]+|[{])")
HIVE = re.compile(r"(?<![^/])([^/=]+)=([^/]+)/")
HIVE_KEYS = {
    **dict.fromkeys(("site", "site_id", "siteid"), "site"),
    **dict.fromkeys(("camera", "camera_id", "cameraid", "cam", "cam_id"), "camera"),
    **dict.fromkeys(("date", "dt", "ds"), "date"),
    **dict.fromkeys(("ts", "time", "timestamp", "datetime", "captured_at"), "time"),
    "year": "Y", "month": "m", "day": "d", "hour": "H", "hr": "H", "minute": "M", "second": "S",
}  # fmt: skip
"""What a folder's key says, in any case."""
HIVE_DATE = re.compile(
    r"(\d{4})(?:([-_.])|(?=\d{4}(?!\d)))(\d{1,2})(?(2)\2)(\d{1,2})(?:[-T_ ](\d{2}))?", re.ASCII
)
HIVE_TIME = re.compile(r"(\d{2})[-:_.h]?(\d{2})(?:[-:_.m]?(\d{2}))?s?", re.ASCII)
"""A time of day, as `time=13-45-10`."""
HIVE_NULLS = ("__HIVE_DEFAULT_PARTITION__", "unknown", "null")
"""Values that say nothing."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one path says; None: nothing."""

    site: str | None = None
    camera: str | None = None
    time: datetime | None = None
    """Local and naive, or aware where the path has an offset or `%s`."""
    has_hour: bool = False
    unread: tuple[str, ...] = field(default=(), compare=False)
    """Keys of hive-style folders that say nothing to us."""


class Template:
    """A compiled `--layout`, such as `{site}/{camera}/{captured_at:%Y/%m/%d/%H%M%S}.jpg`.

    `*` matches any text within one folder or file name, `**` any text.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(TOKEN.finditer(text))
        self._seen: list[str] = []
        self._parts = [self._compile(token) for token in self.tokens]
        whole = re.sub(
            r"(\d\(\?P<t_s\d*>)\(\?<!\\d\)", r"\1", "".join(self._parts)
        )  # the template's own digit
        self._whole = re.compile(whole, re.DOTALL)
        if not self._seen:
            self._refuse("names no field; use {site}, {camera} or {captured_at:%Y%m%d%H%M%S}")
        times = [name for name in self._whole.groupindex if name.startswith("t_")]
        self._times = [(name, name[2], READERS.get(name[2], int)) for name in times]
        self._check_times({name[2] for name in times})

    def _check_times(self, times: set[str]) -> None:
        has_day = (times & set("mbB") and "d" in times) or "j" in times
        if times and "s" not in times and not (times & {"Y", "y"} and has_day):
            self._refuse("its {captured_at:...} lacks a year, month or day")
        if ("I" in times) != ("p" in times) and "H" not in times:
            self._refuse("%I is an hour of twelve and needs %p, and %p needs %I")
        self.has_time = bool(times)

    def _refuse(self, why: str) -> None:
        raise UsageError(f"--layout {self.text}: {why}")

    def _compile(self, token: re.Match[str]) -> str:
        if token["stars"]:
            return ".*" if token["stars"] == "**" else "[^/]*"
        name, form = token["field"], token["format"]
        if name in ("site", "camera") and form is None:
            return self._group(name, "[^/]+?")
        if form and "{" in form:
            self._refuse(f"a }} is missing after {token[0].rpartition('{')[0]}")
        if name == "captured_at" and form:
            return self._compile_time(form)
        if token["text"] == "{" and "}" not in self.text[token.start() :].partition("{")[2].partition("{")[0]:
            self._refuse(f"a }} is missing after {self.text[token.start() :]}")
        if name is not None or token["text"] == "{":
            self._refuse(f"{token[0]} is not known; {{site}}, {{camera}} or {{captured_at:%Y%m%d}} expected")
        return re.escape(token["text"])

    def _compile_time(self, form: str) -> str:
        for short, long in SHORT.items():
            form = form.replace(short, long)
        beside = re.search(f"%[-#]?[{NUMERIC}]%[-#][{UNPADDED}]|%[-#][{UNPADDED}]%[-#]?[{NUMERIC}]", form)
        if beside:
            self._refuse(
                f"{beside[0]} can be read in several ways; a separator expected, or %m%d of two digits"
            )
        return re.sub("%([-#]?)(.)|([^%]+)|%", self._directive, form)

    def _directive(self, part: re.Match[str]) -> str:
        if part[3] or part[0] == "%%":
            return re.escape(part[3] or "%")
        if part[2] not in DIRECTIVES or (part[1] and part[2] not in UNPADDED):
            known = f"%{' %'.join(DIRECTIVES)} {' '.join(SHORT)} or %-d and the like"
            self._refuse(f"{part[0]} is not known; one of {known} expected")
        return self._group(f"t_{part[2]}", DIRECTIVES[part[2]])

    def _group(self, name: str, pattern: str) -> str:
        """A named group; a field named twice must say the same both times."""
        self._seen.append(name)
        if name in self._seen[:-1]:
            return f"(?P={name})" if name in ("site", "camera") else f"(?P<{name}{len(self._seen)}>{pattern})"
        return f"(?P<{name}>{pattern})"

    def parse(self, path: str) -> Parsed | None:
        """What `path`, relative to the archive, says; None if the template does not match."""
        match = self._whole.fullmatch(path)
        if match is None:
            return None
        groups = match.groupdict()
        numbers: dict[str, int] = {}
        for name, letter, read in self._times:
            number = read(groups[name])
            if numbers.setdefault(letter, number) != number:
                return None
        site, camera = (unquote(groups.get(name, "")) or None for name in ("site", "camera"))
        return Parsed(site, camera, _make_time(numbers), not {"H", "I", "s"}.isdisjoint(numbers))

    def follow(self, path: str) -> tuple[int, dict[str, str], str]:
        """How many tokens `path` follows, what they say, and the rest of it."""
        for count in range(len(self._parts), 0, -1):
            match = re.match("".join(self._parts[:count]).replace("+?", "+"), path, re.DOTALL)
            if match:
                said = {re.sub(r"^t_(.)\d*$", r"\1", k): v for k, v in match.groupdict().items()}
                return count, said, path[match.end() :]
        return 0, {}, path

    def explain(self, path: str) -> str:
        """How far `path` follows the template, for an error message."""
        count, said, rest = self.follow(path)
        known = ", ".join(f"{name}={text}" for name, text in said.items()) or "nothing"
        if count == len(self.tokens) and not rest:
            return f"{known}, which is no date"
        stop = f"stops at '{rest}'" if rest else "ends there"
        return f"{known}, {'then' if count else 'and'} {stop}"


def _read_month(name: str) -> int:
    return MONTH_NUMBERS[name[:3].lower()]


def _read_offset(text: str) -> int:
    """Minutes east of UTC."""
    digits = text.replace(":", "")[1:]
    return int(f"{text[0]}1") * (int(digits[:2]) * 60 + int(digits[2:] or 0)) if digits else 0


def _read_epoch(digits: str) -> int:
    """Microseconds since 1970."""
    shift = next(shift for longest, shift in EPOCH_UNITS if len(digits) <= longest)
    return int(Decimal(digits).scaleb(shift))


READERS: dict[str, Callable[[str], int]] = {
    "f": lambda digits: int(digits.ljust(6, "0")[:6]), "p": lambda half: "ap".index(half[0].lower()),
    "b": _read_month, "B": _read_month, "z": _read_offset, "s": _read_epoch,
    "a": lambda _: 0, "A": lambda _: 0,
}  # fmt: skip
"""How a directive's text becomes a number, where it is no plain one."""


def find_dates(path: str) -> list[re.Match[str]]:
    """Every `{date:...}` in a path."""
    tokens = TOKEN.finditer(path)
    return [token for token in tokens if token["field"] == "date" and token["format"] is not None]


def fill_dates(path: str, time: datetime) -> str:
    """The path for one day or hour."""
    for token in reversed(find_dates(path)):
        path = path[: token.start()] + time.strftime(token["format"]) + path[token.end() :]
    return path


def _make_time(numbers: dict[str, int]) -> datetime | None:
    """The time from the values of directives; None without a date, or if there is no such time."""
    try:
        if "s" in numbers:
            micros = numbers["s"] + (numbers.get("f", 0) if numbers["s"] % 10**6 == 0 else 0)
            return EPOCH + timedelta(microseconds=micros)
        day = _make_day(numbers)
        hour, minute, second, micro = (numbers.get(name, 0) for name in "HMSf")
        if "p" in numbers and "H" not in numbers:
            if not 1 <= numbers["I"] <= 12:
                return None
            hour = numbers["I"] % 12 + 12 * numbers["p"]
        zone = timezone(timedelta(minutes=numbers["z"])) if "z" in numbers else None
        return datetime(day.year, day.month, day.day, hour, minute, second, micro, zone)
    except (KeyError, ValueError, OverflowError):
        return None


def _make_day(numbers: dict[str, int]) -> date:
    """Raises KeyError without a date, and ValueError for one that is not in the calendar."""
    year = numbers["Y"] if "Y" in numbers else 2000 + numbers["y"]
    if MORE_DAYS.isdisjoint(numbers):
        return date(year, numbers["m"], numbers["d"])
    days = []
    if "d" in numbers:
        months = {numbers[name] for name in "mbB" if name in numbers}
        days += [date(year, month, numbers["d"]) for month in months]
    if "j" in numbers:
        days.append(date(year, 1, 1) + timedelta(days=numbers["j"] - 1))
    if len({(year, day) for day in days}) != 1 or days[0].year != year:
        raise ValueError("no such day, or several") if days else KeyError("day")
    return days[0]


def parse_hive(path: str) -> Parsed:
    """What hive-style folders say, such as `site=north/camera=07/date=2026-10-01/hour=13/x.jpg`."""
    said: dict[str, str] = {}
    numbers: dict[str, int] = {}
    unread: list[str] = []
    time = None
    for key, encoded in HIVE.findall(path):
        name, value = HIVE_KEYS.get(key.lower()), unquote(unquote(encoded))  # Hive and Spark escape too
        if name and value in HIVE_NULLS:
            continue
        if name in ("site", "camera"):
            said[name] = value
        elif name and (values := _read_hive(name, value)):
            numbers.update(values)
        elif name in ("date", "time") and (whole := parse_time(value)):
            if has_clock(value, whole):
                time = whole
            else:
                numbers.update(Y=whole.year, m=whole.month, d=whole.day)
        else:
            unread.append(key)
    has_hour = time is not None or "H" in numbers
    return Parsed(said.get("site"), said.get("camera"), time or _make_time(numbers), has_hour, tuple(unread))


def _read_hive(name: str, value: str) -> dict[str, int]:
    """The numbers of a folder of a date, a time of day, or a part of one; empty if it is none, or no such."""
    match = HIVE_DATE.fullmatch(value) if name in ("date", "d") else None
    if match:
        year, _, month, day, hour = match.groups()
        texts = {"Y": year, "m": month, "d": day, "H": hour}
    elif name == "time" and (match := HIVE_TIME.fullmatch(value)):
        texts = dict(zip("HMS", match.groups(), strict=True))
    else:
        texts = {name: value} if name not in ("date", "time") and value.isdecimal() else {}
    numbers = {name: int(text) for name, text in texts.items() if text}
    return numbers if _make_time({"Y": 2000, "m": 1, "d": 1} | numbers) else {}
