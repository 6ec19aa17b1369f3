"""Where a run stands, for anyone who sees its directory: `maskbatch status OUT`, also while it goes on.

Nothing is stored for it. `_SUCCESS` means committed, a live lease running, a plan alone planned,
and everything else interrupted. How far a running one is stands in its lease, renewed every 20 s.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
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
from maskbatch.stores.files import Location, explain, list_names


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
        here_on = list(dropwhile(lambda one: str(one.path) != str(run.path), list_versions(run)))
        status.newer = [{"out": str(one.path), "state": _read(one).state} for one in here_on[1:]]
    return status


def _read(run: RunDir) -> Status:
    held = read_lease(run)  # before _SUCCESS: a run that is committed in between was not interrupted
    running = held is not None and is_live(held)
    settings = (run.read_run() or {}) if run.run_json.exists() else {}
    if not settings and not running:
        made = f"make one with `maskbatch score ARCHIVE --out {run.path}`"
        raise UsageError(f"{run.path}: no run is there; check the path, or {made}")
    driver = _driver(held, running) if held else None
    status = Status(
        out=str(run.path),
        state="running" if running else "interrupted",
        driver=driver,
    )
    with _undamaged(run.run_json):
        if "listing" in settings or "score" in settings:
            status.planned = int(settings["listing"]["num_images"])
    if run.success.exists():
        success = open_committed(run).success
        with _undamaged(run.success):
            _read_success(status, success)
    elif driver and running:
        status.statuses = driver["statuses"]
    elif "score" in settings:
        with _undamaged(run.run_json):
            num_to_score = settings["listing"]["num_images"] - settings["reuse_counts"]["carried"]
            status.num_shards = len(range(0, num_to_score, settings["shard_size"]))
        status.staged_shards = sum(map(bool, map(staging.NAME.fullmatch, list_names(run.staging))))
    elif status.planned is not None:
        status.state = "planned"
    return status


def _read_success(status: Status, success: Mapping[str, Any]) -> None:
    status.state = "committed"
    status.planned = success["planned"]
    status.statuses = {name: int(number) for name, number in success["statuses"].items()}
    status.exit_code, status.whole_s = int(success["exit_code"]), float(success["timings_s"]["whole"])
    status.committed_at = datetime.fromisoformat(success["committed_at"])


@contextmanager
def _undamaged(path: Location) -> Iterator[None]:
    """Raises UsageError where the values of a JSON file are not, to the block, as maskbatch wrote them."""
    try:
        yield
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        lacks = isinstance(error, KeyError)
        what = f"it lacks {error}" if lacks else f"a value is not as maskbatch writes it ({explain(error)})"
        raise UsageError(f"{path} is damaged: {what}; restore it") from error


def _driver(held: Mapping[str, Any], alive: bool) -> dict[str, Any]:
    expired_s = (datetime.now(UTC) - datetime.fromisoformat(held["expires_at"])).total_seconds()
    age_s = max(0, round(expired_s + STALE_S))  # clocks differ
    return {"pid": held["pid"], "host": held["host"], "alive": alive, "age_s": age_s, **held["live"]}


def describe_status(status: Status) -> Iterator[str]:
    """What a person is told of a run."""
    out, driver = status.out, status.driver or {}
    who = f"process {driver.get('pid')} on {driver.get('host')}"
    if status.state == "running":
        yield f"{out} is running: {who}, as of {driver['age_s']} s ago."
        failed = _counts(status.statuses, STATUSES[1:])
        yield f"{describe_step(driver)}{failed and '; failed: '}{failed}"
    elif status.state == "planned":
        yield f"{out} is planned: {status.planned:,} images; `maskbatch score` with the same flags goes on."
    elif status.state == "interrupted":
        where = "while it was planned"
        if status.num_shards is not None:
            where = f"{status.staged_shards:,} of {status.num_shards:,} shards are staged"
        yield f"{out} is interrupted: {where}; the same command goes on from there."
        if driver:
            yield f"{who} was last heard of {timedelta(seconds=driver['age_s'])} ago, at: {describe_step(driver)}"
    else:
        yield from _committed(status)
        if driver.get("alive"):
            yield f"Its report is being made: {who}."


def _committed(status: Status) -> Iterator[str]:
    took, at = timedelta(seconds=round(status.whole_s or 0)), status.committed_at
    counts = _counts(status.statuses, STATUSES)
    yield f"{status.out} is committed: {status.planned:,} images = {counts}; exit code {status.exit_code}."
    yield f"At {at:%Y-%m-%d %H:%M} UTC; the last call took {took}."
    for one in status.newer:
        if one["state"] == "committed":
            yield f"Superseded by {one['out']}."
        else:
            yield f"{one['out']}, the next version, is {one['state']}."


def _counts(statuses: Mapping[str, int], names: Iterable[str]) -> str:
    return add_up({name: statuses[name] for name in names if name in statuses}).removeprefix(" + ")
