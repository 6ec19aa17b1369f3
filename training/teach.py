"""Old against new: whether what people corrected has taught the classifier anything.

Both are measured from their files, on val and on the exam, which neither training nor any choice has seen.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint
from maskbatch.progress import say
from maskbatch.stores.files import write_json, write_whole
from training import metrics, splits
from training.card import interval, markdown
from training.corrected import Corrected
from training.data import CORRECTIONS, Pictures
from training.evaluate import Opened, logits_of
from training.export import decode_held
from training.network import same_checkpoint
from training.recipe import Recipe

FEWEST = 50
"""Corrections from which anything can be shown."""
ALPHA = 0.05
SECTION = """
## What corrections taught it

{verdict}

People judged {judged:,} images ({skipped:,} skipped, {disputed:,} disputed); {changed:,} of the other
{usable:,} are not what the classifier had said. The old checkpoint is `{old}`, sha256 `{digest}`.
p is two-sided, by flipping the signs of whole groups: camera-days, or near-duplicates where the days are few;
of corrections that teach nothing, up to one training in forty is called better by chance. Over the archive:
random and uncertain images count by how many of each it has, if they were judged in the order of the queue.

{table}
"""


def starting_weights(old: Checkpoint, recipe: Recipe) -> Path | None:
    """The old checkpoint's file, where the recipe can go on from it."""
    if same_checkpoint(Path(old.path), recipe):
        say(f"the training goes on from {old.path}")
        return Path(old.path)
    theirs, ours = (f"{it.architecture} of {', '.join(it.classes)}" for it in (old.card, recipe))
    say(f"{old.path} is {theirs}, the recipe {ours}: the training starts as the recipe says")
    return None


def refuse_other_classes(old: Checkpoint, table: pd.DataFrame) -> None:
    """Raises UsageError where the old checkpoint lacks a class of val or exam: it could not be right."""
    for part in ("val", "exam"):
        if lacking := sorted({*table.loc[table["part"] == part, "label"]} - {*old.card.classes}):
            message = f"{old.path} has no class {lacking[0]!r}, which pictures held out have"
            raise UsageError(f"{message}; name a checkpoint that has it, to hold against: --against FILE")


def compare(corrected: Corrected, table: pd.DataFrame, out: Path) -> dict[str, Any]:
    """Measure the old checkpoint and the one in the folder `out`: comparison.json, and a part of its card.

    table: what `splits.add_corrections` gave.
    """
    old, new = corrected.old, open_checkpoint(str(out / "checkpoint.safetensors"))
    parts = [part for part in ("val", "exam") if (table["part"] == part).any()]
    presets = {one.card.preset for one in (old, new)}
    held = {preset: decode_held(table, preset, parts) for preset in presets}
    found: dict[str, Any] = {}
    for part in parts:
        before, after = (_hits(one, held[one.card.preset][part]) for one in (old, new))
        found[part] = _measure(before, after, held[new.card.preset][part][1], corrected.sizes)
    taught = table[table["source"] == CORRECTIONS]
    counts = corrected.counts | {"read": len(taught)}
    counts |= {part: int((taught["part"] == part).sum()) for part in ("fit", "slice", "exam")}
    reason = _doubt(len(taught), found["val"], found.get("exam"))
    comparison = {
        "better": reason is None,
        "verdict": _verdict(reason, found),
        **{name: {"path": one.path, "digest": one.digest} for name, one in (("old", old), ("new", new))},
        "corrections": counts,
        **found,
    }
    write_json(out / "comparison.json", comparison)
    card = out / "MODEL_CARD.md"
    text = card.read_text() + _section(comparison)
    with write_whole(card) as partial:
        partial.write_text(text)
    return comparison


def _hits(checkpoint: Checkpoint, pictures: Pictures) -> NDArray[np.bool_]:
    """Whether the checkpoint's label is the true one, of each row (N,)."""
    pixels, rows = pictures
    logits = logits_of(Opened.of(checkpoint).full, pixels[rows["pixel"].to_numpy()])
    hits: NDArray[np.bool_] = (
        np.array(checkpoint.card.classes)[logits.argmax(axis=1)] == rows["label"].to_numpy()
    )
    return hits


def _measure(
    old: NDArray[np.bool_], new: NDArray[np.bool_], rows: pd.DataFrame, sizes: Mapping[str, float]
) -> dict[str, Any]:
    """How often each is right, the difference, and whether it could be chance.

    Of corrections also by stratum, and over the archive, whose strata have `sizes`, where all are held out.
    """
    groups, ones = rows["group"].to_numpy(np.int64), np.ones(len(rows))
    test = metrics.sign_flip(old, new, groups)
    found: dict[str, Any] = {
        "num": len(rows),
        "num_groups": test["num_groups"],
        "only_old_right": test["only_first_right"],
        "only_new_right": test["only_second_right"],
        "p_value": test["p_value"],
        "accuracy": metrics.paired(old, new, groups, ones),
    }
    if (rows["source"] == CORRECTIONS).all():
        strata = rows["stratum"].to_numpy()
        found["by_stratum"] = {
            str(name): {"num": len(part)}
            | metrics.paired(old[part.index], new[part.index], groups[part.index], ones[part.index])
            for name, part in rows.groupby("stratum")
        }
        if {*sizes} <= {*strata}:
            weights = rows["stratum"].map(sizes) / rows["stratum"].map(rows["stratum"].value_counts())
            found["archive"] = metrics.paired(old, new, groups, weights.to_numpy(float))
            found["archive"]["difference"] = metrics.stratified_difference(old, new, groups, strata, sizes)
    return found


def _doubt(num_read: int, val: Mapping[str, Any], exam: Mapping[str, Any] | None) -> str | None:
    """Why the new checkpoint cannot be called better, or None."""
    if num_read < FEWEST:
        return f"{num_read:,} corrections could be used, {FEWEST} or more are needed to show anything"
    num_groups = exam["num_groups"] if exam else 0
    if exam is None or num_groups < splits.FEWEST_HELD:
        return f"{num_groups} groups of corrections were held out, {splits.FEWEST_HELD} or more are needed"
    if "archive" not in exam:
        return "its corrections held out lack random or uncertain images, and say nothing of the archive"
    gain, over_all, on_val = (
        it["difference"]["value"] for it in (exam["accuracy"], exam["archive"], val["accuracy"])
    )
    reasons = {
        "on the corrections held out it is right less often": gain < 0,
        "on the corrections held out it is right as often as before": gain == 0,
        f"its gain on the corrections held out may be chance (p = {exam['p_value']:.3f})": exam["p_value"]
        >= ALPHA,
        "over the archive it would be right less often": over_all < 0,
        f"on val it is right less often (p = {val['p_value']:.4f})": on_val < 0 and val["p_value"] < ALPHA,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _verdict(reason: str | None, found: Mapping[str, Any]) -> str:
    result = f"not shown to be better than the old one: {reason}" if reason else _gain(found["exam"])
    measured = []
    for part, name in (("exam", "the corrections held out"), ("val", "val")):
        if part in found:
            new, old = (found[part]["accuracy"][which]["value"] for which in ("new", "old"))
            measured.append(f"on {name} {new:.3f}, {old:.3f} before (p = {found[part]['p_value']:.4f})")
    return f"The new checkpoint is {result}. Accuracy {'; '.join(measured)}."


def _gain(exam: Mapping[str, Any]) -> str:
    low, high = (100 * exam["archive"]["difference"][end] for end in ("low", "high"))
    whole_archive = f"over the whole archive accuracy changes by {low:+.1f} to {high:+.1f} points (95 %)"
    return f"better than the old one on images such as were corrected; {whole_archive}"


def _section(comparison: Mapping[str, Any]) -> str:
    """The comparison as a part of the model card, Markdown."""
    old = comparison["old"]
    return SECTION.format(
        verdict=comparison["verdict"],
        old=Path(old["path"]).name,
        digest=old["digest"][:12],
        table=markdown([["pictures", "", "old", "new", "difference", "p"], *_rows(comparison)]),
        **comparison["corrections"],
    )


def _rows(comparison: Mapping[str, Any]) -> Iterator[list[str]]:
    """The lines of its table."""
    val, exam = comparison["val"], comparison.get("exam")
    for name, it in (("val", val), ("corrections held out", exam)):
        if it:
            yield [name, f"{it['num']:,}", *_cells(it["accuracy"]), f"{it['p_value']:.4f}"]
    for name, it in (exam or {}).get("by_stratum", {}).items():
        yield [f"{name} ones of them", f"{it['num']:,}", *_cells(it), ""]
    if exam and "archive" in exam:
        yield ["over the archive", f"{exam['num']:,}", *_cells(exam["archive"]), ""]


def _cells(figures: Mapping[str, Any]) -> list[str]:
    return [interval(figures[name]) for name in ("old", "new", "difference")]
