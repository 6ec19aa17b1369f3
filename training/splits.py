"""Splits that cannot leak: a group of near-duplicates lies wholly in one part.

fit     to learn from
slice   a part of train that chooses the epoch, the recipe and the review threshold
val     gives every reported figure, and chooses nothing
exam    a part of the corrections that shows whether they help, and chooses nothing
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from maskbatch.errors import UsageError
from maskbatch.progress import say
from training.data import SPLITS

NEAR_BITS = 5
"""Two dhashes of 64 bits that differ in at most so many are near-duplicates."""
PLAIN_BITS = 8
"""A hash with fewer bits set, or unset, shows a plain surface and says nothing."""
VAL_FOLDS = 5
"""Where the data names no split, val is a fifth of the pictures."""
SLICE_FOLDS = 8
MIN_OF_CLASS = 10
"""Groups of each class, so that fit, slice and val all have some."""
MIN_HELD = 10
"""Groups of corrections to hold out, so that they can show something."""
EXAM_FOLDS = 5
"""Hold out a fifth of the groups of corrections, or MIN_HELD where there are twice as many."""


def group_near_duplicates(hashes: Sequence[bytes]) -> NDArray[np.int64]:
    """Number the group (N,) of each 8-byte dhash: near-duplicates, and theirs in turn, share one."""
    words, telling = _read_hashes(hashes)
    rows = np.flatnonzero(telling)
    pairs = [np.zeros((2, 0), np.int64)]
    for i, row in enumerate(rows):
        near = rows[i + 1 :][np.bitwise_count(words[rows[i + 1 :]] ^ words[row]) <= NEAR_BITS]
        pairs.append(np.stack([np.full(len(near), row), near]))
    edges = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(edges.shape[1], bool), tuple(edges)), shape=(len(words), len(words)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _read_hashes(hashes: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Read hashes as numbers (N,), and whether each says anything."""
    words = np.frombuffer(b"".join(hashes), np.uint64)
    ones = np.bitwise_count(words)
    return words, (ones >= PLAIN_BITS) & (ones <= 64 - PLAIN_BITS)


def find_groups(table: pd.DataFrame) -> NDArray[np.int64]:
    """Number the group (N,) of each row: its cluster, or its near-duplicates where it names none."""
    clusters = table["cluster"].where(table["cluster"] != "", None)
    groups = pd.Series(group_near_duplicates(table["dhash"].tolist())).map("dhash {}".format)
    return pd.factorize(clusters.fillna(groups))[0].astype(np.int64)


def assign_parts(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Add `group` and `part` (fit, slice, val, or '' for a row that takes no part). Raises UsageError.

    Keeps a given val or slice; otherwise val is a fifth, and slice an eighth of the rest. Suspect labels are
    in val alone, rows of split `extra` in fit alone. No picture of a part is near one of a later part.
    """
    table = table.assign(group=find_groups(table), part="")
    trainable, held = table["split"].isin(["train", ""]), table["split"] == "val"
    if not held.any():
        held = trainable & _pick_fold(table, trainable, VAL_FOLDS, seed)
    sound = table["suspect"] == "0"
    slice_ = (table["split"] == "slice") & sound
    fit = (trainable & ~held | (table["split"] == "extra")) & sound
    fit = _exclude_near(table, fit, held, "val")
    if not slice_.any():
        candidates = fit & (table["split"] != "extra")
        slice_ = candidates & _pick_fold(table, candidates, SLICE_FOLDS, seed)
    fit = _exclude_near(table, fit & ~slice_, slice_, "")
    for part, rows in (("fit", fit), ("slice", slice_), ("val", held)):
        table.loc[rows, "part"] = part
    _check_parts(table)
    if idle := sorted({*table.loc[table["part"] == "", "split"]} - {"", *SPLITS.values()}):
        say(f"{int(table['split'].isin(idle).sum()):,} pictures of split {', '.join(idle)} take no part")
    return table


def _check_parts(table: pd.DataFrame) -> None:
    for part in ("fit", "slice", "val"):
        rows = table[table["part"] == part]
        if rows["target"].nunique() < 2 or rows["group"].nunique() < 2:
            raise UsageError(f"only one class or one group in {part}; add pictures to train and val")


def add_corrections(table: pd.DataFrame, corrections: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Add corrections, with `group` and `part`, to what `assign_parts` gave; val stays the same.

    Groups are camera-days, whose pictures are alike, or near-duplicates where the days are too few to hold
    out MIN_HELD. In the order of a hash the first groups become the exam, the next the slice, the rest fit.
    No picture of a part is near one of a later part. Raises UsageError.
    """
    if corrections.empty:
        raise UsageError("none of the corrected pictures can be read; put their archive back where it was")
    days = corrections["day"]
    if (days == "").any() or days.nunique() < 2 * MIN_HELD:
        days = pd.Series(group_near_duplicates(corrections["dhash"].tolist()), corrections.index)
        days = days.map(corrections["sha256"].groupby(days).min())  # more pictures keep this name
        say(f"fewer than {2 * MIN_HELD} camera-days: groups of near-duplicates are held out instead")
    names = sorted(days.unique(), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    num_exam = min(max(MIN_HELD, len(names) // EXAM_FOLDS), len(names) // 2)
    num_slice = (len(names) - num_exam) // SLICE_FOLDS
    parts = ["exam"] * num_exam + ["slice"] * num_slice
    part = days.map(dict(zip(names, parts, strict=False))).fillna("fit")
    group = pd.factorize(days)[0] + int(table["group"].max()) + 1
    table = pd.concat([table, corrections.assign(part=part, group=group)], ignore_index=True)
    fit, slice_, held = (table["part"].isin(names) for names in (["fit"], ["slice"], ["val", "exam"]))
    slice_ = _exclude_near(table, slice_, held, "")
    fit = _exclude_near(table, fit, held, "val or of the corrections held out")
    fit = _exclude_near(table, fit, slice_, "")
    table["part"] = table["part"].where(fit | slice_ | held, "")
    _check_parts(table)
    return table


def _pick_fold(table: pd.DataFrame, rows: pd.Series, num_folds: int, seed: int) -> pd.Series:
    """Pick one fold of `rows`, as a mask: whole groups, with the same mix of classes. Raises UsageError."""
    part = table[rows]
    for label, group in part.groupby("label")["group"]:
        if group.nunique() < MIN_OF_CLASS:
            raise UsageError(
                f"class {label!r}: {len(group):,} pictures in {group.nunique()} groups of near-duplicates, "
                f"{MIN_OF_CLASS} or more groups expected; add some, or name the class in drop"
            )
    if part.empty:
        raise UsageError("no picture to learn from is left; check the splits that the data names")
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    _, picked = next(folds.split(part, part["target"], part["group"]))
    return pd.Series(table.index.isin(part.index[picked]), table.index)


def _exclude_near(table: pd.DataFrame, rows: pd.Series, held: pd.Series, name: str) -> pd.Series:
    """Exclude from `rows` those that share a group with `held`, or that are near a picture of it by hash."""
    words, telling = _read_hashes(table["dhash"].tolist())
    known = words[held.to_numpy() & telling]
    near = [bool((np.bitwise_count(known ^ word) <= NEAR_BITS).any()) for word in words]
    shared = rows & (table["group"].isin(table.loc[held, "group"]) | (telling & np.array(near)))
    if name and shared.any():
        say(f"{int(shared.sum()):,} pictures are near-duplicates of {name} and are left out")
    return rows & ~shared


def measure_leak(
    table: pd.DataFrame, sample: pd.DataFrame, features: NDArray[np.float32], seed: int
) -> dict[str, Any]:
    """Measure what a split by file of `table` would have leaked, and what accuracy it would have claimed.

    The accuracies are those of a logistic regression, cross-validated by file and by group, on the `features`
    (N, D) that the network gives the rows of `sample` before it learns.
    """
    labels, groups = table["target"].to_numpy(), table["group"].to_numpy()
    _, naive = next(KFold(VAL_FOLDS, shuffle=True, random_state=seed).split(labels))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    targets = sample["target"].to_numpy()
    accuracy = None
    if sample["target"].value_counts().min() >= VAL_FOLDS and sample["target"].nunique() > 1:
        accuracy = {}
        ways = (("by_file", StratifiedKFold, None), ("by_group", StratifiedGroupKFold, sample["group"]))
        for name, kind, by in ways:
            folds = kind(VAL_FOLDS, shuffle=True, random_state=seed)
            predicted = cross_val_predict(probe, features, targets, groups=by, cv=folds)
            accuracy[name] = float((predicted == targets).mean())
    return {
        "num_pictures": len(table),
        "num_groups": int(table["group"].nunique()),
        "num_test_by_file": len(naive),
        "num_leaked_by_file": int(np.isin(groups[naive], np.delete(groups, naive)).sum()),
        "probe_accuracy": accuracy,
    }
