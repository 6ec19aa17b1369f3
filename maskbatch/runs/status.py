"""Where a run stands, for anyone who can read its directory: `maskbatch status OUT`, also while it runs.

With `_SUCCESS` it is committed, with a live lease running, with a plan alone planned, and otherwise
interrupted. A running one writes its progress into its lease every 20 s.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import dropwhile
from typing import Any, Literal

from maskbatch.errors import UsageError
from maskbatch.progress import add_up, describe_step
from maskbatch.runs import staging
from maskbatch.runs.committed import open_committed
from maskbatch.runs.directory import RunDir
from maskbatch.runs.lease import STALE_S, is_live, read_lease
from maskbatch.runs.versions import list_versions
from maskbatch.schema import STATUSES
from maskbatch.stores.files import list_names


@dataclass(kw_only=True, slots=True)
class Status:
    """One run; what is not known in its state is None or empty."""

    out: str
    state: Literal["planned", "running", "interrupted", "committed"]
    driver: dict[str, Any] | None = None
    """Who holds the lease or left it: pid, host, whether alive, age_s since the renewal, and `Step.live`."""
    planned: int | None = None
    """Images of the plan, once they are listed."""
    num_shards: int | None = None
    staged_shards: int | None = None
    """Of an interrupted run."""
    statuses: dict[str, int] = field(default_factory=dict)
    """Images by status: of a running run those scored by now, of a committed one all."""
    exit_code: int | None = None
    committed_at: datetime | None = None
    whole_s: float | None = None
    """What the last call took, planning and all."""
    newer: list[dict[str, str]] = field(default_factory=list)
    """The versions after this one: out and state."""


def read_status(run: RunDir) -> Status:
    """Where the run in this directory stands. Raises UsageError where there is none."""
    status = _read(run)
    if status.state == "committed":
        newer = list(dropwhile(lambda version: str(version.path) != str(run.path), list_versions(run)))[1:]
        status.newer = [{"out": str(version.path), "state": _read(version).state} for version in newer]
    return status


def _read(run: RunDir) -> Status:
    lease = read_lease(run)  # before _SUCCESS: a run that is committed in between was not interrupted
    running = lease is not None and is_live(lease)
    settings = run.find_run()
    if not settings and not running:
        raise UsageError(f"{run.path}: no run is there; check the path, or {run.remedy}")
    status = Status(
        out=str(run.path),
        state="running" if running else "interrupted",
        driver=_describe_driver(lease, running) if lease else None,
        planned=settings.num_images if settings and settings.listing else None,
    )
    if run.success.exists():
        success = open_committed(run).success
        status.state = "committed"
        status.planned, status.statuses = success.planned, success.statuses
        status.exit_code, status.whole_s = success.exit_code, success.timings_s["whole"]
        status.committed_at = success.committed_at
    elif status.driver and running:
        status.statuses = status.driver["statuses"]
    elif settings and settings.shard_size:
        status.num_shards = len(range(0, settings.num_to_score, settings.shard_size))
        status.staged_shards = sum(map(bool, map(staging.NAME.fullmatch, list_names(run.staging))))
    elif status.planned is not None:
        status.state = "planned"
    return status


def _describe_driver(lease: Mapping[str, Any], alive: bool) -> dict[str, Any]:
    expired_s = (datetime.now(UTC) - datetime.fromisoformat(lease["expires_at"])).total_seconds()
    age_s = max(0, round(expired_s + STALE_S))  # clocks differ
    return {"pid": lease["pid"], "host": lease["host"], "alive": alive, "age_s": age_s, **lease["live"]}


def describe_status(status: Status) -> Iterator[str]:
    """Sentences for a person."""
    out, driver = status.out, status.driver or {}
    who = f"process {driver.get('pid')} on {driver.get('host')}"
    if status.state == "running":
        yield f"{out} is running: {who}, as of {driver['age_s']} s ago."
        failed = _add_up(status.statuses, STATUSES[1:])
        yield f"{describe_step(driver)}{failed and '; failed: '}{failed}"
    elif status.state == "planned":
        yield f"{out} is planned: {status.planned:,} images; `maskbatch score` with the same flags goes on."
    elif status.state == "interrupted":
        where = "while it was planned"
        if status.num_shards is not None:
            where = f"{status.staged_shards:,} of {status.num_shards:,} shards are staged"
        yield f"{out} is interrupted: {where}; the same command goes on from there."
        if driver:
            ago = timedelta(seconds=driver["age_s"])
            yield f"{who} was last heard of {ago} ago, at: {describe_step(driver)}"
    else:
        yield from _describe_commit(status)
        if driver.get("alive"):
            yield f"Its report is being made: {who}."


def _describe_commit(status: Status) -> Iterator[str]:
    took, at = timedelta(seconds=round(status.whole_s or 0)), status.committed_at
    counts = _add_up(status.statuses, STATUSES)
    yield f"{status.out} is committed: {status.planned:,} images = {counts}; exit code {status.exit_code}."
    yield f"At {at:%Y-%m-%d %H:%M} UTC; the last call took {took}."
    for version in status.newer:
        if version["state"] == "committed":
            yield f"Superseded by {version['out']}."
        else:
            yield f"{version['out']}, the next version, is {version['state']}."


def _add_up(statuses: Mapping[str, int], names: Iterable[str]) -> str:
    return add_up({name: statuses[name] for name in names if name in statuses}).removeprefix(" + ")
