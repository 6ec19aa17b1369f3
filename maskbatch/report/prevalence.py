"""Shares and compliance corrected for the classifier's errors, with their uncertainty.

The confusion matrix M turns the true shares p into the observed ones, q = p M. So p = q inv(M), which is
also the most likely p where it lies on the simplex (Rogan and Gladen 1978; Saerens, Latinne and Decaestecker
2002). Elsewhere p is bounded from the top down: assessed, then compliant among assessed, then each class.
Bounding each class by itself, as the most likely p does, biases a compliance of .99 by -0.5 points with the
default checkpoint's matrix; this by -0.3, and by less than 0.1 at .95. The intervals draw both the sample and
the held-out set (for two classes, see Lang and Reiczigel 2014).

All of it assumes that the classifier errs on this archive as on the held-out set.

Shape suffixes: G groups, D draws, K classes.
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
    counts_GK: Counts, effects: DesignEffects, confusion_KK: Counts, compliant_K: Bools, assessed_K: Bools
) -> Correction:
    """Correct the label counts of each group's scored images with held-out counts, true by predicted.

    compliant_K is among assessed_K. The sample counts as n / design effect images, and as fewer by (z / t)^2
    for its degrees of freedom, which makes it as sure as in `wilson`; the design effect of compliance serves
    for every class. A group's figures do not depend on other groups. All are NaN where
    `explain_unidentifiable` gives a reason.
    """
    if explain_unidentifiable(confusion_KK):
        share_GK, compliance_G = np.full(counts_GK.shape, np.nan), np.full(len(counts_GK), np.nan)
        return Correction(share_GK, share_GK, share_GK, compliance_G, compliance_G, compliance_G)
    with np.errstate(invalid="ignore"):
        raw_GK = counts_GK / counts_GK.sum(axis=1, keepdims=True)
    matrix_KK = confusion_KK / confusion_KK.sum(axis=1, keepdims=True)
    share_GK, compliance_G = _bound(raw_GK @ np.linalg.inv(matrix_KK), compliant_K, assessed_K)
    weight_G = (ndtri(TAIL) / stdtrit(effects.freedom_G, TAIL)) ** 2 / effects.effect_G
    inverse_DKK, drawn = np.linalg.inv(_draw(confusion_KK, seed=2)), []
    for counts_PK in np.array_split(counts_GK * weight_G[:, None], len(counts_GK) // CHUNK + 1):
        shares_DPK = np.stack([_draw(counts_K, seed=1) for counts_K in counts_PK], axis=1)
        drawn.append(_quantiles(shares_DPK @ inverse_DKK, compliant_K, assessed_K))
    share_low_GK, share_high_GK, low_G, high_G = map(np.concatenate, zip(*drawn, strict=True))
    share_limits = _within(share_low_GK, share_high_GK, share_GK, raw_GK)
    limits = _within(low_G, high_G, compliance_G, _ratio(raw_GK, compliant_K, assessed_K))
    return Correction(share_GK, *share_limits, compliance_G, *limits)


def _draw(counts: NDArray[Any], seed: int) -> Floats:
    """Draws (D, ..., K) of shares from the Dirichlet posterior of counts (..., K).

    Source: the prior of 1 / K a class weighs one image (Perks 1947).
    """
    drawn = np.random.default_rng(seed).standard_gamma(counts + 1 / counts.shape[-1], (DRAWS, *counts.shape))
    return np.asarray(drawn / drawn.sum(axis=-1, keepdims=True))


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
