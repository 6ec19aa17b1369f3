"""report.html from the values of report.json alone: one file, no network.

`write_figure` prints each number of the page with its raw value, its place in report.json and a text to read:
`<data value="0.942" data-figure="overall/0/compliance">94.2 %</data>`.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from itertools import pairwise
from json import dumps
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from maskbatch.report import plots
from maskbatch.report.cells import Camera, group_name
from maskbatch.report.choice import choose_rows, coverage_of, doubt_of, rate_of
from maskbatch.schema import CONDITIONS, SIZE_BAND_NAMES
from maskbatch.visible import make_visible, open_templates, shorten

LIMITS = {"MAX_ROWS": 40, "MAX_ALERTS": 6, "MAX_LONGEST": 15, "MAX_CLASSES": 20}
"""Rows shown: of most tables, of alerts, of tables that begin with the longest or worst; and classes."""
PERCENT = "\N{NARROW NO-BREAK SPACE}%"
DASH = "\N{EN DASH}"
UNITS = (("day", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def render(values: Mapping[str, Any], thumbnails: Mapping[int, bytes] | None = None) -> str:
    """The whole page from the values of report.json; `thumbnails`: JPEG bytes by a candidate's rank."""
    pictures = {rank: b64encode(jpeg).decode() for rank, jpeg in (thumbnails or {}).items()}
    return (
        _environment()
        .get_template("report.html")
        .render(
            v=values,
            fig=partial(write_figure, values),
            when=partial(write_time, values),
            known=lambda path: at(values, path) is not None,
            pictures=None if thumbnails is None else pictures,
            plots={name: Markup(svg) for name, svg in _plots(values).items()},  # noqa: S704 - matplotlib escapes text
            psi=_psi_places(values["drift"]["psi"]),
            people=_people(values),
            conditions=CONDITIONS,
            bands=SIZE_BAND_NAMES,
            unit="face" if values["view"] == "scene" else "image",
            clocks=values["clocks"]["cameras"] if "clocks" in values else [],
            choose=choose_rows,
            rate_of=rate_of,
            coverage_of=coverage_of,
            doubt_of=doubt_of,
            psi_of=lambda item: -max(values["drift"]["psi"][place]["psi"] for place in item[1].values()),
            MAX_MAPPED=len(_mapped(values)),
            **LIMITS,
        )
    )


@cache
def _environment() -> Environment:
    environment = open_templates("maskbatch.report")
    environment.filters |= {"words": format_name, "heading": format_heading, "brief": shorten}
    return environment


def write_figure(values: Mapping[str, Any], path: str, kind: str = "count") -> Markup:
    """The value at `path` of report.json as a <data> element; a dash, or "unknown", where it is null."""
    value = at(values, path)
    if value is None:
        return Markup("unknown") if kind == "text" else Markup(f'<span title="no data">{DASH}</span>')  # noqa: S704 - a constant
    raw = make_visible(value) if isinstance(value, str) else dumps(value)
    return Markup('<data value="{}" data-figure="{}">{}</data>').format(
        raw, make_visible(path), FORMATS[kind](value)
    )


def write_time(values: Mapping[str, Any], path: str) -> Markup:
    """The ISO time at `path` of report.json as a <time> element."""
    value = at(values, path)
    if value is None:
        return Markup("unknown")
    time = datetime.fromisoformat(value)
    text = f"{time.day} {time:%b %Y, %H:%M}" + (" UTC" if time.tzinfo else "")
    return Markup('<time datetime="{}" data-figure="{}">{}</time>').format(value, path, text)


def at(values: Any, path: str) -> Any:
    """The value at a JSON pointer (RFC 6901, without its first /)."""
    for step in path.split("/"):
        values = values[int(step) if isinstance(values, list) else step.replace("~1", "/").replace("~0", "~")]
    return values


def format_rate(value: float) -> str:
    """Percent with one decimal, or more where one would round a few to none or nearly all to all."""
    digits = next((n for n in range(1, 7) if 0 < float(f"{100 * value:.{n}f}") < 100), 1)
    return f"{100 * value:.{digits if 0 < value < 1 else 1}f}{PERCENT}"


def format_seconds(value: float) -> str:
    """The two largest units: 3 h 20 min."""
    rest, parts = round(value), list[str]()
    for name, size in UNITS:
        many, rest = divmod(rest, size)
        if many and len(parts) < 2:
            parts.append(f"{many} {name}{'s' if name == 'day' and many > 1 else ''}")
    return " ".join(parts) or f"{value:.2g} s"


def format_hours(values: Sequence[int]) -> str:
    """Hours of the day as ranges: 06-20 h for 6 to 19."""
    starts = [hour for before, hour in pairwise([-2, *values]) if hour != before + 1]
    ends = [hour for hour, after in pairwise([*values, 99]) if after != hour + 1]
    ranges = [f"{first:02}{DASH}{last + 1:02}" for first, last in zip(starts, ends, strict=True)]
    return ", ".join(ranges) + " h"


def format_number(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def format_points(value: float) -> str:
    """A difference of two rates in points, with its sign."""
    return f"{round(100 * value, 1) + 0.0:+.1f}"


def format_name(name: str) -> str:
    """`with mask` for with_mask."""
    return make_visible(name).replace("_", " ")


def format_heading(value: Any, key: str) -> str:
    """The key of a row as its heading: a camera, a day, an hour, a weekday."""
    return group_name({key: value}, (key,))


FORMATS: dict[str, Any] = {
    "rate": format_rate,
    "bare": lambda value: format_rate(value).removesuffix(PERCENT),
    "count": lambda value: f"{value:,}",
    "number": format_number,
    "points": format_points,
    "p": lambda value: "<0.001" if value < 0.001 else f"{value:.3f}",
    "seconds": format_seconds,
    "hours": format_hours,
    "text": make_visible,
    "name": format_name,
}


def _plots(values: Mapping[str, Any]) -> dict[str, str]:
    overall, coverage, threshold = values["overall"][0], values["coverage"], values["settings"]["alert_below"]
    cameras, people, sizes = _mapped(values), _people(values), values.get("by_size", [])
    rates = [
        *([_judged_dot("by people's review", people["compliance"])] if people else []),
        _dot("as classified", "accent", overall, "compliance"),
        _dot("corrected", "second", overall, "corrected"),
    ]
    if values["settings"]["exclude"]:
        rates.append(_dot("nothing left out", "muted", values["everything"][0], "compliance"))
    shares = []
    for place, row in choose_rows(
        values["corrected"]["shares"], LIMITS["MAX_CLASSES"], lambda row: -row["count"]
    ):
        name, share = format_name(row["class"]), row["share"]
        shares += [_judged_dot(name, people["shares"][place])] if people else []
        shares.append((name, "accent", share, share, share))
        shares += [_dot(name, "second", row, "corrected")] if overall["corrected"] is not None else []
    rates, shares = ([dot for dot in dots if dot[2] is not None] for dots in (rates, shares))
    return {
        "headline": plots.plot_dots("headline", "Dots: the rate with its interval.", rates, threshold),
        "day": plots.plot_days(values["by_day"], threshold),
        "hour": plots.plot_steps("hour", values["by_hour"], lambda hour: f"{hour:02}"),
        "weekday": plots.plot_steps(
            "weekday", values["by_weekday"], lambda day: format_heading(day, "weekday")[:3]
        ),
        "sizes": plots.plot_sizes(sizes),
        "size": plots.plot_steps(
            "size", [{**row, "size": k} for k, row in enumerate(sizes)], lambda k: _edge(sizes[k])
        ),
        "map": plots.plot_compliance(cameras, values["by_camera_day"]),
        "coverage": plots.plot_coverage(cameras, coverage["by_camera_day"], coverage["gaps"]),
        "shares": plots.plot_dots("shares", "Dots: the share of each class.", shares, None),
    }


def _dot(text: str, colour: str, row: Mapping[str, Any], name: str) -> plots.Dot:
    return text, colour, row[name], row[f"{name}_low"], row[f"{name}_high"]


def _edge(row: Mapping[str, Any]) -> str:
    """The lower edge of a size band."""
    return str(row["size_band"]).partition("-")[0]


def _judged_dot(text: str, estimate: Mapping[str, Any]) -> plots.Dot:
    return text, "ink", estimate["value"], estimate["low"], estimate["high"]


def _people(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The section `judged` of report.json where it gives a rate."""
    judged: Mapping[str, Any] | None = values["judged"]
    return judged if judged and judged["compliance"] and judged["compliance"]["value"] is not None else None


def _mapped(values: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The cameras of the maps, those with single days in report.json, in the order of their table."""
    mapped = {(row["site"], row["camera"]) for row in values["by_camera_day"]}
    return [row for row in values["by_camera"] if (row["site"], row["camera"]) in mapped]


def _psi_places(psi: Sequence[Mapping[str, Any]]) -> dict[Camera, dict[str, int]]:
    """The place in `psi` of each camera's measures."""
    places: dict[Camera, dict[str, int]] = {}
    for place, row in enumerate(psi):
        places.setdefault((row["site"], row["camera"]), {})[row["measure"]] = place
    return places
