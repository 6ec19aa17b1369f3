"""The network of a recipe before training: its device, and weights from a file, a hub or chance."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from maskbatch.errors import UsageError
from maskbatch.model.architectures import build, last_linear
from maskbatch.model.checkpoint import open_checkpoint
from training.recipe import Recipe


def pick_device(name: str) -> torch.device:
    """Pick a device; `auto` prefers CUDA, then MPS, then the CPU. Raises UsageError where it is missing."""
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind in usable if usable[kind]))
    if not usable.get(name.partition(":")[0], False):
        kinds = ", ".join(kind for kind in usable if usable[kind])
        raise UsageError(f"--device {name}: not on this machine; it has {kinds}")
    return torch.device(name)


def start_network(recipe: Recipe, weights: Path | None) -> nn.Module:
    """Build the recipe's network, pretrained below a new head, or untrained. Raises UsageError.

    A weights file must fit the architecture strictly, with its own head. That head is kept only where the
    file is a maskbatch checkpoint of the same classes.
    """
    torch.manual_seed(recipe.seed)
    model = build(recipe.architecture, len(recipe.classes), recipe.options)
    _check_training_step(model, recipe)
    if weights is None and recipe.weights == "none":
        return model
    state = _read_weights(weights) if weights else _download(recipe.architecture)
    if weights and is_same_network(weights, recipe):
        source = model
    else:
        name, _ = find_head(model, recipe)
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
        state = {key: it for key, it in source.state_dict().items() if not key.startswith(f"{name}.")}
        model.load_state_dict(model.state_dict() | state)
    return model


def _check_training_step(model: nn.Module, recipe: Recipe) -> None:
    """Raise UsageError where the network cannot learn from pictures of the recipe's size."""
    try:
        out = copy.deepcopy(model).train()(torch.zeros(2, 3, recipe.input_px, recipe.input_px))
    except (RuntimeError, ValueError, AssertionError) as error:
        message = f"{recipe.architecture} cannot take pictures of {recipe.input_px} px: {error}"
        raise UsageError(message) from error
    if not isinstance(out, Tensor):
        raise UsageError(f"{recipe.architecture} gives more than logits in training; choose another network")


def is_same_network(weights: Path, recipe: Recipe) -> bool:
    """Whether training can go on from a file: a checkpoint of the recipe's network and classes."""
    try:
        card = open_checkpoint(str(weights)).card
    except UsageError:
        return False
    ours = (recipe.architecture, tuple(recipe.classes), recipe.options)
    return (card.architecture, card.classes, card.options) == ours


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, or of a .pth file that holds nothing else."""
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)  # runs no code from the file
        state = state.get("state_dict", state)
        return {key: it.float() if it.is_floating_point() else it for key, it in state.items()}
    except Exception as error:  # each reader raises its own kinds
        problem = f"not a file of tensors alone ({type(error).__name__})"
        raise UsageError(f"weights {path}: {problem}; give a .safetensors file") from error


def _download(architecture: str) -> dict[str, Tensor]:
    from torchvision import models

    try:
        weights = models.get_model_weights(architecture).DEFAULT
        state: dict[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    except ValueError as error:
        raise UsageError(f"torchvision has no weights for {architecture}; set weights=none") from error
    except (OSError, RuntimeError) as error:
        remedy = "give --weights FILE, or train from scratch with --set weights=none"
        message = f"cannot download torchvision's weights for {architecture} ({error}); {remedy}"
        raise UsageError(message) from error
    return state


def find_head(model: nn.Module, recipe: Recipe) -> tuple[str, nn.Module]:
    """Find the new layers on top of the backbone: their name, and the layers. Raises UsageError."""
    try:
        name, _ = last_linear(model)
    except ValueError as error:
        message = f"{recipe.architecture} has no head for weights, dense layers or head_epochs: {error}"
        raise UsageError(message) from error
    if "head" in recipe.options:
        name = name.rpartition(".")[0]
    return name, model.get_submodule(name)


def copy_backbone(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Copy the network without its head: it turns images into the features (N, D) that the head sees."""
    backbone: Any = copy.deepcopy(model)
    if recipe.architecture == "mobilenet_v1":  # its head is a convolution
        return nn.Sequential(backbone.features, nn.Flatten())
    if any(isinstance(layer, nn.Linear) for layer in model.modules()):
        backbone.set_submodule(find_head(model, recipe)[0], nn.Identity())
    return backbone


def normalise(images_NCHW: Tensor, recipe: Recipe) -> Tensor:
    """Turn images (N, 3, H, W) in [0, 1] into model inputs."""
    inputs: Tensor = normalize(images_NCHW, recipe.mean, recipe.std)
    return inputs.contiguous(memory_format=torch.channels_last)


def iterate_batches(pixels_NHWC: NDArray[np.uint8], recipe: Recipe, device: torch.device) -> Iterator[Tensor]:
    """Turn pixels (N, H, W, 3) uint8 into batches of normalised inputs, without augmentation."""
    for i in range(0, len(pixels_NHWC), 64):
        part = torch.from_numpy(np.array(pixels_NHWC[i : i + 64])).to(device)
        yield normalise(part.permute(0, 3, 1, 2).float() / 255, recipe)


@torch.inference_mode()
def predict(model: nn.Module, inputs: Iterator[Tensor]) -> Tensor:
    """Run the network in evaluation mode; returns its logits or features (N, K) float32 on the CPU."""
    model.eval()
    return torch.cat([model(batch).float().cpu() for batch in inputs])
