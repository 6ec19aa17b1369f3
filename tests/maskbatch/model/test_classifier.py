from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from maskbatch.decode.images import decode_image
from maskbatch.drawing.gate import LABELS
from maskbatch.errors import UsageError
from maskbatch.model.architectures import build
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from maskbatch.model.classifier import Classifier, resolve_dtype
from tests.maskbatch.samples import CLASSES, SIZE, draw, encode, make_card


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (32, *SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def classifier(checkpoint: Checkpoint) -> Classifier:
    return Classifier(checkpoint, dtype="float32", batch_size=32, device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padding_does_not_change_a_row_by_a_bit(
    checkpoint: Checkpoint, images: NDArray[np.uint8], dtype: str
) -> None:
    scorer = Classifier(checkpoint, dtype=dtype, batch_size=32, device="cpu")
    whole = scorer.probs(images)
    assert np.array_equal(scorer.probs(images[:5]), whole[:5])
    assert np.array_equal(scorer.probs(images[[31]])[0], whole[31])


def test_images_that_lie_on_the_device_get_the_same_scores(
    classifier: Classifier, images: NDArray[np.uint8]
) -> None:
    resident, expected = torch.from_numpy(images), classifier.probs(images)
    assert np.array_equal(classifier.probs(resident), expected)
    planes = resident.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)  # as decoders give them
    np.testing.assert_allclose(classifier.probs(planes), expected, atol=1e-5)
    assert np.array_equal(classifier.probs(resident[:5]), expected[:5])
    assert np.array_equal(classifier.probs_of_each(list(resident[:5])), expected[:5])
    assert classifier.probs(resident[:0]).shape == (0, len(CLASSES))


def test_images_that_may_only_be_read_are_scored(classifier: Classifier, images: NDArray[np.uint8]) -> None:
    shared = images.copy()
    shared.flags.writeable = False
    assert np.array_equal(classifier.probs(shared), classifier.probs(images))


def test_scores_are_those_of_the_plain_model_on_normalised_images(
    checkpoint: Checkpoint, classifier: Classifier, images: NDArray[np.uint8]
) -> None:
    plain = build("mobilenet_v3_small", len(CLASSES)).eval()
    plain.load_state_dict(checkpoint.load_state())
    inputs = (images / 255 - np.array(checkpoint.card.mean)) / np.array(checkpoint.card.std)
    with torch.inference_mode():
        logits = plain(torch.tensor(inputs.transpose(0, 3, 1, 2), dtype=torch.float32))
    torch.testing.assert_close(classifier.logits(images), logits, atol=1e-4, rtol=0)
    assert logits.std(dim=0).min() > 0.01  # the images do differ to this model
    np.testing.assert_allclose(classifier.probs(images), logits.softmax(1), atol=1e-5)


def test_bfloat16_agrees_with_float32_on_the_packaged_checkpoint() -> None:
    packaged = open_checkpoint()
    preset = packaged.card.preset
    pictures = [decode_image(encode(draw(k, label=LABELS[k % 4])), preset, 10**6).image for k in range(16)]
    full, half = (
        Classifier(packaged, dtype=dtype, batch_size=16, device="cpu").probs(np.stack(pictures))
        for dtype in ("float32", "bfloat16")
    )
    assert np.abs(half - full).max() < 0.02
    assert np.array_equal(half.argmax(axis=1), full.argmax(axis=1))


def test_bfloat16_is_near_float32_on_a_random_model(
    checkpoint: Checkpoint, classifier: Classifier, images: NDArray[np.uint8]
) -> None:
    half = Classifier(checkpoint, dtype="bfloat16", batch_size=32, device="cpu").probs(images)
    error = np.abs(half - classifier.probs(images))
    assert error.max() < 0.15  # 0.09 measured: random weights amplify rounding, trained ones do not
    assert error.mean() < 0.02


def test_probabilities_are_float32_and_sum_to_one(classifier: Classifier, images: NDArray[np.uint8]) -> None:
    probs = classifier.probs(images)
    assert probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)
    assert classifier.probs(images[:0]).shape == (0, len(CLASSES))


def test_temperature_divides_the_logits(
    tmp_path: Path, checkpoint: Checkpoint, classifier: Classifier, images: NDArray[np.uint8]
) -> None:
    save_checkpoint(tmp_path / "hot", make_card(temperature=4.0), checkpoint.load_state())
    hot = Classifier(open_checkpoint(str(tmp_path / "hot")), dtype="float32", batch_size=32, device="cpu")
    expected = torch.softmax(classifier.logits(images) / 4, dim=1)
    np.testing.assert_allclose(hot.probs(images), expected, atol=1e-6)


@pytest.mark.parametrize("architecture", ["nope", "../weights", "", "raft_large"])
def test_an_architecture_that_is_no_classifier_is_refused(architecture: str) -> None:
    with pytest.raises(UsageError, match="architecture"):
        build(architecture, 3)


@pytest.mark.parametrize("architecture", ["mobilenet_v3_large", "squeezenet1_1"])
def test_weights_of_another_architecture_are_refused(
    tmp_path: Path, checkpoint: Checkpoint, architecture: str
) -> None:
    save_checkpoint(tmp_path / "c", make_card(architecture=architecture), checkpoint.load_state())
    with pytest.raises(UsageError, match=f"its weights do not fit {architecture}: .+"):
        Classifier(open_checkpoint(str(tmp_path / "c")), dtype="float32", batch_size=32, device="cpu")


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_in_place_of_weights_are_refused(
    tmp_path: Path, checkpoint: Checkpoint, dtype: torch.dtype
) -> None:
    state = checkpoint.load_state()
    save_checkpoint(
        tmp_path / "c", make_card(), state | {"features.0.0.weight": state["features.0.0.weight"].to(dtype)}
    )
    with pytest.raises(UsageError, match=rf"features.0.0.weight is {dtype}, torch.float32 expected"):
        Classifier(open_checkpoint(str(tmp_path / "c")), dtype="float32", batch_size=32, device="cpu")


@pytest.mark.parametrize(
    "message", ["size mismatch", "", "Error(s) in loading:\n\tMissing key(s): x" + "y" * 9999]
)
def test_whatever_torch_says_of_weights_is_one_short_sentence(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(torch.nn.Module, "load_state_dict", refuse)
    with pytest.raises(UsageError, match="do not fit") as refused:
        Classifier(checkpoint, dtype="float32", batch_size=32, device="cpu")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000


def test_auto_takes_bfloat16_where_the_hardware_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_dtype("float32", "cpu") == "float32"
    for has, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        assert resolve_dtype("auto", "cpu") == expected


def test_torch_fx_still_folds_batch_norms(classifier: Classifier) -> None:
    left = [layer for layer in classifier.model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert not left, "torch.fx's experimental `fuse` folds nothing: a CPU scores 30 % slower"
