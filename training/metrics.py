"""Measure a classifier from labels, probabilities and groups. Intervals resample whole groups.

K classes; `probs` are (N, K) in the order of the classes, `labels` and `groups` (N,) integers.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest, t
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import GroupKFold

NUM_BINS = 15
NUM_RESAMPLES = 1000
NUM_FLIPS = 10_000
MAX_EXACT = 13
"""Up to so many groups, try all signs: 8,192 ways."""

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Figure = tuple[Floats, Callable[[Floats], Floats]]
"""What each row (N, ...) counts, and the figure of sums (..., ...) of such rows."""


def measure_rates(
    labels: Ints, probs: Floats, groups: Ints, classes: Sequence[str], assessed: Sequence[str]
) -> dict[str, Any]:
    """Measure every figure of one set of pictures as {value, low, high}: 95 % by a cluster bootstrap.

    balanced_accuracy is the mean recall of the `assessed` classes that occur. `two_way` is the accuracy on
    with_mask and without_mask if the classifier chooses between these two alone. Source: Efron & Tibshirani
    1993, chapter 13 (percentile interval), with groups resampled.
    """
    kept = [k for k, name in enumerate(classes) if name in assessed]
    eye = np.eye(len(classes))
    cells = eye[labels][:, :, None] * eye[probs.argmax(axis=1)][:, None, :]
    figures: dict[str, Figure] = {
        "accuracy": (cells, lambda c: _ratio(np.trace(c, axis1=-2, axis2=-1), c.sum(axis=(-2, -1)))),
        "balanced_accuracy": (cells, lambda c: _mean(_recall(c)[..., kept])),
        "ece": (_calibration_sums(labels, probs), _ece),
    }
    for k, name in enumerate(classes):
        if not (labels == k).any():
            continue
        figures[f"precision_{name}"] = (cells, lambda c, k=k: _ratio(c[..., k, k], c[..., :, k].sum(axis=-1)))
        figures[f"recall_{name}"] = (cells, lambda c, k=k: _recall(c)[..., k])
        figures[f"f1_{name}"] = (
            cells, lambda c, k=k: _ratio(2 * c[..., k, k], c[..., k, :].sum(-1) + c[..., :, k].sum(-1)),
        )  # fmt: skip
    if {"with_mask", "without_mask"} <= set(classes):
        pair = [classes.index("with_mask"), classes.index("without_mask")]
        counted = np.isin(labels, pair)
        right = counted & (labels == np.array(pair)[probs[:, pair].argmax(axis=1)])
        figures["two_way"] = (np.stack([right, counted], axis=1), lambda c: _ratio(c[..., 0], c[..., 1]))
    out: dict[str, Any] = {"num": len(labels), "num_groups": len(np.unique(groups))}
    out |= _resample(figures, groups)
    for name, score in (("roc_auc", roc_auc_score), ("average_precision", average_precision_score)):
        out[name] = {
            classes[k]: round(float(score(labels == k, probs[:, k])), 4)
            for k in range(len(classes)) if 0 < (labels == k).sum() < len(labels)
        }  # fmt: skip
    return out


def measure_ece(labels: Ints, probs: Floats, groups: Ints) -> dict[str, float]:
    """Measure the expected calibration error as {value, low, high}, as `measure_rates` does."""
    return _resample({"ece": (_calibration_sums(labels, probs), _ece)}, groups)["ece"]


def _resample(figures: Mapping[str, Figure], groups: Ints) -> dict[str, dict[str, float]]:
    """Give each figure its interval, and leave out those that are not a number."""
    members = np.unique(groups, return_inverse=True)[1]
    num_groups = int(members.max()) + 1
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=NUM_RESAMPLES)
    out = {}
    for name, (rows, figure) in figures.items():
        flat = rows.reshape(len(rows), -1).astype(np.float64)
        sums = np.zeros((num_groups, flat.shape[1]))
        np.add.at(sums, members, flat)
        with np.errstate(invalid="ignore"):
            value = float(figure(flat.sum(axis=0).reshape(rows.shape[1:])))
            resampled = figure((drawn @ sums).reshape(NUM_RESAMPLES, *rows.shape[1:]))
        if np.isfinite(value):
            out[name] = _round(value, *np.nanpercentile(resampled, [2.5, 97.5]))
    return out


def _ratio(over: Floats, under: Floats) -> Floats:
    return np.divide(over, under, out=np.full(np.shape(under), np.nan), where=np.asarray(under) > 0)


def _mean(values: Floats) -> Floats:
    """Average the numbers of the last axis; nan where there are none."""
    return _ratio(np.nansum(values, axis=-1), np.isfinite(values).sum(axis=-1))


def _recall(cells: Floats) -> Floats:
    return _ratio(np.diagonal(cells, axis1=-2, axis2=-1), cells.sum(axis=-1))


def _calibration_sums(labels: Ints, probs: Floats) -> Floats:
    """Put confidence, hit and 1 of each row into the bin of its confidence: (N, NUM_BINS, 3)."""
    confidence, hits = probs.max(axis=1), probs.argmax(axis=1) == labels
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    sums = np.zeros((len(labels), NUM_BINS, 3))
    sums[np.arange(len(labels)), bins] = np.stack([confidence, hits, np.ones(len(labels))], axis=1)
    return sums


def _ece(sums: Floats) -> Floats:
    """The expected calibration error of sums (..., NUM_BINS, 3). Source: Guo et al. 2017, equation 3."""
    gaps: Floats = np.abs(sums[..., 0] - sums[..., 1]).sum(axis=-1)
    return gaps / sums[..., 2].sum(axis=-1)


def bin_by_confidence(labels: Ints, probs: Floats) -> list[dict[str, float]]:
    """Give the mean confidence, accuracy and count of each bin of confidence that is not empty."""
    sums = _calibration_sums(labels, probs).sum(axis=0)
    return [
        {"confidence": confidence / num, "accuracy": hits / num, "num": num}
        for confidence, hits, num in sums.tolist() if num
    ]  # fmt: skip


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """Find the divisor of the logits (N, K) with the lowest cross entropy. Source: Guo et al. 2017."""
    rows = np.arange(len(labels))
    best = minimize_scalar(
        lambda t: -log_softmax(logits / t, axis=1)[rows, labels].mean(), bounds=(0.1, 10), method="bounded"
    )
    return round(float(best.x), 4)


def cross_fit(logits: Floats, labels: Ints, groups: Ints) -> Floats:
    """Calibrate probabilities (N, K), each fold of groups by the temperature of the others."""
    probs = np.zeros_like(logits, dtype=np.float64)
    num_folds = min(5, len(np.unique(groups)))
    for others, fold in GroupKFold(num_folds).split(logits, labels, groups):
        probs[fold] = softmax(logits[fold] / fit_temperature(logits[others], labels[others]), axis=1)
    return probs


def find_threshold(confidence: Floats, hits: Bools, target: float) -> float:
    """Find the lowest confidence above which a share `target` of the pictures (N,) is right; 1 for none."""
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    accuracy = np.cumsum(hits[order]) / np.arange(1, len(hits) + 1)
    last = np.append(ordered[1:] != ordered[:-1], True)  # of equal confidences
    good = np.flatnonzero(last & (accuracy >= target))
    return float(ordered[good[-1]]) if len(good) else 1.0


def measure_bins(values: Floats, edges: Sequence[float], hits: Bools, unit: str) -> list[dict[str, Any]]:
    """Measure the accuracy of the pictures whose value lies between each two edges."""
    rows = []
    for low, high in itertools.pairwise(edges):
        chosen = (values >= low) & ((values < high) | (high == edges[-1]))
        if num := int(chosen.sum()):
            interval = binomtest(int(hits[chosen].sum()), num).proportion_ci(method="wilson")
            bounds = {"from": low, "to": high if np.isfinite(high) else None, "unit": unit}
            rows.append(bounds | {"num": num} | _round(hits[chosen].mean(), interval.low, interval.high))
    return rows


def _round(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": round(float(value), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def flip_signs(ours: Bools, theirs: Bools, groups: Ints) -> dict[str, Any]:
    """Test whether two classifiers differ on the same pictures, from the hits (N,) of each; two-sided p.

    If they do not, the difference of each group is as likely to have the other sign, however alike its
    pictures are. Tries all signs for up to MAX_EXACT groups that differ, or else draws NUM_FLIPS. With one
    picture per group it is McNemar's exact test. Source: Fisher 1935, section 21; Winkler et al. 2015.
    """
    members = np.unique(groups, return_inverse=True)[1]
    sums = np.bincount(members, ours.astype(np.int64) - theirs)
    sums = sums[sums != 0]
    exact = len(sums) <= MAX_EXACT
    if exact:
        signs = np.array(list(itertools.product((-1, 1), repeat=len(sums))))
    else:
        signs = np.random.default_rng(0).choice((-1, 1), size=(NUM_FLIPS, len(sums)))
    as_far = int((np.abs(signs @ sums) >= abs(sums.sum())).sum())
    return {
        "only_first_right": int((ours & ~theirs).sum()),
        "only_second_right": int((theirs & ~ours).sum()),
        "num_groups": int(members.max()) + 1,
        "p_value": round(as_far / len(signs) if exact else (1 + as_far) / (1 + NUM_FLIPS), 5),
    }


def measure_pair(old: Bools, new: Bools, groups: Ints, weights: Floats) -> dict[str, dict[str, float]]:
    """Measure accuracy `old`, `new` and their `difference`, from hits (N,) that count by weight."""
    sums = np.stack([old, new, np.ones(len(old))], axis=1) * weights[:, None]
    figures: dict[str, Figure] = {
        "old": (sums, lambda s: _ratio(s[..., 0], s[..., 2])),
        "new": (sums, lambda s: _ratio(s[..., 1], s[..., 2])),
        "difference": (sums, lambda s: _ratio(s[..., 1] - s[..., 0], s[..., 2])),
    }
    return _resample(figures, groups)


def measure_share(hits: Bools, counted: Bools, groups: Ints) -> dict[str, float]:
    """Measure the share of hits (N,) among counted rows as {value, low, high}; {} where none is counted."""
    sums = np.stack([hits & counted, counted], axis=1)
    return _resample({"share": (sums, lambda s: _ratio(s[..., 0], s[..., 1]))}, groups).get("share", {})


def measure_bias(estimated: Bools, seen: Bools, true: Bools, groups: Ints) -> dict[str, float]:
    """Measure how far the share `estimated` of the rows `seen` is above the share `true` of all (N,)."""
    sums = np.stack([estimated & seen, seen, true, np.ones(len(true), bool)], axis=1)
    figure: Figure = (sums, lambda s: _ratio(s[..., 0], s[..., 1]) - _ratio(s[..., 2], s[..., 3]))
    return _resample({"bias": figure}, groups).get("bias", {})


def estimate_difference(
    old: Bools, new: Bools, groups: Ints, strata: NDArray[Any], sizes: Mapping[str, float]
) -> dict[str, float]:
    """Estimate how much more of an archive `new` has right, from hits (N,) on samples of its strata.

    `sizes` has all strata, and each needs a picture. The adjusted Wald interval allows for changes where a
    stratum shows none, and widens where pictures of a group are alike. Source: Bonett & Price 2012 (one more
    change of each kind); Kish 1965 (design effect).
    """
    change = new.astype(np.float64) - old
    residuals = np.zeros(len(change))
    value = centre = variance = 0.0
    for name, size in sizes.items():
        rows, share = strata == name, size / sum(sizes.values())
        num, mean = int(rows.sum()), float(change[rows].mean())
        gained, lost = ((1 + (change[rows] == sign).sum()) / (num + 2) for sign in (1, -1))
        value += share * mean
        centre += share * (gained - lost)
        variance += share**2 * (gained + lost - (gained - lost) ** 2) / (num + 2)
        residuals[rows] = share / num * (change[rows] - mean)
    members = np.unique(groups, return_inverse=True)[1]
    simple, clustered = (residuals**2).sum(), (np.bincount(members, residuals) ** 2).sum()
    effect = max(1.0, clustered / simple) if simple else 1.0
    half = t.ppf(0.975, max(1, members.max())) * np.sqrt(variance * effect)
    return _round(value, max(-1.0, centre - half), min(1.0, centre + half))
