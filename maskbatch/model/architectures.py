"""Every network that a checkpoint can name, untrained: images in, logits (N, K) out.

- any classifier of `torchvision.models`, by its name there;
- `plain_cnn` and `mobilenet_v1`, small ones that are trained from scratch;
- `transformers`: any `AutoModelForImageClassification`, its config in the options (extra `[hf]`).

Options are JSON values in the checkpoint's card: the file needs nothing beside it.
"""

import sys
from collections.abc import Mapping, Sequence
from reprlib import repr as shorten
from types import ModuleType
from typing import Any

import torch
from torch import nn

from maskbatch.errors import MaskbatchError, UsageError


def build(architecture: str, num_classes: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """An untrained network with `num_classes` logits. Raises UsageError for what cannot be built.

    The option `head` puts dense layers before the logits: {"units": [512, 128], "dropout": 0.5}.
    """
    try:
        options = dict(options or {})
        head = options.pop("head", None)
        if architecture in OWN:
            model: nn.Module = OWN[architecture](num_classes, **options)
        else:
            models = import_torchvision().models
            if architecture not in models.list_models(module=models):
                raise ValueError("unknown")
            model = models.get_model(architecture, weights=None, num_classes=num_classes, **options)
        if head:
            name, last = last_linear(model)
            model.set_submodule(name, dense_head(last.in_features, num_classes, **head))
    except MaskbatchError:
        raise
    except Exception as error:  # a constructor of a library, given what a file says, may raise anything
        known = f"it can be a classifier of torchvision.models, {', '.join(OWN)}"
        why, settings = next(iter(str(error).splitlines()), type(error).__name__)[:300], shorten(options)
        message = f"architecture {architecture!r} with options {settings}: cannot be built ({why}); {known}"
        raise UsageError(message) from error
    return model


def last_linear(model: nn.Module) -> tuple[str, nn.Linear]:
    """The name of the layer that makes the logits, and the layer. Raises ValueError where there is none."""
    named = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not named:
        raise ValueError("it ends in no linear layer")
    return named[-1]


def dense_head(
    num_features: int, num_classes: int, units: Sequence[int] = (), dropout: float = 0.5
) -> nn.Sequential:
    """Dense layers with batch norm, ReLU and dropout each, then the logits."""
    layers: list[nn.Module] = []
    for num_units in units:
        linear, norm = nn.Linear(num_features, num_units), nn.BatchNorm1d(num_units)
        layers += [linear, norm, nn.ReLU(), nn.Dropout(dropout)]
        num_features = num_units
    return nn.Sequential(*layers, nn.Linear(num_features, num_classes))


def plain_cnn(
    num_classes: int, widths: Sequence[int] = (16, 32, 64, 128), units: int = 128, dropout: float = 0.4
) -> nn.Sequential:
    """Convolution and pooling, `widths` channels in turn, then two dense layers; any input size."""
    layers: list[nn.Module] = []
    channels = 3
    for width in widths:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        channels = width
    dense = [nn.Linear(channels * 16, units), nn.ReLU(), nn.Dropout(dropout), nn.Linear(units, num_classes)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), *dense)


class MobileNetV1(nn.Module):
    """A depthwise-separable stack with a 1x1-convolution head and one sigmoid output.

    Returns the sigmoid's logit z as the two logits [0, z]: their softmax is the sigmoid.
    Source: Howard et al. 2017, table 1.
    """

    # Of each block.
    CHANNELS = (64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
    STRIDES = (1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1)

    def __init__(self, num_classes: int, width: float = 1.0, dropout: float = 0.2) -> None:
        if num_classes != 2:
            raise ValueError(f"a sigmoid tells 2 classes apart, not {num_classes}")
        super().__init__()
        channels = int(32 * width)
        layers = [_convolution(3, channels, kernel=3, stride=2)]
        for wide, stride in zip(self.CHANNELS, self.STRIDES, strict=True):
            layers.append(_convolution(channels, channels, kernel=3, stride=stride, groups=channels))
            layers.append(_convolution(channels, int(wide * width), kernel=1))
            channels = int(wide * width)
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Dropout(dropout))
        self.head = nn.Conv2d(channels, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logit = self.head(self.features(images)).flatten(1)
        return torch.cat([torch.zeros_like(logit), logit], dim=1)


def _convolution(channels: int, out: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class Transformers(nn.Module):
    """A Hugging Face image classifier of the given config, its logits alone."""

    def __init__(self, num_classes: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        try:
            from transformers import AutoConfig, AutoModelForImageClassification
        except ImportError as error:
            message = "this checkpoint needs transformers; install it with: pip install 'maskbatch[hf]'"
            raise UsageError(message) from error
        values = {key: value for key, value in config.items() if key != "model_type"}
        labels = {"id2label": {k: f"class_{k}" for k in range(num_classes)}}
        settings = AutoConfig.for_model(config["model_type"], **values | labels)
        auto: Any = AutoModelForImageClassification
        self.model = auto.from_config(settings)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values=images).logits
        return logits


OWN: dict[str, Any] = {"plain_cnn": plain_cnn, "mobilenet_v1": MobileNetV1, "transformers": Transformers}


def import_torchvision() -> Any:
    """`torchvision`, imported in 0.5 s instead of 3.

    torchvision.ops.roi_align imports all of torch._dynamo for one function that classifiers never call.
    While torchvision is imported, a stand-in takes its place, which passes that call on to the real one.
    """
    name = "torch._dynamo"
    if name in sys.modules or "torchvision" in sys.modules:
        import torchvision

        return torchvision

    def is_compile_supported(device_type: str) -> bool:
        from torch._dynamo.utils import is_compile_supported as real

        return bool(real(device_type))

    package, module = ModuleType(name), ModuleType(f"{name}.utils")
    module.is_compile_supported = is_compile_supported  # type: ignore[attr-defined]
    sys.modules |= {name: package, f"{name}.utils": module}
    try:
        import torchvision
    finally:
        del sys.modules[name], sys.modules[f"{name}.utils"]
    return torchvision
