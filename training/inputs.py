"""What a network learns from: batches of augmented pictures, or features of them that are computed once."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import nn

from maskbatch.errors import UsageError
from maskbatch.progress import step
from training.augment import augment
from training.data import CORRECTIONS, Pictures
from training.network import backbone_of, batches, normalise, predict
from training.recipe import Recipe

MOST_WEIGHT = 10
"""Of a correction."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Functions of row numbers, so that no batch is held before it is needed."""

    batch: Callable[[torch.Tensor], torch.Tensor]
    """Row numbers (N,) to network inputs on the device."""
    labels: torch.Tensor
    """(M,) int64 of all rows."""
    chances: torch.Tensor | None
    """(M,) float64: the chance of a row to be drawn; None: each row once an epoch."""
    slice_batches: Callable[[], Iterator[torch.Tensor]]
    slice_labels: torch.Tensor


def image_inputs(
    model: nn.Module, fit_on: Pictures, held: Pictures, recipe: Recipe, device: torch.device
) -> Inputs:
    """Augmented pictures, for a network that learns as a whole."""
    pixels, rows = fit_on
    where = rows["pixel"].to_numpy()

    def batch(chosen: torch.Tensor) -> torch.Tensor:
        images = torch.from_numpy(pixels[where[chosen.numpy()]]).to(device)
        return normalise(augment(images, recipe.input_px, recipe.augmenter), recipe)

    slice_pixels = held[0][held[1]["pixel"].to_numpy()]
    return Inputs(
        batch, targets(rows), _chances(rows, recipe),
        lambda: batches(slice_pixels, recipe, device), targets(held[1]),
    )  # fmt: skip


def feature_inputs(
    model: nn.Module, fit_on: Pictures, held: Pictures, recipe: Recipe, device: torch.device
) -> Inputs:
    """Features of the frozen backbone of `model`, of `views` augmented versions of each picture."""
    pictures = image_inputs(model, fit_on, held, recipe, device)
    backbone = backbone_of(model, recipe)
    torch.manual_seed(recipe.seed)
    order = torch.arange(len(pictures.labels)).repeat(recipe.views)
    rows = fit_on[1].iloc[order.numpy()]
    with step("features", len(order)) as progress:

        def batch_by_batch() -> Iterator[torch.Tensor]:
            for chosen in order.split(recipe.batch_size):
                yield pictures.batch(chosen)
                progress.advance(len(chosen))

        features, labels = predict(backbone, batch_by_batch()), pictures.labels[order]
    if recipe.imbalance == "smote":
        features, labels = _smote(features, labels, recipe)
        made = pd.DataFrame({"source": "", "target": labels[len(rows) :].numpy()})
        rows = pd.concat([rows, made], ignore_index=True)
    slice_features = predict(backbone, pictures.slice_batches())
    return Inputs(
        lambda chosen: features[chosen].to(device), labels, _chances(rows, recipe),
        lambda: (part.to(device) for part in slice_features.split(512)), pictures.slice_labels,
    )  # fmt: skip


def targets(rows: pd.DataFrame) -> torch.Tensor:
    """Class indices (N,) int64."""
    return torch.tensor(rows["target"].to_numpy())


def _chances(rows: pd.DataFrame, recipe: Recipe) -> torch.Tensor | None:
    """The chance (N,) of each row to be drawn; None: each once an epoch. Raises UsageError.

    A correction stands for 1 / probability images of its archive. More than MOST_WEIGHT of them would
    let few pictures fill the epoch.
    """
    taught = (rows["source"] == CORRECTIONS).to_numpy()
    if not (recipe.shares or recipe.imbalance == "sampler" or taught.any()):
        return None
    chances = np.ones(len(rows))
    if recipe.shares or recipe.imbalance == "sampler":
        chances[~taught] = _label_by_label(rows[~taught], recipe)
    if taught.any():
        weights = np.minimum(1 / rows["probability"][taught].to_numpy(float), MOST_WEIGHT)
        chances[taught] = recipe.corrections_share * weights / weights.sum()
        chances[~taught] *= (1 - recipe.corrections_share) / chances[~taught].sum()
    return torch.from_numpy(chances)


def _label_by_label(rows: pd.DataFrame, recipe: Recipe) -> list[float]:
    """The chance (N,) of each row where labels are drawn alike, within its source if those have shares."""
    sources = rows["source"] if recipe.shares else pd.Series("", index=rows.index)
    shares = recipe.shares or {"": 1.0}
    if missing := sorted({*sources} - {*shares}):
        message = f"source {missing[0]!r} of the data has no share in the recipe ({', '.join(shares)})"
        raise UsageError(f"{message}; give it one, or --set shares={{}}")
    keys = list(zip(sources, rows["target"], strict=True))
    counts = Counter(keys)
    labels = Counter(source for source, _ in counts)
    return [shares[key[0]] / labels[key[0]] / counts[key] for key in keys]


def _smote(features: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """As many rows of every class, the missing ones between neighbours. Source: Chawla et al. 2002."""
    from imblearn.over_sampling import SMOTE

    try:
        more, found = SMOTE(random_state=recipe.seed).fit_resample(features.numpy(), labels.numpy())
    except ValueError as error:
        message = f"SMOTE cannot oversample ({error}); add pictures, or set imbalance=sampler"
        raise UsageError(message) from error
    return torch.from_numpy(np.ascontiguousarray(more)), torch.from_numpy(found)
