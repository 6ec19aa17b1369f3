"""The packaged checkpoints: what they state, and on the photographs, where they are, that they do."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from maskbatch.model.checkpoint import DETECTORS, default_path, open_checkpoint, open_detector
from maskbatch.model.detector import Detector
from maskbatch.schema import SIZE_BANDS
from training import data, evaluate, prepare, scenes, splits

CLASSES = ("with_mask", "without_mask", "incorrect_mask", "no_face")


def test_the_default_checkpoint_is_small_and_states_what_it_reaches() -> None:
    card = open_checkpoint().card
    assert card.classes == CLASSES and card.not_assessed == ("no_face",) and card.compliant == ("with_mask",)
    assert Path(default_path()).stat().st_size < 10_000_000
    figures, counts = card.recipe["figures"], np.array(card.confusion)
    recalls = counts.diagonal() / counts.sum(axis=1)
    assert figures["faces"]["balanced_accuracy"]["value"] == pytest.approx(recalls[:3].mean(), abs=1e-4)
    assert recalls[:3].mean() >= 0.93 and recalls[3] >= 0.96
    assert figures["faces"]["two_way"]["value"] >= 0.98
    assert figures["all"]["ece"]["value"] <= 0.03
    assert 0.3 < card.review_threshold < 1 and 0.3 < card.temperature < 3


@pytest.mark.slow
def test_the_default_checkpoint_does_on_val_what_its_card_states(shared: Path, tmp_path: Path) -> None:
    prepare.prepare_photographs(shared, tmp_path / "prepared", only="val")
    checkpoint = open_checkpoint()
    table = evaluate.choose_rows([str(tmp_path / "prepared")], CLASSES, (), "val", None)
    pixels, rows = data.decode(table, checkpoint.card.preset, "decode")
    rows = rows.assign(group=splits.find_groups(rows))
    figures, _ = evaluate.measure(checkpoint, checkpoint.card, (pixels, rows))
    assert figures["confusion"] == checkpoint.card.confusion
    stated = checkpoint.card.recipe["figures"]
    assert figures["faces"]["num_groups"] == stated["faces"]["num_groups"]
    assert figures["bfloat16"]["equal_labels"] >= 0.98


@pytest.mark.parametrize("name", DETECTORS)
def test_the_card_of_a_packaged_detector_has_counts_of_every_class(name: str) -> None:
    card = open_detector(name).card
    assert card.recall.keys() == {"with_mask", "without_mask", "incorrect_mask"}
    first = SIZE_BANDS.index(32)
    found = {label: np.sum(bands[first:], axis=0) for label, bands in card.recall.items()}
    shares = {label: some / boxed for label, (some, boxed) in found.items()}
    assert min(shares.values()) >= (0.94 if name == DETECTORS[0] else 0.92)
    assert abs(shares["with_mask"] - shares["without_mask"]) < (0.03 if name == DETECTORS[0] else 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_a_packaged_detector_finds_on_val_what_its_card_states(shared: Path, name: str) -> None:
    opened = open_detector(name)
    detector = Detector(opened, dtype="float32", device="cpu")
    boxed = scenes.read_boxes(shared / "data/scenes", "val")
    tables = []
    for file in boxed["file"].unique():
        faces = detector.detect(np.asarray(Image.open(file).convert("RGB")))
        table = pd.DataFrame(faces.boxes_K4, columns=scenes.BOX)
        tables.append(table.assign(file=file, confidence=faces.confidence_K))
    match_K = scenes.match_faces(boxed, pd.concat(tables, ignore_index=True))
    counts = scenes.count_found(boxed, scenes.find_matched(match_K, len(boxed)), opened.card.input_px)
    assert counts.keys() == opened.card.recall.keys()
    for label, bands in counts.items():
        stated = np.array(opened.card.recall[label])
        assert np.array(bands)[:, 1].tolist() == stated[:, 1].tolist()
        assert np.abs(np.array(bands)[:, 0] - stated[:, 0]).sum() <= 2  # another CPU may round otherwise
