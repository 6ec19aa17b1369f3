"""The network of a recipe as it is before it learns: weights from a file, a hub or chance, and its device."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from maskbatch.errors import UsageError
from maskbatch.model.architectures import build, last_linear
from maskbatch.model.checkpoint import open_checkpoint
from training.recipe import Recipe


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA, else MPS, else the CPU. Raises UsageError for one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, usable in there.items() if usable))
    if not there.get(name.partition(":")[0], False):
        usable = ", ".join(kind for kind, usable in there.items() if usable)
        raise UsageError(f"--device {name}: not on this machine; it has {usable}")
    return torch.device(name)


def start(recipe: Recipe, weights: Path | None) -> nn.Module:
    """The recipe's network: pretrained below a new head, or untrained. Raises UsageError.

    A weights file must fit the architecture strictly, its own head included. The head is kept only
    where the file is a maskbatch checkpoint of the same classes.
    """
    torch.manual_seed(recipe.seed)
    model = build(recipe.architecture, len(recipe.classes), recipe.options)
    _try(model, recipe)
    if weights is None and recipe.weights == "none":
        return model
    state = _read_weights(weights) if weights else _download(recipe.architecture)
    if weights and same_checkpoint(weights, recipe):
        source = model
    else:
        name, _ = head_of(model, recipe)
        num_outputs = len(state[f"{name}.weight"]) if f"{name}.weight" in state else 1000
        options = {key: value for key, value in recipe.options.items() if key != "head"}
        source = build(recipe.architecture, num_outputs, options)
    try:
        source.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        message = f"weights {weights or 'imagenet'} do not fit {recipe.architecture}: {first}"
        raise UsageError(message) from error
    if source is not model:
        backbone = {key: it for key, it in source.state_dict().items() if not key.startswith(f"{name}.")}
        model.load_state_dict(model.state_dict() | backbone)
    return model


def _try(model: nn.Module, recipe: Recipe) -> None:
    """Raises UsageError where a network cannot learn from pictures of the recipe's size."""
    state = copy.deepcopy(model.state_dict())
    try:
        out = model.train()(torch.zeros(2, 3, recipe.input_px, recipe.input_px))
    except (RuntimeError, ValueError, AssertionError) as error:
        message = f"{recipe.architecture} cannot take pictures of {recipe.input_px} px: {error}"
        raise UsageError(message) from error
    if not isinstance(out, torch.Tensor):
        raise UsageError(f"{recipe.architecture} gives more than logits while it learns; take another")
    model.load_state_dict(state)  # batch norms moved


def same_checkpoint(weights: Path, recipe: Recipe) -> bool:
    """Whether a file is a checkpoint of the recipe's network and classes, to be gone on from."""
    try:
        card = open_checkpoint(str(weights)).card
    except UsageError:
        return False
    mine = (recipe.architecture, tuple(recipe.classes), recipe.options)
    return (card.architecture, card.classes, card.options) == mine


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a .safetensors file, or of a .pth file that holds nothing else."""
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)  # runs no code of the file
        state = state.get("state_dict", state)
        return {key: it.float() if it.is_floating_point() else it for key, it in state.items()}
    except Exception as error:  # each reader has its own
        message = (
            f"weights {path}: not a file of tensors alone ({type(error).__name__}); give a .safetensors file"
        )
        raise UsageError(message) from error


def _download(architecture: str) -> dict[str, torch.Tensor]:
    from torchvision import models

    try:
        state: dict[str, torch.Tensor] = models.get_model_weights(architecture).DEFAULT.get_state_dict(
            progress=True, check_hash=True
        )
    except ValueError as error:
        raise UsageError(f"torchvision has no weights for {architecture}; set weights=none") from error
    except (OSError, RuntimeError) as error:
        message = (
            f"torchvision's weights for {architecture} cannot be had ({error}); give --weights FILE, "
            "or train from scratch with --set weights=none"
        )
        raise UsageError(message) from error
    return state


def head_of(model: nn.Module, recipe: Recipe) -> tuple[str, nn.Module]:
    """The name of the layers that are new on top of a backbone, and the layers. Raises UsageError."""
    try:
        name, _ = last_linear(model)
    except ValueError as error:
        message = (
            f"{recipe.architecture} can have no weights, dense layers or first epochs of a head: {error}"
        )
        raise UsageError(message) from error
    if "head" in recipe.options:
        name = name.rpartition(".")[0]
    return name, model.get_submodule(name)


def backbone_of(model: nn.Module, recipe: Recipe) -> nn.Module:
    """A copy of the network without its head: images to the features (N, D) that the head sees."""
    backbone: Any = copy.deepcopy(model)
    if recipe.architecture == "mobilenet_v1":  # its head is a convolution
        return nn.Sequential(backbone.features, nn.Flatten())
    if any(isinstance(layer, nn.Linear) for layer in model.modules()):
        backbone.set_submodule(head_of(model, recipe)[0], nn.Identity())
    return backbone


def normalise(images_NCHW: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Model inputs of images (N, 3, H, W) in [0, 1]."""
    mean, std = (
        torch.tensor(values, device=images_NCHW.device).view(1, 3, 1, 1)
        for values in (recipe.mean, recipe.std)
    )
    return ((images_NCHW - mean) / std).contiguous(memory_format=torch.channels_last)


def batches(
    pixels_NHWC: NDArray[np.uint8], recipe: Recipe, device: torch.device, size: int = 64
) -> Iterator[torch.Tensor]:
    """Normalised inputs of pixels (N, H, W, 3) uint8, not augmented."""
    for i in range(0, len(pixels_NHWC), size):
        part = torch.from_numpy(np.array(pixels_NHWC[i : i + size])).to(device)
        yield normalise(part.permute(0, 3, 1, 2).float() / 255, recipe)


@torch.inference_mode()
def predict(model: nn.Module, inputs: Iterator[torch.Tensor]) -> torch.Tensor:
    """Logits (or whatever the network gives) (N, K) float32, on the CPU, in evaluation mode."""
    model.eval()
    return torch.cat([model(batch).float().cpu() for batch in inputs])
