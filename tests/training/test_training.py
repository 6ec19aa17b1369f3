"""Training, whole and in parts, on a small data folder that is drawn; needs no photograph."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from typer.testing import CliRunner

from maskbatch.architectures import build
from maskbatch.checkpoint import default_path, open_checkpoint
from maskbatch.classifier import Classifier
from training import evaluate, finetune
from training.augment import Augmentation, augment
from training.data import (
    CLASSES,
    NO_FACE,
    decode,
    draw,
    in_slice,
    load_training,
    load_val,
    overlaps,
    place_empty,
    place_window,
    read_faces,
    sampling_weights,
)

SHARED = Path(__file__).parents[3] / "shared"


@pytest.fixture(scope="module")
def drawn_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as training expects it: drawn faces, drawn scenes, untrained weights."""
    root = tmp_path_factory.mktemp("shared")
    faces, scenes = root / "data" / "faces", root / "data" / "scenes"
    manifest = [["file", "label", "source", "cluster", "suspect"]]
    boxes = [["file", "split", "face", "label", "xmin", "ymin", "xmax", "ymax", "width", "height"]]
    for split, num_each in (("train", 10), ("val", 3), ("train_extra", 2)):
        pictures = [sample for sample in draw(num_each, seed=5) if sample.label != NO_FACE]
        for i, picture in enumerate(pictures):
            label = CLASSES[picture.label]
            file = f"{split}/{label}/{split}{i:02d}_00.jpg"
            (faces / file).parent.mkdir(parents=True, exist_ok=True)
            (faces / file).write_bytes(picture.data)
            cluster = "" if split == "train_extra" else f"{split}-{i // 2}"
            manifest.append([file, label, "drawn", cluster, str(int(i == 4))])
            if split != "train_extra":
                scene = f"{split}/{split}{i:02d}.jpg"
                (scenes / scene).parent.mkdir(parents=True, exist_ok=True)
                (scenes / scene).write_bytes(picture.data)
                boxes.append([scene, split, "0", label, "110", "60", "200", "160", "320", "240"])
    for table, rows in ((faces / "manifest.csv", manifest), (scenes / "boxes.csv", boxes)):
        with table.open("w", newline="") as lines:
            csv.writer(lines).writerows(rows)
    (root / "weights").mkdir()
    weights = root / "weights" / "mobilenet_v2_imagenet.safetensors"
    save_file(build("mobilenet_v2", 1000).state_dict(), weights)
    return root


def test_no_near_duplicate_group_is_in_two_of_fit_slice_and_val(drawn_root: Path) -> None:
    fit, held_out = load_training(drawn_root, num_drawn=0, seed=1)
    parts = [{sample.group for sample in part} for part in (fit, held_out, load_val(drawn_root))]
    assert all(parts)
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert all(in_slice(group) for group in parts[1])


def test_suspect_labels_are_kept_from_training_and_stay_in_val(drawn_root: Path) -> None:
    suspects = [face for face in read_faces(drawn_root, "train") if face.suspect]
    fit, held_out = load_training(drawn_root, num_drawn=0, seed=1)
    assert suspects and not {face.data for face in suspects} & {s.data for s in [*fit, *held_out]}
    assert any(sample.suspect for sample in load_val(drawn_root))


corners = st.tuples(st.integers(0, 250), st.integers(0, 200), st.integers(4, 70), st.integers(4, 40))
boxes = corners.map(lambda c: (float(c[0]), float(c[1]), float(c[0] + c[2]), float(c[1] + c[3])))


@settings(max_examples=50, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=5), st.integers(0, 99))
def test_crops_without_a_face_stay_clear_of_every_widened_box(
    faces: list[tuple[float, float, float, float]], seed: int
) -> None:
    for window in place_empty(faces, (320, 240), np.random.default_rng(seed)):
        assert 0 <= window[0] < window[2] <= 320 and 0 <= window[1] < window[3] <= 240
        for x0, y0, x1, y1 in faces:
            wide, tall = 0.15 * (x1 - x0), 0.15 * (y1 - y0)
            assert not overlaps(window, (x0 - wide, y0 - tall, x1 + wide, y1 + tall))


@settings(max_examples=50, deadline=None)
@given(boxes, st.lists(boxes, max_size=4), st.integers(0, 99))
def test_a_face_window_holds_its_face_whole_and_no_other(
    face: tuple[float, float, float, float],
    others: list[tuple[float, float, float, float]],
    seed: int,
) -> None:
    window = place_window(face, others, (320, 240), np.random.default_rng(seed))
    if window is not None:
        assert window[0] <= face[0] and window[1] <= face[1]
        assert window[2] >= face[2] and window[3] >= face[3]
        assert not any(overlaps(window, other) for other in others)


def test_augmentation_gives_other_pictures_of_the_input_size_in_range() -> None:
    torch.manual_seed(3)
    images = torch.from_numpy(decode(draw(4, seed=2), 160)[0].images_NHWC)
    always = Augmentation(blur_chance=1, noise_chance=1, jpeg_chance=1, erase_chance=1)
    first, second = (augment(images, 128, preset) for preset in (Augmentation(), always))
    for made in (first, second):
        assert made.shape == (len(images), 3, 128, 128) and made.dtype == torch.float32
        assert made.min() >= 0 and made.max() <= 1
    assert (first != second).flatten(1).any(dim=1).all()


def test_sources_are_drawn_by_their_share_and_labels_alike() -> None:
    samples = draw(10, seed=2)[:25]
    weights = sampling_weights(samples, {"drawn": 0.5})
    labels = np.array([sample.label for sample in samples])
    assert [weights[labels == k].sum() for k in range(3)] == pytest.approx([1 / 3] * 3)


def test_the_threshold_leaves_the_wanted_accuracy_above_it() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(500, np.float32)
    hits = rng.random(500) < 0.7 + 0.3 * confidence
    threshold = finetune.find_threshold(confidence, hits)
    assert hits[confidence >= threshold + 1e-4].mean() >= finetune.TARGET_ACCURACY - 0.01
    assert hits.mean() < finetune.TARGET_ACCURACY


def test_a_temperature_above_one_cools_an_overconfident_model() -> None:
    labels = torch.arange(400) % 4
    logits = 12 * torch.nn.functional.one_hot(torch.where(labels < 3, labels, 0), 4).float()
    assert finetune.fit_temperature(logits, labels) > 1


def test_two_steps_of_training_export_a_checkpoint_that_scores(
    drawn_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "NUM_DRAWN", 2)
    monkeypatch.setattr(evaluate, "BATCH_SIZE", 8)
    recipe = finetune.Recipe(epochs=1, samples_per_epoch=16, batch_size=8)
    fit, held_out = load_training(drawn_root, num_drawn=4, seed=1)
    best = finetune.fit(finetune.load_backbone(drawn_root), fit, held_out, recipe)
    facts = {"command": "test", "epochs": 1, "seed": 1, "num_fit": len(fit), "num_slice": 1}
    finetune.export(tmp_path, drawn_root, best.state, finetune.describe(drawn_root, best, facts))

    checkpoint = open_checkpoint(str(tmp_path / "default.safetensors"))
    assert checkpoint.card.classes == CLASSES and checkpoint.card.not_assessed == ("no_face",)
    assert sum(map(sum, checkpoint.card.confusion)) == len(load_val(drawn_root))
    assert {name: sum(bins) for name, bins in checkpoint.card.reference.items()} == dict.fromkeys(
        ("confidence", "brightness", "sharpness"), len(load_val(drawn_root))
    )
    assert "no licence file" in (tmp_path / "MODEL_CARD.md").read_text()
    images = decode(fit[:3], 128)[0].images_NHWC
    probs = Classifier(checkpoint, dtype="float32", batch_size=4).probs(images)
    assert probs.shape == (3, 4) and np.allclose(probs.sum(axis=1), 1)
    assert evaluate.measure(checkpoint, drawn_root)[0] == checkpoint.card.confusion


@pytest.mark.parametrize("what", ["data", "weights"])
def test_a_missing_folder_is_one_sentence(what: str, drawn_root: Path, tmp_path: Path) -> None:
    if what == "data":
        (tmp_path / "weights").symlink_to(drawn_root / "weights")
    app = finetune.typer.Typer()
    app.command()(finetune.main)
    result = CliRunner().invoke(app, ["--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert what in result.stderr and "give --data" in result.stderr


def test_the_default_checkpoint_states_a_balanced_accuracy_of_at_least_90_percent() -> None:
    checkpoint = open_checkpoint()
    confusion = np.array(checkpoint.card.confusion)[:NO_FACE]
    recall = confusion.diagonal() / confusion.sum(axis=1)
    figures = checkpoint.card.recipe["figures"]
    assert figures["balanced_accuracy"] == pytest.approx(recall.mean(), abs=1e-4)
    assert recall.mean() >= 0.90
    assert min(figures["drawn"]["recall"].values()) >= 0.97
    assert Path(default_path()).stat().st_size < 6_000_000
    card_text = Path(default_path()).with_name("MODEL_CARD.md").read_text()
    assert card_text == evaluate.model_card(checkpoint.card)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no photographs: {SHARED}/data is not there")
def test_the_default_checkpoint_does_on_val_what_its_card_states() -> None:
    checkpoint = open_checkpoint()
    confusion, reference, figures = evaluate.measure(checkpoint, SHARED)
    assert confusion == checkpoint.card.confusion
    assert reference["brightness"] == checkpoint.card.reference["brightness"]
    stated = checkpoint.card.recipe["figures"]
    assert figures["balanced_accuracy"] == pytest.approx(stated["balanced_accuracy"], abs=1e-4)
    assert figures["bfloat16"]["equal_labels"] >= 0.98
