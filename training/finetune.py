"""Train a recipe on labelled pictures and export a checkpoint for `maskbatch score --checkpoint`.

    python -m training.finetune --recipe default --data prepared --out trained
    python -m training.finetune --recipe default --data prepared --corrections RUN --out taught

After an interruption, the same command goes on after the last whole epoch. With corrections the exit code
is 4 unless the new checkpoint is shown to be better than the old one.
"""

import hashlib
import json
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import nn
from typer import Option

from maskbatch.cli.program import run_program
from maskbatch.config import list_differences
from maskbatch.errors import ALERT, DONE, INTERRUPTED, UsageError
from maskbatch.progress import say
from maskbatch.stores.files import write_json, write_whole
from training import data, splits, teach
from training.card import format_interval
from training.corrections import Corrections, load_corrections
from training.export import decode_parts, export_best_epoch
from training.fit import train_epochs
from training.inputs import make_feature_inputs, make_image_inputs
from training.network import copy_backbone, find_head, iterate_batches, pick_device, predict, start_network
from training.recipe import Recipe, read_recipe

CACHE = ".pixels-"
NUM_PROBED = 2000
"""Pictures for the probe that measures what a split by file would have claimed."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def train(
    recipe: Recipe, sources: list[str], out: Path, *, weights: Path | None = None, device: str = "auto",
    limit: int | None = None, title: str = "", command: str = "", corrections: Corrections | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train, choose the epoch on the slice, export, and measure on val; returns the figures.

    With `corrections`, training starts from the old checkpoint where the recipe fits it, and the figures gain
    `comparison`. Raises UsageError where it cannot train, RunFailedError where training goes wrong.
    """
    where = pick_device(device)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: a file stands there; name a folder")
    if corrections and not weights:
        weights = teach.choose_weights(corrections.old, recipe)
    facts = {"recipe": recipe.as_dict(), "weights_sha256": _hash_file(weights)}
    _refuse_other_training(out, facts)
    model = start_network(recipe, weights).to(where)
    table = data.select(_list_pictures(sources, corrections), recipe.classes, recipe.drop, recipe.leave_out)
    if limit:
        table = table.sample(frac=1, random_state=recipe.seed).groupby(["split", "label"]).head(limit)
    out.mkdir(parents=True, exist_ok=True)
    for folder in out.glob(f"{CACHE}*"):  # a killed training left it
        shutil.rmtree(folder)
    with tempfile.TemporaryDirectory(prefix=CACHE, dir=out) as cache:
        pixels, table = data.decode(table, recipe.stored, "decode", Path(cache) / "pixels")
        is_correction = table["source"] == data.CORRECTIONS
        own = splits.assign_parts(table[~is_correction].reset_index(drop=True), recipe.seed)
        table = splits.add_corrections(own, table[is_correction], recipe.seed) if corrections else own
        if corrections:
            teach.refuse_other_classes(corrections.old, table)
        facts |= _describe_data(table)
        _refuse_other_training(out, facts)
        facts |= {
            "weights": str(weights) if weights else None,
            "title": title,
            "command": command,
            "data": sources,
            "corrections": corrections and corrections.counts,
            "leak": _measure_leak(model, own, pixels, recipe, where),
        }
        _write_facts(out, table, facts)
        held = decode_parts(table, recipe.preset)
        fit_on = pixels, table[table["part"] == "fit"]
        make_inputs = make_feature_inputs if recipe.train == "head" else make_image_inputs
        inputs = make_inputs(model, fit_on, held["slice"], recipe, where)
        head = find_head(model, recipe)[1] if recipe.train == "head" or recipe.head_epochs else model
        learner = head if recipe.train == "head" else model
        progress = train_epochs(learner, head, inputs, recipe, where, out / "state.pt")
    figures = export_best_epoch(out / "checkpoint.safetensors", recipe, model, progress, held, facts)
    return figures | ({"comparison": teach.compare(corrections, table, out)} if corrections else {})


def _list_pictures(sources: list[str], corrections: Corrections | None) -> pd.DataFrame:
    table = data.load(sources)
    earlier = table["source"] == data.CORRECTIONS
    if num := int(earlier.sum()):
        say(f"{num:,} corrections of an earlier training are left out; name their run with --corrections")
    return pd.concat([table[~earlier], *([corrections.table] if corrections else [])], ignore_index=True)


def _hash_file(weights: Path | None) -> str | None:
    try:
        return hashlib.sha256(weights.read_bytes()).hexdigest() if weights else None
    except OSError as error:
        raise UsageError(f"weights {weights}: {error.strerror}; check --weights") from error


def _describe_data(table: pd.DataFrame) -> dict[str, Any]:
    """What the card says about the data."""
    counts = table[table["part"] != ""].groupby(["source", "part", "label"]).size()
    names = [name for name in ("dhash", "label", "part", "probability") if name in table]
    rows = table[names].assign(dhash=table["dhash"].map(bytes.hex)).fillna(1)
    values = sorted(rows.itertuples(index=False, name=None))
    return {
        "fingerprint": hashlib.sha256(repr(values).encode()).hexdigest(),
        "counts": [[source or "-", part, label, int(num)] for (source, part, label), num in counts.items()],
    }


def _refuse_other_training(out: Path, facts: dict[str, Any]) -> None:
    """Raise UsageError where `out` holds another training than this one."""
    file = out / "training.json"
    try:
        other = json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise UsageError(f"{file}: cannot be read as JSON ({error}); name another --out") from error
    for name, what in (("recipe", "settings"), ("weights_sha256", "weights"), ("fingerprint", "data")):
        if name in facts and name in other and other[name] != facts[name]:
            first = f": {list_differences(facts[name], other[name])[0]}" if name == "recipe" else ""
            raise UsageError(f"{out} holds a training with other {what}{first}; name another --out")


def _write_facts(out: Path, table: pd.DataFrame, facts: dict[str, Any]) -> None:
    """Write training.json, and split.parquet: a manifest that gives evaluate and export the same parts."""
    split = table["part"].where((table["part"] != "fit") | (table["split"] != "extra"), "extra")
    cluster = facts["fingerprint"][:8] + "-" + table["group"].astype(str)
    rows = table.assign(split=split, cluster=cluster)[split != ""]
    with write_whole(out / "split.parquet") as partial:
        rows[list(data.COLUMNS)].to_parquet(partial, index=False)
    write_json(out / "training.json", facts)
    leak = facts["leak"]
    leaked, num_test = leak["num_leaked_by_file"], leak["num_test_by_file"]
    say(f"{leak['num_pictures']:,} pictures in {leak['num_groups']:,} groups of near-duplicates")
    say(f"in a split by file, {leaked:,} of {num_test:,} test pictures would have a relative in training")
    if accuracy := leak["probe_accuracy"]:
        claimed, real = accuracy["by_file"], accuracy["by_group"]
        say(f"a probe would then claim {claimed:.1%} accuracy, where it reaches {real:.1%}")


def _measure_leak(
    model: nn.Module, table: pd.DataFrame, pixels: Any, recipe: Recipe, device: torch.device
) -> dict[str, Any]:
    """Measure what a split by file would have leaked and claimed. `extra` never tests anything."""
    rows = table[(table["part"] != "") & (table["split"] != "extra")]
    groups = pd.Series(rows["group"].unique()).sample(frac=1, random_state=recipe.seed)
    num_before = rows["group"].value_counts()[groups].cumsum().shift(fill_value=0).to_numpy()
    sample = rows[rows["group"].isin(groups[num_before < NUM_PROBED])]
    inputs = iterate_batches(pixels[sample["pixel"].to_numpy()], recipe, device)
    features = predict(copy_backbone(model, recipe), inputs).numpy()
    return splits.measure_leak(rows, sample, features, recipe.seed)


@app.command()
def main(
    data_: Annotated[list[str], Option("--data", help="Folder of classes, or manifest; repeatable.")],
    out: Annotated[Path, Option(help="Folder for the checkpoint, its card and its figures.")],
    recipe: Annotated[str, Option(help="Name in training/recipes, or TOML file.")] = "default",
    corrections: Annotated[
        list[str] | None, Option(help="Run with corrections, or folder of corrections; repeatable.")
    ] = None,
    against: Annotated[
        Path | None, Option(help="Checkpoint to compare with [the one that scored the run].")
    ] = None,
    weights: Annotated[Path | None, Option(help="Pretrained weights, .safetensors or .pth.")] = None,
    architecture: Annotated[str | None, Option(help="Network instead of the recipe's.")] = None,
    epochs: Annotated[int | None, Option(min=1, help="Epochs instead of the recipe's.")] = None,
    seed: Annotated[int | None, Option(min=0, help="Seed instead of the recipe's.")] = None,
    changes: Annotated[
        list[str] | None, Option("--set", help="KEY=VALUE, any key of a recipe; repeatable.")
    ] = None,
    device: Annotated[str, Option(help="auto, cuda, mps or cpu.")] = "auto",
    threads: Annotated[int | None, Option(min=1, help="CPU threads [one per core].")] = None,
    limit: Annotated[int | None, Option(min=1, help="Pictures per label and split, for a trial.")] = None,
) -> int:
    """Train a recipe and export its checkpoint; the same command goes on after an interruption."""
    if threads:
        torch.set_num_threads(threads)
    settings = read_recipe(recipe, changes or [], architecture=architecture, epochs=epochs, seed=seed)
    if against and not corrections:
        raise UsageError("--against names what corrections are compared with; give --corrections too")
    try:
        loaded = load_corrections(corrections, against) if corrections else None
        command = f"python -m training.finetune {shlex.join(sys.argv[1:])}"
        figures = train(
            settings, data_, out, weights=weights, device=device, limit=limit, title=Path(recipe).stem,
            command=command, corrections=loaded,
        )  # fmt: skip
    except KeyboardInterrupt:
        message = "maskbatch: interrupted; the same command goes on after the training's last whole epoch"
        say(message, "error", exit_code=INTERRUPTED)
        sys.exit(INTERRUPTED)
    best = figures.get("faces", figures["all"])
    accuracy, balanced = (format_interval(best[name]) for name in ("accuracy", "balanced_accuracy"))
    say(f"{out / 'checkpoint.safetensors'}: val accuracy {accuracy}, balanced {balanced}.")
    say("Its card is MODEL_CARD.md, and its plots are in evaluation/.")
    if comparison := figures.get("comparison"):
        say(comparison["verdict"])
        return DONE if comparison["better"] else ALERT
    return DONE


if __name__ == "__main__":
    run_program(app, "python -m training.finetune --help")
