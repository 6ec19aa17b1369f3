"""What a network learns from: batches of augmented pictures, or their features, computed once."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from maskbatch.errors import UsageError
from maskbatch.progress import step
from training.augment import augment_images
from training.data import CORRECTIONS, Pictures
from training.network import copy_backbone, iterate_batches, normalise, predict
from training.recipe import Recipe

MAX_WEIGHT = 10
"""Of a correction: more would let a few pictures fill the epoch."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Functions that make a batch when it is needed."""

    batch: Callable[[Tensor], Tensor]
    """From row numbers (N,) to network inputs on the device."""
    labels: Tensor
    """(M,) int64 of all rows."""
    chances: Tensor | None
    """(M,) float64: the chance that a row is drawn. None: draw each row once per epoch."""
    slice_batches: Callable[[], Iterator[Tensor]]
    slice_labels: Tensor


def make_image_inputs(
    model: nn.Module, fit_on: Pictures, held: Pictures, recipe: Recipe, device: torch.device
) -> Inputs:
    """Make augmented pictures, for training the whole network."""
    pixels, rows = fit_on
    where = rows["pixel"].to_numpy()
    labels, slice_labels = (torch.tensor(it["target"].to_numpy()) for it in (rows, held[1]))

    def batch(chosen: Tensor) -> Tensor:
        images = torch.from_numpy(pixels[where[chosen.numpy()]]).to(device)
        return normalise(augment_images(images, recipe.input_px, recipe.augmenter), recipe)

    slice_pixels = held[0][held[1]["pixel"].to_numpy()]
    slice_batches = partial(iterate_batches, slice_pixels, recipe, device)
    return Inputs(batch, labels, _compute_chances(rows, recipe), slice_batches, slice_labels)


def make_feature_inputs(
    model: nn.Module, fit_on: Pictures, held: Pictures, recipe: Recipe, device: torch.device
) -> Inputs:
    """Make features by the frozen backbone of `model`, from `views` augmented versions of each picture."""
    pictures = make_image_inputs(model, fit_on, held, recipe, device)
    backbone = copy_backbone(model, recipe)
    torch.manual_seed(recipe.seed)
    order = torch.arange(len(pictures.labels)).repeat(recipe.views)
    rows = fit_on[1].iloc[order.numpy()]
    with step("features", len(order)) as progress:

        def batch_by_batch() -> Iterator[Tensor]:
            for chosen in order.split(recipe.batch_size):
                yield pictures.batch(chosen)
                progress.advance(len(chosen))

        features, labels = predict(backbone, batch_by_batch()), pictures.labels[order]
    if recipe.imbalance == "smote":
        features, labels = _oversample(features, labels, recipe)
        synthetic = pd.DataFrame({"source": "", "target": labels[len(rows) :].numpy()})
        rows = pd.concat([rows, synthetic], ignore_index=True)
    slice_features = predict(backbone, pictures.slice_batches())
    return Inputs(
        lambda chosen: features[chosen].to(device), labels, _compute_chances(rows, recipe),
        lambda: (part.to(device) for part in slice_features.split(512)), pictures.slice_labels,
    )  # fmt: skip


def _compute_chances(rows: pd.DataFrame, recipe: Recipe) -> Tensor | None:
    """Compute `Inputs.chances`. A correction stands for 1 / probability images. Raises UsageError."""
    corrected = (rows["source"] == CORRECTIONS).to_numpy()
    balanced = recipe.shares or recipe.imbalance == "sampler"
    if not (balanced or corrected.any()):
        return None
    chances = np.ones(len(rows))
    if balanced:
        chances[~corrected] = _balance_labels(rows[~corrected], recipe)
    if corrected.any():
        weights = np.minimum(1 / rows["probability"][corrected].to_numpy(float), MAX_WEIGHT)
        chances[corrected] = recipe.corrections_share * weights / weights.sum()
        chances[~corrected] *= (1 - recipe.corrections_share) / chances[~corrected].sum()
    return torch.from_numpy(chances)


def _balance_labels(rows: pd.DataFrame, recipe: Recipe) -> list[float]:
    """Give all labels the same chance: within each source where sources have shares, or else overall."""
    sources = rows["source"] if recipe.shares else pd.Series("", index=rows.index)
    shares = recipe.shares or {"": 1.0}
    if missing := sorted({*sources} - {*shares}):
        message = f"the recipe gives source {missing[0]!r} of the data no share (only {', '.join(shares)})"
        raise UsageError(f"{message}; add one, or --set shares={{}}")
    keys = list(zip(sources, rows["target"], strict=True))
    counts = Counter(keys)
    labels = Counter(source for source, _ in counts)
    return [shares[key[0]] / labels[key[0]] / counts[key] for key in keys]


def _oversample(features: Tensor, labels: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Add rows between neighbours until every class has as many. Source: SMOTE, Chawla et al. 2002."""
    from imblearn.over_sampling import SMOTE

    try:
        rows, targets = SMOTE(random_state=recipe.seed).fit_resample(features.numpy(), labels.numpy())
    except ValueError as error:
        message = f"SMOTE cannot oversample ({error}); add pictures, or set imbalance=sampler"
        raise UsageError(message) from error
    return torch.from_numpy(np.ascontiguousarray(rows)), torch.from_numpy(targets)
