"""Whole scenes on a real embedded Ray: the same guarantees as of single faces."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from maskbatch import runner
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig
from maskbatch.errors import UsageError
from maskbatch.runs.regions import find_wrong_regions
from maskbatch.verify.files import verify_run
from tests.conftest import LAYOUT, Cli, table_of
from tests.maskbatch.samples import draw, encode

pytestmark = pytest.mark.slow
NUM_PICTURES = 150
SCENE = ScoreConfig(view="scene")


def draw_lobby(number: int) -> bytes:
    """A picture of nobody to four people, of one of four sizes."""
    rng = np.random.default_rng(number)
    width, height = ((640, 360), (360, 640), (480, 360), (960, 540))[number % 4]
    lobby = Image.new("RGB", (width, height), (190, 184, 170))
    for k in range(number % 5):
        side = int(rng.integers(60, 170))
        at = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        lobby.paste(draw(5 * number + k, (side, side)), at)
    return encode(lobby)


@pytest.fixture(scope="module")
def lobbies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lobbies")
    for k in range(NUM_PICTURES):
        path = (
            root
            / "north"
            / f"lobby-{k % 2}"
            / f"2026/10/{k // 50 + 1:02d}/{8 + k % 12:02d}{k % 60:02d}00.jpg"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw_lobby(k) if k != 7 else b"no picture")
    return root


def score(archive: Path, out: Path, config: ScoreConfig = SCENE, **settings: Any) -> runner.Result:
    job = {name: settings.pop(name) for name in list(settings) if name in JobConfig.__slots__}
    plan = PlanConfig(archives=(str(archive),), layout=LAYOUT)
    return runner.score_archive(plan, str(out), score=config, job=JobConfig(**job), **settings)


def read(run: Path) -> pa.Table:
    return table_of(run).sort_by([("id", "ascending"), ("region", "ascending")])


@pytest.fixture(scope="module")
def undisturbed(
    lobbies: Path, tmp_path_factory: pytest.TempPathFactory, ray_with_a_logical_gpu: None
) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "out"
    score(lobbies, out, gpus_per_worker=2)
    return out


def test_every_picture_and_every_face_is_accounted_for(undisturbed: Path) -> None:
    success, table = json.loads((undisturbed / "_SUCCESS").read_text()), read(undisturbed)
    pictures = [row for row in table.to_pylist() if row["region"] == 0]
    assert [row["id"] for row in pictures] == list(range(NUM_PICTURES))
    assert success["planned"] == NUM_PICTURES == sum(success["statuses"].values())
    assert success["statuses"] == {"ok": NUM_PICTURES - 1, "unsupported": 1}
    assert len(table) == NUM_PICTURES + sum(row["num_faces"] or 0 for row in pictures)
    assert not find_wrong_regions(table).any()
    assert len(table) > 2 * NUM_PICTURES
    settings = json.loads((undisturbed / "run.json").read_text())
    assert (settings["score"]["view"], settings["score"]["detect_px"]) == ("scene", 960)
    assert settings["detector"]["card"]["architecture"] == "centerface"


def test_a_gpu_stage_of_its_own_gives_the_identical_table(
    undisturbed: Path, lobbies: Path, tmp_path: Path
) -> None:
    score(lobbies, tmp_path / "out", gpus_per_worker=0.5)
    assert read(tmp_path / "out").equals(read(undisturbed))


def test_a_run_killed_and_called_again_gives_the_identical_table(
    cli: Cli, undisturbed: Path, lobbies: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = """
import os, signal
from maskbatch import runner
score = runner.score_shards
def score_one(cluster, work, shards):
    yield next(score(cluster, work, shards))
    os.kill(os.getpid(), signal.SIGKILL)
runner.score_shards = score_one
"""
    command = ("score", lobbies, "--out", tmp_path / "out", "--layout", LAYOUT, "--view", "scene")
    killed = cli(*command, script=script)
    assert killed.returncode == -9, killed.stderr
    score(lobbies, tmp_path / "out", gpus_per_worker=2)
    assert "shards are staged" in capfd.readouterr().err
    assert read(tmp_path / "out").equals(read(undisturbed))


def test_faces_of_unchanged_pictures_are_carried_over(
    undisturbed: Path, lobbies: Path, tmp_path: Path
) -> None:
    archive = Path(shutil.copytree(lobbies, tmp_path / "lobbies"))
    score(archive, tmp_path / "out", gpus_per_worker=2)
    late = archive / "north/lobby-1/2026/10/02/235900.jpg"
    late.write_bytes(draw_lobby(14))
    result = score(archive, tmp_path / "out", gpus_per_worker=2, reuse=[str(tmp_path / "out")])
    version = tmp_path / "out.v2"
    assert (str(result.run.path), result.success.carried) == (str(version), NUM_PICTURES)
    before, after = read(tmp_path / "out"), read(version)
    assert after.filter(pa.array([row != f"file://{late}" for row in after["uri"].to_pylist()])).drop_columns(
        ["id"]
    ).sort_by([("uri", "ascending"), ("region", "ascending")]) == before.drop_columns(["id"]).sort_by(
        [("uri", "ascending"), ("region", "ascending")]
    )
    assert not find_wrong_regions(after).any()
    assert len(after) > len(before) + 1
    assert verify_run(str(version), sample=40).verified


def test_another_view_detector_or_detect_px_is_another_run(
    undisturbed: Path, lobbies: Path, tmp_path: Path
) -> None:
    for config, detector, what in (
        (ScoreConfig(), None, "view face instead of scene"),
        (ScoreConfig(view="scene", detect_px=640), None, "detect_px 640 instead of 960"),
        (SCENE, "yunet_n", "detector .* instead of"),
    ):
        with pytest.raises(UsageError, match=what):
            score(lobbies, undisturbed, config, detector=detector)
