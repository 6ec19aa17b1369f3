"""Site, camera and time from a path: by a template, or by hive-style `key=value` folders."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote

from maskbatch.errors import UsageError

DIRECTIVES = {
    "Y": r"\d{4}", "y": r"\d{2}", "m": r"\d{2}", "d": r"\d{2}", "j": r"\d{3}",
    "H": r"\d{2}", "M": r"\d{2}", "S": r"\d{2}", "f": r"\d{1,6}", "s": r"\d{9,11}",
}  # fmt: skip
"""strptime directives that a template may use; `%s` is seconds since 1970, in UTC."""
DATE_DIRECTIVES = "YymdjH"
"""Those of `{date:...}`, which names days or hours."""
TOKEN = re.compile(r"\{(?P<field>\w+)(?::(?P<format>[^}]*))?\}|(?P<stars>\*\*?)|(?P<text>[^{*]+|[{])")
HIVE = re.compile(r"(?<![^/])(site|camera|date|year|month|day|hour|minute)=([^/]+)/")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What one path says; None: nothing."""

    site: str | None = None
    camera: str | None = None
    time: datetime | None = None
    """Local and naive, or UTC from `%s`."""
    has_hour: bool = False


class Template:
    """A compiled `--layout`, such as `{site}/{camera}/{captured_at:%Y/%m/%d/%H%M%S}.jpg`.

    `*` matches any text within one folder or file name, `**` any text.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._seen: set[str] = set()
        self._parts = [self._compile(token) for token in TOKEN.finditer(text)]
        self._whole = re.compile("".join(self._parts), re.DOTALL)
        if not self._seen:
            self._refuse("names no field; use {site}, {camera} or {captured_at:%Y%m%d%H%M%S}")
        times = {name[2:] for name in self._seen if name.startswith("t_")}
        has_date = times & {"Y", "y"} and ({"m", "d"} <= times or "j" in times)
        if times and "s" not in times and not has_date:
            self._refuse("its {captured_at:...} lacks a year, month or day")

    def _refuse(self, why: str) -> None:
        raise UsageError(f"--layout {self.text}: {why}")

    def _compile(self, token: re.Match[str]) -> str:
        if token["stars"]:
            return ".*" if token["stars"] == "**" else "[^/]*"
        name, form = token["field"], token["format"]
        if name in ("site", "camera") and form is None:
            return self._group(name, "[^/]+?")
        if name == "captured_at" and form:
            return re.sub(r"%(.)|([^%]+)|%", self._directive, form)
        if name is not None or token["text"] == "{":
            self._refuse(f"{token[0]} is not known; {{site}}, {{camera}} or {{captured_at:%Y%m%d}} expected")
        return re.escape(token["text"])

    def _directive(self, part: re.Match[str]) -> str:
        if part[2]:
            return re.escape(part[2])
        if part[1] not in DIRECTIVES:
            self._refuse(f"{part[0]} is not known; one of %{' %'.join(DIRECTIVES)} expected")
        return self._group(f"t_{part[1]}", DIRECTIVES[part[1]])

    def _group(self, name: str, pattern: str) -> str:
        """A named group; a field named twice must read the same both times."""
        if name in self._seen:
            return f"(?P={name})"
        self._seen.add(name)
        return f"(?P<{name}>{pattern})"

    def parse(self, path: str) -> Parsed | None:
        """What `path`, relative to the archive, says; None if the template does not match."""
        match = self._whole.fullmatch(path)
        if match is None:
            return None
        groups = match.groupdict()
        numbers = {name[2:]: int(text) for name, text in groups.items() if name.startswith("t_")}
        if "f" in numbers:
            numbers["f"] = int(groups["t_f"].ljust(6, "0"))
        site, camera = (unquote(groups.get(name, "")) or None for name in ("site", "camera"))
        return Parsed(site, camera, _time(numbers), not {"H", "s"}.isdisjoint(numbers))

    def explain(self, path: str) -> str:
        """How far `path` follows the template, for an error message."""
        for count in range(len(self._parts), 0, -1):
            match = re.match("".join(self._parts[:count]).replace("+?", "+"), path, re.DOTALL)
            if match:
                known = ", ".join(f"{k.removeprefix('t_')}={v}" for k, v in match.groupdict().items())
                return f"{known or 'nothing'}, then stops at '{path[match.end() :]}'"
        return f"nothing, and stops at '{path}'"


def find_dates(path: str) -> list[re.Match[str]]:
    """Every `{date:...}` in a path."""
    tokens = TOKEN.finditer(path)
    return [token for token in tokens if token["field"] == "date" and token["format"] is not None]


def fill_dates(path: str, time: datetime) -> str:
    """The path for one day or hour."""
    for date in reversed(find_dates(path)):
        path = path[: date.start()] + time.strftime(date["format"]) + path[date.end() :]
    return path


def _time(numbers: dict[str, int]) -> datetime | None:
    """The time from the values of directives; None without a date, or if there is no such day."""
    try:
        if "s" in numbers:
            return datetime.fromtimestamp(numbers["s"], UTC)
        year = numbers["Y"] if "Y" in numbers else 2000 + numbers["y"]
        month, day = (1, 1) if "j" in numbers else (numbers["m"], numbers["d"])
        hour, minute, second, micro = (numbers.get(name, 0) for name in "HMSf")
        time = datetime(year, month, day, hour, minute, second, micro)
        if "j" in numbers:
            time += timedelta(days=numbers["j"] - 1)
            return time if time.year == year and numbers["j"] else None
        return time
    except (KeyError, ValueError, OverflowError):
        return None


def parse_hive(path: str) -> Parsed:
    """What hive-style folders say, such as `site=north/camera=07/date=2026-10-01/hour=13/x.jpg`."""
    folders = {key: unquote(value) for key, value in HIVE.findall(path)}
    date = folders.get("date")
    parts = date.split("-") if date else [folders.get(k, "") for k in ("year", "month", "day")]
    words = {**dict(zip("Ymd", parts, strict=False)), "H": folders.get("hour"), "M": folders.get("minute")}
    numbers = {name: int(text) for name, text in words.items() if text and text.isdecimal()}
    return Parsed(folders.get("site"), folders.get("camera"), _time(numbers), "H" in numbers)
