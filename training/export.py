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
from typer import Argument, Option

from maskbatch.cli.program import run_program
from maskbatch.errors import UsageError
from maskbatch.model.architectures import last_linear
from maskbatch.model.card import Preset
from maskbatch.model.checkpoint import open_checkpoint, save_checkpoint
from maskbatch.model.classifier import Classifier
from maskbatch.progress import say
from maskbatch.report.cells import count_bins
from maskbatch.stores.files import write_whole
from training import data, evaluate, metrics, plots
from training.card import model_card
from training.data import Pictures
from training.fit import Progress, load_progress
from training.huggingface import import_checkpoint
from training.network import find_head, start_network
from training.recipe import Recipe

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def export_best_epoch(
    path: Path, recipe: Recipe, model: nn.Module, progress: Progress, held: Mapping[str, Pictures],
    facts: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Write the checkpoint `path`, with MODEL_CARD.md and evaluation/ beside it; returns the figures.

    Weights that did not learn come from `model`. `held` has the slice, which chooses the review threshold,
    and val, which gives every figure, measured from the written file. The card keeps `facts`.
    """
    prefix = f"{find_head(model, recipe)[0]}." if recipe.train == "head" else ""
    state = {key: weight.detach().cpu() for key, weight in model.state_dict().items()}
    state |= {f"{prefix}{key}": weight for key, weight in progress.best_state.items()}
    if recipe.priors:
        shift = torch.tensor([recipe.priors.get(name, 1.0) for name in recipe.classes]).log()
        bias = f"{last_linear(model)[0]}.bias"
        state[bias] = state[bias] + shift
    facts = facts | {"best_epoch": progress.best_epoch, "history": progress.history}
    pixels, rows = held["val"]
    card = replace(recipe.card(), data_fingerprint=facts["fingerprint"])
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "draft.safetensors"
        save_checkpoint(draft, card, state)
        checkpoint = open_checkpoint(str(draft))
        classifier = evaluate.open_classifier(checkpoint)
        logits = evaluate.compute_logits(classifier, held["val"])
        temperature = metrics.fit_temperature(logits, rows["target"].to_numpy(np.int64))
        threshold = _choose_threshold(classifier, recipe, held["slice"], temperature)
        card = replace(card, temperature=temperature, review_threshold=threshold)
        figures, predictions = evaluate.measure(checkpoint, card, held["val"], cross_fitted=True)
    measures = {name: rows[name].to_numpy(float) for name in ("brightness", "sharpness")}
    measures = {"confidence": softmax(logits / temperature, axis=1).max(axis=1)} | measures
    versions = {it.__name__: it.__version__ for it in (torch, torchvision)}
    versions = {"python": platform.python_version()} | versions
    reference = {name: count_bins(name, values) for name, values in measures.items()}
    facts |= {"recipe": recipe.as_dict(), "versions": versions, "figures": figures}
    card = replace(card, confusion=figures["confusion"], reference=reference, recipe=facts)
    save_checkpoint(path, card, state)
    with write_whole(path.with_name("MODEL_CARD.md")) as partial:
        partial.write_text(model_card(card))
    evaluate.write(path.parent / "evaluation", card.classes, figures, predictions, pixels)
    plots.draw_curves(progress.history, progress.best_epoch, path.parent / "evaluation" / "curves.png")
    return figures


def export_training(source: Path, path: Path) -> None:
    """Export the best epoch so far of a training, finished or not. Raises UsageError."""
    try:
        facts = json.loads((source / "training.json").read_text())
        recipe = Recipe.of(facts["recipe"])
        weights = facts["weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{source}: not the folder of a training ({error})") from error
    if recipe.train == "all":  # the training's state holds all weights
        model = start_network(replace(recipe, weights="none"), None)
    else:
        model = start_network(recipe, Path(weights) if weights else None)
    table = data.select(data.load([str(source / "split.parquet")]), recipe.classes, recipe.drop)
    table = table.assign(part=table["split"], group=pd.factorize(table["cluster"])[0])
    held = decode_parts(table, recipe.preset)
    export_best_epoch(path, recipe, model, load_progress(source / "state.pt"), held, facts)


def decode_parts(
    table: pd.DataFrame, preset: Preset, parts: Sequence[str] = ("slice", "val")
) -> dict[str, Pictures]:
    """Decode parts of the table as scoring does. Raises UsageError where a picture is gone."""
    held = {}
    for part in parts:
        rows = table[table["part"] == part]
        held[part] = data.decode(rows, preset, part)
        if gone := len(rows) - len(held[part][1]):
            remedy = "put them back where they were"
            raise UsageError(f"cannot read {gone:,} pictures of {part} any more; {remedy}")
    return held


def _choose_threshold(classifier: Classifier, recipe: Recipe, held: Pictures, temperature: float) -> float:
    """Choose the review threshold that the faces of the slice ask for."""
    labels = held[1]["target"].to_numpy(np.int64)
    probs = softmax(evaluate.compute_logits(classifier, held) / temperature, axis=1)
    faces = ~np.isin(labels, [recipe.classes.index(name) for name in recipe.not_assessed])
    hits = probs.argmax(axis=1) == labels
    return metrics.find_threshold(probs.max(axis=1)[faces], hits[faces], recipe.target_accuracy)


@app.command()
def main(
    source: Annotated[str, Argument(help="A training's --out, or a Hugging Face folder or name.")],
    out: Annotated[Path, Option(help="Checkpoint to write, FILE.safetensors.")],
    class_: Annotated[
        list[str] | None, Option("--class", help="LABEL=name, for labels not ours; repeatable.")
    ] = None,
    compliant: Annotated[list[str] | None, Option(help="Compliant class [with_mask]; repeatable.")] = None,
) -> None:
    """Write a checkpoint from a training's best epoch so far, or from a Hugging Face image classifier."""
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
    run_program(app, "python -m training.export --help")
