"""The training loop: it keeps the epoch that is best on the slice, and can resume after each epoch."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from maskbatch.errors import RunFailedError, UsageError
from maskbatch.progress import say, step
from maskbatch.stores.files import write_whole
from training.inputs import Inputs
from training.network import predict
from training.recipe import Recipe

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamax": torch.optim.Adamax,
    "adamw": torch.optim.AdamW,
    "sgd": lambda weights, **options: torch.optim.SGD(weights, momentum=0.9, nesterov=True, **options),
}


@dataclass(slots=True)
class Progress:
    """How far a training is; saved after each epoch."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float = float("inf")
    best_state: dict[str, torch.Tensor] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


def train_epochs(
    model: nn.Module, head: nn.Module, inputs: Inputs, recipe: Recipe, device: torch.device, saved: Path
) -> Progress:
    """Train `model`, of which `head` is the new part, and go on from `saved` where that file exists.

    Keeps the epoch with the lowest balanced loss on the slice. Raises RunFailedError if a loss is not finite.
    """
    model = model.to(device, memory_format=torch.channels_last)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
    num_steps = max(1, (recipe.samples_per_epoch or len(inputs.labels)) // recipe.batch_size)
    optimizer, schedule = _make_optimizer(model, recipe, recipe.epochs * num_steps)
    parts = {"model": model, "average": average, "optimizer": optimizer, "schedule": schedule}
    progress = _resume(saved, parts, device)
    weighted = recipe.imbalance == "weights"
    weights = _compute_class_weights(inputs, len(recipe.classes)).to(device) if weighted else None
    patience = recipe.patience or recipe.epochs
    while progress.epoch < recipe.epochs and progress.epoch - progress.best_epoch < patience:
        progress.epoch += 1
        torch.manual_seed(recipe.seed * 1000 + progress.epoch)
        _freeze(model, head, recipe, progress.epoch)
        began, total_loss, hits = time.monotonic(), 0.0, 0
        order = _draw_order(inputs, num_steps * recipe.batch_size)
        with step(f"epoch {progress.epoch} of {recipe.epochs}", len(order)) as bar:
            for batch in order.split(recipe.batch_size):
                labels = inputs.labels[batch].to(device)
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    logits = model(inputs.batch(batch)).float()
                loss = F.cross_entropy(logits, labels, weight=weights, label_smoothing=recipe.label_smoothing)
                value = loss.item()
                _refuse_nan(value, progress.epoch, recipe)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                average.update_parameters(model)
                total_loss += value * len(batch)
                hits += int((logits.argmax(dim=1) == labels).sum())
                bar.advance(len(batch))
        row = {"epoch": progress.epoch, "loss": total_loss / len(order), "accuracy": hits / len(order)}
        _measure_slice(progress, row, average, inputs)
        _refuse_nan(row["slice_loss"], progress.epoch, recipe)
        progress.history.append(row | {"seconds": time.monotonic() - began})
        _save(saved, parts, progress)
    return progress


def _make_optimizer(model: nn.Module, recipe: Recipe, num_steps: int) -> tuple[Optimizer, LRScheduler]:
    """Make the recipe's optimizer and learning-rate schedule; biases and norms do not decay."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim <= 1]
    parts = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    make = OPTIMIZERS[recipe.optimizer]
    optimizer = make(parts, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    if recipe.schedule == "one_cycle":
        rate = recipe.learning_rate
        return optimizer, OneCycleLR(optimizer, rate, total_steps=num_steps + 1, pct_start=0.1)
    return optimizer, ConstantLR(optimizer, factor=1.0)


def _refuse_nan(loss: float, epoch: int, recipe: Recipe) -> None:
    if not isfinite(loss):
        raise RunFailedError(
            f"the loss is {loss} in epoch {epoch}; give another --out and a smaller learning rate, "
            f"such as --set learning_rate={recipe.learning_rate / 3:.1g}"
        )


def _measure_slice(progress: Progress, row: dict[str, float], average: AveragedModel, inputs: Inputs) -> None:
    """Measure the averaged weights on the slice, add the result to `row`, and keep the best weights."""
    logits = predict(average, inputs.slice_batches())
    loss = row["slice_loss"] = compute_balanced_loss(logits, inputs.slice_labels)
    row["slice_accuracy"] = float((logits.argmax(dim=1) == inputs.slice_labels).float().mean())
    if not progress.best_epoch or loss < progress.best_loss:
        progress.best_epoch, progress.best_loss = progress.epoch, loss
        state = average.module.state_dict()
        progress.best_state = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    say(
        f"epoch {progress.epoch}: loss {row['loss']:.3f}, accuracy {row['accuracy']:.3f}; "
        f"slice loss {loss:.3f}, accuracy {row['slice_accuracy']:.3f}; best epoch {progress.best_epoch}"
    )


def _freeze(model: nn.Module, head: nn.Module, recipe: Recipe, epoch: int) -> None:
    """Freeze the weights that the recipe does not train in this epoch, and no others."""
    only_head = epoch <= recipe.head_epochs
    for name, weight in model.named_parameters():
        weight.requires_grad_(not only_head and not name.startswith(recipe.frozen or ("\0",)))
    if only_head:
        head.requires_grad_(True)
    model.train()


def _draw_order(inputs: Inputs, num: int) -> torch.Tensor:
    """Draw the row numbers of an epoch: by their chances, or each row in turn."""
    if inputs.chances is not None:
        return torch.multinomial(inputs.chances, num, replacement=True)
    return torch.cat([torch.randperm(len(inputs.labels)) for _ in range(-(-num // len(inputs.labels)))])[:num]


def _compute_class_weights(inputs: Inputs, num_classes: int) -> torch.Tensor:
    """Weigh class k, which is drawn with share s_k, by 1 / (K s_k). Source: scikit-learn's `balanced`."""
    chances = torch.ones(len(inputs.labels)) if inputs.chances is None else inputs.chances
    drawn = inputs.labels.bincount(chances, minlength=num_classes)
    return (drawn.sum() / (num_classes * drawn)).float().where(drawn > 0, 0.0)


def compute_balanced_loss(logits_NK: torch.Tensor, labels: torch.Tensor) -> float:
    """Compute the cross entropy in which every class that occurs weighs the same."""
    losses = F.cross_entropy(logits_NK, labels, reduction="none")
    return float(torch.stack([losses[labels == k].mean() for k in labels.unique()]).mean())


def _save(saved: Path, parts: dict[str, Any], progress: Progress) -> None:
    values = {"progress": {name: getattr(progress, name) for name in Progress.__slots__}}
    values |= {name: part.state_dict() for name, part in parts.items()}
    with write_whole(saved, durable=True) as partial:
        try:
            torch.save(values, partial)
        except RuntimeError as error:  # torch raises this where the disk is full
            raise OSError(str(error).splitlines()[0]) from error


def _resume(saved: Path, parts: dict[str, Any], device: torch.device) -> Progress:
    for partial in saved.parent.glob(f".{saved.name}.*"):  # a training that was killed while saving left it
        partial.unlink()
    if not saved.exists():
        return Progress()
    values = _load(saved, device)
    for name, part in parts.items():
        part.load_state_dict(values[name])
    progress = Progress(**values["progress"])
    say(f"going on after epoch {progress.epoch}")
    return progress


def load_progress(saved: Path) -> Progress:
    """Read how far a training is. Raises UsageError."""
    return Progress(**_load(saved, torch.device("cpu"))["progress"])


def _load(saved: Path, device: torch.device) -> dict[str, Any]:
    try:
        values: dict[str, Any] = torch.load(saved, map_location=device, weights_only=True)
        _ = values["progress"]
        return values
    except Exception as error:  # torch raises many kinds for a foreign or truncated file
        raise UsageError(f"{saved}: not the state of a training; remove it or name another --out") from error
