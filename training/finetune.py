"""Train a recipe on labelled pictures and export what `maskbatch score --checkpoint` runs.

    python -m training.finetune --recipe default --data prepared --out trained
    python -m training.finetune --recipe default --data prepared --corrections RUN --out taught

Interrupted, the same command goes on after the last whole epoch. With corrections the exit code is 4 where
the new checkpoint is not shown to be better than the old one.
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

from maskbatch.config import list_differences
from maskbatch.errors import ALERT, UsageError
from maskbatch.progress import say
from maskbatch.stores.files import write_json, write_whole
from training import data, splits, teach
from training.card import interval
from training.console import one_sentence
from training.corrected import Corrected, load
from training.export import decode_held, finish
from training.fit import fit
from training.inputs import feature_inputs, image_inputs
from training.network import backbone_of, batches, head_of, pick_device, predict, start
from training.recipe import Recipe, read_recipe

CACHE = ".pixels-"
PROBED = 2000
"""Pictures of the probe that says what a split by file would have claimed."""


def finetune(
    recipe: Recipe, sources: list[str], out: Path, *, weights: Path | None = None, device: str = "auto",
    limit: int | None = None, title: str = "", command: str = "", corrected: Corrected | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train, choose the epoch on the slice, export, measure on val; returns the figures.

    With `corrected` it starts from the old checkpoint where that fits, and `comparison` is a figure.
    Raises UsageError for what cannot be trained, RunFailedError for a training that went wrong.
    """
    where = pick_device(device)
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: a file stands there; name a folder")
    if corrected and not weights:
        weights = teach.starting_weights(corrected.old, recipe)
    facts = {"recipe": recipe.as_dict(), "weights_sha256": _digest(weights)}
    _refuse_another(out, facts)
    model = start(recipe, weights).to(where)
    table = data.select(_listed(sources, corrected), recipe.classes, recipe.drop, recipe.leave_out)
    if limit:
        table = table.sample(frac=1, random_state=recipe.seed).groupby(["split", "label"]).head(limit)
    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(f"{CACHE}*"):  # of a training that was killed
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=CACHE, dir=out) as cache:
        pixels, table = data.decode(table, recipe.stored, "decode", Path(cache) / "pixels")
        taught = table["source"] == data.CORRECTIONS
        own = splits.assign(table[~taught].reset_index(drop=True), recipe.seed)
        table = splits.add_corrections(own, table[taught], recipe.seed) if corrected else own
        if corrected:
            teach.refuse_other_classes(corrected.old, table)
        facts |= _facts(table)
        _refuse_another(out, facts)
        facts |= {
            "weights": str(weights) if weights else None,
            "title": title,
            "command": command,
            "data": sources,
            "corrections": corrected and corrected.counts,
        }
        facts["leak"] = _leak(model, own, pixels, recipe, where)
        _write_split(out, table, facts)
        held = decode_held(table, recipe.preset)
        fit_on = pixels, table[table["part"] == "fit"]
        learner = head_of(model, recipe)[1] if recipe.train == "head" else model
        inputs_of = feature_inputs if recipe.train == "head" else image_inputs
        inputs = inputs_of(model, fit_on, held["slice"], recipe, where)
        progress = fit(learner, _head(model, recipe), inputs, recipe, where, out / "state.pt")
    figures = finish(out / "checkpoint.safetensors", recipe, model, progress, held, facts)
    return figures | ({"comparison": teach.compare(corrected, table, out)} if corrected else {})


def _listed(sources: list[str], corrected: Corrected | None) -> pd.DataFrame:
    """The pictures of the data, and the corrections."""
    table = data.load(sources)
    earlier = table["source"] == data.CORRECTIONS
    if num := int(earlier.sum()):
        say(f"{num:,} corrections of an earlier training take no part; name their run with --corrections")
    return pd.concat([table[~earlier], *([corrected.table] if corrected else [])], ignore_index=True)


def _head(model: nn.Module, recipe: Recipe) -> nn.Module:
    """What alone learns in the first epochs of a staged training."""
    return head_of(model, recipe)[1] if recipe.head_epochs else model


def _digest(weights: Path | None) -> str | None:
    """The sha256 of a file of weights. Raises UsageError."""
    try:
        return hashlib.sha256(weights.read_bytes()).hexdigest() if weights else None
    except OSError as error:
        raise UsageError(f"weights {weights}: {error.strerror}; check --weights") from error


def _facts(table: pd.DataFrame) -> dict[str, Any]:
    """What the card says of the data."""
    counts = table[table["part"] != ""].groupby(["source", "part", "label"]).size()
    names = [name for name in ("dhash", "label", "part", "probability") if name in table]
    told = table[names].assign(dhash=table["dhash"].map(bytes.hex)).fillna(1)
    seen = sorted(told.itertuples(index=False, name=None))
    return {
        "fingerprint": hashlib.sha256(repr(seen).encode()).hexdigest(),
        "counts": [[source or "-", part, label, int(num)] for (source, part, label), num in counts.items()],
    }


def _refuse_another(out: Path, facts: dict[str, Any]) -> None:
    """Raises UsageError where `out` holds a training that is not this one."""
    told = out / "training.json"
    try:
        other = json.loads(told.read_text()) if told.exists() else {}
    except ValueError as error:
        raise UsageError(f"{told}: not readable as JSON ({error}); name another --out") from error
    for name, what in (("recipe", "settings"), ("weights_sha256", "weights"), ("fingerprint", "data")):
        if name in facts and name in other and other[name] != facts[name]:
            first = f": {list_differences(facts[name], other[name])[0]}" if name == "recipe" else ""
            raise UsageError(f"{out} holds a training of other {what}{first}; name another --out")


def _write_split(out: Path, table: pd.DataFrame, facts: dict[str, Any]) -> None:
    """training.json, and split.parquet: a manifest, so evaluate and export see the same parts."""
    part = table["part"].where((table["part"] != "fit") | (table["split"] != "extra"), "extra")
    split = table.assign(split=part, cluster=facts["fingerprint"][:8] + "-" + table["group"].astype(str))[
        part != ""
    ]
    with write_whole(out / "split.parquet") as partial:
        split[list(data.COLUMNS)].to_parquet(partial, index=False)
    write_json(out / "training.json", facts)
    leak, probed = facts["leak"], facts["leak"]["probe_accuracy"]
    leaked, test = leak["num_leaked_by_file"], leak["num_test_by_file"]
    say(f"{leak['num_pictures']:,} pictures in {leak['num_groups']:,} groups of near-duplicates")
    say(f"split by file, {leaked:,} of {test:,} test pictures would have a relative in training")
    if probed:
        say(f"a probe would then claim {probed['by_file']:.1%}, where it reaches {probed['by_group']:.1%}")


def _leak(
    model: nn.Module, table: pd.DataFrame, pixels: Any, recipe: Recipe, device: torch.device
) -> dict[str, Any]:
    """What a split by file would have leaked and claimed; `extra` is nobody's test."""
    rows = table[(table["part"] != "") & (table["split"] != "extra")]
    groups = pd.Series(rows["group"].unique()).sample(frac=1, random_state=recipe.seed)
    before = rows["group"].value_counts()[groups].cumsum().shift(fill_value=0).to_numpy()
    taken = groups[before < PROBED]
    sample = rows[rows["group"].isin(taken)]
    features = predict(
        backbone_of(model, recipe), batches(pixels[sample["pixel"].to_numpy()], recipe, device)
    )
    return splits.measure_leak(rows, sample, features.numpy(), recipe.seed)


def main(
    data_: Annotated[
        list[str], typer.Option("--data", help="Folder of classes, or manifest; may be repeated.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the checkpoint, its card, figures and what is needed to go on.")
    ],
    recipe: Annotated[str, typer.Option(help="A name in training/recipes, or a TOML file.")] = "default",
    corrections: Annotated[
        list[str] | None,
        typer.Option(help="Run in which people corrected labels, or folder of corrections; may be repeated."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Checkpoint to be better than; default: the one that scored the corrected run."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Pretrained weights, .safetensors or .pth; loaded strictly.")
    ] = None,
    architecture: Annotated[str | None, typer.Option(help="Another network than the recipe's.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Other than the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Other than the recipe's.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, any key of a recipe; may be repeated.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: one a core.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many pictures of each label and split: a trial.")
    ] = None,
) -> None:
    """Train a recipe and export its checkpoint; the same command goes on where it was interrupted."""
    with one_sentence():
        if threads:
            torch.set_num_threads(threads)
        chosen = read_recipe(recipe, changes or [], architecture=architecture, epochs=epochs, seed=seed)
        if against and not corrections:
            raise UsageError("--against is what corrections are held against; give --corrections too")
        corrected = load(corrections, against) if corrections else None
        command = f"python -m training.finetune {shlex.join(sys.argv[1:])}"
        figures = finetune(
            chosen,
            data_,
            out,
            weights=weights,
            device=device,
            limit=limit,
            title=Path(recipe).stem,
            command=command,
            corrected=corrected,
        )
        best = figures.get("faces", figures["all"])
        say(
            f"{out / 'checkpoint.safetensors'}: val accuracy {interval(best['accuracy'])}, balanced "
            f"{interval(best['balanced_accuracy'])}; its card is MODEL_CARD.md, its plots are in evaluation/"
        )
        if corrected:
            say(figures["comparison"]["verdict"])
            if not figures["comparison"]["better"]:
                raise typer.Exit(ALERT)


if __name__ == "__main__":
    typer.run(main)
