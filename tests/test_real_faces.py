"""The default checkpoint on the held-out photographs, through the whole path; skipped where they are not."""

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from maskbatch import runner
from maskbatch.config import PILLOW_LIMIT_PIXELS, JobConfig, PlanConfig, ScoreConfig
from maskbatch.decode.images import decode_batch
from maskbatch.decode.source import Encoded
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.model.classifier import Classifier
from maskbatch.stores.uris import local_path
from tests.conftest import table_of
from tests.real_faces import LAYOUT, lay_out
from training import data

MASK_CLASSES = ("with_mask", "without_mask", "incorrect_mask")


@pytest.mark.slow
def test_a_month_of_real_faces_is_reported_as_labelled(
    shared: Path, tmp_path: Path, ray_with_a_logical_gpu: None
) -> None:
    archive, out = tmp_path / "archive", tmp_path / "run"
    truth = lay_out(shared / "data/faces/val", archive)
    result = runner.score_archive(
        PlanConfig(archives=(str(archive),), layout=LAYOUT), str(out), job=JobConfig(gpus_per_worker=2)
    )
    rows = table_of(out).to_pylist()
    assert len(rows) == len(truth) == result.report.overall["listed"] == result.report.overall["scored"]
    found = {
        Path(local_path(row["uri"]).decode()).relative_to(archive).as_posix(): row["label"] for row in rows
    }
    right = Counter(label for path, label in truth.items() if found[path] == label)
    drawn = Counter(truth.values())
    recalls = {name: right[name] / drawn[name] for name in MASK_CLASSES}
    print(json.dumps({"accuracy": right.total() / len(truth), "recalls": recalls}))
    assert np.mean(list(recalls.values())) >= 0.90
    card = open_checkpoint().card
    true_rows = [card.classes.index(name) for name in MASK_CLASSES]
    predicted = dict(zip(card.classes, np.array(card.confusion)[true_rows].sum(axis=0), strict=True))
    for name in MASK_CLASSES:
        reported = result.report.overall[f"num_{name}"]
        assert reported == list(found.values()).count(name)
        # these are the held-out pictures, so they are labelled as the card's confusion matrix says
        assert abs(reported - predicted[name]) <= 0.01 * len(truth)
    assert {row["camera"] for row in result.report.values["by_camera"]} == {
        "gate-1",
        "gate-2",
        "dock",
        "lobby",
    }
    assert len(result.report.values["by_day"]) == 30


@pytest.fixture(scope="module")
def val(shared: Path) -> list[bytes]:
    """The held-out photographs, three times as large as they are: larger than the model's input, as a camera's."""
    pictures = []
    for path in sorted((shared / "data/faces/val").glob("*/*.jpg")):
        with Image.open(path) as source:
            picture = source.convert("RGB").resize(
                (source.width * 3, source.height * 3), Image.Resampling.BICUBIC
            )
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=92)
        pictures.append(file.getvalue())
    return pictures


def probs(images: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", dtype: str) -> np.ndarray:
    return Classifier(open_checkpoint(), dtype=dtype, batch_size=32).probs(images)


@pytest.mark.slow
def test_the_job_gives_the_probabilities_that_training_measures(
    shared: Path, val: list[bytes], tmp_path: Path, ray_with_a_logical_gpu: None
) -> None:
    archive = tmp_path / "archive"
    truth = lay_out(shared / "data/faces/val", archive / "as they are")
    (archive / "enlarged").mkdir()  # read at a reduced DCT scale
    for k, picture in enumerate(val):
        (archive / "enlarged" / f"{k:03d}.jpg").write_bytes(picture)
    out = tmp_path / "run"
    runner.score_archive(
        PlanConfig(archives=(str(archive),)),
        str(out),
        score=ScoreConfig(dtype="float32"),
        job=JobConfig(gpus_per_worker=2),
    )
    rows = table_of(out).to_pandas()
    assert len(rows) == 2 * len(truth)
    checkpoint = open_checkpoint()
    uris = [local_path(uri).decode() for uri in rows["uri"]]
    table = pd.DataFrame({**data.COLUMNS, "uri": uris})
    pixels, _ = data.decode(table, checkpoint.card.preset, "decode")
    expected = probs(pixels, "float32")
    found = rows[[f"prob_{name}" for name in checkpoint.card.classes]].to_numpy()
    assert np.abs(found - expected).max() < 2e-2
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.995


@pytest.mark.slow
def test_scaled_decode_agrees_with_whole_decode(val: list[bytes]) -> None:
    preset = open_checkpoint().card.preset
    scaled = decode_batch((Encoded(data) for data in val), len(val), preset, PILLOW_LIMIT_PIXELS).images_NHWC
    whole = np.stack(
        [
            np.asarray(
                Image.open(io.BytesIO(data))
                .convert("RGB")
                .resize(preset.input_size[::-1], Image.Resampling.BILINEAR)
            )
            for data in val
        ]
    )
    assert not np.array_equal(scaled, whole)
    assert np.abs(scaled.astype(int) - whole).mean() < 1.0
    ours, theirs = probs(scaled, "float32"), probs(whole, "float32")
    agreement = float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
    print(
        f"label agreement of scaled with whole decode: {agreement:.4f}, max |dp| {np.abs(ours - theirs).max():.3f}"
    )
    assert agreement >= 0.995


@pytest.mark.slow
def test_bfloat16_agrees_with_float32(val: list[bytes]) -> None:
    preset = open_checkpoint().card.preset
    images = decode_batch((Encoded(data) for data in val), len(val), preset, PILLOW_LIMIT_PIXELS).images_NHWC
    half, full = probs(images, "bfloat16"), probs(images, "float32")
    same = half.argmax(axis=1) == full.argmax(axis=1)
    top = np.sort(full[~same], axis=1)
    print(f"label agreement of bfloat16: {same.mean():.4f}, max |dp| {np.abs(half - full).max():.3f}")
    assert same.mean() >= 0.985
    assert (top[:, -1] - top[:, -2] < 0.2).all()  # where they differ, the model was undecided
