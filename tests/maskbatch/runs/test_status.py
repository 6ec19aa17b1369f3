"""Where a run stands, told from its directory alone: by hand-made states, and by real runs that are watched."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from maskbatch import runner
from maskbatch.config import PlanConfig
from maskbatch.errors import UsageError
from maskbatch.progress import step
from maskbatch.runs.directory import RunDir
from maskbatch.runs.lease import STALE_S, Lease
from maskbatch.runs.staging import shard_path
from maskbatch.runs.status import Status, describe_status, read_status
from maskbatch.stores.files import Location, write_json
from tests.conftest import LAYOUT, Cli
from tests.maskbatch.samples import Run, edit_json

LIVE = {
    "phase": "score",
    "unit": "images",
    "done": 43_520,
    "total": 100_000,
    "statuses": {"ok": 43_516, "truncated": 3, "missing": 1},
    "rate": 210.4,
    "eta_s": 268,
}


def write_lease(run: RunDir, age_s: float, **changes: Any) -> None:
    """The lease of a driver on another host, renewed `age_s` ago."""
    expires = datetime.now(UTC) + timedelta(seconds=STALE_S - age_s)
    held = {"owner": "x", "host": "gpu-head", "pid": 4711, "expires_at": expires.isoformat(), "live": LIVE}
    write_json(run.lease, held | changes)


def told(run: RunDir) -> list[str]:
    return [line.removeprefix(f"{run.path} ") for line in describe_status(read_status(run))]


def test_where_there_is_no_run_nothing_is_told(root: Location) -> None:
    (root / "run").mkdir(parents=True, exist_ok=True)
    (root / "other").mkdir(exist_ok=True)
    (root / "other" / "notes.txt").write_text("no run")
    for run in (RunDir(root / "nowhere"), RunDir(root / "run"), RunDir(root / "other")):
        with pytest.raises(UsageError, match=r"no run is there; check the path, or make one with"):
            read_status(run)
    write_lease(RunDir(root / "run"), age_s=500)
    with pytest.raises(UsageError, match=r"no run is there"):
        read_status(RunDir(root / "run"))


def test_a_run_that_has_only_its_lease_yet_is_running(root: Location) -> None:
    run = RunDir(root / "run")
    with Lease(run):
        status = read_status(run)
        assert status.driver is not None
        assert (status.state, status.planned, status.driver["phase"]) == ("running", None, "start")
        assert (status.driver["pid"], status.driver["host"]) == (os.getpid(), socket.gethostname())


def test_a_plan_that_nobody_scores_yet_is_planned(month: Path, tmp_path: Path) -> None:
    runner.plan_archive(PlanConfig(archives=(str(month),)), str(tmp_path / "run"))
    run = RunDir.at(str(tmp_path / "run"))
    assert read_status(run).planned == 102
    assert told(run) == ["is planned: 102 images; `maskbatch score` with the same flags goes on."]


def test_a_live_lease_says_how_far_a_run_is(staged_at: Run) -> None:
    run = staged_at.run
    write_lease(run, age_s=12)
    status = read_status(run)
    assert (status.state, status.planned, status.staged_shards) == ("running", 102, None)
    assert status.driver is not None
    assert status.driver.items() >= {**LIVE, "host": "gpu-head", "pid": 4711, "alive": True}.items()
    assert 12 <= status.driver["age_s"] < 100
    who, progress = told(run)
    assert who.startswith("is running: process 4711 on gpu-head, as of ")
    assert progress == (
        "score: 43,520 of 100,000 images (44%), 210/s, 0:04:28 left; failed: missing 1 + truncated 3"
    )


@pytest.mark.parametrize("left", ["stale", "of a dead process", "none"])
def test_without_a_live_lease_an_unfinished_run_is_interrupted(staged_at: Run, left: str) -> None:
    run = staged_at.run
    if left == "stale":
        write_lease(run, age_s=200)
    elif left == "of a dead process":
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        write_lease(run, age_s=5, host=socket.gethostname(), pid=dead.pid)
    edit_json(run.run_json, shard_size=32)
    shard_path(run.staging, 2).unlink()
    with (run.staging / ".00000002.parquet.cut-off").open("wb") as file:
        file.write(b"x")
    status = read_status(run)
    assert (status.state, status.staged_shards, status.num_shards) == ("interrupted", 3, 4)
    first, *more = told(run)
    assert first == "is interrupted: 3 of 4 shards are staged; the same command goes on from there."
    assert len(more) == (left != "none")
    if left == "stale":
        assert "process 4711 on gpu-head was last heard of 0:03:2" in more[0]
        assert "ago, at: score: 43,520 of 100,000 images (44%)" in more[0]


def test_a_committed_run_says_what_it_counted_and_which_version_replaces_it(staged_at: Run) -> None:
    run = staged_at.run
    success = staged_at.commit()
    status = read_status(run)
    assert (status.state, status.planned, status.exit_code) == ("committed", 102, 0)
    assert status.statuses == success.statuses
    assert status.whole_s == success.timings_s["whole"]
    assert status.committed_at is not None
    assert abs(status.committed_at - datetime.now(UTC)) < timedelta(minutes=10)
    first, when = told(run)
    assert first == (
        "is committed: 102 images = ok 98 + missing 1 + unsupported 1 + truncated 2; exit code 0."
    )
    took = timedelta(seconds=round(success.timings_s["whole"]))
    assert when == f"At {status.committed_at:%Y-%m-%d %H:%M} UTC; the last call took {took}."
    name = run.path.name
    newer = [RunDir(run.path.parent / f"{name}.v{number}") for number in (2, 3)]
    for version, before in zip(newer, (run, newer[0]), strict=True):
        write_json(version.run_json, replace(run.read_run(), replaces=str(before.path)).to_json())
    write_json(newer[0].success, success.to_json())
    assert [one["state"] for one in read_status(run).newer] == ["committed", "interrupted"]
    assert told(run)[2:] == [
        f"Superseded by {newer[0].path}.",
        f"{newer[1].path}, the next version, is interrupted.",
    ]
    assert [one["out"] for one in read_status(newer[0]).newer] == [str(newer[1].path)]
    assert read_status(newer[1]).newer == []


def test_a_committed_run_whose_driver_still_lives_is_having_its_report_made(staged: Run) -> None:
    staged.commit()
    with Lease(staged.run), step("report", 102):
        assert told(staged.run)[-1].startswith("Its report is being made: process ")
    assert read_status(staged.run).driver is None


@pytest.mark.parametrize("changes", [{"live": None}, {"expires_at": "2999-01-01T00:00:00"}, {"pid": "4711"}])
def test_a_damaged_lease_is_nobodys(changes: dict[str, Any], staged: Run) -> None:
    write_lease(staged.run, age_s=1, **changes)
    status = read_status(staged.run)
    assert (status.state, status.driver) == ("interrupted", None)


def test_a_lease_may_have_expired_at_any_time(staged: Run) -> None:
    write_lease(staged.run, age_s=1, expires_at="0001-01-01T00:00:00+00:00")
    assert told(staged.run)[1].startswith("process 4711 on gpu-head was last heard of ")


GONE: Any = object()
"""In place of a value that is taken out."""


def damage(path: Path, changes: dict[str, Any]) -> None:
    values = json.loads(path.read_bytes()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not GONE}))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"listing": GONE}, "it lacks 'listing'"),
        ({"listing": {}}, "it lacks 'num_images'"),
        ({"listing": "x"}, ""),
        ({"listing": {"num_images": "x"}}, ""),
        ({"reuse_counts": GONE}, "it lacks 'reuse_counts'"),
        ({"reuse_counts": []}, ""),
        ({"shard_size": GONE}, "it lacks 'shard_size'"),
        ({"shard_size": "32"}, ""),
        ({"shard_size": 0}, ""),
    ],
)
def test_a_damaged_run_json_is_one_sentence(changes: dict[str, Any], what: str, staged: Run) -> None:
    damage(staged.run.run_json, changes)
    with pytest.raises(UsageError, match=rf"run\.json is damaged: {what}.*; restore it$"):
        read_status(staged.run)


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {name: GONE}
            for name in ("planned", "statuses", "files", "committed_at", "exit_code", "timings_s")
        ),
        *({"committed_at": value} for value in ("soon", 5, None)),
        *({"timings_s": value} for value in ([], {}, {"whole": "long"})),
        *({"statuses": value} for value in ([1], {"ok": "many"}, {"ok": None})),
        {"exit_code": None},
        {"files": 5},
    ],
)
def test_a_damaged_success_is_one_sentence(changes: dict[str, Any], staged: Run) -> None:
    staged.commit()
    damage(staged.run.success, changes)
    with pytest.raises(UsageError, match=r"_SUCCESS is damaged: .*; restore it$"):
        read_status(staged.run)


@pytest.mark.parametrize("as_json", [True, False])
def test_status_loads_nothing_heavy(as_json: bool, staged: Run) -> None:
    staged.commit()
    code = (
        "import sys\nfrom maskbatch.cli.commands import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print(sorted({'torch', 'pandas', 'ray', 'matplotlib', 'scipy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "status", str(staged.run.path), *["--json"] * as_json],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "[]\n"
    assert json.loads(done.stdout)["state"] == "committed" if as_json else " is committed: " in done.stdout


NAMES = {
    *("out", "state", "driver", "planned", "num_shards", "staged_shards", "statuses", "exit_code"),
    *("committed_at", "whole_s", "newer"),
}
SLOW_RENEWAL = "from maskbatch.runs import lease\nlease.RENEW_S = 0.1\n"
HALF_LISTED = f"""{SLOW_RENEWAL}
import time
from maskbatch.plan import build, table
from maskbatch.runs import request
rows = build.plan_rows
def half(*args):
    for k, row in enumerate(rows(*args)):
        if k == 100: time.sleep(600)
        yield row
table.GROUP_ROWS, request.plan_rows = 16, half
"""
ONE_SHARD = f"""{SLOW_RENEWAL}
import time
from maskbatch import runner
score = runner.score_shards
def score_one(cluster, work, shards):
    yield next(score(cluster, work, shards))
    time.sleep(600)
runner.score_shards = score_one
"""


@contextmanager
def going(tmp_path: Path, script: str, *arguments: object) -> Iterator["subprocess.Popen[bytes]"]:
    """The command line in a process of its own, with `script` before it; killed at the end."""
    code = f"{script}\nfrom maskbatch.cli.commands import main\nmain()"
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=stderr
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def watch(process: "subprocess.Popen[bytes]", out: Path, until: Callable[[Status], bool]) -> Status:
    """The status of a run that goes on, as soon as it is like that."""
    deadline, status = time.monotonic() + 240, None
    while time.monotonic() < deadline:
        assert process.poll() is None
        if (out / "_lease.json").exists():
            status = read_status(RunDir.at(str(out)))
            if until(status):
                return status
        time.sleep(0.1)
    raise TimeoutError(status)


def test_planning_is_watched_and_when_killed_it_is_interrupted(
    archive: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out"
    with going(tmp_path, HALF_LISTED, "plan", archive, "--out", out, "--layout", LAYOUT) as process:
        status = watch(process, out, lambda status: (status.driver or {}).get("done") == 96)
        assert (status.state, status.planned) == ("running", None)
        assert status.driver is not None
        assert (status.driver["phase"], status.driver["total"]) == ("plan", None)
        assert status.driver["pid"] == process.pid
        seen = cli("status", out)
        assert f"is running: process {process.pid} on " in seen.stdout
        assert "plan: 96 images, " in seen.stdout
    killed = cli("status", out)
    assert killed.returncode == 0
    assert f"{out} is interrupted: while it was planned; the same command goes on" in killed.stdout


@pytest.mark.slow
def test_scoring_is_watched_killed_and_finished(
    archive: Path, small_checkpoint: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out"
    command = ("score", archive, "--out", out, "--checkpoint", small_checkpoint, "--layout", LAYOUT)
    with going(tmp_path, ONE_SHARD, *command) as process:
        watch(process, out, lambda status: (status.driver or {}).get("done", 0) > 0 and status.planned == 200)
        seen = json.loads(cli("status", out, "--json").stdout)
        assert seen.keys() == NAMES
        assert (seen["state"], seen["planned"]) == ("running", 200)
        assert seen["driver"].items() >= {"phase": "score", "total": 200, "alive": True}.items()
        assert 0 < seen["driver"]["done"] < 200
        assert sum(seen["statuses"].values()) == seen["driver"]["done"]
        process.send_signal(signal.SIGKILL)
        process.wait()
        stopped = json.loads(cli("status", out, "--json").stdout)
    assert stopped.keys() == NAMES
    assert stopped["state"] == "interrupted"
    assert 0 < stopped["staged_shards"] <= stopped["num_shards"] == 7
    finished = cli(*command)
    assert finished.returncode == 0, finished.stderr
    done = json.loads(cli("status", out, "--json").stdout)
    assert done.keys() == NAMES
    assert (done["state"], done["driver"], sum(done["statuses"].values())) == ("committed", None, 200)


@pytest.mark.slow
def test_a_run_that_logs_json_says_each_shard_once_and_nothing_else_than_json(
    archive: Path, small_checkpoint: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "out"
    command = ("score", archive, "--out", out, "--checkpoint", small_checkpoint, "--layout", LAYOUT)
    done = cli(*command, "--json-logs", "--max-error-rate", 0.01, "--json")
    assert done.returncode == 3
    logged = [json.loads(line) for line in done.stderr.splitlines()]
    shards = [line for line in logged if line["event"] == "shard"]
    summary = json.loads(done.stdout)
    assert sorted(line["shard"] for line in shards) == list(range(7))
    assert sum(line["images"] for line in shards) == summary["planned"] == 200
    counted = {name: sum(line["statuses"].get(name, 0) for line in shards) for name in summary["statuses"]}
    assert counted == summary["statuses"]
    assert {line["device"] for line in shards} == set(summary["devices"])
    for line in shards:
        assert min(line["read_s"], line["decode_s"], line["score_s"]) > 0
    assert len({line["node"] for line in shards}) == 1
    phases = [line["phase"] for line in logged if line["event"] == "step"]
    assert [phases[0], phases[1], phases[2], phases[-1]] == ["plan", "score", "commit", "report"]
    messages = [line["message"] for line in logged if line["event"] == "message"]
    assert any("more than --max-error-rate 0.01 allows" in message for message in messages)
    refused = cli(*command, "--json-logs", "--limit", 3)
    error = json.loads(refused.stderr)
    assert (error["event"], error["exit_code"], refused.returncode) == ("error", 2, 2)
    assert "limit 3 instead of None" in error["message"]


@pytest.mark.parametrize(
    "arguments", [("plan", "nowhere", "--dry-run"), ("plan", "--frobnicate"), ("verify", "nowhere"), ()]
)
def test_a_mistake_is_one_json_line_too(arguments: tuple[str, ...], cli: Cli) -> None:
    wrong = cli(*arguments, "--json-logs")
    error = json.loads(wrong.stderr)
    assert (error["event"], error["exit_code"]) == ("error", 2) and wrong.returncode == 2
    assert wrong.stdout == ""
