"""The benchmark of scoring on one GPU, from end to end on a stand-in without one."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.benchmarks.gpu_table import ROWS, add_ratios
from tests.benchmarks.gpu_watch import PartFailedError, Watched, Window, find_window, interpolate, watch
from tests.maskbatch.samples import draw, encode, write_files

BUSY = {"gpu_busy", "cpu_busy"}
"""Rows that need a GPU."""


def run(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.benchmarks.gpu", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_every_row_of_the_table_has_a_figure(tmp_path: Path) -> None:
    pictures = {f"{k}.jpg": encode(draw(k, (320, 240)), quality=90) for k in range(30)}
    photographs = write_files(tmp_path / "photographs", pictures)
    flags = ("--sizes", "320x240", "--files", 300, "--ceiling-s", 1, "--minutes", 20, "--device", "cpu")
    found = tmp_path / "figures.json"
    done = run(*flags, "--folder", tmp_path / "bench", "--photographs", photographs, "--json", found)
    assert done.returncode == 0, done.stdout + done.stderr
    table = done.stdout.split("\n\n")[-2].splitlines()
    assert done.stdout.startswith("A stand-in without a GPU")
    assert table[0] == "| | 320x240 |"
    empty = {line.split(" | ")[0].removeprefix("| ") for line in table[2:] if line.endswith("| - |")}
    assert empty == {row.words for row in ROWS if row.name in BUSY}
    figures = json.loads(found.read_text())["figures"]["320x240"]
    assert {row.name for row in ROWS} - BUSY <= set(add_ratios(figures))
    assert all(value > 0 for name, value in figures.items() if name != "prob_apart")
    assert figures["files"] == figures["damaged"] == 300
    assert figures["photographs"] == 30
    pairs = {name: value for name, value in figures.items() if name.startswith("pair ")}
    assert sum(pairs.values()) == 300
    # damage inside of a scan, where no marker shows it, is all that passes unnoticed on a device
    same = {f"pair {status} {status}" for status in ("ok", "truncated", "corrupt")}
    assert same <= set(pairs) <= {*same, "pair corrupt ok"}
    assert figures["status_same"] == pytest.approx(sum(pairs[name] for name in same) / 3)
    assert figures["labels_same"] > 95


def test_a_part_that_fails_costs_no_table(tmp_path: Path) -> None:
    done = run(
        "--sizes", "wide", "64x48", "--files", 4, "--ceiling-s", 0.1, "--parts", "jpeg", "--folder", tmp_path
    )
    assert done.returncode == 1
    words = "the device's JPEG decoder alone, images/s"
    line = next(line for line in done.stdout.splitlines() if line.startswith(f"| {words}"))
    assert " - " in done.stdout
    assert float(line.split(" | ")[1].strip(" |").replace(",", "")) > 0
    assert "- wide draw: ended with 1: ValueError" in done.stdout
    assert "- wide jpeg: not begun, as there are no files" in done.stdout


def test_a_part_is_not_begun_when_the_time_is_up(tmp_path: Path) -> None:
    done = run("--minutes", 0.1, "--folder", tmp_path)
    assert done.returncode == 0
    assert "- 640x480 jpeg: not begun, as the time is up; --minutes gives more" in done.stdout


def test_a_command_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    seconds = f"{os.getpid()}.7"
    script = f"import subprocess; subprocess.run(['sleep', '{seconds}'])"
    with pytest.raises(PartFailedError, match="ended after 1 s, its time"):
        watch((sys.executable, "-c", script), tmp_path / "log", 1, {})
    end = time.monotonic() + 10
    while any(seconds in words for words in list_commands()):
        assert time.monotonic() < end


def list_commands() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_text()


def test_processor_time_counts_the_children_that_have_ended(tmp_path: Path) -> None:
    spin = "import time; end = time.process_time() + 1.5\nwhile time.process_time() < end: pass"
    script = f"import subprocess, sys, json; subprocess.run([sys.executable, '-c', {spin!r}]); print(json.dumps({{}}))"
    watched = watch((sys.executable, "-c", script), tmp_path / "log", 60, {})
    assert 1.0 <= watched.cpu[-1][1] <= 2.5


def test_how_busy_a_gpu_is_comes_from_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teller = tmp_path / "nvidia-smi"
    teller.write_text("#!/bin/sh\necho '[N/A]'; while sleep 0.1; do echo 37; done\n")
    teller.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    script = "import time; time.sleep(1); print('{}')"
    watched = watch((sys.executable, "-c", script), tmp_path / "log", 60, {}, sees_gpu=True)
    assert len(watched.busy) >= 3
    assert {value for _, value in watched.busy} == {37}
    assert watched.mean_busy(Window(watched.began, watched.began + 1, 1)) == 37


def test_a_run_is_steady_from_a_tenth_to_nine_tenths_of_its_images() -> None:
    marks = [(100.0, 1), (101.0, 10), (103.0, 50), (105.0, 90), (200.0, 100)]
    assert find_window(marks) == Window(101.0, 105.0, 80)
    assert find_window([(1.0, 64), (3.0, 128)]) == Window(1.0, 3.0, 64)
    assert find_window([(1.0, 64)]) is find_window([]) is None


def test_what_a_window_takes_lies_between_samples() -> None:
    samples = [(0.0, 1.0), (10.0, 2.0), (20.0, 4.0)]
    assert [interpolate(samples, at) for at in (-1, 0, 5, 15, 20, 30)] == [1, 1, 1.5, 3, 4, 4]
    watched = Watched(0, 20, {}, [], samples, [(1.0, 10.0), (5.0, 50.0), (9.0, 70.0), (30.0, 99.0)])
    assert watched.cpu_seconds(Window(5, 15, 1)) == 1.5
    assert watched.mean_busy(Window(4, 9, 1)) == 60
    assert watched.mean_busy(Window(11, 12, 1)) is None


def test_ratios_hold_whole_runs_of_as_many_files_against_each_other() -> None:
    figures = {
        "files": 1000.0, "gpu_steady": 100.0, "gpu_whole_s": 20.0, "probs_1": 125.0, "probs_2": 200.0,
        "recipe_files": 100.0, "recipe_steady": 10.0, "recipe_whole_s": 15.0,
    }  # fmt: skip
    found = add_ratios(figures)
    assert found["gpu_of_probs"] == 0.5
    assert found["gpu_of_recipe"] == 10
    assert found["gpu_of_recipe_whole"] == 105 / 20
    assert found["gpu_of_recipe_reckoned"] == 4805 / 490
    assert "cpu_of_cores" not in found
