"""Splits that cannot leak: a group of near-duplicates lies wholly in one of fit, slice, val and exam.

fit     learned from
slice   of train; chooses the epoch, the recipe and the review threshold
val     gives every reported figure, and chooses nothing
exam    of the corrections; says whether they taught anything, and chooses nothing
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
"""Two dhashes of 64 bits that differ in so few are near-duplicates."""
PLAIN_BITS = 8
"""A hash with fewer bits set, or unset, is of a plain surface and says nothing."""
VAL_FOLDS = 5
"""Without a given split, val is a fifth of the pictures."""
SLICE_FOLDS = 8
FEWEST_OF_CLASS = 10
"""Groups of each class, so that fit, slice and val all see it."""
FEWEST_HELD = 10
"""Groups of corrections held out that say anything."""
EXAM_SHARE = 5
"""A fifth of the groups of corrections is held out, FEWEST_HELD at least where there are twice as many."""


def near_duplicates(hashes: Sequence[bytes]) -> NDArray[np.int64]:
    """A group number (N,) for each 8-byte dhash: near-duplicates, and theirs in turn, share one."""
    words, telling = _words(hashes)
    told = np.flatnonzero(telling)
    pairs: list[NDArray[np.int64]] = []
    for i, word in enumerate(words[told]):
        near = np.flatnonzero(np.bitwise_count(words[told[i + 1 :]] ^ word) <= NEAR_BITS)
        pairs.append(np.stack([np.full(len(near), told[i]), told[i + 1 :][near]]))
    edges = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    graph = coo_array((np.ones(edges.shape[1], bool), tuple(edges)), shape=(len(words), len(words)))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _words(hashes: Sequence[bytes]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Hashes as numbers (N,), and whether each says anything."""
    words = np.frombuffer(b"".join(hashes), np.uint64)
    ones = np.bitwise_count(words)
    return words, (ones >= PLAIN_BITS) & (ones <= 64 - PLAIN_BITS)


def groups_of(table: pd.DataFrame) -> NDArray[np.int64]:
    """A group number (N,) for each row: one cluster, or near-duplicates where a row names no cluster."""
    names = table["cluster"].where(table["cluster"] != "", None)
    found = pd.Series(near_duplicates(table["dhash"].tolist())).map("dhash {}".format)
    return pd.factorize(names.fillna(found))[0].astype(np.int64)


def assign(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The table with `group` and `part` (fit, slice, val, or '' where it takes no part).

    A given val or slice is kept; otherwise val is a fifth, slice an eighth of the rest. Suspect
    labels are never learned from or chosen by; rows of split `extra` are only learned from. What is
    near a picture of a later part is left out of the earlier one, and said. Raises UsageError.
    """
    table = table.assign(group=groups_of(table), part="")
    trainable, held = table["split"].isin(["train", ""]), table["split"] == "val"
    if not held.any():
        held = trainable & _fold(table, trainable, VAL_FOLDS, seed)
    sound = table["suspect"] == "0"
    picked = (table["split"] == "slice") & sound
    fit = (trainable & ~held | (table["split"] == "extra")) & sound
    fit = _without(table, fit, held, "val")
    if not picked.any():
        chosen = fit & (table["split"] != "extra")
        picked = chosen & _fold(table, chosen, SLICE_FOLDS, seed)
    fit = _without(table, fit & ~picked, picked, "")
    for part, rows in (("fit", fit), ("slice", picked), ("val", held)):
        table.loc[rows, "part"] = part
    _check_parts(table)
    if idle := sorted({*table.loc[table["part"] == "", "split"]} - {"", *SPLITS.values()}):
        say(f"{int(table['split'].isin(idle).sum()):,} pictures of split {', '.join(idle)} take no part")
    return table


def _check_parts(table: pd.DataFrame) -> None:
    for part in ("fit", "slice", "val"):
        rows = table[table["part"] == part]
        if rows["target"].nunique() < 2 or rows["group"].nunique() < 2:
            raise UsageError(f"one class or one group only in {part}; train and val need more pictures")


def add_corrections(table: pd.DataFrame, corrected: pd.DataFrame, seed: int) -> pd.DataFrame:
    """What `assign` gave, and the corrections, with their `group` and `part`; val stays as it is.

    Groups are camera-days, whose pictures are alike, or near-duplicates where the days are too few to hold
    out FEWEST_HELD: the first ones by a hash are the exam, the next go to the slice, the rest to fit. What is
    near a picture of a later part is left out of the earlier one. Raises UsageError.
    """
    if corrected.empty:
        raise UsageError("none of the corrected pictures can be read; put their archive back where it was")
    days = corrected["day"]
    if (days == "").any() or days.nunique() < 2 * FEWEST_HELD:
        days = pd.Series(near_duplicates(corrected["dhash"].tolist()), corrected.index)
        days = days.map(corrected["sha256"].groupby(days).min())  # a name that more pictures do not change
        few = f"corrections of fewer than {2 * FEWEST_HELD} camera-days"
        say(f"{few} are held out by group of near-duplicates")
    names = sorted(days.unique(), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    num_exam = min(max(FEWEST_HELD, len(names) // EXAM_SHARE), len(names) // 2)
    num_slice = (len(names) - num_exam) // SLICE_FOLDS
    parts = ["exam"] * num_exam + ["slice"] * num_slice
    part = days.map(dict(zip(names, parts, strict=False))).fillna("fit")
    group = pd.factorize(days)[0] + int(table["group"].max()) + 1
    whole = pd.concat([table, corrected.assign(part=part, group=group)], ignore_index=True)
    fit, picked, held = (whole["part"].isin(names) for names in (["fit"], ["slice"], ["val", "exam"]))
    picked = _without(whole, picked, held, "")
    fit = _without(whole, fit, held, "val or of the corrections held out")
    fit = _without(whole, fit, picked, "")
    whole["part"] = whole["part"].where(fit | picked | held, "")
    _check_parts(whole)
    return whole


def _fold(table: pd.DataFrame, rows: pd.Series, num_folds: int, seed: int) -> pd.Series:
    """One fold of `rows` as a mask: whole groups, the classes as in the whole. Raises UsageError."""
    part = table[rows]
    for label, group in part.groupby("label")["group"]:
        if group.nunique() < FEWEST_OF_CLASS:
            message = (
                f"class {label!r}: {len(group):,} pictures in {group.nunique()} groups of near-duplicates, "
                f"{FEWEST_OF_CLASS} or more are needed; add some, or name it in drop"
            )
            raise UsageError(message)
    if part.empty:
        raise UsageError("no picture to learn from is left; check the splits that the data names")
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    _, picked = next(folds.split(part, part["target"], part["group"]))
    mask = pd.Series(False, index=table.index)
    mask[part.index[picked]] = True
    return mask


def _without(table: pd.DataFrame, rows: pd.Series, held: pd.Series, name: str) -> pd.Series:
    """`rows` but for those in a group of `held`, or near a picture of it by hash whatever their groups."""
    words, telling = _words(table["dhash"].tolist())
    known = words[held.to_numpy() & telling]
    near = np.array(
        [
            bool(tells) and bool((np.bitwise_count(known ^ word) <= NEAR_BITS).any())
            for word, tells in zip(words, telling, strict=True)
        ]
    )
    crossing = rows & (table["group"].isin(table.loc[held, "group"]) | near)
    if name and crossing.any():
        say(f"{int(crossing.sum()):,} pictures are near-duplicates of {name} and are not learned from")
    return rows & ~crossing


def measure_leak(
    table: pd.DataFrame, sample: pd.DataFrame, features: NDArray[np.float32], seed: int
) -> dict[str, Any]:
    """What a split by file of `table` would have leaked, and claimed.

    `features` (N, D) of the rows of `sample` come from the network before it learned anything. The
    accuracies are those of a logistic regression on them, cross-validated by file and by group.
    """
    labels, groups = table["target"].to_numpy(), table["group"].to_numpy()
    _, naive = next(KFold(VAL_FOLDS, shuffle=True, random_state=seed).split(labels))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    targets = sample["target"].to_numpy()

    def accuracy(folds: StratifiedKFold | StratifiedGroupKFold, **by: Any) -> float:
        found = cross_val_predict(probe, features, targets, cv=folds, **by)
        return float((found == targets).mean())

    few = sample["target"].value_counts().min() < VAL_FOLDS or sample["target"].nunique() < 2
    return {
        "num_pictures": len(table),
        "num_groups": int(table["group"].nunique()),
        "num_test_by_file": len(naive),
        "num_leaked_by_file": int(np.isin(groups[naive], np.delete(groups, naive)).sum()),
        "probe_accuracy": None
        if few
        else {
            "by_file": accuracy(StratifiedKFold(VAL_FOLDS, shuffle=True, random_state=seed)),
            "by_group": accuracy(
                StratifiedGroupKFold(VAL_FOLDS, shuffle=True, random_state=seed), groups=sample["group"]
            ),
        },
    }
