"""Measure every figure that a checkpoint states, from the exported file and as scoring uses it.

    python -m training.evaluate --checkpoint FILE --data DATA --out DIR [--checkpoint OTHER]

With two checkpoints it also counts where only one of them is right, and tests the difference by group.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from scipy.special import softmax
from sklearn.metrics import confusion_matrix
from typer import Option

from maskbatch.cli.program import run_program
from maskbatch.errors import UsageError
from maskbatch.model.card import Card
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint
from maskbatch.model.classifier import Classifier, resolve_dtype
from maskbatch.progress import say
from maskbatch.stores.files import write_json, write_whole
from training import data, metrics, plots, splits
from training.data import Pictures

BATCH_SIZE = 64
FACE_PX = (0.0, 48.0, 96.0, 144.0, float("inf"))
BRIGHTNESS = (0.0, 0.2, 0.35, 0.5, 0.65, 1.0)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def open_classifier(checkpoint: Checkpoint, dtype: str = "float32") -> Classifier:
    """Open the network of a checkpoint as scoring runs it."""
    threads = torch.get_num_threads()
    classifier = Classifier(checkpoint, dtype=dtype, batch_size=BATCH_SIZE, device="cpu")
    torch.set_num_threads(threads)  # Classifier sets it to one
    return classifier


def measure_milliseconds(classifier: Classifier) -> float:
    """Measure the CPU time per image on one core (median batch)."""
    batch = np.zeros((BATCH_SIZE, *classifier.input_size, 3), np.uint8)
    threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for _ in range(6):
        began = time.process_time()
        classifier.logits(batch)
        times.append(time.process_time() - began)
    torch.set_num_threads(threads)
    return round(float(np.median(times[1:])) / BATCH_SIZE * 1000, 2)


def compute_logits(classifier: Classifier, pictures: Pictures) -> NDArray[np.float32]:
    """Compute the logits (N, K) of the rows of `pictures`, as scoring does."""
    pixels_NHWC = pictures[0][pictures[1]["pixel"].to_numpy()]
    starts = range(0, len(pixels_NHWC), BATCH_SIZE)
    return torch.cat([classifier.logits(pixels_NHWC[i : i + BATCH_SIZE]) for i in starts]).numpy()


def measure(
    checkpoint: Checkpoint, card: Card, pictures: Pictures, *, cross_fitted: bool = False
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Measure a checkpoint on pictures that it never saw; returns its figures, and one row per picture.

    `card` gives the temperature and the review threshold. The rows need `target`, `group` and `suspect`. Set
    `cross_fitted` where they chose the temperature: each group is then calibrated without its own pictures.
    """
    table = pictures[1]
    full, half = (open_classifier(checkpoint, dtype) for dtype in ("float32", "bfloat16"))
    labels, groups = (table[name].to_numpy(np.int64) for name in ("target", "group"))
    logits, half_logits = (compute_logits(classifier, pictures) for classifier in (full, half))
    raw, own = softmax(logits, axis=1), softmax(logits / card.temperature, axis=1)
    half_probs = softmax(half_logits / card.temperature, axis=1)
    probs = metrics.cross_fit(logits, labels, groups) if cross_fitted else own
    predicted = probs.argmax(axis=1)
    assessed = [name for name in card.classes if name not in card.not_assessed]
    faces = np.isin(labels, [card.classes.index(name) for name in assessed])
    sound = (table["suspect"] != "1").to_numpy()
    subsets = {"all": np.ones(len(labels), bool)}
    if not faces.all():
        subsets["faces"] = faces
    if not sound.all():
        subsets["faces_without_suspects"] = faces & sound
    automatic = faces & (own.max(axis=1) >= card.review_threshold)
    hits, calibrations = predicted == labels, {"before": raw, "after": probs}
    counts = confusion_matrix(labels, predicted, labels=range(len(card.classes)))
    scored = half if resolve_dtype("auto", "cpu") == "bfloat16" else full
    longest_px = table[["width", "height"]].max(axis=1).to_numpy(float)[faces]
    light = table["brightness"].to_numpy(float)[faces]
    figures: dict[str, Any] = {
        name: metrics.measure_rates(labels[rows], probs[rows], groups[rows], card.classes, assessed)
        for name, rows in subsets.items() if rows.any()
    }  # fmt: skip
    figures |= {
        "confusion": tuple(map(tuple, counts.tolist())),
        "ece_before": metrics.measure_ece(labels, raw, groups),
        "reliability": {name: metrics.bin_by_confidence(labels, it) for name, it in calibrations.items()},
        "review": {
            "share": round(1 - float(automatic.sum() / max(1, faces.sum())), 4),
            "automatic_accuracy": round(float(hits[automatic].mean()), 4) if automatic.any() else None,
        },
        "by_face_size": metrics.measure_bins(longest_px, FACE_PX, hits[faces], "px"),
        "by_brightness": metrics.measure_bins(light, BRIGHTNESS, hits[faces], "of 1"),
        "bfloat16": {
            "equal_labels": round(float((logits.argmax(axis=1) == half_logits.argmax(axis=1)).mean()), 4),
            "largest_difference": round(float(np.abs(own - half_probs).max()), 4),
        },
        "milliseconds_an_image": measure_milliseconds(scored),
    }
    names = np.array(card.classes)
    rows = table[["uri", "label", "group", "suspect", "width", "height", "brightness"]].assign(
        predicted=names[predicted], confidence=probs.max(axis=1), correct=hits, pixel=table["pixel"]
    )
    return figures, rows.assign(**{f"prob_{name}": probs[:, k] for k, name in enumerate(card.classes)})


def write(
    out: Path, classes: Sequence[str], figures: dict[str, Any], rows: pd.DataFrame, pixels: NDArray[np.uint8]
) -> None:
    """Write evaluation.json, predictions.parquet and the plots to the folder `out`."""
    write_json(out / "evaluation.json", figures)
    with write_whole(out / "predictions.parquet") as partial:
        rows.drop(columns="pixel").to_parquet(partial, index=False)
    labels = rows["label"].map({name: k for k, name in enumerate(classes)}).to_numpy(np.int64)
    probs = rows[[f"prob_{name}" for name in classes]].to_numpy()
    plots.draw_confusion(np.array(figures["confusion"]), classes, out / "confusion.png")
    plots.draw_reliability(figures["reliability"], out / "reliability.png")
    plots.draw_roc_and_pr(labels, probs, classes, out / "roc_pr.png")
    num = plots.GRID[0] * plots.GRID[1]
    wrong = rows[~rows["correct"]].sort_values("confidence", ascending=False)
    random = rows.sample(min(num, len(rows)), random_state=0)
    for name, sample in (("pictures", random), ("mistakes", wrong.head(num))):
        titles = [
            f"{row.label}\n{'is' if row.correct else 'taken for'} {row.predicted} {row.confidence:.2f}"
            for row in sample.itertuples()
        ]
        plots.draw_sheet(pixels[sample["pixel"].to_numpy()], titles, out / f"{name}.png")


def choose_rows(
    sources: Sequence[str], classes: Sequence[str], drop: Sequence[str], split: str, source: str | None
) -> pd.DataFrame:
    """Choose the rows of `source`, or else of `split`, or all where no split is named. Raises UsageError."""
    table = data.load(sources)
    if source:
        table = table[table["source"] == source]
    elif (table["split"] != "").any():
        table = table[table["split"] == split]
    else:
        say("The data names no split: all of it is measured, even what the checkpoint learned from.")
    if table.empty:
        raise UsageError(f"no picture of split {split!r} or source {source!r} in the data; check --split")
    return data.select(table, classes, drop)


@app.command()
def main(
    data_: Annotated[list[str], Option("--data", help="Folder of classes, or manifest; repeatable.")],
    checkpoint: Annotated[
        list[Path] | None, Option(help="One to measure, or two to compare [the package's].")
    ] = None,
    out: Annotated[Path | None, Option(help="Folder for figures, predictions and plots.")] = None,
    split: Annotated[str, Option(help="Split of the data to measure on.")] = "val",
    source: Annotated[str | None, Option(help="Source of the data, instead of a split.")] = None,
    drop: Annotated[list[str] | None, Option(help="Label to leave out; repeatable.")] = None,
) -> None:
    """Measure a checkpoint on labelled pictures, or compare two on the same ones."""
    checkpoints = [open_checkpoint(str(path)) for path in checkpoint or []] or [open_checkpoint()]
    if len(checkpoints) > 2 or len({it.card.classes for it in checkpoints}) > 1:
        raise UsageError("give --checkpoint once, or twice to compare two checkpoints of the same classes")
    card = checkpoints[0].card
    recipe = card.recipe.get("recipe", {})
    left_out = recipe.get("drop", ()) if isinstance(recipe, dict) else ()
    table = choose_rows(data_, card.classes, [*(drop or []), *left_out], split, source)
    results, correct, groups = [], [], np.empty(0, np.int64)
    for k, it in enumerate(checkpoints, start=1):
        pixels, rows = data.decode(table, it.card.preset, "decode")
        groups = splits.find_groups(rows)
        figures, predictions = measure(it, it.card, (pixels, rows.assign(group=groups)))
        if out:
            folder = out / str(k) if len(checkpoints) > 1 else out
            write(folder, it.card.classes, figures, predictions, pixels)
        results.append({"checkpoint": it.path, "digest": it.digest, **figures})
        correct.append(predictions["correct"].to_numpy())
    summary: dict[str, Any] = results[0] if len(results) == 1 else {"checkpoints": results}
    if len(results) == 2:
        summary["test"] = metrics.flip_signs(*correct, groups)
        say(_judge(summary["test"]))
    Console().print_json(data=summary)


def _judge(test: dict[str, Any]) -> str:
    first, second, p_value = (test[key] for key in ("only_first_right", "only_second_right", "p_value"))
    counts = f"Only the first is right on {first:,} pictures, only the second on {second:,}"
    if p_value >= 0.05:
        return f"{counts}: the difference may be chance (p = {p_value:.3f})."
    return f"{counts}: the {'first' if first > second else 'second'} is better (p = {p_value:.4f})."


if __name__ == "__main__":
    run_program(app, "python -m training.evaluate --help")
