"""The figures of a report and of a comparison in words, for a terminal and a log."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from maskbatch.progress import add_up
from maskbatch.report.cells import group_name
from maskbatch.schema import FACE_CONDITIONS

if TYPE_CHECKING:
    from maskbatch.report.compare import Comparison
    from maskbatch.report.make import Report


NOT_ASSESSED = {"too small": "too_small", "false alarms": "false_alarms", "left out": "excluded"}
"""Columns of faces that are in no rate, by their names in words."""


def headline(report: "Report") -> str:
    """The compliance rate in one line, with its counts and interval."""
    overall = report.overall
    compliant = " or ".join(report.values["compliant"])
    if not overall["scored"]:
        return f"nothing to assess: none of {overall['listed']:,} images could be scored"
    in_scenes = report.values["view"] == "scene"
    if overall["compliance"] is None:
        shows = "a face that can be assessed" if in_scenes else "a face"
        return f"nothing to assess: none of {overall['scored']:,} scored images shows {shows}"
    text = (
        f"{overall['compliance']:.1%} {compliant} ({overall['compliant']:,} of {overall['assessed']:,} "
        f"assessed{' faces' if in_scenes else ''}), 95 % interval {format_interval(overall)}"
    )
    if overall["few_clusters"]:
        text += "; few clusters, so the interval is likely too narrow"
    return text


def describe_archive(report: "Report") -> Iterator[str]:
    """A line each on missing snapshots and on doubtful images; none where there are none."""
    coverage = report.values["coverage"]
    cameras = [row for row in coverage["by_camera"] if row["coverage"] is not None]
    if cameras:
        least = min(cameras, key=lambda row: row["coverage"])
        lowest = f"{least['coverage']:.1%}, at {group_name(least, ('site', 'camera'))}"
        arrived = f"{coverage['coverage']:.1%} of the expected snapshots arrived"
        if len(cameras) < len(coverage["by_camera"]):
            arrived += f" ({len(cameras):,} of {len(coverage['by_camera']):,} cameras have a steady pace)"
        yield f"Coverage: {arrived}; lowest {lowest}; gaps: {coverage['num_gaps']:,}."
    totals = report.values["quality"]["totals"]
    excluded = report.values["settings"]["exclude"]
    out = f"without {', '.join(excluded)} in the rates" if excluded else "leave them out with --exclude"
    for what, is_shown in (("images", False), ("faces", True)):
        doubtful = ", ".join(
            f"{name.replace('_', '-')} {count:,}"
            for name, count in totals.items()
            if count and (name in FACE_CONDITIONS) == is_shown
        )
        if doubtful:
            yield f"Doubtful {what}: {doubtful}; {out}."


def describe_sum(report: "Report") -> str:
    """That every image is accounted for: `Listed 200 = ok 196 + truncated 4.`"""
    overall = report.overall
    failed = {
        name.removeprefix("failed_"): num for name, num in overall.items() if name.startswith("failed_")
    }
    counts = {name: num for name, num in failed.items() if num}
    return f"Listed {overall['listed']:,} = ok {overall['scored']:,}{add_up(counts)}."


def describe_faces(report: "Report") -> Iterator[str]:
    """Of whole scenes, that every face is accounted for, and in how many pictures everyone complies."""
    overall = report.overall
    if report.values["view"] != "scene":
        return
    rest = {name: overall[key] for name, key in NOT_ASSESSED.items() if overall[key]}
    pictures = f", {overall['faces_per_picture']:.2f} a picture" if overall["scored"] else ""
    yield f"Faces {overall['faces']:,} = assessed {overall['assessed']:,}{add_up(rest)}{pictures}."
    if overall["pictures_assessed"]:
        rate = format_interval(overall, "picture_compliance")
        yield (
            f"Everyone complies in {overall['picture_compliance']:.1%} ({rate}) of the "
            f"{overall['pictures_assessed']:,} pictures with anyone assessed. Each face is one sighting: the "
            "same person in ten pictures is ten."
        )


def describe_review(report: "Report") -> Iterator[str]:
    """The rates by people's review, or why there is none, and the image that each stratum waits for."""
    judged, unit = report.values["judged"], "face" if report.values["view"] == "scene" else "image"
    if judged is None:
        return
    if judged["reason"]:
        num = sum(judged[f"num_{name}"] for name in ("judged", "waiting", "elsewhere"))
        units = unit if num == 1 else f"{unit}s"
        yield f"Judged by people: {num:,} {units}; no rate yet: {judged['reason']}."
    else:
        of = " and ".join(f"{part['num_judged']:,} {part['stratum']}" for part in judged["strata"])
        moved = "" if judged["moved"] is None else f", {100 * judged['moved']:+.1f} points from as classified"
        people = f"{judged['num_reviewers']:,} {'person' if judged['num_reviewers'] == 1 else 'people'}"
        skipped = f", {judged['num_skipped']:,} skipped" if judged["num_skipped"] else ""
        rate = _format_estimate(judged["compliance"])
        yield f"Compliance by people's review: {rate}{moved}; {of} {unit}s judged by {people}{skipped}."
        yield f"Wrong labels: {_format_estimate(judged['error_rate'], f' of the {unit}s')}."
    for image in judged["waiting_for"]:
        num = f"{image['num_waiting']:,} {image['stratum']}"
        where = f"{group_name(image, ('site', 'camera'))}, {image['captured_local'] or 'unknown time'}"
        name = image["uri"] + (f", face {image['region']}" if "region" in image else "")
        yield (
            f"Not counted yet: {num}, until somebody judges or skips this {unit}: {where}, {name}; "
            "`maskbatch ui --run` shows it first."
        )


def describe_other_rates(report: "Report") -> Iterator[str]:
    """Compliance with nothing left out, and corrected for errors of classifier and detector."""
    overall, excluded = report.overall, report.values["settings"]["exclude"]
    everything, corrected = report.values["everything"][0], report.values["corrected"]
    in_scenes = report.values["view"] == "scene"
    unit = "face" if in_scenes else "image"
    if excluded and not overall["excluded"]:
        yield f"No {unit} is {' or '.join(excluded)}: none is left out."
    elif excluded:
        yield (
            f"Left out {overall['excluded']:,} {unit}s ({', '.join(excluded)}); with them compliance is "
            f"{format_percent(everything['compliance'])} ({format_interval(everything)})."
        )
    errors, shown, condition = "the classifier's errors", "pictures", "it errs here as on its held-out set"
    if in_scenes:
        errors, shown = f"{errors} and the faces that the detector missed", "faces"
        condition = "both err here as on their held-out sets"
    if overall["corrected"] is not None:
        num = corrected["unlike_cameras"]
        unlike = f"the {shown} of {num:,} cameras look unlike that set (PSI over 0.25)"
        doubt = f"; doubtful: {unlike}" if num else ""
        yield (
            f"Corrected for {errors}: {overall['corrected']:.1%} "
            f"({format_interval(overall, 'corrected')}){format_star(overall)}, if {condition}{doubt}."
        )
    elif not corrected["identifiable"]:
        yield f"Not corrected for {errors}: {corrected['reason']}."


def describe_overlap(comparison: "Comparison") -> Iterator[str]:
    """How many images both runs share, what is therefore compared, and how they were decoded."""
    in_scenes = comparison.view == "scene"
    rules = [run["decode_rules"] for run in comparison.runs]
    if rules[0] != rules[1]:
        which = f"{rules[0]} and {rules[1]}"
        yield f"Their decode rules differ ({which}), which may explain other counts of failed images."
    decoders = [run["decoder"] for run in comparison.runs]
    if decoders[0] != decoders[1]:
        which = f"{decoders[0]} and {decoders[1]}"
        yield f"Their decoders differ ({which}), which alone may change some labels of unsure images."
    shared = f"{comparison.shared:,} images" if comparison.shared else "No image"
    if comparison.kind == "images":
        yield (
            f"{shared} are in both ({comparison.only_first:,} only in the first, {comparison.only_second:,} "
            f"only in the second); {comparison.changed:,} ({comparison.changed / comparison.shared:.1%}) "
            f"changed {'their number of assessed or compliant faces' if in_scenes else 'their label'}."
        )
        return
    yield f"{shared} {'are' if comparison.shared else 'is'} in both, so two periods or places are compared."
    for name in ("checkpoint", "detector"):
        if comparison.runs[0][name] != comparison.runs[1][name]:
            yield f"Their {name}s differ, which alone may explain a difference."


def describe_difference(comparison: "Comparison") -> Iterator[str]:
    """Compliance on both sides, the difference with its interval and p, and the test behind them."""
    overall = comparison.overall
    of = "of faces " if comparison.view == "scene" else ""
    on = f" {of}on the {comparison.shared:,} images of both" if comparison.kind == "images" else ""
    first, second = (format_percent(overall[f"compliance_{side}"]) for side in ("first", "second"))
    p = "" if overall["p"] is None else f", p {format_p(overall['p'])}"
    yield f"Compliance{on}: {first} -> {second}, difference {format_difference(overall)}{p}."
    yield "Interval and p: t test of linearised rates over camera-days, whose own snapshots may be alike."
    if any(row["few_clusters"] and row["p"] is not None for row in (overall, *comparison.by_camera)):
        yield "* few clusters (under ten): the interval is likely too narrow and p too small"


def format_percent(rate: float | None) -> str:
    """`94.2%`, or a dash where nothing was assessed."""
    return "-" if rate is None else f"{rate:.1%}"


def format_interval(row: Mapping[str, Any], rate: str = "compliance") -> str:
    """`91.0 to 96.3%`, or a dash where nothing was assessed."""
    if row[f"{rate}_low"] is None:
        return "-"
    return f"{100 * row[f'{rate}_low']:.1f} to {row[f'{rate}_high']:.1%}"


def format_rate(row: Mapping[str, Any]) -> str:
    """`94.2% (91.0 to 96.3%)*`, or a dash where nothing was assessed."""
    rate, interval = row["compliance"], format_interval(row)
    return "-" if rate is None else f"{rate:.1%} ({interval}){format_star(row)}"


def format_star(row: Mapping[str, Any]) -> str:
    """A star where the interval rests on too few clusters."""
    return "*" if row["few_clusters"] and row["assessed"] else ""


def format_difference(row: Mapping[str, Any]) -> str:
    """`-3.1 points (-4.0 to -2.2)*`, with dashes where there are no values."""
    if row["difference"] is None:
        return "-"
    low, high = row["difference_low"], row["difference_high"]
    interval = "-" if low is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
    star = "*" if row["few_clusters"] and low is not None else ""
    return f"{100 * row['difference']:+.1f} points ({interval}){star}"


def format_p(p: float | None) -> str:
    """Three digits, or a dash where there is none."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _format_estimate(estimate: Mapping[str, float | None], of: str = "") -> str:
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "-"
    return f"{value:.1%}{of}, 95 % interval {100 * low:.1f} to {high:.1%}"
