import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import (
    METADATA_KEY,
    Checkpoint,
    default_path,
    open_checkpoint,
    open_detector,
    save_checkpoint,
)
from tests.maskbatch.samples import make_card, make_detector_card

STATE = {"w": torch.linspace(-1, 1, 12).reshape(3, 4), "b": torch.tensor([1 / 3]), "n": torch.tensor(5)}


def test_a_card_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    card = make_card(temperature=1.7, reference={"confidence": [1, 2]}, recipe={"epochs": 3, "lr": [0.1]})
    save_checkpoint(tmp_path / "new" / "c.safetensors", card, STATE)
    assert open_checkpoint(str(tmp_path / "new" / "c.safetensors")).card == card
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["c.safetensors"]


def test_weights_come_back_matrices_in_half_precision_and_vectors_whole(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.safetensors", make_card(), STATE)
    state = open_checkpoint(str(tmp_path / "c.safetensors")).load_state()
    assert torch.equal(state["w"], STATE["w"].half().float())
    assert torch.equal(state["b"], STATE["b"])
    assert state["n"].dtype == torch.int64


def test_a_detectors_card_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    card = make_detector_card(recipe={"source": "a file"})
    save_checkpoint(tmp_path / "d.safetensors", card, STATE)
    opened = open_detector(str(tmp_path / "d.safetensors"))
    assert opened.card == card
    assert opened.card_dict()["kind"] == "detector"
    assert torch.equal(opened.load_state()["b"], STATE["b"])


def test_a_detector_is_no_checkpoint_and_a_classifier_no_detector(
    tmp_path: Path, checkpoint: Checkpoint
) -> None:
    save_checkpoint(tmp_path / "d", make_detector_card(), STATE)
    with pytest.raises(UsageError, match=r"checkpoint .+/d: it finds faces, .+ give it as --detector"):
        open_checkpoint(str(tmp_path / "d"))
    with pytest.raises(UsageError, match=r"detector .+: it is a classifier, .+ give it as --checkpoint"):
        open_detector(checkpoint.path)


def test_a_detector_that_is_not_there_is_refused_as_a_detector(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"detector .+no such file; give --detector FILE"):
        open_detector(str(tmp_path / "gone"))


def test_equal_checkpoints_have_equal_digests(tmp_path: Path) -> None:
    made = []
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, make_card(), STATE)
        made.append(open_checkpoint(str(tmp_path / name)).digest)
    save_checkpoint(tmp_path / "c", make_card(temperature=2.0), STATE)
    assert made[0] == made[1] != open_checkpoint(str(tmp_path / "c")).digest


def test_the_packaged_checkpoint_opens() -> None:
    opened = open_checkpoint()
    assert opened.path == default_path()
    assert opened.card.not_assessed == ("no_face",)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format_version": 2}, "format_version 2, 1 expected"),
        ({"classes": ("a",), "compliant": ("a",), "not_assessed": ()}, "1 classes"),
        ({"classes": ("with_mask", "With Mask", "c", "no_face")}, "class names"),
        ({"classes": ("with_mask", "no_face", "a", "a")}, "class names"),
        ({"compliant": ()}, "compliant and not_assessed"),
        ({"compliant": ("helmet",)}, "compliant and not_assessed"),
        ({"compliant": ("with_mask", "no_face")}, "compliant and not_assessed"),
        ({"input_size": (4, 32)}, "input_size"),
        ({"resize": "stretch"}, "resize 'stretch'"),
        ({"resize": "crop", "input_size": (32, 48)}, "a square expected"),
        ({"crop_share": 0.0}, "crop_share"),
        ({"interpolation": "cubic"}, "interpolation 'cubic'"),
        ({"std": (0.2, 0.0, 0.2)}, "std"),
        ({"temperature": 0.0}, "temperature"),
        ({"confusion": ((1, 2), (3, 4))}, "confusion matrix"),
    ],
)
def test_an_unusable_card_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make_card(**changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kind": "helmet"}, "kind 'helmet', 'detector' expected"),
        ({"format_version": 2}, "format_version 2, 1 expected"),
        ({"input_px": 64}, "input_px 64, 128 to 4096 expected"),
        ({"input_px": 640.0}, "input_px = 640.0, int expected"),
        ({"threshold": 1.5}, "threshold 1.5, 0 to 1 expected"),
        ({"threshold": float("nan")}, "a finite number expected"),
        ({"nms_iou": -0.1}, "nms_iou -0.1, 0 to 1 expected"),
        ({"min_face_px": 0}, "min_face_px 0, 1 to 1024 expected"),
        ({"recall": {"with_mask": [[1, 2]]}}, "recall of 'with_mask': 9 pairs"),
        ({"recall": {"with_mask": [[3, 2]] * 9}}, "recall of 'with_mask': 9 pairs"),
        ({"recall": {"with_mask": [[1, 2.0]] * 9}}, "recall of 'with_mask': 9 pairs"),
        ({"recall": {"With mask": [[1, 2]] * 9}}, "recall of 'With mask'"),
        ({"recall": {"with_mask": None}}, "recall of 'with_mask'"),
        ({"recall": [1]}, "recall = "),
    ],
)
def test_an_unusable_card_of_a_detector_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make_detector_card(**changes)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (None, "no 'maskbatch' metadata"),
        ({"other": "1"}, "no 'maskbatch' metadata"),
        ({METADATA_KEY: "{"}, "cannot be used"),
        ({METADATA_KEY: "{}"}, "cannot be used"),
        ({METADATA_KEY: '{"classes": 3}'}, "cannot be used"),
        ({METADATA_KEY: "[]"}, "cannot be used"),
        ({METADATA_KEY: '{"kind": 7}'}, "cannot be used"),
    ],
)
def test_metadata_that_is_no_card_is_refused_in_a_sentence(
    tmp_path: Path, metadata: dict[str, str] | None, expected: str
) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "c.safetensors", metadata)
    with pytest.raises(UsageError, match=expected):
        open_checkpoint(str(tmp_path / "c.safetensors"))
    with pytest.raises(UsageError, match=f"detector .+{expected}"):
        open_detector(str(tmp_path / "c.safetensors"))


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickle", b"\xff" * 64, "half", None, "folder"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, checkpoint: Checkpoint, data: Any) -> None:
    path = tmp_path / "c.safetensors"
    if data == "folder":
        path.mkdir()
    elif data is not None:
        whole = Path(checkpoint.path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2] if data == "half" else data)
    expected = "no such file" if data is None else "not a readable"
    with pytest.raises(UsageError, match=expected):
        open_checkpoint(str(path))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("name", ["w", "b"])
def test_a_weight_that_is_no_finite_number_is_refused(tmp_path: Path, name: str, value: float) -> None:
    broken = STATE[name].clone()
    broken[-1] = value
    save_checkpoint(tmp_path / "c", make_card(), {**STATE, name: broken})
    with pytest.raises(UsageError, match=f"weight '{name}' is not finite everywhere"):
        open_checkpoint(str(tmp_path / "c")).load_state()


def test_a_variance_below_0_is_refused(tmp_path: Path) -> None:
    for name, sound in (("norm.running_mean", True), ("norm.running_var", False)):
        save_checkpoint(tmp_path / "c", make_card(), {name: torch.tensor([1.0, -1e-3])})
        opened = open_checkpoint(str(tmp_path / "c"))
        if sound:
            assert opened.load_state()
        else:
            with pytest.raises(UsageError, match=r"weight 'norm.running_var' is below 0"):
                opened.load_state()


def test_a_number_format_that_torch_cannot_widen_is_refused(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "__metadata__": {METADATA_KEY: json.dumps(asdict(make_card()))},
            "w": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]},
        }
    ).encode()
    (tmp_path / "c").write_bytes(struct.pack("<Q", len(header)) + header + b"\0")
    with pytest.raises(UsageError, match="its weights cannot be read"):
        open_checkpoint(str(tmp_path / "c")).load_state()
