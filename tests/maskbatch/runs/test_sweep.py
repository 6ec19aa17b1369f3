"""What killed drivers left in OUT goes at the next call; what a live one writes stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskbatch import runner
from maskbatch.config import PlanConfig
from maskbatch.runs.directory import RunDir
from maskbatch.runs.lease import Lease
from maskbatch.runs.sweep import sweep_leftovers
from maskbatch.stores.files import Location, identify_place, list_names, write_json, write_whole
from tests.maskbatch.samples import speckle, write_files

WRITE = """
import signal, sys
from pathlib import Path
from maskbatch.stores.files import write_whole
with write_whole(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    print("written", flush=True)
    signal.pause()
"""
STALE = {
    "owner": "other", "host": "elsewhere", "pid": 7, "expires_at": "2026-01-01T00:00:00+00:00",
    "live": {"phase": "", "unit": "", "done": 0, "total": None, "statuses": {}, "rate": 0, "eta_s": None},
}  # fmt: skip


def begin_to_write(path: Path) -> "subprocess.Popen[str]":
    """A process that is about to write `path`, and has its temporary file."""
    writer = subprocess.Popen([sys.executable, "-c", WRITE, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "written\n"
    return writer


def end(writer: "subprocess.Popen[str]") -> None:
    writer.kill()
    writer.communicate()


@pytest.mark.parametrize(
    "name", ["_SUCCESS", "run.json", "plan/part-0.parquet", "scores/date=x/part-0.parquet", "report/x"]
)
def test_a_file_half_written_goes_with_its_writer_and_not_before(tmp_path: Path, name: str) -> None:
    writer = begin_to_write(tmp_path / name)
    folder = (tmp_path / name).parent
    try:
        sweep_leftovers(RunDir(tmp_path))
        assert len(list_names(folder)) == 1
        writer.send_signal(signal.SIGSTOP)
        sweep_leftovers(RunDir(tmp_path))
        assert len(list_names(folder)) == 1
    finally:
        end(writer)
    sweep_leftovers(RunDir(tmp_path))
    assert list_names(folder) == []


def test_files_of_earlier_versions_and_other_machines_go_when_nobody_writes_them(tmp_path: Path) -> None:
    number, hour = "0123456789abcdef" * 2, 3600
    old = [f".part.{number}", f".part.deadbeef-1-{number}"]
    write_files(tmp_path / "plan", dict.fromkeys([*old, f".new.{number}", ".notes.txt", "kept"], b"x"))
    for name in (*old, ".notes.txt", "kept"):
        os.utime(tmp_path / "plan" / name, (time.time() - 2 * hour,) * 2)
    write_files(tmp_path, {f"._SUCCESS.{number}": b"x", "._SUCCESS.x": b"x", f".else.{number}": b"x"})
    sweep_leftovers(RunDir(tmp_path))
    assert list_names(tmp_path / "plan") == [f".new.{number}", ".notes.txt", "kept"]
    assert list_names(tmp_path) == [f".else.{number}", "plan"]


def test_what_another_namespace_of_processes_writes_stays(tmp_path: Path) -> None:
    writer = begin_to_write(tmp_path / "plan" / "part")
    end(writer)
    (name,) = list_names(tmp_path / "plan")
    (tmp_path / "plan" / name).rename(tmp_path / "plan" / name.replace(identify_place(), "0" * 8))
    sweep_leftovers(RunDir(tmp_path))
    assert len(list_names(tmp_path / "plan")) == 1


def test_a_lease_that_nobody_renews_goes_and_a_live_one_stays(root: Location) -> None:
    run = RunDir(root / "run")
    write_json(run.lease, STALE)
    sweep_leftovers(run)
    assert not run.lease.exists()
    with write_whole(run.lease) as partial:
        partial.write_text("damaged")
    sweep_leftovers(run)
    assert not run.lease.exists()
    with Lease(run):
        sweep_leftovers(run)
        assert run.lease.exists()


def test_the_next_plan_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    write_files(tmp_path / "archive", {"a.jpg": speckle(1)})
    out = tmp_path / "run"
    end(begin_to_write(out / "run.json"))
    write_json(out / "_lease.json", STALE)
    runner.plan_archive(PlanConfig(archives=(str(tmp_path / "archive"),)), out)
    assert list_names(out) == ["plan", "run.json"]
