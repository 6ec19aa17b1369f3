"""Which runs are looked at by the guard, and what they say."""

import json
from pathlib import Path
from typing import Any, Self

import pytest

from maskbatch import runner
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig
from maskbatch.model.checkpoint import Checkpoint
from maskbatch.runner import Result
from maskbatch.score.guard import Guard
from tests.maskbatch.samples import draw, encode, stage_run, write_files
from tests.maskbatch.score.test_guard import write

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_with_a_logical_gpu", "no_plots")]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, prompt: None) -> list[bool]:
    """Whether each run that scores is looked at; the run waits until that is done."""
    wanted = []

    class Patient(Guard):
        def __enter__(self) -> Self:
            super().__enter__()
            wanted.append(self._process is not None)
            if self._process:
                self._process.wait(120)
            return self

    monkeypatch.setattr(runner, "Guard", Patient)
    return wanted


def score(archive: Path, out: Path, checkpoint: Checkpoint, view: str = "face", **options: Any) -> Result:
    return runner.score_archive(
        PlanConfig(archives=(str(archive),), timezone=("Europe/Paris",)),
        out,
        score=ScoreConfig(dtype="float32", view=view),
        job=JobConfig(gpus_per_worker=2),
        checkpoint=checkpoint.path,
        **options,
    )


def test_a_run_of_scenes_in_the_view_of_faces_says_so_once(
    checkpoint: Checkpoint, tmp_path: Path, asked: list[bool], capfd: pytest.CaptureFixture[str]
) -> None:
    archive = write(tmp_path / "archive", "lobbies")
    first = score(archive, tmp_path / "out", checkpoint)
    said = " ".join(capfd.readouterr().err.split())
    assert first.advice and f"view: {first.advice}" in said and first.as_dict()["advice"] == first.advice
    assert json.loads((tmp_path / "out/run.json").read_text())["score"]["view"] == "face"
    again = score(archive, tmp_path / "out", checkpoint)
    assert again.advice is None and "view:" not in capfd.readouterr().err
    assert asked == [True]


def test_gates_in_the_view_of_scenes_say_so(
    checkpoint: Checkpoint, tmp_path: Path, asked: list[bool]
) -> None:
    archive = write(tmp_path / "archive", "gates")
    assert score(archive, tmp_path / "face", checkpoint).advice is None
    assert "--view face" in (score(archive, tmp_path / "scene", checkpoint, "scene").advice or "")
    assert asked == [True, True]


def test_a_resumed_run_and_one_that_carries_all_over_are_not_looked_at(
    checkpoint: Checkpoint, tmp_path: Path, asked: list[bool]
) -> None:
    archive = write(tmp_path / "archive", "lobbies")
    stage_run(tmp_path / "out", archive, checkpoint, layout=None)
    assert score(archive, tmp_path / "out", checkpoint).advice is None
    assert score(archive, tmp_path / "carried", checkpoint, reuse=[tmp_path / "out"]).success.carried
    assert asked == [False, False]
    write_files(archive, {"late.jpg": encode(draw(99))})
    score(archive, tmp_path / "late", checkpoint, reuse=[tmp_path / "out"])
    assert asked == [False, False, True]


def test_only_the_first_of_scheduled_runs_is_looked_at(
    checkpoint: Checkpoint, tmp_path: Path, asked: list[bool]
) -> None:
    archive = write(tmp_path / "archive", "lobbies")
    for day in ("2026-10-01", "2026-10-02"):
        score(archive, tmp_path / "nights" / day, checkpoint, scheduled=True)
    assert asked == [True, False]
