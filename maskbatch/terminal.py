"""The report and the plan's summary as a person reads them in a terminal."""

from collections.abc import Mapping, Sequence
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from maskbatch.report.cells import group_name

if TYPE_CHECKING:
    from maskbatch.report.compare import Comparison
    from maskbatch.report.make import Report
from maskbatch.progress import add_up
from maskbatch.report.words import (
    _interval,
    by_people,
    headline,
    p_value,
    percent,
    points,
    second_figures,
    star,
    trust,
)

MAX_ROWS = 31


COMPARED = ("assessed 1st", "compliance 1st", "assessed 2nd", "compliance 2nd")


TABLE: dict[str, Any] = {
    "title_justify": "left", "title_style": "bold", "header_style": "", "box": SIMPLE_HEAD, "padding": 0,
}  # fmt: skip


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


def print_report(report: "Report", console: Console, groupings: Sequence[str] = ()) -> None:
    """The report's tables, all without `groupings`; camera x day is left to its Parquet file."""
    groupings = groupings or [name for name in report.keys if name != "by_camera_day"]
    for line in trust(report):
        console.print(line)
    for name in groupings:
        rows = report.values[name]
        if name == "overall" or len(rows) > 1:
            title = TITLES.get(name, name.replace("_", " ").capitalize())
            console.print(_table(title, report.keys[name], rows[:MAX_ROWS], report))
            if len(rows) > MAX_ROWS:
                console.print(f"  ... {len(rows) - MAX_ROWS:,} more in {name}.parquet")
    if any(star(row) for name in groupings for row in report.values[name]):
        console.print("* few clusters (under ten): the interval leans on all groups, likely too narrow")
    overall = report.overall
    failed = {
        name.removeprefix("failed_"): count
        for name, count in overall.items()
        if name.startswith("failed_") and count
    }
    console.print(f"Listed {overall['listed']:,} = ok {overall['scored']:,}{add_up(failed)}.")
    judged = list(by_people(report))
    name = "As classified" if judged else "Compliance"
    for line in (*judged, f"{name}: {headline(report)}.", *second_figures(report)):
        console.print(line)
    for alert in report.values["alerts"]:
        console.print(f"ALERT {alert['sentence']}.", soft_wrap=True)


def _table(title: str, keys: tuple[str, ...], rows: list[dict[str, Any]], report: "Report") -> Table:
    table = Table(title=title, **TABLE)
    for key in keys:
        table.add_column(key, no_wrap=True)
    classes = report.values["classes"]
    for name in ("listed", "failed", "assessed", *classes, "compliance (95 %)", "review"):
        words, is_class = name.replace("_", " "), name in classes
        least = max(map(len, words.split())) if is_class else len(words)
        table.add_column(words, justify="right", no_wrap=not is_class, min_width=least)
    for row in rows:
        table.add_row(
            *[group_name(row, (key,)) for key in keys],
            f"{row['listed']:,}",
            f"{row['failed']:,}",
            f"{row['assessed']:,}",
            *[f"{row[f'num_{name}']:,}" for name in classes],
            "-" if row["compliance"] is None else f"{row['compliance']:.1%} ({_interval(row)}){star(row)}",
            f"{row['num_review']:,}",
        )
    return table


def print_predictions(made: Mapping[str, Any], console: Console) -> None:
    """A row an image: its label and every class's probability, or its status and the reason."""
    names = [image["uri"].removeprefix("file://") for image in made["images"]]
    local = all(image["uri"].startswith("file://") for image in made["images"])
    folder = commonprefix(names).rpartition("/")[0] if local else ""  # noqa: RUF071  up to a `/`
    if folder:
        console.print(f"In {folder}:", soft_wrap=True)
    table = Table(**TABLE)
    table.add_column("image", overflow="fold")
    table.add_column("label", no_wrap=True)
    for name in made["classes"]:
        words = name.split("_")
        table.add_column(" ".join(words), justify="right", width=max(len("100.0%"), *map(len, words)))
    table.add_column("")
    for uri, image in zip(names, made["images"], strict=True):
        name = uri.removeprefix(f"{folder}/") if folder else uri
        if image["status"] == "ok":
            shares = [percent(image["probs"][of]) for of in made["classes"]]
            label = f"{image['label'].replace('_', ' ')} {percent(image['confidence'])}"
            table.add_row(name, label, *shares, "review" if image["needs_review"] else "")
        else:
            table.add_row(f"{name}: {image['error']}", image["status"])
    console.print(table)


def print_comparison(made: "Comparison", console: Console) -> None:
    """Both runs, what changed from one to the other, and the test of it by camera and over all."""
    for name, run in zip(("First ", "Second"), made.runs, strict=True):
        when = f", {run['first_time']} to {run['last_time']}" if run["first_time"] else ""
        console.print(
            f"{name}: {run['path']}, {run['planned']:,} images{when}, checkpoint {run['checkpoint'][:12]}."
        )
    if made.kind == "images":
        console.print(
            f"{made.shared:,} images are in both ({made.only_first:,} only in the first, "
            f"{made.only_second:,} only in the second); {made.changed:,} "
            f"({made.changed / made.shared:.1%}) changed their label."
        )
        console.print(_crossed(made))
    else:
        both = f"{made.shared:,} images are in both" if made.shared else "No image is in both"
        console.print(f"{both}: two periods or places are compared.")
        if made.runs[0]["checkpoint"] != made.runs[1]["checkpoint"]:
            console.print("Their checkpoints differ, so a difference may be the checkpoints' alone.")
    if len(made.by_camera) > 1:
        console.print(_differences(made.by_camera[:MAX_ROWS]))
        if len(made.by_camera) > MAX_ROWS:
            console.print(f"  ... {len(made.by_camera) - MAX_ROWS:,} more cameras with --json")
    overall = made.overall
    on = f" on the {made.shared:,} images of both" if made.kind == "images" else ""
    console.print(
        f"Compliance{on}: {percent(overall['compliance_first'])} -> {percent(overall['compliance_second'])}, "
        f"difference {points(overall)}{', p ' + p_value(overall['p']) if overall['p'] is not None else ''}."
    )
    console.print("Interval and p: t test of linearised rates over camera-days, which may be alike within.")
    if any(row["few_clusters"] and row["p"] is not None for row in (overall, *made.by_camera)):
        console.print("* few clusters (under ten): the interval is likely too narrow and p too small")


def _crossed(made: "Comparison") -> Table:
    counts = {(pair["first"], pair["second"]): pair["count"] for pair in made.crossed}
    first, second = (list(dict.fromkeys(pair[side] for pair in counts)) for side in (0, 1))
    table = Table(title="Labels, first run down, second across", **TABLE)
    table.add_column("", no_wrap=True)
    for label in second:
        table.add_column(label.replace("_", " "), justify="right")
    for label in first:
        cells = [f"{counts.get((label, other), 0):,}" for other in second]
        table.add_row(label.replace("_", " "), *cells)
    return table


def _differences(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="By camera (q: p held against all cameras)", **TABLE)
    for name in ("site", "camera"):
        table.add_column(name, no_wrap=True)
    for name in (
        "assessed 1st",
        "compliance 1st",
        "assessed 2nd",
        "compliance 2nd",
        "difference (95 %)",
        "p",
        "q",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            *[group_name(row, (key,)) for key in ("site", "camera")],
            *(
                text
                for side in ("first", "second")
                for text in (f"{row[f'assessed_{side}']:,}", percent(row[f"compliance_{side}"]))
            ),
            points(row),
            p_value(row["p"]),
            p_value(row["q"]),
        )
    return table


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
