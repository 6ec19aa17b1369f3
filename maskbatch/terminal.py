"""The report and the plan's summary as a person reads them in a terminal."""

from calendar import day_name
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from maskbatch.report import Report

MAX_ROWS = 31
TITLES = {
    "overall": "Overall",
    "by_site": "By site",
    "by_camera": "By camera",
    "by_day": "By day",
    "by_hour": "By hour",
    "by_weekday": "By weekday",
}


def stdout_console() -> Console:
    """For tables on stdout: as wide as the terminal, and wide enough where there is none."""
    console = Console(highlight=False, markup=False)  # a camera may be named [lobby]
    return console if console.is_terminal else Console(highlight=False, markup=False, width=120)


def print_report(report: Report, console: Console, groupings: Sequence[str] = ()) -> None:
    """The report's tables, all without `groupings`; camera x day is left to its Parquet file."""
    groupings = groupings or [name for name in report.tables if name != "by_camera_day"]
    for name in groupings:
        rows = report.tables[name]
        if name == "overall" or len(rows) > 1:
            title = TITLES.get(name, name.replace("_", " ").capitalize())
            console.print(_table(title, report.keys[name], rows[:MAX_ROWS], report))
            if len(rows) > MAX_ROWS:
                console.print(f"  ... {len(rows) - MAX_ROWS:,} more in {name}.parquet")
    if any(star(row) for name in groupings for row in report.tables[name]):
        console.print("* under ten camera-days: the interval leans on the other groups and is too narrow")
    overall = report.overall
    failed = {
        name.removeprefix("failed_"): count
        for name, count in overall.items()
        if name.startswith("failed_") and count
    }
    console.print(f"Listed {overall['listed']:,} = ok {overall['scored']:,}{plus(failed)}.")
    for line in (*trust(report), f"Compliance: {headline(report)}.", *second_figures(report)):
        console.print(line)
    for alert in report.values["alerts"]:
        console.print(f"ALERT {alert['sentence']}.")


def trust(report: Report) -> Iterator[str]:
    """What is known of the archive itself, before its rates are read: a line each, none where all is well."""
    cameras = [row for row in report.values["coverage"]["by_camera"] if row["coverage"] is not None]
    gaps = report.values["coverage"]["gaps"]
    if cameras:
        least = min(cameras, key=lambda row: row["coverage"])
        name = "/".join(least[key] or "unknown" for key in ("site", "camera"))
        yield f"Coverage: least {least['coverage']:.1%} of what is expected, of {name}; {len(gaps):,} gaps."
    quality = report.values["quality"]
    counts = {name: sum(row[name] for row in quality["by_camera"]) for name in quality["conditions"]}
    found = ", ".join(f"{name.replace('_', '-')} {count:,}" for name, count in counts.items() if count)
    if found:
        yield f"Doubtful images: {found}; --exclude leaves them out of the rates."


def second_figures(report: Report) -> Iterator[str]:
    """The rate in the other ways that it can be stated."""
    overall, excluded = report.overall, report.values["settings"]["exclude"]
    everything, corrected = report.values["everything"][0], report.values["corrected"]
    if excluded:
        yield (
            f"Left out {overall['excluded']:,} images ({', '.join(excluded)}); with them compliance is "
            f"{percent(everything['compliance'])} ({_interval(everything)})."
        )
    if overall["corrected"] is not None:
        yield (
            f"Corrected for the classifier's errors: {overall['corrected']:.1%} "
            f"({_interval(overall, 'corrected')}), if it errs here as on its held-out set."
        )
    elif not corrected["identifiable"]:
        yield f"Not corrected for the classifier's errors: {corrected['reason']}."


def percent(rate: float | None) -> str:
    """`94.2%`, or a dash where nothing was assessed."""
    return "-" if rate is None else f"{rate:.1%}"


def plus(counts: Mapping[str, int]) -> str:
    """` + 3 truncated + 1 missing`."""
    return "".join(f" + {name} {count:,}" for name, count in counts.items())


def headline(report: Report) -> str:
    """The compliance rate in one line, with what it rests on."""
    overall = report.overall
    compliant = " or ".join(report.meaning.compliant)
    if overall["compliance"] is None:
        return f"nothing to assess: none of {overall['scored']:,} scored images shows a face"
    text = (
        f"{overall['compliance']:.1%} {compliant} ({overall['compliant']:,} of {overall['assessed']:,} "
        f"assessed), 95 % interval {_interval(overall)}"
    )
    if overall["few_clusters"]:
        text += "; under ten camera-days, so the interval is too narrow"
    return text


def _table(title: str, keys: tuple[str, ...], rows: list[dict[str, Any]], report: Report) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="",
        box=SIMPLE_HEAD,
        padding=0,
    )
    for key in keys:
        table.add_column(key, no_wrap=True)
    for name in ("listed", "failed", "assessed", *report.meaning.classes, "compliance (95 %)", "review"):
        words, is_class = name.replace("_", " "), name in report.meaning.classes
        least = max(map(len, words.split())) if is_class else len(words)
        table.add_column(words, justify="right", no_wrap=not is_class, min_width=least)
    for row in rows:
        table.add_row(
            *[_name(key, row[key]) for key in keys],
            f"{row['listed']:,}",
            f"{row['listed'] - row['scored']:,}",
            f"{row['assessed']:,}",
            *[f"{row[f'num_{name}']:,}" for name in report.meaning.classes],
            "-" if row["compliance"] is None else f"{row['compliance']:.1%} ({_interval(row)}){star(row)}",
            f"{row['num_review']:,}",
        )
    return table


def _name(key: str, value: Any) -> str:
    if value is None:
        return "unknown"
    return day_name[value - 1] if key == "weekday" else str(value)


def star(row: dict[str, Any]) -> str:
    """What marks an interval that rests on too few clusters."""
    return "*" if row["few_clusters"] and row["assessed"] else ""


def _interval(row: dict[str, Any], rate: str = "compliance") -> str:
    if row[f"{rate}_low"] is None:
        return "-"
    return f"{100 * row[f'{rate}_low']:.1f} to {row[f'{rate}_high']:.1%}"


def print_listing(listing: Mapping[str, Any], console: Console) -> None:
    """What planning found and what it left out."""
    size = f", {listing['num_bytes'] / 2**20:,.1f} MiB" if listing["num_bytes"] else ""
    when = ""
    if listing["first_time"]:
        when = f", {listing['first_time']} to {listing['last_time']}"
    console.print(f"Planned {listing['num_images']:,} images{size}{when}.")
    cameras = listing["cameras"]
    shown = ", ".join(f"{name} {count:,}" for name, count in sorted(cameras.items())[:12])
    more = f" and {len(cameras) - 12:,} more" if len(cameras) > 12 else ""
    console.print(f"Cameras: {shown}{more}.")
    for title, counts in (
        ("Not images", listing["skipped"]),
        ("Left out", listing["filtered"]),
        ("Noted", listing["notes"]),
    ):
        if counts:
            items = sorted(counts.items(), key=lambda item: -item[1])
            console.print(f"{title}: {', '.join(f'{count:,} {name}' for name, count in items)}.")
    if "camera unknown" in listing["notes"] and listing["notes"]["camera unknown"] == listing["num_images"]:
        console.print(f"No path names a camera, such as '{listing['example']}': give --layout to read it.")
