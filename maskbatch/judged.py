"""What the judged images say of the whole run: its error rate, shares and compliance, each with an interval.

Of each stratum of the queue of `review`, the images judged in its order are a simple random sample. Each
stands for 1 / probability images (Horvitz and Thompson 1952), made to add up within its stratum and the label
that the classifier gave, of which the numbers are known (poststratification, Holt and Smith 1979). So all
labels sharpen what a few judged images say, which is the idea of prediction-powered inference (Angelopoulos
et al. 2023).

For the interval the true labels of the images that nobody judged are drawn, from the Dirichlet posterior of
their stratum and label; the judged ones are known (finite populations, Ericson 1969). Perks's prior of 1 / K
(1947) is given to one class alone, whichever moves the limit outwards (imprecise Dirichlet model, Walley
1996): where few images of a label were judged the interval is wide, and where none was nothing is known.
Spread over all classes, the prior covers under 40 % where four classes comply to .99, 5 % of labels are wrong
and 60 images were judged; this way 92 to 98 % where many errors are seen, and up to 100 % where few are.

All of it is of these very images: there is no design effect, and it says nothing of other days.

Shape suffixes: H strata, K classes, D draws; HKK is stratum, label of the classifier, true label.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from maskbatch.committed import Meaning
from maskbatch.corrections import disputed
from maskbatch.review import RANDOM, UNCERTAIN

DRAWS = 4000
"""A limit of the interval moves by about 1 % of its width from one seed to another."""
LEAST_JUDGED = 30
"""Of each stratum, or all of it; with fewer an error rate of 5 % is known to no better than 15 points."""
MAX_DISPUTES = 100
"""In report.json; all are in corrections.parquet."""
STRATA = (RANDOM, UNCERTAIN)
NOTHING: dict[str, Any] = {"error_rate": None, "compliance": None, "shares": [], "moved": None}
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Figure = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Sample:
    """What was judged of a finite population."""

    judged_HKK: Floats
    """Judged images by true label; one that reviewers dispute counts in the shares of their labels."""
    total_HK: Indices
    """All images, judged or not."""

    def rest(self) -> Indices:
        """Images (H, K) that nobody judged."""
        rest_HK: Indices = self.total_HK - np.rint(self.judged_HKK.sum(axis=2)).astype(np.int64)
        return rest_HK

    def point(self) -> Floats:
        """All images (K, K), given label by true label; taken as right where none of a label was judged."""
        num_HK1 = self.judged_HKK.sum(axis=2, keepdims=True)
        share_HKK = np.where(num_HK1 > 0, self.judged_HKK / np.maximum(num_HK1, 1), np.eye(len(num_HK1[0])))
        point_KK: Floats = (self.judged_HKK + self.rest()[..., None] * share_HKK).sum(axis=0)
        return point_KK

    def drawn(self, favoured_K: Indices) -> Floats:
        """Draws (D, K, K) of the same, where the prior of images labelled k is all on favoured_K[k]."""
        labels, rng = np.arange(len(favoured_K)), np.random.default_rng(1)
        alpha_DHKK = np.tile(self.judged_HKK, (DRAWS, 1, 1, 1))
        alpha_DHKK[..., labels, favoured_K] += 1 / len(labels)
        gamma_DHKK = rng.standard_gamma(alpha_DHKK)
        gamma_DHKK[..., labels, favoured_K] += np.finfo(np.float64).tiny  # all may underflow to 0
        gamma_DHKK /= gamma_DHKK.sum(axis=3, keepdims=True)
        drawn_DKK: Floats = (self.judged_HKK + rng.multinomial(self.rest(), gamma_DHKK)).sum(axis=1)
        return drawn_DKK

    def figure(self, rate: Callable[[Floats], Floats], least_K: Indices, most_K: Indices) -> Figure:
        """`rate` of (..., K, K) images with its 95 % interval; all None where it is NaN.

        `least_K` and `most_K`: the true label of an image labelled k that makes the rate least, and most.
        """
        value = float(rate(self.point()))
        if np.isnan(value):
            return dict.fromkeys(("value", "low", "high"))
        low = np.quantile(np.nan_to_num(rate(self.drawn(least_K)), nan=0), 0.025)
        high = np.quantile(np.nan_to_num(rate(self.drawn(most_K)), nan=1), 0.975)
        return {"value": value, "low": min(float(low), value), "high": max(float(high), value)}


def error_rate(sample: Sample) -> Figure:
    """The share of images whose label is wrong."""
    labels = np.arange(sample.total_HK.shape[1])

    def rate(images_KK: Floats) -> Floats:
        right: Floats = images_KK.trace(axis1=-2, axis2=-1) / sample.total_HK.sum()
        return 1 - right

    return sample.figure(rate, labels, np.roll(labels, -1))


def share(sample: Sample, label: int) -> Figure:
    """The share of images that truly are of one class."""
    labels = np.arange(sample.total_HK.shape[1])
    others = np.where(labels == label, np.roll(labels, -1), labels)

    def rate(images_KK: Floats) -> Floats:
        of_label: Floats = images_KK[..., label].sum(axis=-1) / sample.total_HK.sum()
        return of_label

    return sample.figure(rate, others, np.full(len(labels), label))


def compliance(sample: Sample, compliant_K: NDArray[np.bool_], assessed_K: NDArray[np.bool_]) -> Figure:
    """Compliant / assessed of the true labels."""

    def rate(images_KK: Floats) -> Floats:
        images_K = images_KK.sum(axis=-2)
        with np.errstate(invalid="ignore"):
            of_assessed: Floats = images_K @ compliant_K / (images_K @ assessed_K)
        return of_assessed

    worst, best = (int(np.argmax(of)) for of in (assessed_K & ~compliant_K, compliant_K))
    worst_K, best_K = (np.full(len(compliant_K), label) for label in (worst, best))
    return sample.figure(rate, worst_K, best_K)


def judged(
    words: pd.DataFrame,
    queue: pa.Table | None,
    overall: Mapping[str, Any],
    meaning: Meaning,
    exclude: Sequence[str] = (),
) -> dict[str, Any] | None:
    """The section `judged` of report.json from people's last `words`; None where there are none.

    `queue` is that of the run, None where several are reported; `overall` the report's row over all images.
    Of each stratum the images up to the first that nobody has looked at count: what was judged beyond it may
    have been picked, by camera or day. Images left out by a condition in `exclude` are left out here too.
    """
    words = words[words["region"] == 0]
    if words.empty:
        return None
    images = _images(words, meaning.classes)
    rows = _placed(queue, images, exclude)
    counted = rows[rows["counts"] & rows["given"]]
    of_people = words.dropna(subset="label").merge(counted[["uri", "sha256"]])["by"].value_counts()
    sample = _sample(rows, counted, overall, meaning.classes)
    waiting = int((rows["given"] & ~rows["counts"]).sum())
    by_stratum = {f"num_{name}": int((counted["stratum"] == name).sum()) for name in STRATA}
    reason = _missing(sample) if queue is not None else "a rate is made for one run at a time"
    return {
        "reason": reason,
        "num_judged": len(counted),
        **by_stratum,
        "num_skipped": int((rows["counts"] & ~rows["given"]).sum()),
        "num_waiting": waiting,
        "num_elsewhere": int(images["given"].sum()) - len(counted) - waiting,
        "num_reviewers": len(of_people),
        "reviewers": [{"by": by, "num_judged": int(num)} for by, num in sorted(of_people.items())],
        "confusion": [[_plain(num) for num in row] for row in sample.judged_HKK.sum(axis=0)],
        **(NOTHING if reason else _estimates(sample, overall, meaning)),
        **_disputes(words, queue),
    }


def _images(words: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """A row each image: uri, sha256, the share of each class in its labels, and whether any was `given`."""
    labels = pd.DataFrame({name: (words["label"] == name).astype(float) for name in classes})
    sums = labels.groupby([words["uri"], words["sha256"]]).sum()
    given = sums.sum(axis=1)
    return sums.div(given.where(given > 0, 1), axis=0).assign(given=given > 0).reset_index()


def _placed(queue: pa.Table | None, images: pd.DataFrame, exclude: Sequence[str]) -> pd.DataFrame:
    """The queue without what is left out, with what was said of each image, and whether it `counts`."""
    names = ["position", "uri", "sha256", "label", "stratum", "condition"]
    rows = pd.DataFrame(columns=names) if queue is None else queue.select(names).to_pandas()
    rows = rows[~rows["condition"].isin(list(exclude))].sort_values("position")
    rows = rows.merge(images, how="left", on=["uri", "sha256"])
    touched = rows["given"].notna()
    return rows.assign(
        given=rows["given"].eq(True), counts=touched.groupby(rows["stratum"]).cummin().astype(bool)
    )


def _sample(
    rows: pd.DataFrame, counted: pd.DataFrame, overall: Mapping[str, Any], classes: Sequence[str]
) -> Sample:
    """The uncertain stratum lies wholly in the queue; all other images are of the random one."""
    judged_HKK = np.array(
        [
            [counted.loc[(counted["stratum"] == stratum) & (counted["label"] == name), list(classes)].sum()
             for name in classes]
            for stratum in STRATA
        ], np.float64,
    )  # fmt: skip
    labels = rows.loc[rows["stratum"] == UNCERTAIN, "label"]
    uncertain_K = np.array([(labels == name).sum() for name in classes], np.int64)
    all_K = np.array([overall[f"num_{name}"] for name in classes], np.int64)
    return Sample(judged_HKK, np.stack((all_K - uncertain_K, uncertain_K)))


def _missing(sample: Sample) -> str | None:
    """Why too little was judged; None where it is enough."""
    num_H, judged_H = sample.total_HK.sum(axis=1), np.rint(sample.judged_HKK.sum(axis=(1, 2))).astype(int)
    if not num_H.sum():
        return "no image could be scored"
    missing = dict(zip(STRATA, np.minimum(LEAST_JUDGED, num_H) - judged_H, strict=True))
    parts = [f"{num} more {name}" for name, num in missing.items() if num > 0]
    return f"{' and '.join(parts)} images must be judged, in the order of the queue" if parts else None


def _estimates(sample: Sample, overall: Mapping[str, Any], meaning: Meaning) -> dict[str, Any]:
    classes = np.array(meaning.classes)
    rate = compliance(sample, np.isin(classes, meaning.compliant), np.isin(classes, meaning.assessed))
    known = rate["value"] is not None and overall["compliance"] is not None
    return {
        "error_rate": error_rate(sample),
        "compliance": rate,
        "shares": [{"class": name, **share(sample, k)} for k, name in enumerate(meaning.classes)],
        "moved": rate["value"] - overall["compliance"] if known else None,
    }


def _disputes(words: pd.DataFrame, queue: pa.Table | None) -> dict[str, Any]:
    """The images that people gave different labels, and who gave which."""
    places = {row["uri"]: row for row in queue.to_pylist()} if queue is not None else {}
    found = [
        {
            "uri": uri,
            **{name: places.get(uri, {}).get(name) for name in ("site", "camera", "captured_local")},
            "labels": rows.sort_values("by")[["by", "label"]].to_dict("records"),
        }
        for (uri, _), rows in disputed(words).groupby(["uri", "sha256"])
    ]
    return {"num_disputes": len(found), "disputes": found[:MAX_DISPUTES]}


def _plain(num: float) -> int | float:
    """A count of images, which is whole unless one is disputed."""
    return int(num) if num.is_integer() else round(float(num), 2)
