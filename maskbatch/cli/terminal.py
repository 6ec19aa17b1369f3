"""Reports, comparisons, predictions and listings as tables and lines in a terminal."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from maskbatch.archives.arguments import container_kind
from maskbatch.archives.columns import UNREADABLE_TIME
from maskbatch.archives.tally import describe_unreadable
from maskbatch.report import words
from maskbatch.report.cells import group_name
from maskbatch.report.choice import choose_rows, rate_of
from maskbatch.visible import PlainConsole, print_lines, shorten

if TYPE_CHECKING:
    from maskbatch.report.compare import Comparison
    from maskbatch.report.make import Report

MAX_ROWS = 31
MAX_CAMERAS = 12
LISTED = (
    ("Not planned", "skipped"),
    ("Files left out by name (--include-hidden plans them)", "hidden"),
    ("Left out", "filtered"),
    ("Cannot be read", "refused"),
    ("Links to folders", "links"),
    ("Noted", "notes"),
)
"""What is said of a listing, and where it stands there."""
TABLE: dict[str, Any] = {
    "title_justify": "left", "title_style": "bold", "header_style": "", "box": SIMPLE_HEAD, "padding": 0,
}  # fmt: skip


def stdout_console() -> PlainConsole:
    """A console for tables on stdout, as wide as the terminal, or 120 columns where there is none."""
    console = PlainConsole()
    return console if console.is_terminal else PlainConsole(width=120)


def print_report(report: "Report", console: Console) -> None:
    """The report's tables of rates but that by camera and day, then its figures in words and its alerts."""
    print_lines(console, words.describe_archive(report))
    names = [name for name in report.keys if name != "by_camera_day"]
    for name in names:
        rows = report.values[name]
        if name == "overall" or len(rows) > 1:
            title = name.replace("_", " ").capitalize()
            console.print(_table_of_rates(title, report.keys[name], _choose(rows), report))
            if len(rows) > MAX_ROWS:
                print_lines(
                    console, [f"  ... {len(rows) - MAX_ROWS:,} more, of higher rates, in {name}.parquet"]
                )
    if any(words.format_star(row) for name in names for row in report.values[name]):
        print_lines(
            console, ["* few clusters (under ten): the interval uses all groups and is likely too narrow"]
        )
    print_lines(console, [words.describe_sum(report), *words.describe_faces(report)])
    review = list(words.describe_review(report))
    name = "As classified" if review else "Compliance"
    lines = (*review, f"{name}: {words.headline(report)}.", *words.describe_other_rates(report))
    print_lines(console, lines)
    alerts = report.values["alerts"]
    print_lines(console, [f"ALERT {alert['sentence']}." for alert in alerts[:MAX_ROWS]])
    if len(alerts) > MAX_ROWS:
        print_lines(console, [f"  ... {len(alerts) - MAX_ROWS:,} more alerts in alerts.json"])


def print_comparison(comparison: "Comparison", console: Console) -> None:
    """Both runs, then what changed from the first to the second, over all and by camera, with its test."""
    for name, run in zip(("First ", "Second"), comparison.runs, strict=True):
        when = f", {run['first_time']} to {run['last_time']}" if run["first_time"] else ""
        images = f"{run['planned']:,} images{when}"
        networks = [f"{kind} {run[kind][:12]}" for kind in ("checkpoint", "detector") if run[kind]]
        print_lines(console, [f"{name}: {run['path']}, {images}, {', '.join(networks)}."])
    print_lines(console, words.describe_overlap(comparison))
    if comparison.crossed:
        console.print(_table_of_labels(comparison))
    if len(comparison.by_camera) > 1:
        console.print(_table_of_differences(comparison.by_camera[:MAX_ROWS]))
        if len(comparison.by_camera) > MAX_ROWS:
            print_lines(console, [f"  ... {len(comparison.by_camera) - MAX_ROWS:,} more cameras with --json"])
    print_lines(console, words.describe_difference(comparison))


def print_predictions(summary: Mapping[str, Any], console: Console) -> None:
    """A row for each image, or face in it: its label and numbers, or the image's status and the reason."""
    names = [image["uri"].removeprefix("file://") for image in summary["images"]]
    local = all(image["uri"].startswith("file://") for image in summary["images"])
    folder = commonprefix(names).rpartition("/")[0] if local else ""  # noqa: RUF071  up to a `/`
    if folder:
        print_lines(console, [f"In {folder}:"])
    names = [name.removeprefix(f"{folder}/") if folder else name for name in names]
    fill = _fill_scenes if "detector" in summary else _fill_images
    table = Table(**TABLE)
    table.add_column("image", overflow="fold")
    fill(table, summary, names)
    console.print(table)


def _fill_images(table: Table, summary: Mapping[str, Any], names: Sequence[str]) -> None:
    """A row for each image, with every class's probability."""
    table.add_column("label", no_wrap=True)
    for name in summary["classes"]:
        parts = name.split("_")
        table.add_column(" ".join(parts), justify="right", width=max(len("100.0%"), *map(len, parts)))
    table.add_column("")
    for name, image in zip(names, summary["images"], strict=True):
        if image["status"] == "ok":
            shares = [words.format_percent(image["probs"][name]) for name in summary["classes"]]
            table.add_row(name, *_tell_label(image, shares))
        else:
            table.add_row(f"{name}: {image['error']}", image["status"])


def _fill_scenes(table: Table, summary: Mapping[str, Any], names: Sequence[str]) -> None:
    """A row for each face; the first of an image has its name."""
    for name in ("label", "x0, y0, x1, y1", "face"):
        table.add_column(name, no_wrap=True, justify="right" if name == "face" else "left")
    table.add_column("")
    for name, image in zip(names, summary["images"], strict=True):
        if image["status"] != "ok":
            table.add_row(f"{name}: {image['error']}", image["status"])
        elif not image["faces"]:
            table.add_row(name, "no faces")
        for k, face in enumerate(image["faces"]):
            box = ", ".join(f"{side:.0f}" for side in face["box"])
            table.add_row(
                "" if k else name, *_tell_label(face, [box, words.format_percent(face["face_confidence"])])
            )
        if image["num_faces_left_out"]:
            table.add_row("", f"and {image['num_faces_left_out']:,} more")


def _tell_label(judged: Mapping[str, Any], cells: Sequence[str]) -> list[str]:
    """The label of an image or a face, with its confidence, and whether it needs a review after `cells`."""
    if judged["label"] is None:
        return ["too small", *cells, ""]
    label = f"{judged['label'].replace('_', ' ')} {words.format_percent(judged['confidence'])}"
    return [label, *cells, "review" if judged["needs_review"] else ""]


def print_listing(listing: Mapping[str, Any], console: Console) -> None:
    """What planning found, and what it left out."""
    noun = "image" if listing["num_images"] == 1 else "images"
    size = f", {listing['num_bytes'] / 2**20:,.1f} MiB" if listing["num_bytes"] else ""
    when = f", {listing['first_time']} to {listing['last_time']}" if listing["first_time"] else ""
    print_lines(console, [f"Planned {listing['num_images']:,} {noun}{size}{when}."])
    cameras = sorted(listing["cameras"].items())
    shown = ", ".join(f"{shorten(name)} {count:,}" for name, count in cameras[:MAX_CAMERAS])
    more = f" and {len(cameras) - MAX_CAMERAS:,} more" if len(cameras) > MAX_CAMERAS else ""
    print_lines(console, [f"Cameras: {shown}{more}."])
    if listing.get("times"):
        print_lines(console, [f"Times: {listing['times']}."])
    if listing.get("layouts"):
        layouts = sorted(listing["layouts"].items(), key=lambda item: (-item[1], item[0]))
        follow = [f"{count:,} follow {text}" for text, count in layouts]
        print_lines(console, [f"Layouts: {', '.join(follow)}."])
    for title, part in LISTED:
        if listing[part]:
            items = sorted(listing[part].items(), key=lambda item: -item[1])
            print_lines(
                console, [f"{title}: {', '.join(f'{count:,} {shorten(name)}' for name, count in items)}."]
            )
    if any(note.startswith(UNREADABLE_TIME) for note in listing["notes"]):
        print_lines(console, ["Write captured_at like 2026-10-01 08:30:00."])
    unopened = {kind: count for kind, count in listing["skipped"].items() if container_kind(f"x{kind}")}
    if unopened:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in unopened.items())
        name = f"'ARCHIVE/**/*{next(iter(unopened))}'"
        print_lines(console, [f"Not opened: {kinds}. To read what is in them, add a pattern such as {name}."])
    if listing.get("misfit"):
        print_lines(console, [f"Unlike --layout is, for example, '{shorten(listing['misfit'])}'."])
    if listing["unreadable"]:
        print_lines(console, [f"Warning: {describe_unreadable(listing)}."])
    if broken := listing["examples"].get("broken"):
        print_lines(console, [f"Broken links: {', '.join(map(shorten, broken))}. Is a disk not mounted?"])
    if 0 < listing["num_images"] == listing["notes"].get("camera unknown"):
        example = f"No path names a camera, for example '{shorten(listing['example'])}'"
        print_lines(console, [f"{example}: describe the paths with a --layout that has {{camera}}."])


def _choose(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of many rows those with the lowest rates, in their own order."""
    return [row for _, row in sorted(choose_rows(rows, MAX_ROWS, rate_of), key=itemgetter(0))]


def _table_of_rates(
    title: str, keys: Sequence[str], rows: Sequence[Mapping[str, Any]], report: "Report"
) -> Table:
    table = Table(title=title, **TABLE)
    for key in keys:
        table.add_column(key, no_wrap=True)
    classes = report.values["classes"]
    in_scenes = report.values["view"] == "scene"
    names = (
        {"listed": "pictures", "assessed": "faces assessed", "no_face": "false alarms"} if in_scenes else {}
    )
    for name in ("listed", "failed", "assessed", *classes, "compliance (95 %)", "review"):
        title, is_class = names.get(name, name).replace("_", " "), name in classes
        least = max(map(len, title.split())) if is_class else len(title)
        table.add_column(title, justify="right", no_wrap=not is_class, min_width=least)
    counts = ("listed", "failed", "assessed", *(f"num_{name}" for name in classes))
    for row in rows:
        texts = [*[group_name(row, (key,)) for key in keys], *[f"{row[name]:,}" for name in counts]]
        table.add_row(*texts, words.format_rate(row), f"{row['num_review']:,}")
    return table


def _table_of_labels(comparison: "Comparison") -> Table:
    counts = {(pair["first"], pair["second"]): pair["count"] for pair in comparison.crossed}
    first, second = (list(dict.fromkeys(pair[side] for pair in counts)) for side in (0, 1))
    table = Table(title="Labels: first run down, second across", **TABLE)
    table.add_column("", no_wrap=True)
    for label in second:
        table.add_column(label.replace("_", " "), justify="right")
    for label in first:
        cells = [f"{counts.get((label, other), 0):,}" for other in second]
        table.add_row(label.replace("_", " "), *cells)
    return table


def _table_of_differences(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="By camera (q: p corrected for the number of cameras)", **TABLE)
    for name in ("site", "camera"):
        table.add_column(name, no_wrap=True)
    sides = [f"{name} {side}" for side in ("1st", "2nd") for name in ("assessed", "compliance")]
    for name in (*sides, "difference (95 %)", "p", "q"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        texts = [group_name(row, (key,)) for key in ("site", "camera")]
        for side in ("first", "second"):
            texts += [f"{row[f'assessed_{side}']:,}", words.format_percent(row[f"compliance_{side}"])]
        table.add_row(*texts, words.format_difference(row), *[words.format_p(row[name]) for name in "pq"])
    return table
