"""A Hugging Face image classifier becomes a checkpoint with the same logits; its errors are sentences."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskbatch.decode.images import decode_image
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.model.classifier import Classifier
from tests.maskbatch.samples import draw, encode
from training import export
from training.huggingface import import_checkpoint

from .conftest import Invoke

transformers = pytest.importorskip("transformers")
NAMES = {"WithMask": "with_mask", "WithoutMask": "without_mask"}


def save(folder: Path, kind: str, labels: tuple[str, ...] = ("WithMask", "WithoutMask")) -> Path:
    """A small classifier of random weights, saved by transformers."""
    torch.manual_seed(3)
    common = {"id2label": dict(enumerate(labels)), "label2id": {label: k for k, label in enumerate(labels)}}
    if kind == "convnext":
        config = transformers.ConvNextConfig(
            hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 2, 1], image_size=64, **common
        )
        model = transformers.ConvNextForImageClassification(config)
        processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875)
    else:
        config = transformers.ViTConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=64,
            **common,
        )
        model = transformers.ViTForImageClassification(config)
        processor = transformers.ViTImageProcessor(size={"height": 64, "width": 64})
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["convnext", "vit"])
def test_logits_are_those_of_transformers_and_so_is_the_preprocessing(kind: str, tmp_path: Path) -> None:
    folder, path = save(tmp_path / "hf", kind), tmp_path / "mine.safetensors"
    card = import_checkpoint(str(folder), NAMES, ["with_mask"], path)
    assert card.classes == ("with_mask", "without_mask") and card.recipe["labels"] == list(NAMES)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    pictures = [draw(seed, (320, 240)) for seed in range(4)]
    pixels = np.stack(
        [np.asarray(decode_image(encode(it, "PNG"), card.preset, 10**7).image) for it in pictures]
    )
    ours = Classifier(open_checkpoint(str(path)), dtype="float32", batch_size=4, device="cpu")
    with torch.no_grad():
        inputs = processor(
            [Image.fromarray(it) for it in pixels], do_resize=False, return_tensors="pt"
        )["pixel_values"]  # fmt: skip
        assert (theirs(pixel_values=inputs).logits - ours.logits(pixels)).abs().max() < 1e-4
        own = processor(pictures, return_tensors="pt")["pixel_values"]
        probs = torch.softmax(theirs(pixel_values=own).logits, dim=1)
    assert np.abs(own.numpy() - inputs.numpy()).mean() < 0.04  # both of them resize, each by its own library
    assert np.abs(probs.numpy() - ours.probs(pixels)).max() < 2e-2


def test_labels_that_are_not_ours_are_refused_without_a_name(tmp_path: Path) -> None:
    folder = save(tmp_path / "hf", "vit")
    with pytest.raises(UsageError, match=r"label 'WithMask' .* --class 'WithMask=with_mask'"):
        import_checkpoint(str(folder), {}, ["with_mask"], tmp_path / "mine.safetensors")
    with pytest.raises(UsageError, match=r"--class Mask=\.\.\.: its labels are WithMask, WithoutMask"):
        import_checkpoint(str(folder), NAMES | {"Mask": "with_mask"}, ["with_mask"], tmp_path / "f")
    assert not list(tmp_path.glob("*.safetensors"))


def test_canonical_labels_need_no_name(tmp_path: Path) -> None:
    folder = save(tmp_path / "hf", "vit", ("without_mask", "with_mask", "incorrect_mask"))
    card = import_checkpoint(str(folder), {}, ["with_mask"], tmp_path / "mine.safetensors")
    assert card.classes == ("without_mask", "with_mask", "incorrect_mask")


def test_the_command_imports_a_folder(invoke: Invoke, tmp_path: Path) -> None:
    folder = save(tmp_path / "hf", "vit")
    named = [item for pair in NAMES.items() for item in ("--class", "=".join(pair))]
    result = invoke(export, folder, *named, "--out", tmp_path / "mine.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "classes with_mask, without_mask" in result.stderr
    nowhere = invoke(export, tmp_path, "--out", tmp_path / "no.safetensors")
    assert (
        nowhere.exit_code == 2 and nowhere.stderr.count("\n") == 1 and "no image classifier" in nowhere.stderr
    )


def test_without_transformers_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, path = save(tmp_path / "hf", "vit"), tmp_path / "mine.safetensors"
    import_checkpoint(str(folder), NAMES, ["with_mask"], path)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(UsageError, match=r"maskbatch\[hf\]"):
        Classifier(open_checkpoint(str(path)), dtype="float32", batch_size=4, device="cpu")
    with pytest.raises(UsageError, match=r"maskbatch\[hf\]"):
        import_checkpoint(str(folder), NAMES, ["with_mask"], path)
