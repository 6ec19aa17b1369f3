"""Compare the old checkpoint with the new: did the classifier learn from what people corrected?

Measures both from their files, on val and on the exam, which no training and no choice has seen.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint
from maskbatch.progress import say
from maskbatch.stores.files import write_json, write_whole
from training import metrics, splits
from training.card import format_interval, format_table
from training.corrections import Corrections
from training.data import CORRECTIONS, Pictures
from training.evaluate import compute_logits, open_classifier
from training.export import decode_parts
from training.metrics import Bools
from training.network import is_same_network
from training.recipe import Recipe

MIN_CORRECTIONS = 50
"""Fewer cannot show anything."""
ALPHA = 0.05
SECTION = """
## What corrections taught it

{verdict}

People judged {judged:,} images ({skipped:,} skipped, {disputed:,} disputed); {changed:,} of the other
{usable:,} got another label than the classifier's. The old checkpoint is `{old}`, sha256 `{digest}`.
p is two-sided, from flipping the signs of whole groups: camera-days, or near-duplicates where there are few
days. If corrections teach nothing, at most one training in forty is called better by chance. Over the
archive, random and uncertain images count by how many of each it has, if judged in the order of the queue.

{table}
"""


def choose_weights(old: Checkpoint, recipe: Recipe) -> Path | None:
    """Choose the file of the old checkpoint, where the recipe can go on from it."""
    if is_same_network(Path(old.path), recipe):
        say(f"the training goes on from {old.path}")
        return Path(old.path)
    theirs, ours = (f"{it.architecture} of {', '.join(it.classes)}" for it in (old.card, recipe))
    say(f"{old.path} is {theirs}, but the recipe is {ours}: the training starts as the recipe says")
    return None


def refuse_other_classes(old: Checkpoint, table: pd.DataFrame) -> None:
    """Raise UsageError where the old checkpoint lacks a class of val or exam, and so cannot be right."""
    held = table[table["part"].isin(["val", "exam"])]
    if lacking := sorted({*held["label"]} - {*old.card.classes}):
        message = f"{old.path} has no class {lacking[0]!r}, which pictures of val or exam have"
        raise UsageError(f"{message}; name a checkpoint with that class to compare with: --against FILE")


def compare(corrections: Corrections, table: pd.DataFrame, out: Path) -> dict[str, Any]:
    """Compare the checkpoint in the folder `out` with the old one; writes comparison.json and the card.

    table: the result of `splits.add_corrections`.
    """
    old, new = corrections.old, open_checkpoint(str(out / "checkpoint.safetensors"))
    parts = [part for part in ("val", "exam") if (table["part"] == part).any()]
    held = {preset: decode_parts(table, preset, parts) for preset in {old.card.preset, new.card.preset}}
    figures: dict[str, Any] = {}
    for part in parts:
        before, after = (_find_hits(it, held[it.card.preset][part]) for it in (old, new))
        figures[part] = _measure(before, after, held[new.card.preset][part][1], corrections.sizes)
    readable = table[table["source"] == CORRECTIONS]
    counts = {part: int((readable["part"] == part).sum()) for part in ("fit", "slice", "exam")}
    doubt = _find_doubt(len(readable), figures["val"], figures.get("exam"))
    comparison = {
        "better": doubt is None,
        "verdict": _write_verdict(doubt, figures),
        **{name: {"path": it.path, "digest": it.digest} for name, it in (("old", old), ("new", new))},
        "corrections": corrections.counts | {"read": len(readable)} | counts,
        **figures,
    }
    write_json(out / "comparison.json", comparison)
    card = out / "MODEL_CARD.md"
    text = card.read_text() + SECTION.format(
        verdict=comparison["verdict"],
        old=Path(old.path).name,
        digest=old.digest[:12],
        table=format_table([["pictures", "", "old", "new", "difference", "p"], *_list_rows(comparison)]),
        **comparison["corrections"],
    )
    with write_whole(card) as partial:
        partial.write_text(text)
    return comparison


def _find_hits(checkpoint: Checkpoint, pictures: Pictures) -> Bools:
    """Find whether the checkpoint's label is right, for each row (N,)."""
    logits = compute_logits(open_classifier(checkpoint), pictures)
    labels = np.array(checkpoint.card.classes)[logits.argmax(axis=1)]
    return np.asarray(labels == pictures[1]["label"].to_numpy())


def _measure(old: Bools, new: Bools, rows: pd.DataFrame, sizes: Mapping[str, float]) -> dict[str, Any]:
    """Measure how often each is right, the difference, and whether it may be chance.

    Corrections are also measured by stratum, and over the archive if every stratum of `sizes` is held out.
    """
    groups, ones = rows["group"].to_numpy(np.int64), np.ones(len(rows))
    test = metrics.flip_signs(old, new, groups)
    figures: dict[str, Any] = {
        "num": len(rows),
        "num_groups": test["num_groups"],
        "only_old_right": test["only_first_right"],
        "only_new_right": test["only_second_right"],
        "p_value": test["p_value"],
        "accuracy": metrics.measure_pair(old, new, groups, ones),
    }
    if not (rows["source"] == CORRECTIONS).all():
        return figures
    strata = rows["stratum"].to_numpy()
    figures["by_stratum"] = {}
    for name in sorted(set(strata)):
        part = strata == name
        pair = metrics.measure_pair(old[part], new[part], groups[part], ones[part])
        figures["by_stratum"][str(name)] = {"num": int(part.sum())} | pair
    if {*sizes} <= {*strata}:
        weights = rows["stratum"].map(sizes) / rows["stratum"].map(rows["stratum"].value_counts())
        figures["archive"] = metrics.measure_pair(old, new, groups, weights.to_numpy(float))
        figures["archive"]["difference"] = metrics.estimate_difference(old, new, groups, strata, sizes)
    return figures


def _find_doubt(num_read: int, val: Mapping[str, Any], exam: Mapping[str, Any] | None) -> str | None:
    """Find the first reason not to call the new checkpoint better."""
    if num_read < MIN_CORRECTIONS:
        needed = f"{MIN_CORRECTIONS} or more are needed to show anything"
        return f"{num_read:,} corrections could be used, {needed}"
    num_groups = exam["num_groups"] if exam else 0
    if exam is None or num_groups < splits.MIN_HELD:
        return f"{num_groups} groups of corrections were held out, {splits.MIN_HELD} or more are needed"
    if "archive" not in exam:
        return "its corrections held out lack random or uncertain images, and say nothing of the archive"
    pairs = exam["accuracy"], exam["archive"], val["accuracy"]
    gain, over_all, on_val = (pair["difference"]["value"] for pair in pairs)
    p_exam, p_val = exam["p_value"], val["p_value"]
    reasons = {
        "on the corrections held out it is right less often": gain < 0,
        "on the corrections held out it is right as often as before": gain == 0,
        f"its gain on the corrections held out may be chance (p = {p_exam:.3f})": p_exam >= ALPHA,
        "over the archive it would be right less often": over_all < 0,
        f"on val it is right less often (p = {p_val:.4f})": on_val < 0 and p_val < ALPHA,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _write_verdict(doubt: str | None, figures: Mapping[str, Any]) -> str:
    if doubt:
        result = f"not shown to be better than the old one: {doubt}"
    else:
        low, high = (100 * figures["exam"]["archive"]["difference"][end] for end in ("low", "high"))
        change = f"over the whole archive accuracy changes by {low:+.1f} to {high:+.1f} points (95 %)"
        result = f"better than the old one on images such as were corrected; {change}"
    parts = []
    for part, name in (("exam", "the corrections held out"), ("val", "val")):
        if part in figures:
            new, old = (figures[part]["accuracy"][which]["value"] for which in ("new", "old"))
            parts.append(f"on {name} {new:.3f}, {old:.3f} before (p = {figures[part]['p_value']:.4f})")
    return f"The new checkpoint is {result}. Accuracy {'; '.join(parts)}."


def _list_rows(comparison: Mapping[str, Any]) -> Iterator[list[str]]:
    exam = comparison.get("exam", {})
    rows = [("val", comparison["val"], comparison["val"]["accuracy"])]
    if exam:
        rows.append(("corrections held out", exam, exam["accuracy"]))
    rows += [(f"{name} ones of them", it, it) for name, it in exam.get("by_stratum", {}).items()]
    if "archive" in exam:
        rows.append(("over the archive", {"num": exam["num"]}, exam["archive"]))
    for name, part, pair in rows:
        p_value = f"{part['p_value']:.4f}" if "p_value" in part else ""
        figures = [format_interval(pair[which]) for which in ("old", "new", "difference")]
        yield [name, f"{part['num']:,}", *figures, p_value]
