"""Every figure that a checkpoint states, measured from the exported file as scoring would use it.

    python -m training.evaluate --checkpoint FILE --data DATA --out DIR [--checkpoint OTHER]

Of two checkpoints it says which is right where the other is not, with a test that allows for groups.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from scipy.special import softmax

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Card, Checkpoint, open_checkpoint
from maskbatch.model.classifier import Classifier, resolve_dtype
from maskbatch.progress import say
from maskbatch.stores.files import write_json, write_whole
from training import data, metrics, plots, splits
from training.console import one_sentence

BATCH_SIZE = 64
FACE_PX = (0.0, 48.0, 96.0, 144.0, float("inf"))
BRIGHTNESS = (0.0, 0.2, 0.35, 0.5, 0.65, 1.0)


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint with its network as scoring runs it, in both precisions."""

    full: Classifier
    half: Classifier

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "Opened":
        threads = torch.get_num_threads()
        full, half = (
            Classifier(checkpoint, dtype=dtype, batch_size=BATCH_SIZE, device="cpu")
            for dtype in ("float32", "bfloat16")
        )
        torch.set_num_threads(threads)  # which scoring sets to one
        return cls(full, half)

    def milliseconds(self) -> float:
        """Processor time an image on one core, in the dtype that scoring takes here: the median batch."""
        classifier = self.half if resolve_dtype("auto", "cpu") == "bfloat16" else self.full
        batch = np.zeros((BATCH_SIZE, *classifier.input_size, 3), np.uint8)
        threads, spent = torch.get_num_threads(), []
        torch.set_num_threads(1)
        for _ in range(6):
            began = time.process_time()
            classifier.logits(batch)
            spent.append(time.process_time() - began)
        torch.set_num_threads(threads)
        return round(float(np.median(spent[1:])) / BATCH_SIZE * 1000, 2)


def logits_of(classifier: Classifier, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits (N, K) of pixels (N, H, W, 3) uint8, as scoring computes them."""
    starts = range(0, len(pixels_NHWC), BATCH_SIZE)
    return torch.cat([classifier.logits(pixels_NHWC[i : i + BATCH_SIZE]) for i in starts]).numpy()


def measure(
    opened: Opened,
    card: Card,
    table: pd.DataFrame,
    pixels_NHWC: NDArray[np.uint8],
    *,
    cross_fitted: bool = False,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Figures of a checkpoint on pictures it never saw, and one row a picture.

    `card` gives temperature and review threshold. table: `pixel`, `target`, `group`, `suspect`, `width`,
    `height`, `brightness`. With `cross_fitted`, of the pictures that gave the temperature: those of a
    group are calibrated without it.
    """
    pixels = pixels_NHWC[table["pixel"].to_numpy()]
    labels, groups = (table[name].to_numpy(np.int64) for name in ("target", "group"))
    logits, halved = (logits_of(classifier, pixels) for classifier in (opened.full, opened.half))
    raw = softmax(logits, axis=1)
    own = softmax(logits / card.temperature, axis=1)
    probs = metrics.cross_fit(logits, labels, groups) if cross_fitted else own
    predicted, confidence = probs.argmax(axis=1), probs.max(axis=1)
    assessed = [name for name in card.classes if name not in card.not_assessed]
    faces = np.isin(labels, [card.classes.index(name) for name in assessed])
    sound = (table["suspect"] != "1").to_numpy()
    subsets = {"all": np.ones(len(labels), bool)}
    if not faces.all():
        subsets["faces"] = faces
    if not sound.all():
        subsets["faces_without_suspects"] = faces & sound
    automatic = faces & (own.max(axis=1) >= card.review_threshold)
    hits = predicted == labels
    figures: dict[str, Any] = {
        name: metrics.rates(labels[rows], probs[rows], groups[rows], card.classes, assessed)
        for name, rows in subsets.items() if rows.any()
    }  # fmt: skip
    figures |= {
        "confusion": metrics.confusion_matrix(labels, predicted, len(card.classes)),
        "ece_before": metrics.ece(labels, raw, groups),
        "reliability": {
            "before": metrics.reliability(labels, raw), "after": metrics.reliability(labels, probs)
        },
        "review": {
            "share": round(1 - float(automatic.sum() / max(1, faces.sum())), 4),
            "automatic_accuracy": round(float(hits[automatic].mean()), 4) if automatic.any() else None,
        },
        "by_face_size": metrics.by_bin(
            table[["width", "height"]].max(axis=1).to_numpy(float)[faces], FACE_PX, hits[faces], "px"
        ),
        "by_brightness": metrics.by_bin(
            table["brightness"].to_numpy(float)[faces], BRIGHTNESS, hits[faces], "of 1"
        ),
        "bfloat16": {
            "equal_labels": round(float((logits.argmax(axis=1) == halved.argmax(axis=1)).mean()), 4),
            "largest_difference": round(
                float(np.abs(own - softmax(halved / card.temperature, axis=1)).max()), 4
            ),
        },
        "milliseconds_an_image": opened.milliseconds(),
    }  # fmt: skip
    names = np.array(card.classes)
    rows = table[["uri", "label", "group", "suspect", "width", "height", "brightness"]].assign(
        predicted=names[predicted], confidence=confidence, correct=hits, pixel=table["pixel"]
    )
    return figures, rows.assign(**{f"prob_{name}": probs[:, k] for k, name in enumerate(card.classes)})


def write(
    out: Path, classes: Sequence[str], figures: dict[str, Any], rows: pd.DataFrame, pixels: NDArray[np.uint8]
) -> None:
    """evaluation.json, predictions.parquet and the plots, in the folder `out`."""
    write_json(out / "evaluation.json", figures)
    with write_whole(out / "predictions.parquet") as partial:
        rows.drop(columns="pixel").to_parquet(partial, index=False)
    labels = rows["label"].map({name: k for k, name in enumerate(classes)}).to_numpy(np.int64)
    probs = rows[[f"prob_{name}" for name in classes]].to_numpy()
    plots.confusion(np.array(figures["confusion"]), classes, out / "confusion.png")
    plots.reliability(figures["reliability"], out / "reliability.png")
    plots.roc_and_pr(labels, probs, classes, out / "roc_pr.png")
    num = plots.GRID[0] * plots.GRID[1]
    wrong = rows[~rows["correct"]].sort_values("confidence", ascending=False)
    for name, chosen in (("pictures", rows.sample(min(num, len(rows)), random_state=0)), ("mistakes", wrong)):
        titles = [
            f"{it.label}\n{'is' if it.correct else 'taken for'} {it.predicted} {it.confidence:.2f}"
            for it in chosen.head(num).itertuples()
        ]
        plots.sheet(pixels[chosen["pixel"].head(num).to_numpy()], titles, out / f"{name}.png")


def held_out(
    sources: Sequence[str], classes: Sequence[str], drop: Sequence[str], split: str, source: str | None
) -> pd.DataFrame:
    """The rows to measure on: those of `split`, or all where the data names no split. Raises UsageError."""
    table = data.load(sources)
    if not source and (table["split"] == "").all():
        say("the data names no split: all of it is measured on, what the checkpoint learned from too")
    if source:
        table = table[table["source"] == source]
    elif (table["split"] != "").any():
        table = table[table["split"] == split]
    if table.empty:
        raise UsageError(f"no picture of split {split!r} or source {source!r} in the data; check --split")
    return data.select(table, classes, drop)


def main(
    data_: Annotated[list[str], typer.Option("--data", help="Folder or manifest; may be repeated.")],
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="One, or two to compare; default: the package's.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for figures, predictions and plots.")] = None,
    split: Annotated[str, typer.Option(help="Which split of the data to measure on.")] = "val",
    source: Annotated[
        str | None, typer.Option(help="Measure on this source instead, whatever its split.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="A label of the data to leave out; may be repeated.")
    ] = None,
) -> None:
    """Measure a checkpoint on labelled pictures, or compare two on the same ones."""
    with one_sentence():
        opened = [open_checkpoint(str(path)) for path in checkpoint or []] or [open_checkpoint()]
        if len(opened) > 2 or len({one.card.classes for one in opened}) > 1:
            raise UsageError(
                "two checkpoints of the same classes can be compared; give --checkpoint once or twice"
            )
        table = held_out(
            data_, opened[0].card.classes, [*(drop or []), *_dropped(opened[0].card)], split, source
        )
        results, correct, groups = [], [], np.empty(0, np.int64)
        for k, one in enumerate(opened):
            pixels, found = data.decode(table, one.card.preset, "decode")
            groups = splits.groups_of(found)
            found = found.assign(group=groups)
            figures, rows = measure(Opened.of(one), one.card, found, pixels)
            if out:
                write(out / f"{k + 1}" if len(opened) > 1 else out, one.card.classes, figures, rows, pixels)
            results.append({"checkpoint": one.path, "digest": one.digest, **figures})
            correct.append(rows["correct"].to_numpy())
        summary: dict[str, Any] = results[0] if len(results) == 1 else {"checkpoints": results}
        if len(results) == 2:
            summary["test"] = metrics.sign_flip(*correct, groups)
            say(_verdict(summary["test"]))
        Console().print_json(data=summary)


def _dropped(card: Card) -> list[str]:
    """The labels that the training of a checkpoint left out."""
    recipe = card.recipe.get("recipe", {})
    return list(recipe.get("drop", ())) if isinstance(recipe, dict) else []


def _verdict(test: dict[str, Any]) -> str:
    first, second = test["only_first_right"], test["only_second_right"]
    counts = f"the first alone is right on {first:,} pictures, the second alone on {second:,}"
    if test["p_value"] >= 0.05:
        return f"{counts}: no difference that could not be chance (p = {test['p_value']:.3f})"
    return f"{counts}: the {'first' if first > second else 'second'} is better (p = {test['p_value']:.4f})"


if __name__ == "__main__":
    typer.run(main)
