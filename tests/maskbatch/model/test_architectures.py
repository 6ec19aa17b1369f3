"""Every network that a checkpoint can name gives K finite logits, and what cannot be built is a sentence."""

import subprocess
import sys

import pytest
import torch

from maskbatch.errors import UsageError
from maskbatch.model.architectures import build, dense_head, last_linear


@pytest.mark.parametrize(
    ("architecture", "num_classes", "options"),
    [
        ("mobilenet_v3_small", 4, {}),
        ("resnet18", 3, {"head": {"units": [16, 8], "dropout": 0.1}}),
        ("plain_cnn", 2, {"widths": [8, 8, 16]}),
        ("mobilenet_v1", 2, {"width": 0.25}),
    ],
)
@pytest.mark.parametrize("size", [32, 100])
def test_logits_have_one_column_a_class(
    architecture: str, num_classes: int, options: dict, size: int
) -> None:
    model = build(architecture, num_classes, options).eval()
    with torch.inference_mode():
        logits = model(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, num_classes) and torch.isfinite(logits).all()


def test_a_sigmoid_leaves_as_two_logits_whose_softmax_it_is() -> None:
    model = build("mobilenet_v1", 2, {"width": 0.25}).eval()
    with torch.inference_mode():
        logits = model(torch.rand(3, 3, 64, 64))
    assert (logits[:, 0] == 0).all()
    assert torch.allclose(torch.softmax(logits, dim=1)[:, 1], torch.sigmoid(logits[:, 1]))


def test_dense_layers_stand_where_the_last_linear_layer_was() -> None:
    model = build("resnet18", 3, {"head": {"units": [16]}})
    assert [type(layer).__name__ for layer in model.get_submodule("fc").children()] == [
        "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear",
    ]  # fmt: skip
    assert last_linear(model)[1].out_features == 3
    assert len(dense_head(8, 2)) == 1


@pytest.mark.parametrize(
    ("architecture", "num_classes", "options", "expected"),
    [
        ("resnet9000", 2, {}, "cannot be built .unknown."),
        ("raft_large", 2, {}, "unknown"),
        ("lraspp_mobilenet_v3_large", 2, {}, "unknown"),
        ("mobilenet_v1", 3, {}, "a sigmoid tells 2 classes apart"),
        ("plain_cnn", 2, {"depth": 3}, "depth"),
    ],
)
def test_what_cannot_be_built_is_one_sentence(
    architecture: str, num_classes: int, options: dict, expected: str
) -> None:
    with pytest.raises(UsageError, match=rf"architecture '{architecture}'.*{expected}"):
        build(architecture, num_classes, options)


def test_torchvision_is_imported_without_dynamo_and_can_still_call_it() -> None:
    code = """
import sys
from maskbatch.model.architectures import build
build("mobilenet_v3_small", 2)
assert "torch._dynamo" not in sys.modules, "every scoring worker starts 2.5 s later"
from torchvision.ops.roi_align import is_compile_supported
assert isinstance(is_compile_supported("cpu"), bool), "what torchvision takes from torch._dynamo has changed"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
