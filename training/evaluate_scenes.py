"""Measure a detector and a classifier together on boxed photographs, as `maskbatch score --view scene` does.

    python -m training.evaluate_scenes --data ../shared/data/scenes --out DIR [--detector yunet_n]

Writes DIR/evaluation.json, recall.png, labels.png, and card.md: the lines for a model card.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from typer import Option

from maskbatch.cli.program import run_program
from maskbatch.config import ScoreConfig
from maskbatch.errors import UsageError
from maskbatch.geometry import find_bands
from maskbatch.model.card import Card, DetectorCard
from maskbatch.model.checkpoint import open_checkpoint, open_detector
from maskbatch.report.intervals import estimate_design_effects
from maskbatch.report.prevalence import Found, correct_shares, explain_unknown_recall
from maskbatch.schema import SIZE_BAND_NAMES
from maskbatch.stores.files import write_json, write_whole
from training import metrics, plots, scenes
from training.card import format_interval, format_table
from training.crops import find_faces
from training.scenes import UNLABELLED

MIN_PX = 32
"""Of faces that the figures are of, as the detector saw them; all sizes stand in `recall`."""
NOT_FOUND = "not_found"
FOUND = ("found", "found_and_right")
LINES = """\
Measured on {num_faces:,} faces of {min_px} px or more in {num_photographs:,} photographs (`{split}`), as a
detector's input of {detect_px} px shows them, with 95 % intervals (photographs resampled).

{faces}

Of the boxed faces {rate[true]:.3f} comply. Of those found it is {detected} off by their true labels, and
{bias} as the classifier labels them. Corrected as in the report it is {corrected}. AP50 is {ap50:.3f},
leaving out {precision[num_unlabelled]:,} found boxes that match no boxed face, most of them faces too.

{sizes}
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def measure(
    boxed: pd.DataFrame,
    found: pd.DataFrame,
    detector: DetectorCard,
    card: Card,
    *,
    detect_px: int,
    min_px: int,
) -> dict[str, Any]:
    """Measure what `found` (see `scenes`, with `predicted`) says of the boxed faces.

    Shares have 95 % intervals from a bootstrap of photographs. `rate` compares the share of compliant faces:
    `true` of all boxed ones, `found` of those found, `observed` of those found, by their predicted labels,
    and `corrected` as the report corrects the last by what the cards state.
    """
    match_K = scenes.match_faces(boxed, found)
    is_found_N = scenes.find_matched(match_K, len(boxed))
    figures = {
        "num_photographs": int(boxed["file"].nunique()),
        "num_boxed": len(boxed),
        "recall": scenes.count_found(boxed, is_found_N, detect_px),
        "precision": scenes.measure_precision(match_K),
        "ap50": _measure_ap50(boxed, found),
        "unlabelled": dict(sorted(Counter(found["predicted"][match_K == UNLABELLED]).items())),
    }
    predicted = scenes.pick_labels(match_K, found["predicted"].tolist(), len(boxed))
    faces = boxed.assign(predicted=np.where(is_found_N, predicted, NOT_FOUND))
    faces = faces[scenes.measure_sizes(boxed, detect_px) >= min_px]
    if faces.empty:
        raise UsageError(f"no boxed face has {min_px} px or more as the detector sees it; lower --min-px")
    figures |= _measure_labels(faces, card)
    figures["rate"]["corrected"] = correct_rate(faces, detector, card, detect_px)
    return figures


def _measure_ap50(boxed: pd.DataFrame, found: pd.DataFrame) -> float:
    match_K = scenes.match_faces(boxed, found, scenes.AP_IOU)
    return scenes.measure_average_precision(match_K, found["confidence"].to_numpy(), len(boxed))


def _measure_labels(faces: pd.DataFrame, card: Card) -> dict[str, Any]:
    """Measure what became of boxed faces, whose label is `predicted`, or NOT_FOUND."""
    label, predicted = faces["label"].to_numpy(), faces["predicted"].to_numpy()
    groups = pd.factorize(faces["file"])[0].astype(np.int64)
    found, right = predicted != NOT_FOUND, predicted == label
    named = [str(name) for name in card.classes if (label == name).any()]
    assessed = np.isin(predicted, [name for name in card.classes if name not in card.not_assessed])
    true, observed = np.isin(label, card.compliant), np.isin(predicted, card.compliant)
    columns = [*card.classes, scenes.TOO_SMALL, NOT_FOUND]
    return {
        "num_faces": len(faces),
        "found": {it: metrics.measure_share(found, label == it, groups) for it in named},
        "found_and_right": {it: metrics.measure_share(right, label == it, groups) for it in named},
        "labels": {it: {to: int((predicted[label == it] == to).sum()) for to in columns} for it in named},
        "rate": {
            "true": float(true.mean()),
            "found": float(true[found].mean()) if found.any() else None,
            "observed": float(observed[assessed].mean()) if assessed.any() else None,
            "bias_of_detector": metrics.measure_bias(true, found, true, groups),
            "bias": metrics.measure_bias(observed, assessed, true, groups),
        },
    }


def correct_rate(
    faces: pd.DataFrame, detector: DetectorCard, card: Card, detect_px: int
) -> dict[str, Any] | None:
    """Correct the share of compliant faces as the report does, with photographs as its clusters.

    `holds_truth` says whether its interval does. None where the cards state too little to correct anything.
    """
    compliant_K, not_assessed_K = (
        np.isin(card.classes, names) for names in (card.compliant, card.not_assessed)
    )
    kept = faces[faces["predicted"].isin(card.classes)]
    label = pd.Index(card.classes).get_indexer(kept["predicted"])
    bands = find_bands(scenes.measure_sizes(kept, detect_px))
    labelled_KB = np.zeros((len(card.classes), len(SIZE_BAND_NAMES)), np.int64)
    np.add.at(labelled_KB, (label, bands), 1)
    unknown = [[0, 0]] * len(SIZE_BAND_NAMES)
    boxed_KB2 = np.array([detector.recall.get(name, unknown) for name in card.classes])
    if explain_unknown_recall(boxed_KB2, ~not_assessed_K) or not (~not_assessed_K[label]).any():
        return None
    seen = pd.DataFrame({"compliant": compliant_K[label], "assessed": ~not_assessed_K[label]})
    clusters = seen.groupby(kept["file"].to_numpy()).sum()
    clusters = clusters[clusters["assessed"] > 0].astype(float)
    group_C = np.zeros(len(clusters), np.int64)
    effects = estimate_design_effects(
        clusters["compliant"].to_numpy(), clusters["assessed"].to_numpy(), group_C, 1
    )
    found = Found(boxed_KB2, labelled_KB[None])
    fixed = correct_shares(
        labelled_KB.sum(axis=1)[None], effects, np.array(card.confusion), compliant_K, ~not_assessed_K, found
    )
    value, low, high = (float(it[0]) for it in (fixed.compliance_G, fixed.low_G, fixed.high_G))
    if np.isnan(value):
        return None
    true = float(faces["label"].isin(card.compliant).mean())
    return {"value": value, "low": low, "high": high, "holds_truth": low <= true <= high}


def write(out: Path, figures: Mapping[str, Any]) -> None:
    """Write evaluation.json, the plots and the lines for a card to the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "evaluation.json", dict(figures))
    plots.draw_recall(figures["recall"], SIZE_BAND_NAMES, out / "recall.png")
    columns = list(next(iter(figures["labels"].values())))
    counts = np.array([[row[name] for name in columns] for row in figures["labels"].values()])
    plots.draw_confusion(counts, list(figures["labels"]), out / "labels.png", columns)
    with write_whole(out / "card.md") as partial:
        partial.write_text(write_lines(figures))


def write_lines(figures: Mapping[str, Any]) -> str:
    """Write the figures as Markdown, for a model card."""
    faces = [["true", "faces", "found", "found and labelled right"]] + [
        [name, f"{sum(labels.values()):,}", *(format_interval(figures[it][name]) for it in FOUND)]
        for name, labels in figures["labels"].items()
    ]
    sizes = [["found, by size in px", *SIZE_BAND_NAMES]] + [
        [name, *(f"{found:,} of {boxed:,}" if boxed else "" for found, boxed in bands)]
        for name, bands in figures["recall"].items()
    ]
    return LINES.format(
        **figures,
        faces=format_table(faces),
        sizes=format_table(sizes),
        bias=_format_points(figures["rate"]["bias"]),
        detected=_format_points(figures["rate"]["bias_of_detector"]),
        corrected=format_interval(figures["rate"]["corrected"]) or "not known",
    )


def _format_points(figure: Mapping[str, float]) -> str:
    if not figure:
        return "an unknown number of points"
    value, low, high = (100 * figure[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} points ({low:+.1f} to {high:+.1f})"


@app.command()
def main(
    data_: Annotated[list[Path], Option("--data", help="Folder of photographs with boxes.csv; repeatable.")],
    detector: Annotated[str | None, Option(help="Name or file [the package's].")] = None,
    checkpoint: Annotated[Path | None, Option(help="Classifier [the package's].")] = None,
    out: Annotated[Path | None, Option(help="Folder for figures and plots.")] = None,
    split: Annotated[str, Option(help="Split of the photographs to measure on.")] = "val",
    detect_px: Annotated[int | None, Option(help="Longest side that the detector sees [as scoring].")] = None,
    min_px: Annotated[int, Option(help="Faces that count, as the detector sees them.")] = MIN_PX,
    dtype: Annotated[str, Option(help="auto, bfloat16 or float32.")] = "float32",
) -> None:
    """Measure a detector and a classifier together on boxed photographs."""
    config = ScoreConfig(view="scene", detect_px=detect_px, dtype=dtype)
    opened = open_detector(detector), open_checkpoint(checkpoint and str(checkpoint))
    boxed = pd.concat([scenes.read_boxes(folder, split) for folder in data_], ignore_index=True)
    found = find_faces(boxed["file"].unique().tolist(), *opened, config)
    figures = {
        name: {"path": it.path, "digest": it.digest}
        for name, it in zip(("detector", "checkpoint"), opened, strict=True)
    }
    figures |= {"detect_px": config.detect_px, "min_px": min_px, "split": split}
    cards = opened[0].card, opened[1].card
    figures |= measure(boxed, found, *cards, detect_px=config.detect_px, min_px=min_px)
    if out:
        write(out, figures)
    Console().print_json(data=figures)


if __name__ == "__main__":
    run_program(app, "python -m training.evaluate_scenes --help")
