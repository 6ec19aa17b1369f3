"""The plots of the report, from the values of report.json to inline SVG.

They are drawn in sentinel colours that become the page's CSS variables, so that one plot fits light, dark and
print. Text stays text, in the page's font. Equal values give equal bytes; with nothing to draw a plot is "".
"""

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from html import escape
from operator import itemgetter
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.dates import date2num, num2date
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, PathPatch
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from maskbatch.visible import make_visible

Row = Mapping[str, Any]
Rows = Sequence[Row]
Cells = Sequence[tuple[Row, float | None, int]]
"""A row of a camera and day, its share, and the weight of this in a column of several days."""
Dot = tuple[str, str, float, float, float]
"""Text, colour, value, low and high."""
VARIABLES = ("ink", "muted", "rule", "accent", "second", "band", "alert", "h0", "h1", "h2", "h3", "h4", "h5")
COLOURS = {name: f"#0001{number:02x}" for number, name in enumerate(VARIABLES, 1)}
INK, MUTED, RULE, ACCENT, SECOND, BAND, ALERT = list(COLOURS.values())[:7]
STYLE = {
    "axes.axisbelow": True, "axes.edgecolor": RULE, "axes.grid": True, "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5, "axes.spines.left": False, "axes.spines.right": False, "axes.spines.top": False,
    "font.size": 9.5, "grid.color": RULE, "grid.linewidth": 0.6, "legend.columnspacing": 1.2,
    "legend.fontsize": 8.5, "legend.frameon": False, "legend.handlelength": 1.4, "legend.labelcolor": INK,
    "svg.fonttype": "none", "svg.hashsalt": "maskbatch", "text.color": INK,
    "text.parse_math": False, "text.usetex": False, "xtick.color": RULE, "xtick.labelcolor": MUTED,
    "ytick.left": False, "ytick.labelcolor": MUTED,
}  # fmt: skip
WIDTH_IN = 9.0
LONGEST_LABEL = 30
MAX_DAYS = 731
"""Of the line of days, the last ones."""
MAX_COLUMNS = 124
"""Of a map; 60 cameras make 0.5 MB then."""
FEWEST_DAYS = 24
"""A map of fewer days leaves room to the right, so that its cells keep their shape."""
SQUARE, STROKE = ((0.05, -0.43), (0.95, -0.43), (0.95, 0.43), (0.05, 0.43)), ((0.25, 0.25), (0.75, -0.25))
_camera = itemgetter("site", "camera")
SERIES = {INK: "by people's review", ACCENT: "as classified", SECOND: "corrected"}
COMPLIANCE_STEPS = {"95 % and more": 0.95, "90 to 95 %": 0.9, "80 to 90 %": 0.8, "70 to 80 %": 0.7,
                    "50 to 70 %": 0.5, "under 50 %": 0.0}  # fmt: skip
COVERAGE_STEPS = {"95 % and more": 0.95, "75 to 95 %": 0.75, "50 to 75 %": 0.5, "25 to 50 %": 0.25,
                  "under 25 %": 1e-9, "none came": 0.0}  # fmt: skip


def plot_days(rows: Rows, threshold: float | None) -> str:
    """The rate of each day, its interval as a band; a day without a rate breaks the line."""
    known = {_day(row): row for row in _rated(rows, "date") if row["date"] != "unknown"}
    if not known:
        return ""
    days = range(max(min(known), max(known) + 1 - MAX_DAYS), max(known) + 1)
    names = ("compliance", "compliance_low", "compliance_high", "corrected")
    table = [[known[day][name] if day in known else None for day in days] for name in names]
    rate, low, high, corrected = np.array(table, np.float64)
    with rc_context(STYLE):
        figure, axes = _axes(WIDTH_IN, 3.1)
        axes.plot(days, rate, "o-", color=ACCENT, markersize=3.5, linewidth=1.6, label=SERIES[ACCENT])
        axes.fill_between(days, low, high, color=BAND, linewidth=0, zorder=1, label="its 95 % interval")
        axes.vlines(days, low, high, color=BAND, linewidth=2, zorder=1)
        if not np.isnan(corrected).all():
            axes.plot(days, corrected, "--", color=SECOND, linewidth=1.3, label=SERIES[SECOND])
        if threshold is not None:
            axes.axhline(threshold, color=ALERT, linewidth=1, linestyle=":", label="alert below")
        axes.grid(axis="x", visible=False)
        _dates(axes, days, len(days), 0)
        _rate_axis(axes, "y", np.nanmin(low), threshold)
        figure.legend(loc="outside upper left", ncols=4)
        return _svg(figure, "day", f"Line: compliance on {len(days)} days with its interval.")


def plot_steps(key: str, rows: Rows, name: Callable[[int], str]) -> str:
    """The rate of each hour or weekday (`key`), its interval as a bar; `name` gives its text on the axis."""
    known = _rated(rows, key)
    if not known:
        return ""
    steps, rate, low, high = (
        [row[column] for row in known] for column in (key, "compliance", "compliance_low", "compliance_high")
    )
    with rc_context(STYLE):
        figure, axes = _axes(WIDTH_IN / 2, 2.7)
        axes.vlines(steps, low, high, BAND, linewidth=6)
        axes.plot(steps, rate, "o", color=ACCENT, markersize=4.5)
        axes.grid(axis="x", visible=False)
        axes.set_xlim(min(steps) - 0.6, max(steps) + 0.6)
        ticks = steps[:: len(steps) // 8 + 1]
        axes.set_xticks(ticks, [name(step) for step in ticks])
        _rate_axis(axes, "y", min(low), None)
        return _svg(figure, key, f"Points: compliance by {key} with intervals.")


def plot_sizes(rows: Rows) -> str:
    """The faces of each size band: those assessed, and on top of them those that are not."""
    if not sum(row["faces"] for row in rows):
        return ""
    names = [row["size_band"].partition("-")[0] for row in rows]
    assessed, faces = ([row[column] for row in rows] for column in ("assessed", "faces"))
    with rc_context(STYLE):
        figure, axes = _axes(WIDTH_IN / 2, 2.7)
        rest = [every - some for every, some in zip(faces, assessed, strict=True)]
        axes.bar(names, assessed, 0.7, color=ACCENT, label="assessed")
        axes.bar(names, rest, 0.7, assessed, color=BAND, label="not assessed")
        axes.grid(axis="x", visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("pixels, from")
        figure.legend(loc="outside upper left", ncols=2)
        return _svg(figure, "sizes", "Bars: faces by size in pixels.")


def plot_dots(name: str, label: str, rows: Sequence[Dot], threshold: float | None) -> str:
    """Each value on its interval; those of one text are side by side on one line."""
    if not rows:
        return ""
    texts = list(dict.fromkeys(row[0] for row in rows))
    with rc_context(STYLE):
        figure, axes = _axes(WIDTH_IN, 0.75 + max(0.3 * len(texts), 0.14 * len(rows)))
        for text, colour, value, low, high in rows:
            beside = [row[1] for row in rows if row[0] == text]
            y = texts.index(text) + 0.24 * (beside.index(colour) - (len(beside) - 1) / 2)
            axes.hlines(y, low, high, COLOURS[colour], linewidth=2.4)
            axes.plot(value, y, "o", color=COLOURS[colour], markersize=6)
        _lines(axes, texts)
        axes.grid(axis="y", visible=False)
        _rate_axis(axes, "x", min(row[3] for row in rows), threshold)
        if threshold is not None:
            axes.axvline(threshold, color=ALERT, linewidth=1, linestyle=":")
            axes.text(threshold, -0.55, "alert below", color=ALERT, fontsize=8.5, ha="center", va="bottom")
        if len(texts) < len(rows):
            used = {COLOURS[row[1]] for row in rows}
            handles = [Patch(color=colour, label=text) for colour, text in SERIES.items() if colour in used]
            figure.legend(handles=handles, loc="outside upper left", ncols=3)
        return _svg(figure, name, label)


def plot_compliance(cameras: Rows, rows: Rows) -> str:
    """Camera by day: the lower the rate, the stronger the ink."""
    cells = [(row, row["compliance"], row.get("assessed", 1)) for row in rows]
    return _map("map", "Heat map: compliance by camera and day.", cameras, cells, COMPLIANCE_STEPS, ())


def plot_coverage(cameras: Rows, rows: Rows, gaps: Rows) -> str:
    """Camera by day: the fewer of the expected snapshots, the stronger the ink; and gaps."""
    cells = [
        (row, row["snapshots"] / row["expected"] if row["expected"] else None, row["expected"] or 0)
        for row in rows
    ]
    label = "Heat map: snapshots of those expected by camera and day, with gaps."
    return _map("coverage", label, cameras, cells, COVERAGE_STEPS, gaps)


def _map(name: str, label: str, cameras: Rows, cells: Cells, steps: Mapping[str, float], gaps: Rows) -> str:
    """`steps`: each ink's text in the legend and its least value, from the palest on.

    A map of more than MAX_COLUMNS days adds up several days in a column.
    """
    line = {_camera(row): place for place, row in enumerate(cameras)}
    shown = [cell for cell in cells if cell[0]["date"] != "unknown" and _camera(cell[0]) in line]
    if not shown:
        return ""
    days = range(min(_day(cell[0]) for cell in shown), max(_day(cell[0]) for cell in shown) + 1)
    size = next(size for size in (1, 7, 28, 91, 364, len(days)) if len(days) <= size * MAX_COLUMNS)
    part, whole = np.zeros((2, len(cameras), -(-len(days) // size)))
    for row, share, weight in shown:
        if share is not None:
            at, weight = (line[_camera(row)], (_day(row) - days[0]) // size), weight if size > 1 else 1
            part[at] += share * weight
            whole[at] += weight
    grid = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    step = np.where(np.isnan(grid), -1, (grid[..., None] < list(steps.values())).sum(-1))
    gaps = [gap for gap in gaps if _camera(gap) in line]
    crowded, width = len(cameras) > 25, max(len(days), FEWEST_DAYS)
    with rc_context(STYLE):
        figure, axes = _axes(WIDTH_IN, 0.8 + (0.17 if crowded else 0.26) * len(cameras))
        handles: list[Any] = []
        for place, text in enumerate(steps):
            _shapes(axes, np.argwhere(step == place), SQUARE, days[0], size, fc=COLOURS[f"h{place}"], lw=0)
            handles.append(Patch(fc=COLOURS[f"h{place}"], label=text))
        if (step < 0).any():
            _shapes(axes, np.argwhere(step < 0), STROKE, days[0], size, ec=MUTED, lw=0.8, fill=False)
            handles.append(Line2D([], [], color=MUTED, lw=0, marker=(2, 2, -45), label="no data"))
        if gaps:
            start, end = (
                [date2num(datetime.fromisoformat(gap[key])) for gap in gaps] for key in ("from", "to")
            )
            axes.hlines([line[_camera(gap)] for gap in gaps], start, end, ALERT, linewidth=4)
            handles.append(Line2D([], [], color=ALERT, lw=3, label="gap"))
        _lines(axes, [_camera_name(row) for row in cameras], 7.5 if crowded else 9)
        axes.grid(visible=False)
        axes.spines.bottom.set_visible(False)
        axes.set_xlim(days[0], days[0] + width)
        _dates(axes, days, width, 0.5)
        figure.legend(handles=handles, loc="outside upper left", ncols=8)
        return _svg(figure, name, label)


def _shapes(axes: Axes, cells: NDArray[Any], shape: Any, first: int, size: int, **style: Any) -> None:
    """A shape, `size` days wide, in each of `cells` (N, 2: line, column).

    As one path: separate elements would be megabytes.
    """
    points = (cells[:, None, ::-1] + np.array(shape)) * (size, 1) + (first, 0)
    codes = np.tile([Path.MOVETO, *[Path.LINETO] * (len(shape) - 1)], len(cells)).astype(np.uint8)
    if len(cells):
        axes.add_patch(PathPatch(Path(points.reshape(-1, 2), codes), **style))


def _axes(width_in: float, height_in: float) -> tuple[Figure, Axes]:
    figure = Figure((width_in, height_in), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure, name: str, label: str) -> str:
    """The figure as an <svg> element of full width, whose ids begin with `name`."""
    text = io.StringIO()
    none = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # names in any script: the reader's browser has the font
        figure.savefig(text, format="svg", transparent=True, metadata=none)
    svg = re.sub(r"<style.*?</style>|<!--.*?-->", "", text.getvalue(), flags=re.DOTALL)
    box, inner = re.findall(r'<svg [^>]*(viewBox="[^"]*")[^>]*>(.*)', svg, re.DOTALL)[0]
    inner = re.sub(r"<[^>]*>", lambda tag: _of_page(tag[0], name), inner).strip()
    return f'<svg class="plot" role="img" aria-label="{escape(label)}" {box}>{inner}'


def _of_page(tag: str, name: str) -> str:
    """A tag with CSS variables as colours, its own ids, the page's font, and two decimals."""
    tag = re.sub(r"#0001(\w\w)", lambda match: f"var(--{VARIABLES[int(match[1], 16) - 1]})", tag)
    tag = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag)
    tag = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", tag)
    return re.sub(r"(\d\.\d\d)\d+", r"\1", tag)


def _rate_axis(axes: Axes, which: str, low: float, threshold: float | None) -> None:
    """Percent, from a round figure below `low` and `threshold` to 100; a label says if it is not 0."""
    low = low if threshold is None else min(low, threshold)
    step = next((step for room, step in ((0.08, 0.02), (0.25, 0.05), (0.5, 0.1)) if 1 - low <= room), 0.2)
    first = np.floor(low / step + 1e-9) * step if step < 0.2 else 0.0
    ticks = np.linspace(first, 1, round((1 - first) / step) + 1)
    axes.set(**{f"{which}lim": (first if first else -0.03, 1.03 - 0.03 * first), f"{which}ticks": ticks})
    axes.set(**{f"{which}ticklabels": [f"{100 * tick:.0f} %" for tick in ticks]})
    if first:
        axes.set(**{f"{which}label": f"axis begins at {100 * first:.0f} %"})


def _lines(axes: Axes, texts: Sequence[str], size: float = 9.5) -> None:
    """A text on each line, from the top."""
    axes.set_yticks(range(len(texts)), texts, fontsize=size)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(texts) - 0.5, -0.5)


def _dates(axes: Axes, days: range, width: int, shift: float) -> None:
    """`days` as matplotlib counts them, on an axis `width` days wide."""
    ticks = days[:: next(step for step in (1, 2, 7, 14, 28, 56, 91, width) if width <= step * 9)]
    texts = [f"{num2date(day).day} {num2date(day):%b}" for day in ticks]
    axes.set_xticks([day + shift for day in ticks], texts)


def _rated(rows: Rows, key: str) -> list[Row]:
    return [row for row in rows if row[key] is not None and row["compliance"] is not None]


def _camera_name(row: Row) -> str:
    """Site / camera, short enough for an axis."""
    text = make_visible(" / ".join(name or "unknown" for name in _camera(row)))
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def _day(row: Row) -> int:
    return int(date2num(date.fromisoformat(row["date"])))
