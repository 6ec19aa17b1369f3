"""A judged sample of a run's images, and the error rate, shares and compliance that follow, with intervals.

The judged images of each stratum are a simple random sample of it. Each stands for 1 / probability images
(Horvitz and Thompson 1952), weighted so that they add up to the known number of images in their stratum with
the same classified label (poststratification, Holt and Smith 1979). So the labels of all images sharpen what
a few judged images tell, as in prediction-powered inference (Angelopoulos et al. 2023).

The interval draws the true labels of the images that nobody judged, from the Dirichlet posterior of their
stratum and label; judged ones are known (finite populations, Ericson 1969). Perks's prior of 1 / K (1947) all
goes to the one class that moves the limit furthest outwards (imprecise Dirichlet model, Walley 1996): where
few images of a label were judged the interval is wide, and where none was, anything is possible. Spread over
all classes, the prior covers under 40 % where four classes comply to .99, 5 % of labels are wrong and 60
images were judged; this one covers 92 to 98 % with many errors, and up to 100 % with few.

The figures are for exactly these images: there is no design effect, and they do not cover other days.

Shape suffixes: H strata, K classes, D draws; HKK is stratum, classified label, true label.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 4000
"""A limit of the interval moves by about 1 % of its width from one seed to another."""
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Estimate = dict[str, float | None]
"""`value`, `low` and `high` of a share."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Judged images of a finite population."""

    judged_HKK: Floats
    """Judged images; where people disagree on one, each of their labels counts in part."""
    total_HK: Indices
    """All images, judged or not."""

    def count_unjudged(self) -> Indices:
        """Images (H, K) that nobody judged."""
        return np.asarray(self.total_HK - np.rint(self.judged_HKK.sum(axis=2)).astype(np.int64))

    def complete(self) -> Floats:
        """All images (K, K), classified by true label; a label of which none was judged is taken as right."""
        num_HK1 = self.judged_HKK.sum(axis=2, keepdims=True)
        share_HKK = np.where(num_HK1 > 0, self.judged_HKK / np.maximum(num_HK1, 1), np.eye(len(num_HK1[0])))
        return np.asarray((self.judged_HKK + self.count_unjudged()[..., None] * share_HKK).sum(axis=0))

    def draw(self, favoured_K: Indices) -> Floats:
        """Draws (D, K, K) of all images; the prior of images labelled k is all on favoured_K[k]."""
        labels, rng = np.arange(len(favoured_K)), np.random.default_rng(1)
        alpha_DHKK = np.tile(self.judged_HKK, (DRAWS, 1, 1, 1))
        alpha_DHKK[..., labels, favoured_K] += 1 / len(labels)
        gamma_DHKK = rng.standard_gamma(alpha_DHKK)
        gamma_DHKK[..., labels, favoured_K] += np.finfo(np.float64).tiny  # all may underflow to 0
        gamma_DHKK /= gamma_DHKK.sum(axis=3, keepdims=True)
        drawn_DHKK = rng.multinomial(self.count_unjudged(), gamma_DHKK)
        return np.asarray((self.judged_HKK + drawn_DHKK).sum(axis=1))

    def estimate(self, rate: Callable[[Floats], Floats], least_K: Indices, most_K: Indices) -> Estimate:
        """`rate` of images (..., K, K) with its 95 % interval; all None where it is NaN.

        `least_K`, `most_K`: which true label of an image labelled k makes the rate least, and most.
        """
        value = float(rate(self.complete()))
        if np.isnan(value):
            return dict.fromkeys(("value", "low", "high"))
        low = np.quantile(np.nan_to_num(rate(self.draw(least_K)), nan=0), 0.025)
        high = np.quantile(np.nan_to_num(rate(self.draw(most_K)), nan=1), 0.975)
        return {"value": value, "low": min(float(low), value), "high": max(float(high), value)}


def estimate_error_rate(sample: Sample) -> Estimate:
    """The share of images whose label is wrong."""
    labels, num = np.arange(sample.total_HK.shape[1]), sample.total_HK.sum()
    others = np.roll(labels, -1)
    return sample.estimate(lambda images_KK: 1 - images_KK.trace(axis1=-2, axis2=-1) / num, labels, others)


def estimate_share(sample: Sample, label: int) -> Estimate:
    """The share of images whose true label is class `label`."""
    labels, num = np.arange(sample.total_HK.shape[1]), sample.total_HK.sum()
    others, own = np.where(labels == label, np.roll(labels, -1), labels), np.full(len(labels), label)
    return sample.estimate(lambda images_KK: images_KK[..., label].sum(axis=-1) / num, others, own)


def estimate_compliance(
    sample: Sample, compliant_K: NDArray[np.bool_], assessed_K: NDArray[np.bool_]
) -> Estimate:
    """Compliant images divided by assessed ones, by their true labels."""

    def rate(images_KK: Floats) -> Floats:
        images_K = images_KK.sum(axis=-2)
        with np.errstate(invalid="ignore"):
            return np.asarray(images_K @ compliant_K / (images_K @ assessed_K))

    worst, best = (int(np.argmax(of)) for of in (assessed_K & ~compliant_K, compliant_K))
    worst_K, best_K = (np.full(len(compliant_K), label) for label in (worst, best))
    return sample.estimate(rate, worst_K, best_K)
