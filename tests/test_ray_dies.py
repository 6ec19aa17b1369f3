"""The processes of Ray killed under the real command line: one sentence, exit code 1, and the same call goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import LAYOUT, Cli

SLOW = """
import time
from maskbatch.decode import images
from maskbatch.decode.images import _decode
images._decode = lambda *given: time.sleep(0.2) or _decode(*given)
"""
"""A decoder that leaves time to kill something."""


def list_children(pid: int) -> Iterator[tuple[int, str]]:
    """Process and program of the children of `pid`."""
    for folder in Path("/proc").iterdir():
        try:
            if (
                folder.name.isdigit()
                and int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid
            ):
                yield int(folder.name), (folder / "cmdline").read_text().split("\0")[0].rpartition("/")[2]
        except OSError:  # it has ended meanwhile
            continue


Begun = tuple[list[object], "subprocess.Popen[str]"]


def begin(archive: Path, checkpoint: Path, tmp_path: Path, *more: object) -> Begun:
    """A command line that scores slowly, and its process once it has staged a shard."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(
        f"import os\nif 'SLOW' in os.environ and 'RAY_JOB_ID' in os.environ: exec({SLOW!r})"
    )
    out = tmp_path / "out"
    command = ["score", archive, "--out", out, "--checkpoint", checkpoint, "--layout", LAYOUT, *more]
    env = {**os.environ, "PYTHONPATH": f"{tmp_path / 'hook'}:{Path(__file__).parents[1]}"}
    run = subprocess.Popen(
        [sys.executable, "-m", "maskbatch", *map(str, command)],
        env={**env, "SLOW": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(out.glob("staging/0*.parquet")):
        time.sleep(0.1)
        assert run.poll() is None, run.communicate()
    return command, run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_run_whose_ray_dies_says_so_and_is_resumed(
    name: str, cli: Cli, archive: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    command, run = begin(archive, small_checkpoint, tmp_path)
    for pid, program in list_children(run.pid):
        if program == name:
            os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    stdout, stderr = run.communicate(timeout=180)
    assert run.returncode == 1
    what = {"raylet": "raylet", "gcs_server": "GCS"}[name]
    died = f"maskbatch: Ray on this machine died (its {what} does not answer)"
    assert stderr.splitlines()[-1] == f"{died}; the same command goes on where it stopped"
    assert "Traceback" not in stderr and not stdout
    assert time.monotonic() - began < 75
    again = cli(*command)
    assert again.returncode == 0, again.stderr
    assert "shards are staged" in again.stderr


@pytest.mark.slow
def test_a_run_whose_ray_is_frozen_gives_up_says_so_and_returns_its_lease(
    archive: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    stall = ("--stall-timeout-s", 12, "--decode-timeout-s", 1)
    _, run = begin(archive, small_checkpoint, tmp_path, *stall)
    children = list(list_children(run.pid))
    (frozen,) = (pid for pid, program in children if program == "raylet")
    os.kill(frozen, signal.SIGSTOP)
    try:
        stdout, stderr = run.communicate(timeout=240)
    finally:
        run.kill()
        for pid, _ in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert run.returncode == 1
    assert stderr.splitlines()[-1].startswith("maskbatch: nothing was scored for 33 s, waiting for a")
    assert "Traceback" not in stderr and not stdout
    assert not (tmp_path / "out" / "_lease.json").exists()


@pytest.mark.slow
def test_a_long_tmpdir_does_not_keep_ray_from_starting(
    cli: Cli, archive: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / ("long-" * 20)
    folder.mkdir()
    command = ["score", archive, "--out", tmp_path / "out", "--checkpoint", small_checkpoint, "--limit", 64]
    for name in ("TMPDIR", "RAY_TMPDIR"):
        done = cli(*command, "--fresh" if name == "TMPDIR" else "--json", **{name: str(folder)})
        assert done.returncode in (0, 3), done.stderr
