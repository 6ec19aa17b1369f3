"""Shares and compliance corrected for errors of classifier and detector, with their uncertainty.

The confusion matrix M turns the true shares p into the observed ones, q = p M. So p = q inv(M), which is
also the most likely p where it lies on the simplex (Rogan and Gladen 1978; Saerens, Latinne and Decaestecker
2002). Elsewhere p is bounded from the top down: assessed, then compliant among assessed, then each class.
Bounding each class by itself, as the most likely p does, biases a compliance of .99 by -0.5 points with the
default checkpoint's matrix; this by -0.3, and by less than 0.1 at .95. The intervals draw both the sample and
the held-out set (for two classes, see Lang and Reiczigel 2014).

In whole scenes a detector misses faces, those in masks more often, and small ones most of all. With r(i, b)
the share that it finds of the faces of class i and size band b, and q(j, b) the share of the found faces that
are labelled j and lie in band b, each found face stands for 1 / r faces (Horvitz and Thompson 1952):

    p(i) is proportional to sum over b of [sum over j of q(j, b) inv(M)(j, i)] / r(i, b)

The sizes of each label's faces are taken as observed; recalls are drawn along with the rest. Without a
detector r is 1. So it is for classes that are not assessed: a false alarm is no face that could be missed.

All of it assumes that the classifier errs, and the detector misses, on this archive as on the held-out set.

Shape suffixes: G groups, D draws, K classes, B size bands.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from maskbatch.report.intervals import DesignEffects

TAIL = (1 - 0.95) / 2  # beyond either limit of an interval
DRAWS = 1000
"""A limit of the interval moves by about 2 % of its width from one seed to another."""
CHUNK = 256
"""Groups drawn at once: 8 MB an array at four classes."""
MIN_PICTURES = 30
"""Held-out pictures of each class; with fewer, a recall of .9 is known to 11 points either way at best."""
MIN_SINGULAR = 0.2
"""A matrix that shrinks a difference of shares further multiplies its error by more than five."""
MIN_RECALL = 0.2
"""Dividing by a lower one would multiply its error by more than five; it counts as this."""
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Correction:
    """Corrected shares of each class (G, K) and compliance (G,), in [0, 1]; NaN where they are unknown."""

    share_GK: Floats
    share_low_GK: Floats
    share_high_GK: Floats
    compliance_G: Floats
    low_G: Floats
    high_G: Floats


@dataclass(frozen=True, slots=True)
class Found:
    """What the detector finds: of boxed held-out faces, and in each group."""

    boxed_KB2: Counts
    """Held-out faces `[found, boxed]` by true class and band; zeros for classes that are not assessed."""
    labelled_GKB: Counts
    """Found faces of each group by label and band."""


def explain_unknown_recall(boxed_KB2: Counts, assessed_K: Bools) -> str | None:
    """Why these held-out counts cannot correct for missed faces; None if they can."""
    fewest = int(boxed_KB2[assessed_K, :, 1].sum(axis=1).min())
    if fewest < MIN_PICTURES:
        what = f"the detector was measured on only {fewest} held-out faces of a class"
        return f"{what}, and {MIN_PICTURES} are needed"
    return None


def explain_unidentifiable(confusion_KK: Counts) -> str | None:
    """Why these held-out counts, true by predicted, cannot correct shares; None if they can."""
    rows_K = confusion_KK.sum(axis=1)
    if rows_K.min() < MIN_PICTURES:
        return f"a class has only {rows_K.min()} held-out pictures, and {MIN_PICTURES} are needed"
    singular_D = np.linalg.svd(_draw(confusion_KK, seed=2), compute_uv=False)[:, -1]
    if np.quantile(singular_D, 0.025) < MIN_SINGULAR:
        return "the held-out pictures do not tell some of the classes apart"
    return None


def correct_shares(
    counts_GK: Counts,
    effects: DesignEffects,
    confusion_KK: Counts,
    compliant_K: Bools,
    assessed_K: Bools,
    found: Found | None = None,
) -> Correction:
    """Correct the label counts of each group's images or faces with held-out counts, true by predicted.

    compliant_K is among assessed_K. The sample counts as n / design effect images, and as fewer by (z / t)^2
    for its degrees of freedom, which makes it as sure as in `wilson`; the design effect of compliance serves
    for every class. With `found` they are corrected for faces that the detector missed too. A group's figures
    do not depend on other groups. All are NaN where `explain_unidentifiable` gives a reason.
    """
    if explain_unidentifiable(confusion_KK):
        share_GK, compliance_G = np.full(counts_GK.shape, np.nan), np.full(len(counts_GK), np.nan)
        return Correction(share_GK, share_GK, share_GK, compliance_G, compliance_G, compliance_G)
    with np.errstate(invalid="ignore"):
        raw_GK = np.asarray(counts_GK / counts_GK.sum(axis=1, keepdims=True), np.float64)
    matrix_KK = confusion_KK / confusion_KK.sum(axis=1, keepdims=True)
    inverse_KK, inverse_DKK = _invert(matrix_KK), _invert(_draw(confusion_KK, seed=2))
    missed, missed_D = _count_missed(found, assessed_K) if found else (None, None)
    share_GK, compliance_G = _bound(_undo(raw_GK, inverse_KK, missed), compliant_K, assessed_K)
    weight_G = (ndtri(TAIL) / stdtrit(effects.freedom_G, TAIL)) ** 2 / effects.effect_G
    drawn = []
    for part_P in np.array_split(np.arange(len(counts_GK)), len(counts_GK) // CHUNK + 1):
        counts_PK = counts_GK[part_P] * weight_G[part_P, None]
        shares_DPK = np.stack([_draw(counts_K, seed=1) for counts_K in counts_PK], axis=1)
        true_DPK = _undo(shares_DPK, inverse_DKK, missed_D and missed_D.of(part_P))
        drawn.append(_quantiles(true_DPK, compliant_K, assessed_K))
    share_low_GK, share_high_GK, low_G, high_G = map(np.concatenate, zip(*drawn, strict=True))
    raw_GK = _undo(raw_GK, np.eye(len(confusion_KK)), missed) if missed else raw_GK
    share_limits = _within(share_low_GK, share_high_GK, share_GK, raw_GK)
    limits = _within(low_G, high_G, compliance_G, _ratio(raw_GK, compliant_K, assessed_K))
    return Correction(share_GK, *share_limits, compliance_G, *limits)


def _draw(counts: NDArray[Any], seed: int) -> Floats:
    """Draws (D, ..., K) of shares from the Dirichlet posterior of counts (..., K).

    Source: the prior of 1 / K a class weighs one image (Perks 1947).
    """
    drawn = np.random.default_rng(seed).standard_gamma(counts + 1 / counts.shape[-1], (DRAWS, *counts.shape))
    return np.asarray(drawn / drawn.sum(axis=-1, keepdims=True))


def _invert(matrix_KK: Floats) -> Floats:
    return np.asarray(np.linalg.inv(matrix_KK), np.float64)


@dataclass(frozen=True, slots=True)
class _Missed:
    """How the faces that a detector missed are added to those that it found."""

    size_GKB: Floats
    """The found faces of each label by size, as shares of 1."""
    faces_KB: Floats
    """Faces that each found one stands for; with draws (D, K, B)."""

    def of(self, groups: NDArray[np.int64]) -> "_Missed":
        return _Missed(self.size_GKB[groups], self.faces_KB)


def _undo(share_GK: Floats, inverse_KK: Floats, missed: _Missed | None) -> Floats:
    """True shares from those of labels; with draws, all but sizes begin with D. May be negative, sum to 1."""
    if missed is None:
        return share_GK @ inverse_KK
    bands = zip(np.moveaxis(missed.size_GKB, 2, 0), np.moveaxis(missed.faces_KB, -1, 0), strict=True)
    true_GK = sum((share_GK * size_GK) @ inverse_KK * faces_K[..., None, :] for size_GK, faces_K in bands)
    total_G1 = np.sum(true_GK, axis=-1, keepdims=True)
    return np.asarray(true_GK / np.where(total_G1 > 0, total_G1, 1))


def _count_missed(found: Found, assessed_K: Bools) -> tuple[_Missed, _Missed]:
    """(best estimate, draws).

    Gammas of single bands add up to the Beta posterior of their sum, with Jeffreys' prior of 1/2 and 1/2, so
    that bands that share held-out faces are drawn together.
    """
    labelled_GKB, (found_KB, boxed_KB) = found.labelled_GKB, np.moveaxis(found.boxed_KB2, 2, 0)
    of_label_GK1, of_size_G1B = (labelled_GKB.sum(axis=axis, keepdims=True) for axis in (2, 1))
    with np.errstate(invalid="ignore"):
        usual_G1B = of_size_G1B / of_size_G1B.sum(axis=2, keepdims=True)
        size_GKB = np.where(of_label_GK1 > 0, labelled_GKB / of_label_GK1, usual_G1B)
    counts_2KB, rng = np.stack([found_KB, boxed_KB - found_KB]), np.random.default_rng(3)
    drawn_2DKB = rng.standard_gamma(counts_2KB[:, None], (2, DRAWS, *boxed_KB.shape))
    prior_2DK1 = rng.standard_gamma(0.5, (2, DRAWS, len(boxed_KB), 1))
    near_KBB = _find_neighbours(boxed_KB)
    faces = (
        np.where(assessed_K[:, None], 1 / _recall(counts, prior, near_KBB), 1)
        for counts, prior in ((counts_2KB, np.full((2, 1, 1), 0.5)), (drawn_2DKB, prior_2DK1))
    )
    return _Missed(size_GKB, next(faces)), _Missed(size_GKB, next(faces))


def _recall(counts_2KB: NDArray[Any], prior_2K1: Floats, near_KBB: Bools) -> Floats:
    """The share (..., K, B) that is found, from `[found, missed]` of each band and its neighbours."""
    found_KB, missed_KB = np.einsum("...kb,kcb->...kc", counts_2KB, near_KBB.astype(float)) + prior_2K1
    recall_KB: Floats = np.maximum(found_KB / (found_KB + missed_KB), MIN_RECALL)
    return recall_KB


def _find_neighbours(boxed_KB: Counts) -> Bools:
    """Which bands (K, B, B) stand for each: itself, or as many on either side as hold MIN_PICTURES faces."""
    band_B = np.arange(boxed_KB.shape[1])
    away_BB = np.abs(band_B[:, None] - band_B)
    within_RBB = away_BB <= band_B[:, None, None]
    enough_KRB = np.einsum("kc,rbc->krb", boxed_KB, within_RBB.astype(int)) >= MIN_PICTURES
    reach_KB = np.where(enough_KRB.any(axis=1), enough_KRB.argmax(axis=1), band_B[-1])
    near_KBB: Bools = away_BB <= reach_KB[..., None]
    return near_KBB


def _ratio(shares: Floats, compliant_K: Bools, assessed_K: Bools) -> Floats:
    """Compliance of shares (..., K), which may be negative; NaN where nothing is assessed."""
    assessed: Floats = shares @ assessed_K
    ratio = np.full(assessed.shape, np.nan)
    np.divide(shares @ compliant_K, assessed, out=ratio, where=assessed > 0)
    return ratio


def _bound(share_GK: Floats, compliant_K: Bools, assessed_K: Bools) -> tuple[Floats, Floats]:
    """(shares, compliance) on the simplex, bounded from the top down; shares sum to 1 but may be negative."""
    assessed_G = np.clip(share_GK @ assessed_K, 0, 1)
    compliance_G = np.clip(_ratio(share_GK, compliant_K, assessed_K), 0, 1)
    compliant_G = assessed_G * np.where(assessed_G > 0, compliance_G, 0)
    bounded_GK = np.zeros_like(share_GK)
    for classes_K, total_G in (
        (compliant_K, compliant_G),
        (assessed_K & ~compliant_K, assessed_G - compliant_G),
        (~assessed_K, 1 - assessed_G),
    ):
        positive_GK = np.maximum(share_GK, 0) * classes_K
        sum_G = positive_GK.sum(axis=1)
        scale_G = np.divide(total_G, sum_G, out=np.zeros_like(sum_G), where=sum_G != 0)
        bounded_GK += positive_GK * scale_G[:, None]
    return bounded_GK, compliance_G


def _quantiles(shares_DGK: Floats, compliant_K: Bools, assessed_K: Bools) -> tuple[Floats, ...]:
    """(share low, share high, compliance low, compliance high) of draws that may lie outside [0, 1].

    A draw in which nothing is assessed counts as compliance 0 for low and 1 for high.
    """
    share_low_GK, share_high_GK = np.quantile(shares_DGK, (TAIL, 1 - TAIL), axis=0)
    compliance_DG = _ratio(shares_DGK, compliant_K, assessed_K)
    low_G = np.quantile(np.nan_to_num(compliance_DG, nan=0), TAIL, axis=0)
    high_G = np.quantile(np.nan_to_num(compliance_DG, nan=1), 1 - TAIL, axis=0)
    return share_low_GK, share_high_GK, low_G, high_G


def _within(low: Floats, high: Floats, point: Floats, raw: Floats) -> tuple[Floats, Floats]:
    """The interval in [0, 1] and around its point.

    An interval wholly beyond 0 or 1 means that the classifier errs less here than on the held-out set. Cut
    off, it would have no width and seem sure, so it reaches back to the raw share.
    """
    low, high = np.where(low >= 1, raw, low), np.where(high <= 0, raw, high)
    return np.minimum(np.clip(low, 0, 1), point), np.maximum(np.clip(high, 0, 1), point)
