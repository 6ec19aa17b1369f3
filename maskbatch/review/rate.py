"""What people's judgements say of a whole run: the section `judged` of report.json.

Of each stratum of the queue, the images judged in its order are a simple random sample.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from maskbatch.review.corrections import IMAGE, find_disputes
from maskbatch.review.queue import STRATA, UNCERTAIN
from maskbatch.review.sample import Sample, estimate_compliance, estimate_error_rate, estimate_share
from maskbatch.runs.committed import Meaning

LEAST_JUDGED = 30
"""In each stratum, or all not skipped; with fewer an error rate of 5 % is known to 15 points at best."""
MAX_DISPUTES = 100
"""In report.json; all are in corrections.parquet."""
NOTHING: dict[str, Any] = {"error_rate": None, "compliance": None, "shares": [], "moved": None}

Places = Mapping[tuple[str, int], Mapping[str, Any]]
"""Rows of the queue by uri and region."""


def count_targets(strata: Iterable[str], given: Iterable[bool | None]) -> list[dict[str, Any]]:
    """Images judged and needed by stratum; a rate needs as many as needed in every stratum.

    `strata`, `given`: of each image in the queue's order. `given` is True where it is judged, False where it
    was skipped, None where nobody has looked; the images before the first None of their stratum count.
    """
    rows = pd.DataFrame({"stratum": list(strata), "given": pd.array(list(given), dtype="boolean")})
    rows = rows.assign(counts=_in_order(rows))
    targets = []
    for name in STRATA:
        images = rows[rows["stratum"] == name]
        counted = images["given"][images["counts"]]
        num_judged, num_skipped = (int(counted.eq(value).sum()) for value in (True, False))
        num_needed = min(LEAST_JUDGED, len(images) - num_skipped)
        nums = {"num_judged": num_judged, "num_skipped": num_skipped, "num_needed": num_needed}
        targets.append({"stratum": name, "num_queued": len(images), **nums})
    return targets


def estimate_rates(
    judgements: pd.DataFrame,
    queue: pa.Table | None,
    overall: Mapping[str, Any],
    meaning: Meaning,
    exclude: Sequence[str] = (),
) -> dict[str, Any] | None:
    """The section `judged` of report.json from people's latest `judgements`; None where there are none.

    `queue` is that of the run, None where several are reported; `overall` the report's row over all images.
    Images count up to the first of their stratum that nobody has looked at: those judged beyond it may have
    been picked, by camera or day. Images with a condition in `exclude` are left out. Of whole scenes each
    assessable face is an image.
    """
    if judgements.empty:
        return None
    images = _images(judgements, meaning.classes)
    places = _list_places(queue)
    rows = _queue_with(images, queue, exclude)
    counted = rows[rows["counts"] & rows["given"]]
    labels = judgements.dropna(subset="label")
    by_person = labels.merge(counted[IMAGE])["by"].value_counts()
    sample = _sample(rows, counted, overall, meaning.classes)
    strata = _strata(rows, sample, meaning.classes)
    waiting_for = _waiting_for(rows, places)
    num_waiting = sum(image["num_waiting"] for image in waiting_for)
    num_unknown = int((rows["counts"] & rows["unknown"].eq(True)).sum())
    reason = _explain_missing(strata) if queue is not None else "a rate is made for one run at a time"
    return {
        "reason": reason,
        "num_judged": len(counted),
        "strata": strata if queue is not None else [],
        "num_skipped": sum(stratum["num_skipped"] for stratum in strata) - num_unknown,
        "num_unknown": num_unknown,
        "num_waiting": num_waiting,
        "waiting_for": waiting_for,
        "num_elsewhere": int(images["given"].sum()) - len(counted) - num_waiting,
        "num_reviewers": len(by_person),
        "reviewers": [{"by": by, "num_judged": int(num)} for by, num in sorted(by_person.items())],
        "confusion": [[_plain(num) for num in row] for row in sample.judged_HKK.sum(axis=0)],
        **(NOTHING if reason else _estimates(sample, overall, meaning)),
        **_disputes(judgements, places),
    }


def _images(judgements: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """A row for each image: IMAGE, the share of each class in its labels, and whether any was `given`.

    `unknown`: one of its labels is no class of this run, so it counts as not judged.
    """
    labels = pd.DataFrame({name: (judgements["label"] == name).astype(float) for name in classes})
    labels["unknown"] = judgements["label"].notna() & ~judgements["label"].isin(list(classes))
    sums = labels.groupby([judgements[name] for name in IMAGE]).sum()
    unknown = sums.pop("unknown") > 0
    given = sums.sum(axis=1)
    shares = sums.div(given.where(given > 0, 1), axis=0)
    return shares.assign(given=(given > 0) & ~unknown, unknown=unknown).reset_index()


def _queue_with(images: pd.DataFrame, queue: pa.Table | None, exclude: Sequence[str]) -> pd.DataFrame:
    """The queue without what is left out, with the labels of each image, and whether it `counts`."""
    names = ["position", "uri", "sha256", "label", "stratum", "condition"]
    rows = pd.DataFrame(columns=names) if queue is None else queue.select(names).to_pandas()
    rows["region"] = queue["region"].to_numpy() if queue is not None and "region" in queue.column_names else 0
    rows = rows[~rows["condition"].isin(list(exclude))].sort_values("position")
    rows = rows.merge(images.astype({"given": "boolean"}), how="left", on=IMAGE)
    return rows.assign(counts=_in_order(rows))


def _in_order(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Whether each image comes before the first of its stratum that nobody has looked at."""
    return rows["given"].notna().groupby(rows["stratum"]).cummin().astype(bool)


def _waiting_for(rows: pd.DataFrame, places: Places) -> list[dict[str, Any]]:
    """For each stratum, how many judged images do not count yet, and the image that they wait for."""
    return [
        {"stratum": stratum, "num_waiting": num, **_place(images.iloc[0].to_dict(), places)}
        for stratum, images in rows[~rows["counts"]].groupby("stratum")
        if (num := int(images["given"].sum()))
    ]


def _sample(
    rows: pd.DataFrame, counted: pd.DataFrame, overall: Mapping[str, Any], classes: Sequence[str]
) -> Sample:
    """The counted images, and how many they stand for.

    The queue holds the whole uncertain stratum; all other images are of the random one.
    """
    judged_HKK = np.zeros((len(STRATA), len(classes), len(classes)))
    for h, k in np.ndindex(len(STRATA), len(classes)):
        is_here = (counted["stratum"] == STRATA[h]) & (counted["label"] == classes[k])
        judged_HKK[h, k] = counted.loc[is_here, list(classes)].sum()
    labels = rows.loc[rows["stratum"] == UNCERTAIN, "label"]
    uncertain_K = np.array([(labels == name).sum() for name in classes], np.int64)
    all_K = np.array([overall[f"num_{name}"] for name in classes], np.int64)
    return Sample(judged_HKK, np.stack((all_K - uncertain_K, uncertain_K)))


def _strata(rows: pd.DataFrame, sample: Sample, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The targets, the images that each stratum stands for, and by label what makes up the error rate."""
    num_HK = sample.judged_HKK.sum(axis=2)
    wrong_HK = num_HK - sample.judged_HKK.diagonal(axis1=1, axis2=2)
    strata = count_targets(rows["stratum"], rows["given"])
    for stratum, totals, nums, wrongs in zip(strata, sample.total_HK, num_HK, wrong_HK, strict=True):
        stratum["num_images"] = int(totals.sum())
        stratum["labels"] = [
            {"class": name, "num_images": int(total), "num_judged": round(num), "num_wrong": _plain(wrong)}
            for name, total, num, wrong in zip(classes, totals, nums, wrongs, strict=True)
        ]
    return strata


def _explain_missing(strata: Sequence[Mapping[str, Any]]) -> str | None:
    """Why too little was judged; None where it is enough."""
    if not any(stratum["num_images"] for stratum in strata):
        return "no image could be scored"
    short = [
        f"{stratum['num_judged']} of {stratum['num_needed']} {stratum['stratum']}"
        for stratum in strata
        if stratum["num_judged"] < stratum["num_needed"]
    ]
    if short:
        return f"{', '.join(short)} judged, in the order of the queue"
    judged = any(stratum["num_judged"] for stratum in strata)
    return None if judged else "every image of the queue was skipped"


def _estimates(sample: Sample, overall: Mapping[str, Any], meaning: Meaning) -> dict[str, Any]:
    classes = np.array(meaning.classes)
    compliant_K, assessed_K = (np.isin(classes, names) for names in (meaning.compliant, meaning.assessed))
    rate = estimate_compliance(sample, compliant_K, assessed_K)
    known = rate["value"] is not None and overall["compliance"] is not None
    return {
        "error_rate": estimate_error_rate(sample),
        "compliance": rate,
        "shares": [{"class": name, **estimate_share(sample, k)} for k, name in enumerate(meaning.classes)],
        "moved": rate["value"] - overall["compliance"] if known else None,
    }


def _disputes(judgements: pd.DataFrame, places: Places) -> dict[str, Any]:
    """The images on which people disagree, and who gave which label."""
    disputes = [
        _place(rows.iloc[0].to_dict(), places)
        | {"labels": rows.sort_values("by")[["by", "label"]].to_dict("records")}
        for _, rows in find_disputes(judgements).groupby(IMAGE)
    ]
    return {"num_disputes": len(disputes), "disputes": disputes[:MAX_DISPUTES]}


def _list_places(queue: pa.Table | None) -> Places:
    rows = [] if queue is None else queue.to_pylist()
    return {(row["uri"], row.get("region", 0)): row for row in rows}


def _place(image: Mapping[str, Any], places: Places) -> dict[str, Any]:
    """Where a person finds an image, from the rows of the queue; only faces have a region."""
    uri, region = image["uri"], int(image["region"])
    row, of_face = places.get((uri, region), {}), {"region": region} if region else {}
    return {"uri": uri, **of_face, **{name: row.get(name) for name in ("site", "camera", "captured_local")}}


def _plain(num: float) -> int | float:
    """A count of images, whole unless people disagree on one."""
    num = round(float(num), 2)
    return int(num) if num.is_integer() else num
