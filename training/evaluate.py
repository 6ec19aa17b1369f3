"""Every figure that a checkpoint states, measured from the exported file as scoring would use it.

python -m training.evaluate --data ../shared --checkpoint FILE.safetensors
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from maskbatch.checkpoint import Card, Checkpoint, open_checkpoint
from maskbatch.classifier import Classifier
from maskbatch.errors import MaskbatchError
from maskbatch.histograms import histogram
from training.data import CLASSES, NO_FACE, Sample, decode, draw, load_val, load_val_in_context

BATCH_SIZE = 64
NUM_DRAWN = 500
"""Drawings a label, of DRAWN_SEED, which training must not use."""
DRAWN_SEED = 20_000

Confusion = tuple[tuple[int, ...], ...]


def measure(checkpoint: Checkpoint, root: Path) -> tuple[Confusion, dict[str, list[int]], dict[str, Any]]:
    """Confusion matrix and histograms of val (crops without a face included), and its figures."""
    samples = load_val(root)
    decoded, labels = decode(samples, checkpoint.card.input_size[0])
    probs, halved = (
        Classifier(checkpoint, dtype=dtype, batch_size=BATCH_SIZE).probs(decoded.images_NHWC)
        for dtype in ("float32", "bfloat16")
    )
    predicted, confidence = probs.argmax(axis=1), probs.max(axis=1)
    faces = labels != NO_FACE
    sound = faces & ~np.array([sample.suspect for sample in samples])
    automatic = faces & (confidence >= checkpoint.card.review_threshold)
    right = (predicted == labels)[automatic].sum() / max(1, automatic.sum())
    figures = rates(labels[faces], predicted[faces]) | {
        "without_suspects": rates(labels[sound], predicted[sound]),
        "with_no_face": rates(labels, predicted),
        "review_share": round(float(1 - automatic.sum() / faces.sum()), 4),
        "automatic_accuracy": round(float(right), 4),
        "bfloat16": {
            "equal_labels": round(float((predicted == halved.argmax(axis=1)).mean()), 4),
            "largest_difference": round(float(np.abs(probs - halved).max()), 4),
        },
        "in_context": measure_rates(checkpoint, load_val_in_context(root)),
    }
    reference = {"confidence": histogram("confidence", confidence)} | {
        name: histogram(name, np.array(decoded.columns[name], np.float64))
        for name in ("brightness", "sharpness")
    }
    return confusion_matrix(labels, predicted), reference, figures


def measure_drawn(checkpoint: Checkpoint) -> dict[str, Any]:
    """Rates on drawings of 640x480, day to night, and on covered lenses."""
    return measure_rates(checkpoint, draw(NUM_DRAWN, DRAWN_SEED, sizes=((640, 480),)))


def measure_rates(checkpoint: Checkpoint, samples: Sequence[Sample]) -> dict[str, Any]:
    """Rates of a checkpoint, in float32, on any samples."""
    decoded, labels = decode(samples, checkpoint.card.input_size[0])
    classifier = Classifier(checkpoint, dtype="float32", batch_size=BATCH_SIZE)
    return rates(labels, classifier.probs(decoded.images_NHWC).argmax(axis=1))


def confusion_matrix(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Confusion:
    """Counts (K, K), true by predicted, of class indices (N,)."""
    counts = np.zeros((len(CLASSES), len(CLASSES)), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return tuple(map(tuple, counts.tolist()))


def rates(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy, recall of each class that occurs, and their mean (balanced accuracy)."""
    hits = labels == predicted
    recall = {CLASSES[k]: float(hits[labels == k].mean()) for k in np.unique(labels).tolist()}
    return {
        "num_val": len(labels),
        "accuracy": round(float(hits.mean()), 4),
        "balanced_accuracy": round(sum(recall.values()) / len(recall), 4),
        "recall": {name: round(value, 4) for name, value in recall.items()},
    }


def model_card(card: Card) -> str:
    """The model card, Markdown: `model_card.md` filled with what a measured checkpoint states."""
    figures = card.recipe["figures"]
    subsets = {
        "val faces": figures,
        "val faces without suspect labels": figures["without_suspects"],
        "val faces and crops without a face": figures["with_no_face"],
        "val faces in context": figures["in_context"],
    }
    results = [["held out", "images", "accuracy", "balanced accuracy", *card.classes]] + [
        [subset, str(rate["num_val"]), f"{rate['accuracy']:.3f}", f"{rate['balanced_accuracy']:.3f}"]
        + [f"{rate['recall'][name]:.3f}" if name in rate["recall"] else "" for name in card.classes]
        for subset, rate in subsets.items()
    ]
    rows = zip(card.classes, card.confusion, strict=True)
    confusion = [["true", *card.classes]] + [[name, *map(str, counts)] for name, counts in rows]
    values = {
        **card.recipe,
        **figures,
        "architecture": card.architecture,
        "size": card.input_size[0],
        "classes": ", ".join(card.classes),
        "versions": ", ".join(f"{name} {it}" for name, it in card.recipe["versions"].items()),
        "temperature": card.temperature,
        "review_threshold": card.review_threshold,
        "num_incorrect": sum(card.confusion[CLASSES.index("incorrect_mask")]),
        "lowest_drawn": min(figures["drawn"]["recall"].values()),
        "results": _table(results),
        "confusion": _table(confusion),
    }
    return Path(__file__).with_name("model_card.md").read_text().format_map(values)


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds data/.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Default: the package's own.")] = None,
) -> None:
    """Measure a checkpoint on val; exit code 1 if its card states another confusion matrix."""
    try:
        opened = open_checkpoint(str(checkpoint) if checkpoint else None)
        confusion, _, figures = measure(opened, data)
        figures["drawn"] = measure_drawn(opened)
    except MaskbatchError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from error
    Console().print_json(data={"confusion": confusion, **figures})
    if confusion != opened.card.confusion:
        print(f"error: {opened.path} states other counts: {opened.card.confusion}", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
