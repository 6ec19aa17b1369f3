"""A report over finished runs: its tables as Parquet, report.json, alerts.json and report.html.

Several runs give the report that one run over all their images gives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch.config import ReportConfig
from maskbatch.errors import ALERT, DONE, RunFailedError, UsageError
from maskbatch.progress import say
from maskbatch.report.figures import collect_figures, group_keys, select_candidates
from maskbatch.report.provenance import find_confusion
from maskbatch.report.survey import survey_runs
from maskbatch.review import corrections
from maskbatch.review.pictures import make_thumbnails
from maskbatch.runs.committed import CommittedRun, open_together
from maskbatch.runs.directory import RunDir
from maskbatch.runs.versions import choose_versions
from maskbatch.stores.files import Location, locate_folder, remove_leftovers, write_json, write_whole
from maskbatch.stores.options import NO_OPTIONS, StorageOptions
from maskbatch.stores.uris import Text, Texts, list_texts


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A report, as it was written to its folder."""

    folder: Location
    values: dict[str, Any]
    """The content of report.json."""
    tables: dict[str, pa.Table]
    """The Parquet files, by name."""
    keys: dict[str, tuple[str, ...]]
    """What each table of rates is grouped by."""

    @property
    def overall(self) -> dict[str, Any]:
        """The row over all images: counts, shares and rates in [0, 1]."""
        return dict(self.values["overall"][0])

    @property
    def exit_code(self) -> int:
        return ALERT if self.values["alerts"] else DONE


def report_runs(
    runs: Texts,
    out: Text | None = None,
    config: ReportConfig = ReportConfig(),  # noqa: B008 (frozen)
    *,
    latest: bool = False,
    options: StorageOptions = NO_OPTIONS,
) -> Report:
    """Report finished runs together and write the report to `out`, or to RUN/report where there is one run.

    With `latest`, the newest version of each run is read. Raises UsageError where a run is missing,
    unfinished or damaged, where the runs or settings do not go together, and where several runs come
    without `out` or `out` holds a run; RunFailedError where the report cannot be written.
    """
    chosen = choose_versions([RunDir.at(name, options) for name in list_texts(runs)], take_latest=latest)
    if out is None:
        if len(chosen) > 1:
            raise UsageError("--out is missing: name the folder of the report of several runs")
        return make_report(chosen, chosen[0].report, config, options)
    target = RunDir.at(out, options)
    if target.run_json.exists():
        raise UsageError(f"--out {out}: a run is there; name another folder for the report")
    return make_report(chosen, target.path, config, options)


def make_report(
    runs: Sequence[RunDir],
    out: Location,
    config: ReportConfig = ReportConfig(),  # noqa: B008 (frozen)
    options: StorageOptions = NO_OPTIONS,
) -> Report:
    """Report committed runs together and write the report to the folder `out`. Raises as `report_runs`."""
    together = open_together(runs, own_days=config.own_days)
    confusion, reason = find_confusion(together)
    if config.alert_corrected and confusion is None:
        raise UsageError(f"--corrected: these rates cannot be corrected, {reason}; give --alert-below alone")
    keys = group_keys(together[0].keep_column)
    if config.alert_by and f"by_{config.alert_by}" not in keys:
        names = ", ".join(name.removeprefix("by_") for name in keys)
        raise UsageError(f"--by {config.alert_by}: one of {names} expected")
    judgements = _latest_judgements(together, config, options)
    survey = survey_runs(together, config.exclude)
    values, tables = collect_figures(together, survey, config, judgements, confusion, reason)
    report = Report(folder=out, values=values, tables=tables, keys=keys)
    candidates = select_candidates(survey).to_pylist()
    pictures = make_thumbnails(candidates, together, options) if config.thumbnails else None
    try:
        _write(report, pictures)
    except RunFailedError as error:
        remedy = "write it elsewhere with `maskbatch report RUN... --out DIR`"
        raise RunFailedError(f"{error}; {remedy}") from error
    return report


def _latest_judgements(
    runs: Sequence[CommittedRun], config: ReportConfig, options: StorageOptions
) -> pd.DataFrame:
    """People's latest judgements, from the folders of `runs` and from that of --corrections."""
    judgements = list(map(corrections.read_run_judgements, runs))
    if config.corrections is not None:
        if len(runs) > 1:
            raise UsageError("--corrections belongs to one run: report that run alone, or leave it out")
        judgements.append(corrections.read_judgements(locate_folder(config.corrections, options)))
        if not len(judgements[-1]):
            say(f"--corrections {config.corrections}: no judgement is there yet")
    return corrections.find_latest_judgements(pa.concat_tables(judgements))


def _write(report: Report, pictures: Mapping[int, bytes] | None) -> None:
    from maskbatch.report.page import render

    out = report.folder
    remove_leftovers(out)
    for name, table in report.tables.items():
        with write_whole(out / f"{name}.parquet") as partial:
            pq.write_table(table, partial)
    write_json(out / "report.json", report.values)
    write_json(out / "alerts.json", {name: report.values[name] for name in ("made_at", "settings", "alerts")})
    with write_whole(out / "report.html") as partial:
        partial.write_text(render(report.values, pictures), encoding="utf-8")
