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

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from maskbatch.review.corrections import find_disputes
from maskbatch.review.queue import STRATA, UNCERTAIN
from maskbatch.runs.committed import Meaning

DRAWS = 4000
"""A limit of the interval moves by about 1 % of its width from one seed to another."""


LEAST_JUDGED = 30
"""Of each stratum, or all of it but what was skipped; with fewer an error rate of 5 % is known to no better
than 15 points."""


MAX_DISPUTES = 100
"""In report.json; all are in corrections.parquet."""


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


def estimate_error_rate(sample: Sample) -> Figure:
    """The share of images whose label is wrong."""
    labels = np.arange(sample.total_HK.shape[1])

    def rate(images_KK: Floats) -> Floats:
        right: Floats = images_KK.trace(axis1=-2, axis2=-1) / sample.total_HK.sum()
        return 1 - right

    return sample.figure(rate, labels, np.roll(labels, -1))


def estimate_share(sample: Sample, label: int) -> Figure:
    """The share of images that truly are of one class."""
    labels = np.arange(sample.total_HK.shape[1])
    others = np.where(labels == label, np.roll(labels, -1), labels)

    def rate(images_KK: Floats) -> Floats:
        of_label: Floats = images_KK[..., label].sum(axis=-1) / sample.total_HK.sum()
        return of_label

    return sample.figure(rate, others, np.full(len(labels), label))


def estimate_compliance(
    sample: Sample, compliant_K: NDArray[np.bool_], assessed_K: NDArray[np.bool_]
) -> Figure:
    """Compliant / assessed of the true labels."""

    def rate(images_KK: Floats) -> Floats:
        images_K = images_KK.sum(axis=-2)
        with np.errstate(invalid="ignore"):
            of_assessed: Floats = images_K @ compliant_K / (images_K @ assessed_K)
        return of_assessed

    worst, best = (int(np.argmax(of)) for of in (assessed_K & ~compliant_K, compliant_K))
    worst_K, best_K = (np.full(len(compliant_K), label) for label in (worst, best))
    return sample.figure(rate, worst_K, best_K)


def count_targets(strata: Iterable[str], given: Iterable[bool | None]) -> list[dict[str, Any]]:
    """Images judged and needed for a rate, by stratum: there is one where as many are judged everywhere.

    `strata`, `given`: of each image, in the queue's order; `given` is True where it is judged, False where it
    was only skipped, None where nobody has looked. Of each stratum the images up to the first of these count.
    """
    rows = pd.DataFrame({"stratum": list(strata), "given": pd.array(list(given), dtype="boolean")})
    rows = rows.assign(counts=_in_order(rows))
    found = []
    for name in STRATA:
        of = rows[rows["stratum"] == name]
        num_judged, num_skipped = (int((of["counts"] & of["given"].eq(was)).sum()) for was in (True, False))
        num = {"num_queued": len(of), "num_judged": num_judged, "num_skipped": num_skipped}
        found.append({"stratum": name, **num, "num_needed": min(LEAST_JUDGED, len(of) - num_skipped)})
    return found


def estimate_rates(
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
    places = {row["uri"]: row for row in queue.to_pylist()} if queue is not None else {}
    rows = _placed(queue, images, exclude)
    counted = rows[rows["counts"] & rows["given"]]
    of_people = words.dropna(subset="label").merge(counted[["uri", "sha256"]])["by"].value_counts()
    sample = _sample(rows, counted, overall, meaning.classes)
    strata = _strata(rows, sample, meaning.classes)
    waiting_for = _waiting(rows, places)
    num_waiting = sum(one["num_waiting"] for one in waiting_for)
    unknown = int((rows["counts"] & rows["unknown"].eq(True)).sum())
    reason = _missing(strata) if queue is not None else "a rate is made for one run at a time"
    return {
        "reason": reason,
        "num_judged": len(counted),
        "strata": strata if queue is not None else [],
        "num_skipped": sum(one["num_skipped"] for one in strata) - unknown,
        "num_unknown": unknown,
        "num_waiting": num_waiting,
        "waiting_for": waiting_for,
        "num_elsewhere": int(images["given"].sum()) - len(counted) - num_waiting,
        "num_reviewers": len(of_people),
        "reviewers": [{"by": by, "num_judged": int(num)} for by, num in sorted(of_people.items())],
        "confusion": [[_plain(num) for num in row] for row in sample.judged_HKK.sum(axis=0)],
        **(NOTHING if reason else _estimates(sample, overall, meaning)),
        **_disputes(words, places),
    }


def _images(words: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """A row each image: uri, sha256, the share of each class in its labels, and whether any was `given`.

    `unknown`: one of its labels is no class of this run, so it counts as not judged.
    """
    labels = pd.DataFrame({name: (words["label"] == name).astype(float) for name in classes})
    labels["unknown"] = words["label"].notna() & ~words["label"].isin(list(classes))
    sums = labels.groupby([words["uri"], words["sha256"]]).sum()
    unknown = sums.pop("unknown") > 0
    given = sums.sum(axis=1)
    shares = sums.div(given.where(given > 0, 1), axis=0)
    return shares.assign(given=(given > 0) & ~unknown, unknown=unknown).reset_index()


def _placed(queue: pa.Table | None, images: pd.DataFrame, exclude: Sequence[str]) -> pd.DataFrame:
    """The queue without what is left out, with what was said of each image, and whether it `counts`."""
    names = ["position", "uri", "sha256", "label", "stratum", "condition"]
    rows = pd.DataFrame(columns=names) if queue is None else queue.select(names).to_pandas()
    rows = rows[~rows["condition"].isin(list(exclude))].sort_values("position")
    rows = rows.merge(images.astype({"given": "boolean"}), how="left", on=["uri", "sha256"])
    return rows.assign(counts=_in_order(rows))


def _in_order(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each image comes before the first of its stratum that nobody has looked at."""
    return rows["given"].notna().groupby(rows["stratum"]).cummin().astype(bool)


def _waiting(rows: pd.DataFrame, places: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each stratum how many judged images do not count, and the image that they wait for."""
    return [
        {"stratum": stratum, "num_waiting": num, **_place(of["uri"].iloc[0], places)}
        for stratum, of in rows[~rows["counts"]].groupby("stratum")
        if (num := int(of["given"].sum()))
    ]


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


def _strata(rows: pd.DataFrame, sample: Sample, classes: Sequence[str]) -> list[dict[str, Any]]:
    """`targets`, the images that each stratum stands for, and what the error rate is made of, by label."""
    num_HK = sample.judged_HKK.sum(axis=2)
    wrong_HK = num_HK - sample.judged_HKK.diagonal(axis1=1, axis2=2)
    found = count_targets(rows["stratum"], rows["given"])
    for stratum, totals, nums, wrongs in zip(found, sample.total_HK, num_HK, wrong_HK, strict=True):
        stratum["num_images"] = int(totals.sum())
        stratum["labels"] = [
            {"class": name, "num_images": int(total), "num_judged": round(num), "num_wrong": _plain(wrong)}
            for name, total, num, wrong in zip(classes, totals, nums, wrongs, strict=True)
        ]
    return found


def _missing(strata: Sequence[Mapping[str, Any]]) -> str | None:
    """Why too little was judged; None where it is enough."""
    if not any(one["num_images"] for one in strata):
        return "no image could be scored"
    far = [one for one in strata if one["num_judged"] < one["num_needed"]]
    short = [f"{one['num_judged']} of {one['num_needed']} {one['stratum']}" for one in far]
    if short:
        return f"{', '.join(short)} judged, in the order of the queue"
    return None if any(one["num_judged"] for one in strata) else "every image of the queue was skipped"


def _estimates(sample: Sample, overall: Mapping[str, Any], meaning: Meaning) -> dict[str, Any]:
    classes = np.array(meaning.classes)
    rate = estimate_compliance(
        sample, np.isin(classes, meaning.compliant), np.isin(classes, meaning.assessed)
    )
    known = rate["value"] is not None and overall["compliance"] is not None
    return {
        "error_rate": estimate_error_rate(sample),
        "compliance": rate,
        "shares": [{"class": name, **estimate_share(sample, k)} for k, name in enumerate(meaning.classes)],
        "moved": rate["value"] - overall["compliance"] if known else None,
    }


def _disputes(words: pd.DataFrame, places: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The images that people gave different labels, and who gave which."""
    found = [
        _place(uri, places) | {"labels": rows.sort_values("by")[["by", "label"]].to_dict("records")}
        for (uri, _), rows in find_disputes(words).groupby(["uri", "sha256"])
    ]
    return {"num_disputes": len(found), "disputes": found[:MAX_DISPUTES]}


def _place(uri: str, places: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """An image as a person finds it, from the rows of the queue by uri."""
    row = places.get(uri, {})
    return {"uri": uri, **{name: row.get(name) for name in ("site", "camera", "captured_local")}}


def _plain(num: float) -> int | float:
    """A count of images, which is whole unless one is disputed."""
    num = round(float(num), 2)
    return int(num) if num.is_integer() else num
