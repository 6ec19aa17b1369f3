"""A month: scored or put together from its nights, reported, verified, and bundled to be kept.

    BASE/<zone>/2026-10             an ordinary run over the local month; late images: 2026-10.v2 ...
    BASE/<zone>/2026-10.audit.zip   run.json, _SUCCESS, report/, verification.json, and SHA256SUMS of them

Rows of the newest finished nights below BASE/<zone> are carried over where the image, the checkpoint and the
settings are the same; the rest is scored. Where the nights have it all, no Ray is started. Call it again:
nothing is scored, and a bundle that is there stays, unless verification finds a difference.

A month that is not over in the default zone is refused: its last days would be missing. The exit code is 1
where the run failed or verification found a difference, then the run's own, then 4 for alerts of the report.
"""

import hashlib
import json
from datetime import date
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from maskbatch.clock import name_zone
from maskbatch.errors import FAILED, UsageError
from maskbatch.progress import say
from maskbatch.report.words import describe_sum, headline
from maskbatch.runs.directory import RunDir
from maskbatch.schedule.nights import DAY, Schedule
from maskbatch.stores.files import Location, list_names, locate_folder, write_whole
from maskbatch.verify.files import check_run
from maskbatch.verify.result import Verification


def audit_month(
    schedule: Schedule, month: str, *, sample: int = 200, bundle: str | None = None, fresh: bool = False
) -> dict[str, Any]:
    """Score, report, verify and bundle `month`; what `--json` says of it. Raises MaskbatchError."""
    first, end = _days(month)
    if end > schedule.today():
        zone = name_zone(schedule.clock.default)
        raise UsageError(f"--month {month}: it is not over in {zone}; audit it from {end} on")
    nights = (schedule.night(first + k * DAY) for k in range((end - first).days))
    result = schedule.score(month, first, end, filter(None, nights), fresh=fresh)
    run, report = result.run, result.report
    files = {name: schedule.values.get(name) for name in ("checkpoint", "detector")}
    checked = check_run(run, sample=sample, **files, options=schedule.options)
    beside = run.path.parent / f"{run.path.name}.audit.zip"
    place = locate_folder(bundle, schedule.options) if bundle else beside
    kept = place.exists() and not result.rescored and checked.verified
    if not kept:
        write_bundle(run, checked, place)
    bundled = f"Bundle: {place}{', as it was' if kept else ''}"
    why = result.explain_code()
    lines = (*checked.differences, checked, f"{headline(report)}.", describe_sum(report), why, bundled)
    for line in filter(None, lines):
        say(str(line))
    for alert in report.values["alerts"]:
        say(f"ALERT {alert['sentence']}.", "alert")
    code = result.success.exit_code or report.exit_code
    return {
        "month": month,
        "exit_code": code if checked.verified else FAILED,
        "run": str(run.path),
        "rescored": result.rescored,
        "carried": result.success.carried,
        "overall": report.overall,
        "alerts": report.values["alerts"],
        "verification": checked.as_dict(),
        "bundle": str(place),
    }


def _days(month: str) -> tuple[date, date]:
    """The month's first day, and the first after it."""
    try:
        first = date.fromisoformat(f"{month}-01")
    except ValueError as error:
        raise UsageError(f"--month {month}: a month like 2026-10 expected") from error
    return first, date(first.year + first.month // 12, first.month % 12 + 1, 1)


def write_bundle(run: RunDir, checked: Verification, place: Location) -> None:
    """One zip of what is kept of an audit, in a folder named like the run; `sha256sum -c` checks it."""
    files = {name: (run.path / name).read_bytes() for name in (run.run_json.name, run.success.name)}
    files |= {f"report/{name}": (run.report / name).read_bytes() for name in list_names(run.report)}
    files["verification.json"] = (json.dumps(checked.as_dict(), indent=2) + "\n").encode()
    sums = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())]
    files["SHA256SUMS"] = "".join(sums).encode()
    with write_whole(place) as partial, ZipFile(partial, "w") as packed:
        for name, data in sorted(files.items()):
            packed.writestr(ZipInfo(f"{run.path.name}/{name}"), data, ZIP_DEFLATED)
