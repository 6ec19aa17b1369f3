import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskbatch import runner
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig
from maskbatch.model.checkpoint import open_networks
from maskbatch.model.detector import Faces
from maskbatch.plan.columns import Row
from maskbatch.plan.shards import Crew
from maskbatch.plan.table import GROUP_ROWS, write_plan
from maskbatch.progress import Step
from maskbatch.runs.begin import begin_scoring
from maskbatch.runs.directory import RunDir
from maskbatch.runs.lease import Lease
from maskbatch.runs.request import Request
from maskbatch.runs.work import Work, make_work
from maskbatch.score.glance import ROW_GROUPS, SAMPLE, draw_sample, judge, look
from maskbatch.score.guard import MIN_PICTURES, YIELD, Found, Guard
from maskbatch.score.read import PlanRow
from maskbatch.stores.access import Access
from tests.maskbatch.samples import draw, encode, write_files
from tests.maskbatch.score.test_scene import draw_scene
from tests.poison import many_scans

NUM = 12
GATES = [draw(k, (320, 240)) for k in range(NUM)]
EMPTY = [draw(k, (320, 240), "no_face") for k in range(NUM)]
ACROSS = [draw_scene((200 + 5 * k, 90 + 5 * k, 120)) for k in range(NUM)]
"""A person at a gate whose head has a fifth of the picture's height."""
LOBBIES = [draw_scene((40 + 5 * k, 90, 130), (250, 60 + 5 * k, 140), (480, 120, 120)) for k in range(NUM)]
FAR = [draw_scene((100 + 30 * k, 120, 84), size=(640, 480)) for k in range(NUM)]
KINDS = {"gates": GATES, "empty": EMPTY, "across": ACROSS, "lobbies": LOBBIES, "far": FAR}


def write(root: Path, kind: str) -> Path:
    pictures = {f"{kind}-{k % 3}/{k}.jpg": encode(image) for k, image in enumerate(KINDS[kind])}
    return write_files(root, pictures)


def plan(archive: Path, out: Path, view: str = "face") -> Work:
    """What the workers of a run of `archive` would know."""
    config = PlanConfig(archives=(str(archive),))
    runner.plan_archive(config, out)
    run, score, (opened, finder) = RunDir.at(out), ScoreConfig(view=view), open_networks(None, None, view)
    request = Request(plan=config, access=Access(), score=score, checkpoint=opened, detector=finder)
    settings = run.read_run()
    assert settings
    with Lease(run) as lease:
        settings = begin_scoring(run, settings, request, JobConfig(), lease, Crew())
    return make_work(run, settings, request)


def ask(guard: Guard) -> str | None:
    """The guard's advice, when its process has ended."""
    process = guard._process
    assert process
    process.wait(120)
    guard.check()
    return guard.advice


@pytest.mark.parametrize(
    ("kind", "of_faces", "of_scenes"),
    [
        ("gates", None, "show one face that fills it; --view face"),
        ("empty", None, None),
        ("across", None, None),
        ("lobbies", "12 show people side by side, but", None),
        ("far", "0 show people side by side and 12 someone far away", None),
    ],
)
def test_only_pictures_of_the_other_view_make_it_speak(
    kind: str, of_faces: str | None, of_scenes: str | None, tmp_path: Path
) -> None:
    *_, found = look(plan(write(tmp_path / "archive", kind), tmp_path / "out"))
    for view, expected in (("face", of_faces), ("scene", of_scenes)):
        advice = found.advise(view)
        assert (expected in advice) if expected and advice else expected is advice, (found, advice)


@pytest.mark.parametrize(
    ("folder", "suits", "other"),
    [("faces/val", "face", "scene"), ("scenes/val", "scene", "face"), ("scenes_more", "scene", "face")],
)
def test_real_photographs_are_sent_to_the_view_that_suits_them(
    folder: str, suits: str, other: str, shared: Path, tmp_path: Path
) -> None:
    *_, found = look(plan(shared / "data" / folder, tmp_path / "out"))
    assert found.advise(suits) is None
    assert f"--view {suits}" in (found.advise(other) or "")


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([], "nobody"),
        ([(10, 10, 50, 60)], "filled"),
        ([(10, 10, 30, 30)], "one"),
        ([(10, 10, 18, 19)], "far"),
        ([(10, 10, 50, 60), (60, 10, 80, 30)], "filled"),
        ([(10, 10, 50, 60), (60, 10, 90, 36)], "several"),
        ([(10, 10, 18, 19), (60, 10, 66, 16)], "several"),
    ],
)
def test_people_in_the_background_count_for_nothing(boxes: list[tuple[float, ...]], expected: str) -> None:
    unsure = (0.0, 0.0, 90.0, 90.0)
    faces = Faces(
        np.array([*boxes, unsure], np.float32),
        np.array([0.9] * len(boxes) + [0.5], np.float32),
        np.zeros((len(boxes) + 1, 2, 2), np.float32),
    )
    assert judge(faces, (100, 160)) == expected


def test_of_few_pictures_nothing_is_said() -> None:
    few = Found(pictures=MIN_PICTURES - 1, several=MIN_PICTURES - 1, far=0, filled=0)
    assert few.advise("face") is None
    assert replace(few, pictures=MIN_PICTURES).advise("face")


def test_a_queue_at_some_gates_is_no_scene() -> None:
    assert Found(pictures=60, several=15, far=5, filled=40).advise("face") is None


def test_it_says_one_sentence_once_and_leaves_nothing(
    tmp_path: Path, prompt: None, capsys: pytest.CaptureFixture[str]
) -> None:
    work = plan(write(tmp_path / "archive", "lobbies"), tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    with Guard(work) as guard:
        guard.check()
        assert guard.advice is None  # it never waits
        advice = ask(guard)
        guard.check()
    assert advice and capsys.readouterr().err.replace("\n", " ").count("--view scene") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_at_the_end_of_a_run_it_speaks_of_what_was_seen_by_then(tmp_path: Path, prompt: None) -> None:
    archive = write_files(tmp_path / "archive", {f"{k}.jpg": encode(LOBBIES[k % NUM]) for k in range(60)})
    with Guard(plan(archive, tmp_path / "out")) as guard:
        process = guard._process
        assert process and process.stdout
        waiting = array("i", [0])
        while waiting[0] < 11 * len('{"pictures": 1, "several": 1, "far": 0, "filled": 0}'):
            assert process.poll() is None
            time.sleep(0.01)
            fcntl.ioctl(process.stdout, termios.FIONREAD, waiting)
        os.kill(process.pid, signal.SIGSTOP)  # a store that answers no more
        guard.check()
        assert guard.advice is None
        guard.check(is_last=True)
        assert guard.advice and "of 60 " not in guard.advice


def test_broken_and_hostile_pictures_are_left_out(tmp_path: Path) -> None:
    archive = write(tmp_path / "archive", "lobbies")
    whole = encode(LOBBIES[0])
    write_files(
        archive,
        {
            "a.jpg": whole[:900],
            "b.jpg": b"",
            "c.jpg": b"<html>",
            "d.jpg": many_scans((2000, 2000), 3000),
            "e.png": b"x",
        },
    )
    (archive / "f.jpg").symlink_to("gone")
    *_, found = look(replace(plan(archive, tmp_path / "out"), decode_timeout_s=1))
    assert (found.pictures, found.several) == (NUM, NUM)


def test_a_run_whose_sample_cannot_be_read_is_told_nothing(
    tmp_path: Path, prompt: None, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = write(tmp_path / "archive", "lobbies")
    work = plan(archive, tmp_path / "out")
    archive.rename(tmp_path / "elsewhere")
    with Guard(work) as guard:
        assert ask(guard) is None
    for part in (tmp_path / "out/plan").iterdir():
        part.write_bytes(b"no Parquet")
    capsys.readouterr()
    with Guard(work) as guard:
        assert ask(guard) is None
    assert capsys.readouterr().err == ""


def test_its_process_ends_with_the_run_however_slow_the_store(tmp_path: Path, prompt: None) -> None:
    work = plan(write(tmp_path / "archive", "gates"), tmp_path / "out")
    began = time.monotonic()
    with Guard(work) as guard:
        process = guard._process
        assert process
    assert time.monotonic() - began < 5 and process.wait(60)
    with Guard(work) as guard:
        process = guard._process
        assert process and process.stdin
        process.stdin.close()  # as when the driver is killed
        assert process.wait(60) == 1


def test_unwanted_it_starts_no_process(tmp_path: Path) -> None:
    with Guard(plan(write(tmp_path / "archive", "gates"), tmp_path / "out"), is_wanted=False) as guard:
        assert guard._process is None
        guard.check()


def draw_from(tmp_path: Path, work: Work, rows: Iterator[Row], num_rows: int) -> list[PlanRow]:
    """The sample of a plan of these rows."""
    write_plan(tmp_path / "long/plan", rows, Step("plan", None, "images"))
    return draw_sample(replace(work, out=str(tmp_path / "long"), num_images=num_rows))


def test_the_sample_is_spread_over_cameras_and_time_and_the_same_every_time(tmp_path: Path) -> None:
    work = plan(write(tmp_path / "archive", "gates"), tmp_path / "out")
    names = ["busy"] * (2 * GROUP_ROWS) + ["refused"] * 500 + ["quiet"] * 1000 + ["rare"] * 3
    rows = [
        {"id": k, "uri": f"file:///{k}.jpg", "encoding": "raw", "camera": name, "num_bytes": k}
        | ({"status": "unsupported", "error": "a link"} if name == "refused" else {})
        for k, name in enumerate(names)
    ]
    sample = draw_from(tmp_path, work, iter(rows), len(rows))
    assert sample == draw_sample(replace(work, out=str(tmp_path / "long"), num_images=len(rows)))
    assert len({names[row["num_bytes"]] for row in sample[:3]}) == 3
    numbers = [row["num_bytes"] for row in sample]
    counts = Counter(names[number] for number in numbers)
    assert len(sample) == SAMPLE and counts["rare"] == 3 and counts["refused"] == 0
    assert abs(counts["busy"] - counts["quiet"]) <= 1
    busy = [number for number in numbers if names[number] == "busy"]
    assert min(busy) < GROUP_ROWS / 2 and max(busy) > GROUP_ROWS * 1.5


def test_few_row_groups_of_parquet_files_are_read(tmp_path: Path) -> None:
    work = plan(write(tmp_path / "archive", "gates"), tmp_path / "out")
    rows = (
        {"id": k, "uri": f"row://{k}", "encoding": "row", "container": "file:///a.parquet", "offset": k // 50}
        | {"length": k % 50}
        for k in range(5000)
    )
    sample = draw_from(tmp_path, work, rows, 5000)
    assert len(sample) == SAMPLE and len({row["offset"] for row in sample}) == ROW_GROUPS


def test_it_runs_when_no_worker_wants_the_core() -> None:
    code = f"{YIELD}print(os.sched_getscheduler(0))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == os.SCHED_IDLE
