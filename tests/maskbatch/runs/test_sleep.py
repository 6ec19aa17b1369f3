"""A driver that slept through its lease changes nothing of what another did meanwhile."""

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from maskbatch import runner
from maskbatch.errors import RunFailedError
from maskbatch.model.checkpoint import Checkpoint
from maskbatch.runs import begin
from maskbatch.runs.directory import RunDir
from maskbatch.runs.lease import read_lease
from maskbatch.verify.files import check_run
from tests.maskbatch.runs.sleeping_driver import drive, drive_and_sleep
from tests.maskbatch.runs.test_draft import InProcess
from tests.maskbatch.samples import edit_json

pytestmark = pytest.mark.slow
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.maskbatch.runs.sleeping_driver", "maskbatch.report.make"])


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, no_plots: None) -> None:
    monkeypatch.setattr(runner, "Cluster", InProcess)
    monkeypatch.setattr(runner, "score_shards", InProcess.score_shards)
    monkeypatch.setattr(begin, "choose_shard_size", lambda *_: 32)


@pytest.fixture(scope="module")
def staged(month: Path, checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every shard is staged, with two files of a commit that was cut off, one with other rows."""
    out = tmp_path_factory.mktemp("staged") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "Cluster", InProcess)
        patch.setattr(runner, "score_shards", InProcess.score_shards)
        patch.setattr(begin, "choose_shard_size", lambda *_: 32)
        patch.setattr(runner, "commit_run", lambda *_: (_ for _ in ()).throw(RunFailedError("stopped")))
        with pytest.raises(RunFailedError, match="stopped"):
            drive(str(month), str(out), checkpoint.path)
    for name in ("date=2026-10-01/part-000000000000.parquet", "date=1999-01-01/part-000000000000.parquet"):
        (out / "scores" / name).parent.mkdir(parents=True)
        (out / "scores" / name).write_bytes(b"of a commit that was cut off")
    return out


def read_committed(run: RunDir) -> dict[str, bytes]:
    """The bytes of every file but the report, the lease, what is staged, and writes under way (dot names)."""
    passed = ("report", "staging", "_lease.json")
    paths = [path for path in run.path.rglob("[!.]*") if path.is_file()]
    names = [path.relative_to(run.path).as_posix() for path in paths]
    return {
        name: path.read_bytes()
        for name, path in zip(names, paths, strict=True)
        if not name.startswith(passed)
    }


@contextmanager
def asleep(moment: int, before: str, *driven: str) -> Iterator[Any]:
    """A driver in its own process, stopped before this step; what it tells of its end, after the block.

    Yields None where it has fewer steps.
    """
    ours, theirs = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=drive_and_sleep, args=(*driven, moment, before, theirs), daemon=True)
    process.start()
    deadline = time.monotonic() + 120
    try:
        while (state := Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]) != "T":
            if ours.poll(0.01) or state == "Z":
                yield None
                return
            assert time.monotonic() < deadline, "neither stopped nor ended"
        yield process
        os.kill(process.pid or 0, signal.SIGCONT)
        assert ours.poll(120), "did not end"
        process.told = ours.recv()  # type: ignore[attr-defined]
    finally:
        process.kill()
        process.join()


def expire(run: RunDir) -> None:
    """As if three minutes had passed since the lease was renewed."""
    if read_lease(run):
        edit_json(run.lease, expires_at="2026-01-01T00:00:00+00:00")


@pytest.mark.parametrize("before", ["check", "step"])
def test_a_driver_that_sleeps_before_any_step_of_the_commit_leaves_the_committed_run_as_it_is(
    before: str, staged: Path, month: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    moment, seen = 1, []
    while True:
        out = tmp_path / f"run-{moment}"
        shutil.copytree(staged, out)
        run, driven = RunDir(out), (str(month), str(out), checkpoint.path)
        with asleep(moment, before, *driven) as process:
            if process is None:
                break
            expire(run)
            result = drive(*driven)
            committed = read_committed(run)
        steps, code, said = process.told
        assert (code, said) == (0, ""), (steps, said)
        assert read_committed(run) == committed, steps
        assert check_run(run, sample=0).verified
        assert not (out / "staging").exists()
        assert result.success == run.read_success()
        seen.append(steps[moment - 1])
        shutil.rmtree(out)
        moment += 1
    if before == "step":
        assert {"replace scores/date=2026-10-01/part-000000000000.parquet", "link _SUCCESS"} <= set(seen)
        assert "unlink scores/date=1999-01-01/part-000000000000.parquet" in seen
    assert len(seen) >= 6


@pytest.mark.parametrize("moment", [1, 3])
def test_a_driver_whose_run_is_taken_over_and_not_committed_says_so_and_writes_no_more(
    moment: int, staged: Path, month: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(staged, out)
    run = RunDir(out)
    with asleep(moment, "check", str(month), str(out), checkpoint.path) as process:
        edit_json(run.lease, owner="another", pid=os.getpid())
        before = read_committed(run)
    _, code, said = process.told
    assert code == 5
    assert f"process {os.getpid()}" in said and "took the run over while this one slept" in said
    assert len(said.splitlines()) == 1
    assert read_committed(run) == before
    assert read_lease(run)["owner"] == "another"  # type: ignore[index]


def test_a_driver_that_slept_while_listing_leaves_a_committed_run_as_it_is(
    month: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    for moment in (1, 2, 3, 4, 5):  # plan, staging, plan part, run.json, run.json
        out = tmp_path / f"run-{moment}"
        run, driven = RunDir(out), (str(month), str(out), checkpoint.path)
        with asleep(moment, "check", *driven) as process:
            expire(run)
            drive(*driven)
            committed = read_committed(run)
        assert process.told[1:] == (0, "")
        assert read_committed(run) == committed
        assert check_run(run, sample=0).verified
