"""The report's figures in words, for a terminal and a log."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from maskbatch.report.cells import group_name

if TYPE_CHECKING:
    from maskbatch.report.make import Report


def trust(report: "Report") -> Iterator[str]:
    """What is known of the archive itself, before its rates are read: a line each, none where all is well."""
    coverage = report.values["coverage"]
    cameras = [row for row in coverage["by_camera"] if row["coverage"] is not None]
    if cameras:
        least = min(cameras, key=lambda row: row["coverage"])
        yield (
            f"Coverage: {coverage['coverage']:.1%} of the snapshots due came; least {least['coverage']:.1%}, "
            f"of {group_name(least, ('site', 'camera'))}; gaps: {coverage['num_gaps']:,}."
        )
    totals = report.values["quality"]["totals"]
    found = ", ".join(f"{name.replace('_', '-')} {count:,}" for name, count in totals.items() if count)
    if found:
        yield f"Doubtful images: {found}; --exclude leaves them out of the rates."


def by_people(report: "Report") -> Iterator[str]:
    """What the judged images say of all of them, where enough of them were judged."""
    judged = report.values["judged"]
    if judged is None:
        return
    if judged["reason"]:
        num = sum(judged[f"num_{name}"] for name in ("judged", "waiting", "elsewhere"))
        images = "image" if num == 1 else "images"
        yield f"Judged by people: {num:,} {images}; no rate yet: {judged['reason']}."
    else:
        yield from _rate_by_people(judged)
    for image in judged["waiting_for"]:
        num = f"{image['num_waiting']:,} {image['stratum']}"
        where = f"{group_name(image, ('site', 'camera'))}, {image['captured_local'] or 'unknown time'}"
        yield (
            f"Not counted yet: {num}, beyond one that nobody looked at: {where}, {image['uri']}; "
            "`maskbatch ui --run` shows it first."
        )


def _rate_by_people(judged: Mapping[str, Any]) -> Iterator[str]:
    of = " and ".join(f"{one['num_judged']:,} {one['stratum']}" for one in judged["strata"]) + " images"
    moved = "" if judged["moved"] is None else f", {100 * judged['moved']:+.1f} points from as classified"
    people = f"{judged['num_reviewers']:,} {'person' if judged['num_reviewers'] == 1 else 'people'}"
    skipped = f", {judged['num_skipped']:,} skipped" if judged["num_skipped"] else ""
    rate = _figure(judged["compliance"])
    yield f"Compliance by people's review: {rate}{moved}, from {of} judged by {people}{skipped}."
    yield f"Wrong labels: {_figure(judged['error_rate'], ' of the images')}."


def second_figures(report: "Report") -> Iterator[str]:
    """The rate in the other ways that it can be stated."""
    overall, excluded = report.overall, report.values["settings"]["exclude"]
    everything, corrected = report.values["everything"][0], report.values["corrected"]
    if excluded:
        yield (
            f"Left out {overall['excluded']:,} images ({', '.join(excluded)}); with them compliance is "
            f"{percent(everything['compliance'])} ({_interval(everything)})."
        )
    if overall["corrected"] is not None:
        unlike = corrected["unlike_cameras"]
        doubt = f"; pictures of {unlike:,} cameras look unlike that (PSI over 0.25)" if unlike else ""
        yield (
            f"Corrected for the classifier's errors: {overall['corrected']:.1%} "
            f"({_interval(overall, 'corrected')}), if it errs here as on its held-out set{doubt}."
        )
    elif not corrected["identifiable"]:
        yield f"Not corrected for the classifier's errors: {corrected['reason']}."


def percent(rate: float | None) -> str:
    """`94.2%`, or a dash where nothing was assessed."""
    return "-" if rate is None else f"{rate:.1%}"


def headline(report: "Report") -> str:
    """The compliance rate in one line, with what it rests on."""
    overall = report.overall
    compliant = " or ".join(report.values["compliant"])
    if not overall["scored"]:
        return f"nothing to assess: none of {overall['listed']:,} images could be scored"
    if overall["compliance"] is None:
        return f"nothing to assess: none of {overall['scored']:,} scored images shows a face"
    text = (
        f"{overall['compliance']:.1%} {compliant} ({overall['compliant']:,} of {overall['assessed']:,} "
        f"assessed), 95 % interval {_interval(overall)}"
    )
    if overall["few_clusters"]:
        text += "; few clusters, so the interval is likely too narrow"
    return text


def star(row: dict[str, Any]) -> str:
    """What marks an interval that rests on too few clusters."""
    return "*" if row["few_clusters"] and row["assessed"] else ""


def _interval(row: dict[str, Any], rate: str = "compliance") -> str:
    if row[f"{rate}_low"] is None:
        return "-"
    return f"{100 * row[f'{rate}_low']:.1f} to {row[f'{rate}_high']:.1%}"


def _figure(figure: Mapping[str, float | None], of: str = "") -> str:
    value, low, high = (figure[name] for name in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return "-"
    return f"{value:.1%}{of}, 95 % interval {100 * low:.1f} to {high:.1%}"


def points(row: Mapping[str, Any]) -> str:
    """`-3.1 points (-4.0 to -2.2)*`, or dashes for what cannot be had."""
    if row["difference"] is None:
        return "-"
    low, high = row["difference_low"], row["difference_high"]
    interval = "-" if low is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
    star = "*" if row["few_clusters"] and low is not None else ""
    return f"{100 * row['difference']:+.1f} points ({interval}){star}"


def p_value(p: float | None) -> str:
    """Three digits, or a dash for what cannot be had."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
