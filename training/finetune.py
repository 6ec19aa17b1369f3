"""Train a recipe on labelled pictures and export what `maskbatch score --checkpoint` runs.

    python -m training.finetune --recipe default --data prepared --out trained

Interrupted, the same command goes on after the last whole epoch.
"""

import copy
import hashlib
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from torch import nn

from maskbatch.errors import UsageError
from maskbatch.progress import say
from maskbatch.rundir import whole, write_json
from training import data, splits
from training.augment import augment
from training.card import interval
from training.console import one_sentence
from training.export import Pictures, decode_held, finish
from training.fit import Inputs, fit
from training.network import batches, head_of, normalise, pick_device, predict, start
from training.recipe import Recipe, read_recipe

PROBED = 2000
"""Pictures of the probe that says what a split by file would have claimed."""


def finetune(
    recipe: Recipe, sources: list[str], out: Path, *, weights: Path | None = None, device: str = "auto",
    limit: int | None = None, title: str = "", command: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Train, choose the epoch on the slice, export, measure on val; returns the figures.

    Raises UsageError for what cannot be trained, RunFailedError for a training that went wrong.
    """
    where = pick_device(device)
    model = start(recipe, weights).to(where)
    table = data.select(data.load(sources), recipe.classes, recipe.drop, recipe.leave_out)
    if limit:
        table = table.sample(frac=1, random_state=recipe.seed).groupby(["split", "label"]).head(limit)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pixels-", dir=out) as cache:
        pixels, table = data.decode(table, recipe.stored, "decode", Path(cache) / "pixels.npy")
        table = splits.assign(table, recipe.seed)
        held = decode_held(table, recipe)
        facts = _facts(table, recipe, weights)
        facts |= {"title": title, "command": command, "data": sources}
        facts["leak"] = _leak(model, table, pixels, recipe, where)
        _write_split(out, table, facts)
        inputs_of = _feature_inputs if recipe.train == "head" else _image_inputs
        learner, head, inputs = inputs_of(model, (pixels, table[table["part"] == "fit"]), held, recipe, where)
        progress = fit(learner, head, inputs, recipe, where, out / "state.pt")
    return finish(out / "checkpoint.safetensors", recipe, model, progress, held, facts)


def _facts(table: pd.DataFrame, recipe: Recipe, weights: Path | None) -> dict[str, Any]:
    """What the card says of the data, and what an export of this training needs later."""
    counts = table[table["part"] != ""].groupby(["source", "part", "label"]).size()
    lines = "\n".join(map("\t".join, table[["uri", "label", "part"]].itertuples(index=False)))
    return {
        "recipe": recipe.as_dict(),
        "weights": str(weights) if weights else None,
        "fingerprint": hashlib.sha256(lines.encode()).hexdigest(),
        "counts": [[source or "-", part, label, int(num)] for (source, part, label), num in counts.items()],
    }


def _write_split(out: Path, table: pd.DataFrame, facts: dict[str, Any]) -> None:
    """split.parquet, a manifest that --data takes: evaluate and export then see the same parts."""
    split = table.assign(split=table["part"], cluster=table["group"].astype(str))
    with whole(out / "split.parquet") as partial:
        split[list(data.COLUMNS)].to_parquet(partial, index=False)
    write_json(out / "training.json", facts)
    leak = facts["leak"]
    claimed, reached = (leak["probe_accuracy"][name] for name in ("by_file", "by_group"))
    say(
        f"{leak['num_pictures']:,} pictures in {leak['num_groups']:,} groups: split by file, "
        f"{leak['num_leaked_by_file']:,} of {leak['num_test_by_file']:,} test pictures have a relative "
        f"in training, and a probe would claim an accuracy of {claimed:.1%} where it reaches {reached:.1%}"
    )


def _backbone(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The network without its head: what gives the head its features (N, D)."""
    backbone = copy.deepcopy(model)
    if recipe.architecture == "mobilenet_v1":  # its head is a convolution
        return nn.Sequential(backbone.features, nn.Flatten())
    backbone.set_submodule(head_of(model, recipe)[0], nn.Identity())
    return backbone


def _leak(
    model: nn.Module, table: pd.DataFrame, pixels: Any, recipe: Recipe, device: torch.device
) -> dict[str, Any]:
    rows = table[(table["part"] != "") & (table["split"] != "extra")]
    groups = pd.Series(rows["group"].unique()).sample(frac=1, random_state=recipe.seed)
    taken = groups[rows["group"].value_counts()[groups].cumsum().to_numpy() <= PROBED]
    sample = rows[rows["group"].isin(taken)]
    features = predict(_backbone(model, recipe), batches(pixels[sample["pixel"].to_numpy()], recipe, device))
    return splits.measure_leak(rows, sample, features.numpy(), recipe.seed)


def _chances(rows: pd.DataFrame, recipe: Recipe) -> torch.Tensor | None:
    """The chance (N,) of each row to be drawn; None: each once an epoch. Raises UsageError."""
    if not recipe.shares and recipe.imbalance != "sampler":
        return None
    sources = rows["source"] if recipe.shares else pd.Series("", index=rows.index)
    shares = recipe.shares or {"": 1.0}
    if missing := {*sources} ^ {*shares}:
        found = ", ".join(sorted({*sources}))
        message = f"shares: source {sorted(missing)[0]!r} is not in both the recipe and the data ({found})"
        raise UsageError(f"{message}; set a share for each source, or shares={{}}")
    keys = list(zip(sources, rows["target"], strict=True))
    counts = Counter(keys)
    labels = Counter(source for source, _ in counts)
    return torch.tensor([shares[key[0]] / labels[key[0]] / counts[key] for key in keys], dtype=torch.float64)


def _image_inputs(
    model: nn.Module, fit_on: Pictures, held: dict[str, Pictures], recipe: Recipe, device: torch.device
) -> tuple[nn.Module, nn.Module, Inputs]:
    """The whole network learns from augmented pictures."""
    pixels, rows = fit_on
    where = rows["pixel"].to_numpy()

    def batch(chosen: torch.Tensor) -> torch.Tensor:
        images = torch.from_numpy(pixels[where[chosen.numpy()]]).to(device)
        return normalise(augment(images, recipe.input_px, recipe.augmenter), recipe)

    labels = torch.tensor(rows["target"].to_numpy())
    head = head_of(model, recipe)[1] if recipe.head_epochs else model
    slice_pixels, slice_rows = held["slice"]
    slice_pixels = slice_pixels[slice_rows["pixel"].to_numpy()]
    return model, head, Inputs(
        batch, labels, _chances(rows, recipe),
        lambda: batches(slice_pixels, recipe, device), torch.tensor(slice_rows["target"].to_numpy()),
        _fingerprint(rows),
    )  # fmt: skip


def _feature_inputs(
    model: nn.Module, fit_on: Pictures, held: dict[str, Pictures], recipe: Recipe, device: torch.device
) -> tuple[nn.Module, nn.Module, Inputs]:
    """Only the head learns, from features of the frozen backbone that are computed once."""
    _pixels, rows = fit_on
    _, head = head_of(model, recipe)
    backbone = _backbone(model, recipe)
    torch.manual_seed(recipe.seed)
    views = []
    for _ in range(recipe.views):
        _, _, inputs = _image_inputs(model, fit_on, held, recipe, device)
        order = torch.arange(len(rows)).split(recipe.batch_size)
        with data.step("features", len(rows)) as progress:
            views.append(predict(backbone, _told((inputs.batch(chosen) for chosen in order), progress)))
    features, labels = torch.cat(views), torch.tensor(rows["target"].to_numpy()).repeat(recipe.views)
    chances = _chances(rows, recipe)
    if recipe.imbalance == "smote":
        features, labels = _smote(features, labels, recipe)
    slice_pixels, slice_rows = held["slice"]
    slice_features = predict(backbone, batches(slice_pixels[slice_rows["pixel"].to_numpy()], recipe, device))
    return head, head, Inputs(
        lambda chosen: features[chosen].to(device), labels,
        None if chances is None else chances.repeat(recipe.views),
        lambda: (part.to(device) for part in slice_features.split(512)),
        torch.tensor(slice_rows["target"].to_numpy()), _fingerprint(rows),
    )  # fmt: skip


def _told(parts: Any, progress: Any) -> Any:
    for part in parts:
        progress.advance(len(part))
        yield part


def _smote(features: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """As many rows of every class, the missing ones between neighbours. Source: Chawla et al. 2002."""
    from imblearn.over_sampling import SMOTE

    try:
        more, targets = SMOTE(random_state=recipe.seed).fit_resample(features.numpy(), labels.numpy())
    except ValueError as error:
        message = f"SMOTE cannot oversample ({error}); add pictures, or set imbalance=sampler"
        raise UsageError(message) from error
    return torch.from_numpy(np.ascontiguousarray(more)), torch.from_numpy(targets)


def _fingerprint(rows: pd.DataFrame) -> str:
    return hashlib.sha256("\n".join(rows["uri"] + "\t" + rows["label"]).encode()).hexdigest()


def main(
    data_: Annotated[
        list[str], typer.Option("--data", help="Folder of classes, manifest or run; may be repeated.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the checkpoint, its card, figures and what is needed to go on.")
    ],
    recipe: Annotated[str, typer.Option(help="A name in training/recipes, or a TOML file.")] = "default",
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
        command = " ".join(["python -m training.finetune", *sys.argv[1:]])
        figures = finetune(
            chosen,
            data_,
            out,
            weights=weights,
            device=device,
            limit=limit,
            title=Path(recipe).stem,
            command=command,
        )
        best = figures.get("faces", figures["all"])
        say(
            f"{out / 'checkpoint.safetensors'}: val accuracy {interval(best['accuracy'])}, balanced "
            f"{interval(best['balanced_accuracy'])}; its card is MODEL_CARD.md, its plots are in evaluation/"
        )


if __name__ == "__main__":
    typer.run(main)
