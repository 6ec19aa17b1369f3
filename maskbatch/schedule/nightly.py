"""A night's report: the local day is scored once, reported, and held against the nights before it.

    BASE/<zone>/<date>                  the night's run, with its report; late images: <date>.v2, .v3 ...
    BASE/<zone>/trailing/<date>/        alerts.json, all of the night's, and the comparison behind them
    BASE/<zone>/trailing/<date>/report  a report over the last 35 nights; its drift tests are the night's

The day is that of the default zone of `timezone`; where a site's own clock is behind it, run this when the
day is over there too. Call it as often as you like: without anything new it reports the recorded run again,
and images that came late or changed make the next version.

A night alerts where its own report does; where compliance fell against the 28 nights before; where a camera
fell further than any camera did on the nights before, 19 of them or more; where drift is found; where no
image came while the archive has images of other days; and where one of the nights before is damaged, which
the comparison then leaves out. Where nothing at all is seen of the archive, the night has failed (1): it may
not be mounted.

A night that scored and alerts has exit code 4, and 3 beats it. Of several nights the code is the worst by
WORST_FIRST: 1 comes first, because trying again helps there and nowhere else.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from typing import Any

from maskbatch.clock import now
from maskbatch.config import ReportConfig, make_config
from maskbatch.errors import ALERT, DONE, FAILED, NoImagesError, NothingToPlanError, UsageError
from maskbatch.progress import say, step
from maskbatch.report.alerts import NOWHERE, find_camera_falls, find_fall
from maskbatch.report.compare import make_comparison
from maskbatch.report.drift import HISTORY_NIGHTS, RECENT_NIGHTS
from maskbatch.report.make import make_report
from maskbatch.report.words import describe_sum, headline
from maskbatch.runs.committed import CommittedRun, check_digests, open_committed
from maskbatch.runs.directory import RunDir
from maskbatch.schedule.nights import DAY, Schedule
from maskbatch.stores.files import describe_failure, known_errors, write_json

WORST_FIRST = (FAILED, 2, 5, 3, ALERT, DONE)
COMPARED_DAYS = 28
TRAILING_DAYS = RECENT_NIGHTS + HISTORY_NIGHTS - 1
"""Before the night itself."""


def report_night(schedule: Schedule, day: date) -> dict[str, Any]:
    """Score and report one local day; what `--json` says of it. Raises MaskbatchError."""
    try:
        result = schedule.score(day, day, day + DAY)
    except NoImagesError:
        return _conclude(schedule, day, alerts=[_silence(day)])
    except NothingToPlanError as error:
        return _conclude(schedule, day, code=FAILED, alerts=[_alert("snapshots", str(error))])
    report = result.report
    say(f"{day}: {headline(report)}; {result.run.report}/report.html")
    say(f"{day}: {describe_sum(report)}")
    if why := result.explain_code():
        say(f"{day}: {why}")
    on_day = sum(row["listed"] for row in report.values["by_day"] if row["date"] == day.isoformat())
    if others := report.overall["listed"] - on_day:
        say(f"{day}: {others:,} of these images, which its rate counts, are of another or of an unknown day")
    if on_day:
        found, compared = _against_before(schedule, day, result.run)
    else:  # all that there is may be of any day
        found, compared = [_silence(day)], {}
    return _conclude(
        schedule,
        day,
        code=result.success.exit_code,
        alerts=[*report.values["alerts"], *found],
        run=str(result.run.path),
        rescored=result.rescored,
        overall=report.overall,
        **compared,
    )


def _silence(day: date) -> dict[str, Any]:
    return _alert("snapshots", f"no snapshot of {day} is in the archive, though it has some of other days")


def _alert(kind: str, sentence: str) -> dict[str, Any]:
    return {"kind": kind, **NOWHERE, "measure": kind, "sentence": sentence}


def _against_before(
    schedule: Schedule, day: date, run: RunDir
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The night against the nights before it: alerts, and the comparison; nothing without such nights."""
    before, alerts = _before(schedule, day, run)
    compared = [night for when, night in before.items() if when >= day - COMPARED_DAYS * DAY]
    if not compared:
        say(f"{day}: not compared; no night of the {COMPARED_DAYS} before it is finished, sound and alike")
        return alerts, {}
    settings = {name: schedule.values.get(name) for name in ("exclude", "expect")}  # the bound is the night's
    config = make_config(ReportConfig, {**settings, "own_days": True})
    folder = schedule.run(f"trailing/{day}").report
    try:
        made = make_comparison(compared, [run], own_days=True)
        trailing = make_report([*before.values(), run], folder, config, schedule.options)
    except known_errors() as error:
        return [*alerts, _alert("comparison", f"not held against the nights before: {error}")], {}
    say(f"{day}: held against {len(compared)} nights before it")
    fell = [*find_fall(made), *find_camera_falls(trailing.tables["by_camera_day"], day.isoformat())]
    return [*alerts, *fell, *trailing.values["alerts"]], {"comparison": made.as_dict()}


def _before(schedule: Schedule, day: date, run: RunDir) -> tuple[dict[date, RunDir], list[dict[str, Any]]]:
    """The nights whose rows mean what `run`'s do, and an alert for each night that is damaged."""

    def meaning(one: CommittedRun) -> tuple[object, ...]:  # another checkpoint would be taken for a change
        return one.digest, one.settings.found_by, one.keep_column

    alike, damaged = {}, []
    ours = meaning(open_committed(run))
    with step("check", unit="files") as shown:
        for when in (day - k * DAY for k in range(TRAILING_DAYS, 0, -1)):
            try:
                night = schedule.night(when)
                one = replace(open_committed(night), own_days=True) if night else None
                if one and meaning(one) == ours and one.num_images:
                    check_digests(one, shown)
                    alike[when] = one.run
            except known_errors() as error:
                damaged.append(_alert("comparison", f"compared without the night of {when}: {error}"))
    return alike, damaged


def _conclude(
    schedule: Schedule, day: date, *, alerts: Sequence[dict[str, Any]], code: int = DONE, **found: Any
) -> dict[str, Any]:
    """Say and write the night's alerts."""
    for alert in alerts:
        say(f"{day}: ALERT {alert['sentence']}.", "alert")
    code = code or (ALERT if alerts else DONE)
    night = {"date": day.isoformat(), "exit_code": code, "alerts": list(alerts), **found}
    folder = schedule.run(f"trailing/{day}").path
    write_json(folder / "alerts.json", {"made_at": now().isoformat(timespec="seconds"), **night})
    return night


def report_nights(schedule: Schedule, first: date, last: date) -> dict[str, Any]:
    """Report each night, oldest first; a night that fails is reported; the others continue."""
    nights = []
    for day in (first + k * DAY for k in range((last - first).days + 1)):
        try:
            nights.append(report_night(schedule, day))
        except known_errors() as error:
            message, code = describe_failure(error)
            say(f"{day}: {message}", "error", exit_code=code)
            nights.append({"date": day.isoformat(), "exit_code": code, "error": str(error)})
    if len(nights) > 1:
        loud = ", ".join(f"{n['date']} ({n['exit_code']})" for n in nights if n["exit_code"])
        say(f"{len(nights)} nights; exit codes other than 0: {loud or 'none'}")
    return {"exit_code": min((n["exit_code"] for n in nights), key=WORST_FIRST.index), "nights": nights}


def choose_nights(schedule: Schedule, day: str | None, since: str | None) -> tuple[date, date]:
    """The first and the last night that --date or --since asks for; yesterday without. Raises UsageError."""
    if day and since:
        raise UsageError("--date is one night and --since are several; give one of them")
    yesterday = schedule.today() - DAY
    flag, text = ("--since", since) if since else ("--date", day)
    try:
        first = yesterday if text is None else date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text}: a date like {yesterday} expected") from error
    if first > yesterday:
        raise UsageError(f"{flag} {text}: that day is not over; {yesterday} is the last one that is")
    return first, yesterday if since else first
