"""The packaged checkpoint: what it states, and on the photographs, where they are, that it does."""

from pathlib import Path

import numpy as np
import pytest

from maskbatch.model.checkpoint import default_path, open_checkpoint
from training import data, evaluate, prepare, splits

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
