"""Turn a training, or a Hugging Face image classifier, into a checkpoint that `maskbatch score` runs.

python -m training.export OUT --out FILE.safetensors
python -m training.export ./convnext --class WithMask=with_mask --class NoMask=without_mask --out FILE
"""

import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import torchvision
import typer
from scipy.special import softmax
from torch import nn

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Preset, open_checkpoint, save_checkpoint
from maskbatch.progress import say
from maskbatch.report.histograms import count_bins
from maskbatch.stores.files import write_whole
from training import data, evaluate, metrics, plots
from training.card import model_card
from training.console import one_sentence
from training.data import Pictures
from training.fit import Progress, load_progress
from training.huggingface import import_checkpoint
from training.network import head_of, start
from training.recipe import Recipe


def export(
    path: Path,
    recipe: Recipe,
    state: dict[str, torch.Tensor],
    held: Mapping[str, Pictures],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write the checkpoint `path`, MODEL_CARD.md and evaluation/ beside it; returns the figures.

    `held` are slice (chooses the review threshold) and val (gives the rest); `facts` go into the card.
    Every figure is of the file that is written.
    """
    pixels, rows = held["val"]
    card = replace(recipe.card(), data_fingerprint=facts["fingerprint"])
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.safetensors"
        save_checkpoint(draft, card, state)
        opened = evaluate.Opened.of(open_checkpoint(str(draft)))
        labels = rows["target"].to_numpy(np.int64)
        logits = evaluate.logits_of(opened.full, pixels[rows["pixel"].to_numpy()])
        temperature = metrics.fit_temperature(logits, labels)
        threshold = _threshold(opened, recipe, held["slice"], temperature)
        card = replace(card, temperature=temperature, review_threshold=threshold)
        figures, predictions = evaluate.measure(opened, card, rows, pixels, cross_fitted=True)
    confidence = softmax(logits / temperature, axis=1).max(axis=1)
    card = replace(
        card,
        confusion=figures["confusion"],
        reference={"confidence": count_bins("confidence", confidence)}
        | {name: count_bins(name, rows[name].to_numpy(float)) for name in ("brightness", "sharpness")},
        recipe=facts | {"recipe": recipe.as_dict(), "versions": versions(), "figures": figures},
    )
    save_checkpoint(path, card, state)
    with write_whole(path.with_name("MODEL_CARD.md")) as partial:
        partial.write_text(model_card(card))
    evaluate.write(path.parent / "evaluation", card.classes, figures, predictions, pixels)
    plots.curves(facts["history"], facts["best_epoch"], path.parent / "evaluation" / "curves.png")
    return figures


def finish(
    path: Path,
    recipe: Recipe,
    model: nn.Module,
    progress: Progress,
    held: Mapping[str, Pictures],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Export the best epoch of a training; `model` gives what did not learn."""
    name = f"{head_of(model, recipe)[0]}." if recipe.train == "head" else ""
    state = {key: it.detach().cpu() for key, it in model.state_dict().items()}
    state |= {f"{name}{key}": it for key, it in progress.best_state.items()}
    facts = facts | {"best_epoch": progress.best_epoch, "history": progress.history}
    return export(path, recipe, state, held, facts)


def export_training(source: Path, path: Path) -> None:
    """The checkpoint of a training's best epoch so far, interrupted or not. Raises UsageError."""
    try:
        facts = json.loads((source / "training.json").read_text())
        recipe = Recipe.of(facts["recipe"])
        weights = facts["weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{source}: not the folder of a training ({error})") from error
    if recipe.train == "all":  # all of its weights are in its own state
        model = start(replace(recipe, weights="none"), None)
    else:
        model = start(recipe, Path(weights) if weights else None)
    table = data.select(data.load([str(source / "split.parquet")]), recipe.classes, recipe.drop)
    table = table.assign(part=table["split"], group=pd.factorize(table["cluster"])[0])
    finish(path, recipe, model, load_progress(source / "state.pt"), decode_held(table, recipe.preset), facts)


def decode_held(
    table: pd.DataFrame, preset: Preset, parts: Sequence[str] = ("slice", "val")
) -> dict[str, Pictures]:
    """Parts of the table at a checkpoint's input size, as scoring would see them.

    Raises UsageError where any picture is gone.
    """
    held = {}
    for part in parts:
        rows = table[table["part"] == part]
        held[part] = data.decode(rows, preset, part)
        if gone := len(rows) - len(held[part][1]):
            raise UsageError(
                f"{gone:,} pictures of {part} cannot be read any more; put them back where they were"
            )
    return held


def _threshold(opened: evaluate.Opened, recipe: Recipe, held: Pictures, temperature: float) -> float:
    """The review threshold that the slice's faces ask for."""
    pixels, rows = held
    labels = rows["target"].to_numpy(np.int64)
    probs = softmax(evaluate.logits_of(opened.full, pixels[rows["pixel"].to_numpy()]) / temperature, axis=1)
    faces = ~np.isin(labels, [recipe.classes.index(name) for name in recipe.not_assessed])
    hits = probs.argmax(axis=1) == labels
    return metrics.find_threshold(probs.max(axis=1)[faces], hits[faces], recipe.target_accuracy)


def versions() -> dict[str, str]:
    """Of what the weights were made with."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def main(
    source: Annotated[
        str, typer.Argument(help="The --out of a training, or a Hugging Face folder or hub name.")
    ],
    out: Annotated[Path, typer.Option(help="The checkpoint to write, FILE.safetensors.")],
    class_: Annotated[
        list[str] | None,
        typer.Option("--class", help="LABEL=name, for labels that are not ours; may be repeated."),
    ] = None,
    compliant: Annotated[
        list[str] | None, typer.Option(help="Class that counts as compliant; default: with_mask.")
    ] = None,
) -> None:
    """Write a checkpoint from a training's best epoch so far, or from a Hugging Face image classifier."""
    with one_sentence():
        if (Path(source) / "training.json").is_file():
            export_training(Path(source), out)
        else:
            names = dict(item.partition("=")[::2] for item in class_ or [])
            if not all(names.values()):
                raise UsageError("--class LABEL=name expected, such as --class 'WithMask=with_mask'")
            import_checkpoint(source, names, compliant or ["with_mask"], out)
        card = open_checkpoint(str(out)).card
        say(f"{out}: {card.architecture}, classes {', '.join(card.classes)}")


if __name__ == "__main__":
    typer.run(main)
