"""Fine-tune MobileNetV2 on faces, scenes and drawings, and export the default checkpoint.

    python -m training.finetune --data ../shared --out maskbatch/checkpoints

The first blocks keep their ImageNet weights: without their gradients a CPU trains twice as fast.
"""

import hashlib
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torchvision
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file
from scipy.optimize import minimize_scalar
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from maskbatch.checkpoint import Card, open_checkpoint, save_checkpoint
from maskbatch.classifier import build
from maskbatch.errors import MaskbatchError, UsageError
from training.augment import Augmentation, augment
from training.data import CLASSES, NO_FACE, Sample, decode, load_training, sampling_weights
from training.evaluate import measure, measure_drawn, model_card

ARCHITECTURE = "mobilenet_v2"
INPUT_PX = 128
STORED_PX = 160
"""Training pictures are kept at this side, so that zooming in shows detail."""
SHARES = {"faces": 0.40, "extra": 0.16, "scenes": 0.32, "drawn": 0.12}
"""Of the pictures of an epoch, by source; within a source every label is as frequent."""
MEAN = STD = (0.5, 0.5, 0.5)
TARGET_ACCURACY = 0.98
"""Of what is not marked for review."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How the weights are found."""

    epochs: int = 6
    samples_per_epoch: int = 6144
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    """At its highest, after a tenth of the steps; a cosine to 0 follows."""
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    ema_decay: float = 0.99
    """Of the averaged weights, a step; they are what is exported."""
    frozen_blocks: int = 4
    """Of `features`: they learn nothing."""
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Fit:
    """The averaged weights of the best epoch, and their logits (N, K) of the slice."""

    epoch: int
    state: dict[str, torch.Tensor]
    slice_logits: torch.Tensor
    slice_labels: torch.Tensor


def load_backbone(root: Path) -> nn.Module:
    """MobileNetV2 with ImageNet weights below a new head of len(CLASSES) logits."""
    file = root / "weights" / "mobilenet_v2_imagenet.safetensors"
    if not file.is_file():
        raise UsageError(f"weights {file}: no such file; give --data the folder with weights/")
    model = build(ARCHITECTURE, len(CLASSES))
    head = {name: tensor for name, tensor in model.state_dict().items() if "classifier" in name}
    model.load_state_dict(load_file(file) | head)
    return model


def fit(model: nn.Module, samples: Sequence[Sample], held_out: Sequence[Sample], recipe: Recipe) -> Fit:
    """Train `model`; the epoch with the lowest class-balanced loss on the slice `held_out` wins."""
    console = Console()
    torch.manual_seed(recipe.seed)
    images, labels = to_tensors(samples, STORED_PX)
    slice_images, slice_labels = to_tensors(held_out, INPUT_PX)
    weights = torch.from_numpy(sampling_weights(samples, SHARES))
    model = model.to(memory_format=torch.channels_last)
    blocks: Any = model.features
    blocks[: recipe.frozen_blocks].requires_grad_(False)
    ema = get_ema_multi_avg_fn(recipe.ema_decay)
    average = AveragedModel(model, multi_avg_fn=ema, use_buffers=True)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, weight_decay=recipe.weight_decay)
    steps = recipe.samples_per_epoch // recipe.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.epochs * steps, pct_start=0.1
    )
    lowest = float("inf")
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        for _ in track(range(steps), f"epoch {epoch} of {recipe.epochs}", console=console):
            chosen = torch.multinomial(weights, recipe.batch_size, replacement=True)
            inputs = normalise(augment(images[chosen], INPUT_PX, Augmentation()))
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(inputs).float()
            loss = F.cross_entropy(logits, labels[chosen], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
        logits = predict(average, slice_images)
        slice_loss = balanced_loss(logits, slice_labels)
        right = (logits.argmax(dim=1) == slice_labels).float().mean()
        console.print(f"loss {loss:.3f}; slice {slice_loss:.4f}, accuracy {right:.3f}")
        if epoch == 1 or slice_loss < lowest:
            lowest, state = slice_loss, average.module.state_dict()
            kept = {name: value.clone() for name, value in state.items()}
            best = Fit(epoch, kept, logits, slice_labels)
    return best


def to_tensors(samples: Sequence[Sample], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, size, size, 3) uint8 and labels (N,) int64."""
    decoded, labels = decode(samples, size)
    return torch.from_numpy(decoded.images_NHWC), torch.from_numpy(labels)


def normalise(images_NCHW: torch.Tensor) -> torch.Tensor:
    """Model inputs of images (N, 3, H, W) in [0, 1]."""
    return ((images_NCHW - MEAN[0]) / STD[0]).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def predict(model: nn.Module, images_NHWC: torch.Tensor) -> torch.Tensor:
    """Logits (N, K) float32 of RGB images (N, H, W, 3) uint8."""
    model.eval()
    batches = (part.permute(0, 3, 1, 2).float() / 255 for part in images_NHWC.split(64))
    return torch.cat([model(normalise(batch)) for batch in batches])


def balanced_loss(logits_NK: torch.Tensor, labels: torch.Tensor) -> float:
    """Cross entropy in which every class that occurs weighs the same."""
    losses = F.cross_entropy(logits_NK, labels, reduction="none")
    return float(torch.stack([losses[labels == k].mean() for k in labels.unique()]).mean())


def fit_temperature(logits_NK: torch.Tensor, labels: torch.Tensor) -> float:
    """The divisor of the logits with the lowest cross entropy. Source: Guo et al. 2017."""
    found = minimize_scalar(
        lambda t: float(F.cross_entropy(logits_NK / t, labels)), bounds=(0.2, 5), method="bounded"
    )
    return round(float(found.x), 4)


def find_threshold(confidence: NDArray[np.float32], hits: NDArray[np.bool_]) -> float:
    """The lowest confidence (N,) from which on TARGET_ACCURACY of the pictures are right."""
    order = np.argsort(-confidence, kind="stable")
    accuracy = np.cumsum(hits[order]) / np.arange(1, len(hits) + 1)
    good = np.flatnonzero(accuracy >= TARGET_ACCURACY)
    return round(float(confidence[order][good[-1] if len(good) else 0]), 4)


def describe(root: Path, best: Fit, recipe: dict[str, Any]) -> Card:
    """The card of weights that are not measured yet: all that the slice and the recipe say."""
    temperature = fit_temperature(best.slice_logits, best.slice_labels)
    confidence, predicted = torch.softmax(best.slice_logits / temperature, dim=1).max(dim=1)
    faces = best.slice_labels != NO_FACE
    hits = predicted == best.slice_labels
    tables = [root / "data" / name for name in ("faces/manifest.csv", "scenes/boxes.csv")]
    return Card(
        architecture=ARCHITECTURE,
        classes=CLASSES,
        compliant=("with_mask",),
        not_assessed=("no_face",),
        input_size=(INPUT_PX, INPUT_PX),
        mean=MEAN,
        std=STD,
        temperature=temperature,
        review_threshold=find_threshold(confidence[faces].numpy(), hits[faces].numpy()),
        confusion=((0,) * len(CLASSES),) * len(CLASSES),
        data_fingerprint=hashlib.sha256(b"".join(file.read_bytes() for file in tables)).hexdigest(),
        recipe=recipe | {
            "best_epoch": best.epoch,
            "shares": SHARES,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "torchvision": torchvision.__version__,
            },
        },
    )  # fmt: skip


def export(out: Path, root: Path, state: dict[str, torch.Tensor], card: Card) -> Card:
    """Write `out`/default.safetensors and its model card; the figures are the file's own."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.safetensors"
        save_checkpoint(draft, card, state)
        checkpoint = open_checkpoint(str(draft))
        confusion, reference, figures = measure(checkpoint, root)
        figures["drawn"] = measure_drawn(checkpoint)
    recipe = card.recipe | {"figures": figures}
    card = replace(card, confusion=confusion, reference=reference, recipe=recipe)
    save_checkpoint(out / "default.safetensors", card, state)
    (out / "MODEL_CARD.md").write_text(model_card(card))
    return card


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds data/ and weights/.")],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint and its model card.")],
    epochs: Annotated[int, typer.Option(min=1)] = 6,
    seed: Annotated[int, typer.Option(min=0, max=9999)] = 7,
    drawn: Annotated[int, typer.Option(min=0, help="Drawn pictures a label.")] = 400,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Fine-tune, export and measure the default checkpoint."""
    torch.set_num_threads(threads)
    try:
        model = load_backbone(data)
        samples, held_out = load_training(data, drawn, seed)
        best = fit(model, samples, held_out, Recipe(epochs=epochs, seed=seed))
        facts = {
            "command": " ".join(["python -m training.finetune", *sys.argv[1:]]),
            "epochs": epochs,
            "seed": seed,
            "num_fit": len(samples),
            "num_slice": len(held_out),
        }
        card = export(out, data, best.state, describe(data, best, facts))
    except MaskbatchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    Console().print_json(data={"confusion": card.confusion, **card.recipe["figures"]})


if __name__ == "__main__":
    typer.run(main)
