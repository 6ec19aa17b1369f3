"""Plots of an evaluation, as PNG files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

from maskbatch.stores.files import write_whole

DPI = 110
GRID = (4, 6)
"""Rows and columns of a sheet of pictures."""


def _save(figure: Figure, path: Path) -> None:
    with write_whole(path) as partial:
        figure.savefig(partial, format="png", dpi=DPI)


def _axes(columns: int, width: float = 4.2, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def draw_curves(history: Sequence[Mapping[str, float]], best_epoch: int, path: Path) -> None:
    """Draw loss and accuracy by epoch, on what is learned from and on the slice."""
    figure, axes = _axes(2)
    epochs = [row["epoch"] for row in history]
    for ax, name in zip(axes, ("loss", "accuracy"), strict=True):
        ax.plot(epochs, [row[name] for row in history], marker="o", ms=3, label="fit, augmented")
        ax.plot(epochs, [row[f"slice_{name}"] for row in history], marker="o", ms=3, label="slice of train")
        ax.axvline(best_epoch, color="grey", lw=0.8, ls=":", label=f"kept: epoch {best_epoch}")
        ax.set(xlabel="epoch", ylabel=name)
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_confusion(counts: NDArray[np.int64], classes: Sequence[str], path: Path) -> None:
    """Draw the confusion matrix, coloured by the share of the true class."""
    figure, (ax,) = _axes(1, 1.6 + 1.1 * len(classes), 1.2 + 0.9 * len(classes))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, row in enumerate(counts):
        for k, count in enumerate(row):
            dark = shares[i, k] > 0.5
            text = f"{count:,}\n{shares[i, k]:.1%}"
            ax.text(k, i, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    names = [name.replace("_", "\n") for name in classes]
    ax.set_xticks(range(len(classes)), names)
    ax.set_yticks(range(len(classes)), names)
    ax.set(xlabel="predicted", ylabel="true")
    _save(figure, path)


def draw_reliability(bins: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Draw accuracy by confidence for each calibration in `bins`. The size of a point shows its count."""
    figure, (ax,) = _axes(1, 4.6, 4.2)
    ax.plot([0, 1], [0, 1], color="grey", lw=0.8, ls=":")
    for name, rows in bins.items():
        x, y = ([row[key] for row in rows] for key in ("confidence", "accuracy"))
        ax.plot(x, y, lw=1, alpha=0.8, label=name)
        ax.scatter(x, y, s=[8 + 80 * row["num"] / sum(it["num"] for it in rows) for row in rows])
    ax.set(xlabel="confidence", ylabel="share that is right", xlim=(0.2, 1.02), ylim=(0, 1.04))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, loc="upper left")
    _save(figure, path)


def draw_roc_and_pr(
    labels: NDArray[np.int64], probs: NDArray[np.floating[Any]], classes: Sequence[str], path: Path
) -> None:
    """Draw the ROC and precision-recall curves of each class against the others."""
    figure, (roc, pr) = _axes(2, 4.8, 4.4)
    for k, name in enumerate(classes):
        if 0 < (labels == k).sum() < len(labels):
            RocCurveDisplay.from_predictions(labels == k, probs[:, k], ax=roc, name=name)
            PrecisionRecallDisplay.from_predictions(labels == k, probs[:, k], ax=pr, name=name)
    roc.set(xlabel="false positive rate", ylabel="true positive rate")
    pr.set(xlabel="recall", ylabel="precision")
    for ax in (roc, pr):
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=8, loc="lower right" if ax is roc else "lower left")
    _save(figure, path)


def draw_sheet(pixels_NHWC: NDArray[np.uint8], titles: Sequence[str], path: Path) -> None:
    """Draw pictures (N, H, W, 3) with a title each, at most as many as GRID holds."""
    rows = min(GRID[0], -(-len(titles) // GRID[1])) or 1
    figure = Figure(figsize=(1.9 * GRID[1], 2.25 * rows), layout="constrained")
    for ax in figure.subplots(rows, GRID[1], squeeze=False).flat:
        ax.set_axis_off()
    for ax, image, title in zip(figure.axes, pixels_NHWC, titles, strict=False):
        ax.imshow(image)
        ax.set_title(title, fontsize=7)
    _save(figure, path)
