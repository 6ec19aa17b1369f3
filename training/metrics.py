"""Figures of a classifier from labels, probabilities and groups; intervals resample whole groups.

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
MOST_EXACT = 13
"""Groups whose signs are all tried: 8,192 ways."""

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Figure = tuple[Floats, Callable[[Floats], Floats]]
"""What each row (N, ...) counts, and a function of sums (..., ...) of such rows."""


def rates(
    labels: Ints, probs: Floats, groups: Ints, classes: Sequence[str], assessed: Sequence[str]
) -> dict[str, Any]:
    """Every figure of one set of pictures, each as {value, low, high}: 95 % by a cluster bootstrap.

    balanced_accuracy is the mean recall of the `assessed` classes that occur; `two_way` the accuracy
    on with_mask and without_mask when only these two are asked for. Source: Efron & Tibshirani 1993,
    chapter 13 (percentile interval), groups resampled.
    """
    num_classes = len(classes)
    predicted = probs.argmax(axis=1)
    kept = [k for k, name in enumerate(classes) if name in assessed]
    eye = np.eye(num_classes)
    cells = eye[labels][:, :, None] * eye[predicted][:, None, :]
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
        asked = np.isin(labels, pair)
        right = asked & (labels == np.array(pair)[probs[:, pair].argmax(axis=1)])
        figures["two_way"] = (np.stack([right, asked], axis=1), lambda c: _ratio(c[..., 0], c[..., 1]))
    out: dict[str, Any] = {"num": len(labels), "num_groups": len(np.unique(groups))}
    out |= _resample(figures, groups)
    for name, score in (("roc_auc", roc_auc_score), ("average_precision", average_precision_score)):
        out[name] = {
            classes[k]: round(float(score(labels == k, probs[:, k])), 4)
            for k in range(num_classes) if 0 < (labels == k).sum() < len(labels)
        }  # fmt: skip
    return out


def ece(labels: Ints, probs: Floats, groups: Ints) -> dict[str, float]:
    """Expected calibration error as {value, low, high}, as in `rates`."""
    return _resample({"ece": (_calibration_sums(labels, probs), _ece)}, groups)["ece"]


def _resample(figures: Mapping[str, Figure], groups: Ints) -> dict[str, dict[str, float]]:
    """Each figure with its interval; one that is no number is left out."""
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
            low, high = np.nanpercentile(resampled, [2.5, 97.5])
            out[name] = {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
    return out


def _ratio(over: Floats, under: Floats) -> Floats:
    return np.divide(over, under, out=np.full(np.shape(under), np.nan), where=np.asarray(under) > 0)


def _mean(values: Floats) -> Floats:
    """Over the last axis, of what is a number; nan where nothing is."""
    return _ratio(np.nansum(values, axis=-1), np.isfinite(values).sum(axis=-1))


def _recall(cells: Floats) -> Floats:
    return _ratio(np.diagonal(cells, axis1=-2, axis2=-1), cells.sum(axis=-1))


def confusion_matrix(labels: Ints, predicted: Ints, num_classes: int) -> tuple[tuple[int, ...], ...]:
    """Counts (K, K), true by predicted."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return tuple(map(tuple, counts.tolist()))


def _calibration_sums(labels: Ints, probs: Floats) -> Floats:
    """(N, NUM_BINS, 3): confidence, hit and 1 of each row, in the bin of its confidence."""
    confidence, hits = probs.max(axis=1), probs.argmax(axis=1) == labels
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    sums = np.zeros((len(labels), NUM_BINS, 3))
    sums[np.arange(len(labels)), bins] = np.stack([confidence, hits, np.ones(len(labels))], axis=1)
    return sums


def _ece(sums: Floats) -> Floats:
    """Expected calibration error of sums (..., NUM_BINS, 3). Source: Guo et al. 2017, equation 3."""
    gaps: Floats = np.abs(sums[..., 0] - sums[..., 1]).sum(axis=-1) / sums[..., 2].sum(axis=-1)
    return gaps


def reliability(labels: Ints, probs: Floats) -> list[dict[str, float]]:
    """Mean confidence, accuracy and count of each bin of confidence that has any."""
    sums = _calibration_sums(labels, probs).sum(axis=0)
    return [
        {"confidence": confidence / num, "accuracy": hits / num, "num": num}
        for confidence, hits, num in sums.tolist() if num
    ]  # fmt: skip


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """The divisor of the logits (N, K) with the lowest cross entropy. Source: Guo et al. 2017."""
    rows = np.arange(len(labels))
    found = minimize_scalar(
        lambda t: -log_softmax(logits / t, axis=1)[rows, labels].mean(), bounds=(0.1, 10), method="bounded"
    )
    return round(float(found.x), 4)


def cross_fit(logits: Floats, labels: Ints, groups: Ints) -> Floats:
    """Calibrated probabilities (N, K): each fold of groups by the temperature of the others."""
    probs = np.zeros_like(logits, dtype=np.float64)
    num_folds = min(5, len(np.unique(groups)))
    for others, fold in GroupKFold(num_folds).split(logits, labels, groups):
        probs[fold] = softmax(logits[fold] / fit_temperature(logits[others], labels[others]), axis=1)
    return probs


def find_threshold(confidence: Floats, hits: NDArray[np.bool_], target: float) -> float:
    """The lowest confidence from which on `target` of the pictures (N,) are right; 1 where none is."""
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    accuracy = np.cumsum(hits[order]) / np.arange(1, len(hits) + 1)
    last = np.append(ordered[1:] != ordered[:-1], True)  # of those with the same confidence
    good = np.flatnonzero(last & (accuracy >= target))
    return float(ordered[good[-1]]) if len(good) else 1.0


def by_bin(
    values: Floats, edges: Sequence[float], hits: NDArray[np.bool_], unit: str
) -> list[dict[str, Any]]:
    """Accuracy of the pictures whose value lies between each two edges."""
    rows = []
    for low, high in itertools.pairwise(edges):
        chosen = (values >= low) & ((values < high) | (high == edges[-1]))
        if num := int(chosen.sum()):
            exact = binomtest(int(hits[chosen].sum()), num).proportion_ci(method="wilson")
            accuracy = round(float(hits[chosen].mean()), 4)
            interval = {"low": round(float(exact.low), 4), "high": round(float(exact.high), 4)}
            rows.append(
                {
                    "from": low,
                    "to": high if np.isfinite(high) else None,
                    "unit": unit,
                    "num": num,
                    "value": accuracy,
                    **interval,
                }
            )
    return rows


def sign_flip(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], groups: Ints) -> dict[str, Any]:
    """Whether two classifiers differ on the same pictures: hits (N,) of each; two-sided p.

    Were they alike, the difference of each group would as soon have the other sign, however alike the
    pictures of a group are. All signs are tried up to MOST_EXACT groups that differ, else NUM_FLIPS
    drawn ones. With a picture a group it is McNemar's exact test. Source: Fisher 1935, section 21;
    Winkler et al. 2015 (whole blocks).
    """
    members = np.unique(groups, return_inverse=True)[1]
    sums = np.bincount(members, ours.astype(np.int64) - theirs)
    sums = sums[sums != 0]
    exact = len(sums) <= MOST_EXACT
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


def paired(
    old: NDArray[np.bool_], new: NDArray[np.bool_], groups: Ints, weights: Floats
) -> dict[str, dict[str, float]]:
    """Accuracy `old` and `new`, from hits (N,) that count by weight, and the `difference`, as in `rates`."""
    sums = np.stack([old, new, np.ones(len(old))], axis=1) * weights[:, None]
    figures: dict[str, Figure] = {
        "old": (sums, lambda s: _ratio(s[..., 0], s[..., 2])),
        "new": (sums, lambda s: _ratio(s[..., 1], s[..., 2])),
        "difference": (sums, lambda s: _ratio(s[..., 1] - s[..., 0], s[..., 2])),
    }
    return _resample(figures, groups)


def stratified_difference(
    old: NDArray[np.bool_],
    new: NDArray[np.bool_],
    groups: Ints,
    strata: NDArray[Any],
    sizes: Mapping[str, float],
) -> dict[str, float]:
    """How much more of an archive `new` has right, {value, low, high}, from hits (N,) on samples of strata.

    `sizes` of all its strata, none without a picture. An adjusted Wald interval: a stratum in which nothing
    changed is not taken for certain; wider where pictures of a group are alike. Source: Bonett & Price 2012
    (one change more of each kind); Kish 1965 (design effect).
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
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}
