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

GRID = (4, 6)
"""Rows and columns of a sheet of pictures."""


@contextmanager
def _plot(
    path: Path, rows: int = 1, columns: int = 1, width: float = 4.2, height: float = 3.6
) -> Iterator[list[Axes]]:
    """Give the axes of a figure to draw on, and write it to `path`. The size in inches is that of each."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    yield list(figure.subplots(rows, columns, squeeze=False).flat)
    with write_whole(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def draw_curves(history: Sequence[Mapping[str, float]], best_epoch: int, path: Path) -> None:
    """Draw loss and accuracy by epoch, on what is learned from and on the slice."""
    epochs = [row["epoch"] for row in history]
    with _plot(path, columns=2) as axes:
        for ax, name in zip(axes, ("loss", "accuracy"), strict=True):
            for key, label in ((name, "fit, augmented"), (f"slice_{name}", "slice of train")):
                ax.plot(epochs, [row[key] for row in history], marker="o", ms=3, label=label)
            ax.axvline(best_epoch, color="grey", lw=0.8, ls=":", label=f"kept: epoch {best_epoch}")
            ax.set(xlabel="epoch", ylabel=name)
            ax.grid(alpha=0.3)
            ax.legend(frameon=False, fontsize=8)


def draw_confusion(
    counts: NDArray[np.int64], classes: Sequence[str], path: Path, columns: Sequence[str] = ()
) -> None:
    """Draw the confusion matrix, coloured by the share of the true class; `columns` default to `classes`."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows, names = ([name.replace("_", "\n") for name in it] for it in (classes, columns or classes))
    with _plot(path, width=1.6 + 1.1 * len(names), height=1.2 + 0.9 * len(rows)) as (ax,):
        ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (i, k), count in np.ndenumerate(counts):
            text, colour = f"{count:,}\n{shares[i, k]:.1%}", "white" if shares[i, k] > 0.5 else "black"
            ax.text(k, i, text, ha="center", va="center", fontsize=9, color=colour)
        ax.set_xticks(range(len(names)), names)
        ax.set_yticks(range(len(rows)), rows)
        ax.set(xlabel="predicted", ylabel="true")


def draw_reliability(bins: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Draw accuracy by confidence for each calibration in `bins`. The size of a point shows its count."""
    with _plot(path, width=4.6, height=4.2) as (ax,):
        ax.plot([0, 1], [0, 1], color="grey", lw=0.8, ls=":")
        for name, rows in bins.items():
            x, y, nums = (np.array([row[key] for row in rows]) for key in ("confidence", "accuracy", "num"))
            ax.plot(x, y, lw=1, alpha=0.8, label=name)
            ax.scatter(x, y, s=8 + 80 * nums / nums.sum())
        ax.set(xlabel="confidence", ylabel="share that is right", xlim=(0.2, 1.02), ylim=(0, 1.04))
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, loc="upper left")


def draw_recall(counts: Mapping[str, Sequence[Sequence[int]]], bands: Sequence[str], path: Path) -> None:
    """Draw the share of boxed faces that is found by size band, for each class, from [found, boxed]."""
    with _plot(path, width=6) as (ax,):
        for name, pairs in counts.items():
            found, boxed = np.array(pairs).T
            ax.plot(bands, found / np.where(boxed, boxed, np.nan), lw=1, marker="o", ms=3, label=name)
        ax.set(xlabel="longer side of the face as the detector sees it, px", ylabel="found", ylim=(0, 1.04))
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, loc="lower right")


def draw_roc_and_pr(
    labels: NDArray[np.int64], probs: NDArray[np.floating[Any]], classes: Sequence[str], path: Path
) -> None:
    """Draw the ROC and precision-recall curves of each class against the others."""
    with _plot(path, columns=2, width=4.8, height=4.4) as (roc, pr):
        for k, name in enumerate(classes):
            if 0 < (labels == k).sum() < len(labels):
                RocCurveDisplay.from_predictions(labels == k, probs[:, k], ax=roc, name=name)
                PrecisionRecallDisplay.from_predictions(labels == k, probs[:, k], ax=pr, name=name)
        roc.set(xlabel="false positive rate", ylabel="true positive rate")
        pr.set(xlabel="recall", ylabel="precision")
        for ax, where in ((roc, "lower right"), (pr, "lower left")):
            ax.grid(alpha=0.3)
            ax.legend(frameon=False, fontsize=8, loc=where)


def draw_sheet(pixels_NHWC: NDArray[np.uint8], titles: Sequence[str], path: Path) -> None:
    """Draw pictures (N, H, W, 3) with a title each, at most as many as GRID holds."""
    rows = min(GRID[0], -(-len(titles) // GRID[1])) or 1
    with _plot(path, rows, GRID[1], 1.9, 2.25) as axes:
        for ax in axes:
            ax.set_axis_off()
        for ax, image, title in zip(axes, pixels_NHWC, titles, strict=False):
            ax.imshow(image)
            ax.set_title(title, fontsize=7)
