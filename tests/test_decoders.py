"""Both decoders on a real embedded Ray: one archive, the same rows but for what a device's pixels change.

The GPU is one only by name: libjpeg stands in nvJPEG's place, everything else is what runs on CUDA.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from maskbatch import runner
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig
from maskbatch.decode.triage import read_plain
from maskbatch.runs.regions import find_wrong_regions
from maskbatch.schema import MEASURES
from maskbatch.verify.files import verify_run
from tests.conftest import LAYOUT, Cli, table_of
from tests.maskbatch.samples import draw, encode
from tests.poison import poison_header, write_device_hook

pytestmark = pytest.mark.slow
GPU = "import ray, functools\nray.init = functools.partial(ray.init, num_gpus=1)"


def score(archive: Path, out: Path, checkpoint: Path | None, decoder: str, view: str = "face") -> pa.Table:
    plan, job = PlanConfig(archives=(str(archive),), layout=LAYOUT), JobConfig(gpus_per_worker=0.5)
    config = ScoreConfig(decoder=decoder, view=view, batch_size=32)
    runner.score_archive(plan, str(out), score=config, job=job, checkpoint=checkpoint and str(checkpoint))
    return table_of(out)


def differ_in(ours: pa.Table, theirs: pa.Table) -> set[str]:
    return {name for name in theirs.column_names if ours[name] != theirs[name]}


def probs(table: pa.Table) -> Any:
    names = [name for name in table.column_names if name.startswith("prob_")]
    return np.stack([table[name].drop_null().to_numpy() for name in names])


@pytest.fixture(scope="module")
def mixed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, with every ninth picture as what no GPU decodes, and every eleventh in another size."""
    root = Path(shutil.copytree(archive, tmp_path_factory.mktemp("mixed") / "archive"))
    paths = sorted(root.rglob("*.jpg"))
    for k in range(4, len(paths), 9):
        paths[k].write_bytes(encode(draw(k, (96, 72)), "PNG" if k % 2 else "JPEG", progressive=True))
    for k in range(7, len(paths), 11):
        paths[k].write_bytes(encode(draw(k, (320, 180)), quality=90))
    return root


@pytest.fixture(scope="module")
def by_cpu(
    mixed: Path,
    small_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
    ray_with_a_logical_gpu: None,
) -> pa.Table:
    return score(mixed, tmp_path_factory.mktemp("cpu") / "out", small_checkpoint, "cpu")


@pytest.fixture(scope="module")
def by_gpu(
    mixed: Path,
    small_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
    ray_with_a_logical_gpu: None,
) -> pa.Table:
    return score(mixed, tmp_path_factory.mktemp("gpu") / "out", small_checkpoint, "gpu")


def test_only_measures_and_probabilities_of_a_run_depend_on_the_decoder(
    by_gpu: pa.Table, by_cpu: pa.Table
) -> None:
    assert by_gpu.schema == by_cpu.schema
    of_pixels = {*MEASURES, "dhash", "confidence", "needs_review", "label"}
    others = {name for name in by_cpu.column_names if name not in of_pixels and not name.startswith("prob_")}
    assert not differ_in(by_gpu, by_cpu) & others
    assert differ_in(by_gpu, by_cpu)  # the device did decode
    assert np.abs(probs(by_gpu) - probs(by_cpu)).max() < 0.1
    assert np.mean(np.array(by_gpu["label"]) == np.array(by_cpu["label"])) >= 0.98


def test_a_run_killed_and_called_again_gives_the_identical_table(
    cli: Cli, by_gpu: pa.Table, mixed: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    script = f"""
import os, signal
{GPU}
from maskbatch import runner
score = runner.score_shards
def score_one(cluster, work, shards):
    yield next(score(cluster, work, shards))
    os.kill(os.getpid(), signal.SIGKILL)
runner.score_shards = score_one
"""
    command = (
        "score",
        mixed,
        "--out",
        tmp_path / "out",
        "--layout",
        LAYOUT,
        "--checkpoint",
        small_checkpoint,
    )
    command = (*command, "--decoder", "gpu", "--batch-size", 32)
    killed = cli(*command, script=script)
    assert killed.returncode == -9, killed.stderr
    done = cli(*command, "--json", script=GPU)
    assert done.returncode == 0, done.stderr
    assert "shards are staged" in done.stderr
    assert table_of(tmp_path / "out").equals(by_gpu)
    found = verify_run(tmp_path / "out")
    assert (found.decoder, found.verified, found.damaged_inside) == ("gpu", True, 0), found.differences


def test_damage_that_only_the_cpu_notices_is_said_when_the_run_is_verified(
    archive: Path, small_checkpoint: Path, tmp_path: Path, ray_with_a_logical_gpu: None
) -> None:
    root = Path(shutil.copytree(archive, tmp_path / "archive"))
    path = next(path for path in sorted(root.rglob("*.jpg")) if read_plain(path.read_bytes(), 10**7))
    data = path.read_bytes()
    place = len(data) * 2 // 3
    path.write_bytes(data[:place] + data[place + 40 :])
    assert read_plain(path.read_bytes(), 10**7), "it goes to the device"
    for decoder, status in (("cpu", "corrupt"), ("gpu", "ok")):
        rows = score(root, tmp_path / decoder, small_checkpoint, decoder).to_pylist()
        assert [row["status"] for row in rows if row["uri"] == f"file://{path}"] == [status]
    found = verify_run(tmp_path / "gpu")
    assert (found.verified, found.damaged_inside) == (True, 1), found.differences
    assert "1 image that it called ok: damaged inside" in str(found)


@pytest.mark.parametrize("kind", ["crash", "break"])
def test_an_image_that_ends_the_devices_process_is_decoded_on_the_cpu_and_all_others_are_scored(
    kind: str, cli: Cli, by_gpu: pa.Table, mixed: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    hook = write_device_hook(tmp_path / "hook")
    root = Path(shutil.copytree(mixed, tmp_path / "mixed"))
    path = sorted(root.rglob("*.jpg"))[30]
    path.write_bytes(poison_header(path.read_bytes(), kind))
    command = ("score", root, "--out", tmp_path / "out", "--layout", LAYOUT, "--checkpoint", small_checkpoint)
    done = cli(
        *command, "--decoder", "gpu", "--json", script=GPU, PYTHONPATH=f"{hook}:{Path(__file__).parents[1]}"
    )
    assert done.returncode == 0, done.stderr
    statuses = json.loads(done.stdout)["statuses"]
    assert statuses == {"ok": 196, "truncated": 2, "unsupported": 2}
    (row,) = [row for row in table_of(tmp_path / "out").to_pylist() if row["uri"] == f"file://{path}"]
    assert (row["status"], row["label"] is None) == ("ok", False)
    assert (hook / "ended").exists()


def test_faces_of_whole_scenes_are_found_on_the_device(tmp_path: Path, ray_with_a_logical_gpu: None) -> None:
    root = tmp_path / "archive/north/lobby-1/2026/10/01"
    root.mkdir(parents=True)
    for k in range(12):
        image = draw(k, (480, 360)) if k != 4 else draw(k, (360, 480))
        (root / f"{k + 8:02d}0000.jpg").write_bytes(encode(image, "PNG" if k == 7 else "JPEG"))
    (root / "230000.jpg").write_bytes(b"no picture")
    ours, theirs = (
        score(tmp_path / "archive", tmp_path / decoder, None, decoder, "scene").sort_by(
            [("id", "ascending"), ("region", "ascending")]
        )
        for decoder in ("gpu", "cpu")
    )
    assert not find_wrong_regions(ours).any()
    for name in ("id", "region", "status", "error", "width", "height", "num_faces", "sha256", "label"):
        assert ours[name] == theirs[name], name
    boxes = [np.array([box for box in table["box"].to_pylist() if box]) for table in (ours, theirs)]
    assert len(boxes[0]) >= 6
    found = verify_run(tmp_path / "gpu")
    assert found.verified and found.faces_rescored == len(boxes[0]), found.differences
    assert np.abs(boxes[0] - boxes[1]).max() < 4
