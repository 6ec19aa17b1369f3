"""Drift: has a camera, or what it sees, changed of late?

The unit is the camera-night: one camera on one local day. A rank test of each measure compares a camera's
last nights, a whole week so that the weekly rhythm cancels, with up to four weeks before. (One night against
28 has no p under 2 / 29, so that it could never alert after correction.) Of 10 to 20 nights the last third is
compared: in simulations that keeps the rate of false alarms, but finds a change in a few cameras only. Under
ten nights there is not enough history.

Benjamini-Hochberg runs over all tests of a report, so a fleet without drift alerts in at most 5 % of reports
(simulated: 1 to 4 % with a weekly rhythm). This assumes independent nights: where each resembles the one
before, for example by weather, more alert (autocorrelation 0.2: 5 %, 0.3: 9 to 14 %, 0.5: 20 to 60 %). A
significant change that is too small to matter (LEAST_CHANGE) does not alert.

In whole scenes shares and confidence are those of faces, brightness and sharpness those of pictures. PSI is
of faces alone, as the checkpoint's reference is.

Shape suffixes: L cells, N nights, M measures, B bins.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, rankdata

from maskbatch.report.cells import (
    FACE,
    HISTOGRAMS,
    MEASURES,
    PICTURE,
    Camera,
    group_name,
    number_groups,
    read_histograms,
    select_kind,
)  # fmt: skip
from maskbatch.schema import UNKNOWN_DATE

RECENT_NIGHTS = 7
HISTORY_NIGHTS = 28
LEAST_NIGHTS = 10
"""Nights of a camera, in all, for it to be tested."""
ALERT_Q = 0.05
LEAST_CHANGE = {"share": 0.01, "confidence": 0.01, "brightness": 0.02, "sharpness": 0.1}
"""The least change of a median that alerts; for sharpness, as a share of what it was."""
Floats = NDArray[np.float64]


def measure_drift(
    cells: pa.Table, classes: Sequence[str], reference: Mapping[str, Sequence[int]], view: str = "face"
) -> dict[str, Any]:
    """The section `drift` of report.json: every test, cameras without enough history, and PSI.

    `reference` holds the checkpoint's histograms (B,) of some of MEASURES, or none. Unknown days, failed
    images and faces too small to assess are left out. `recent` and `before` are medians over nights. PSI is
    that of the last RECENT_NIGHTS nights, also for a camera without enough history, and never alerts.
    """
    parts: list[tuple[pa.Table, Sequence[str], Sequence[str]]] = [(cells, classes, MEASURES)]
    if view == "scene":
        faces = select_kind(cells, FACE)
        faces = faces.filter(pc.is_valid(faces["label"]))
        parts = [(faces, classes, MEASURES[:1]), (select_kind(cells, PICTURE), (), MEASURES[1:])]
    tests: list[dict[str, Any]] = []
    short: dict[Camera, dict[str, Any]] = {}
    psi: list[dict[str, Any]] = []
    for part, own_classes, measures in parts:
        names = (*[f"share_{name}" for name in own_classes], *measures)
        for name, values_NM, histograms_NMB in _cameras(part, own_classes, measures):
            if own_classes:
                psi += _compare_with(reference, name, histograms_NMB[-RECENT_NIGHTS:].sum(0))
            if len(values_NM) < LEAST_NIGHTS:
                short.setdefault((name["site"], name["camera"]), {**name, "nights": len(values_NM)})
            else:
                tests += [{**name, **test} for test in _tests(names, values_NM)]
    corrected = false_discovery_control([test["p"] for test in tests]) if tests else ()
    for test, q in zip(tests, corrected, strict=True):
        test |= {"q": float(q), "alert": bool(q <= ALERT_Q) and _matters(test)}
    nights = {"recent_nights": RECENT_NIGHTS, "history_nights": HISTORY_NIGHTS, "least_nights": LEAST_NIGHTS}
    return {**nights, "alert_q": ALERT_Q, "tests": tests, "short": list(short.values()), "psi": psi}


def _compare_with(
    reference: Mapping[str, Sequence[int]], name: Mapping[str, Any], recent_MB: NDArray[np.int64]
) -> Iterator[dict[str, Any]]:
    """PSI of each of MEASURES that the checkpoint has a histogram of."""
    for measure, observed_B in zip(MEASURES, recent_MB, strict=True):
        if any(reference.get(measure, ())):
            yield {**name, "measure": measure, "psi": stability_index(observed_B, reference[measure])}


def find_drift_alerts(drift: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The alerts of report.json from its section `drift`, with a sentence each."""
    tests = [test for test in drift["tests"] if test["alert"]]
    alerts = [{"kind": "drift", **test, "sentence": _sentence(test)} for test in tests]
    for alert in alerts:
        del alert["alert"]
    return alerts


def count_recent(num_nights: int) -> int:
    """How many of a camera's nights are recent: a week, or a third where too few nights would be left."""
    return min(RECENT_NIGHTS, num_nights // 3)


def rank_test(values_MN: Floats, recent: int) -> Floats:
    """Two-sided p (M,) of the last `recent` nights against those before them.

    Mann-Whitney, exact also with ties: every choice of `recent` nights among the N is equally likely. (For a
    class that most nights lack, the normal approximation for ties gives p up to 50 times too small.)
    Source: Mann and Whitney 1947; midranks, Lehmann, Nonparametrics 1975, section 1.4; p is twice a tail.
    """
    ranks_MN = (2 * rankdata(values_MN, axis=1)).astype(int)  # midranks are halves
    p_M = np.empty(len(ranks_MN))
    for i, ranks_N in enumerate(ranks_MN):
        at_most = _rank_sums(tuple(np.sort(ranks_N).tolist()), recent)
        s = ranks_N[-recent:].sum()
        p_M[i] = min(1, 2 * at_most[s], 2 * (1 - at_most[s - 1]))
    return p_M


def stability_index(observed_B: Sequence[int] | NDArray[np.integer], reference_B: Sequence[int]) -> float:
    """PSI of two histograms: 0 where they are alike; by custom under 0.1 is stable and over 0.25 a shift.

    Every bin of both gets the share of half an image of the smaller histogram, so that none is empty.
    Source: Siddiqi, Credit Risk Scorecards 2006; Jeffreys' divergence 1946.
    """
    half = 0.5 / min(np.sum(observed_B), np.sum(reference_B))
    observed, expected = (
        (np.asarray(counts_B) / np.sum(counts_B) + half) / (1 + half * len(counts_B))
        for counts_B in (observed_B, reference_B)
    )
    return float(((observed - expected) * np.log(observed / expected)).sum())


@lru_cache(maxsize=4096)  # without ties all cameras with as many nights share one
def _rank_sums(ranks: tuple[int, ...], recent: int) -> Floats:
    """P(sum <= s), s = 0 .. the largest sum, where `recent` of the ascending `ranks` are drawn at random."""
    ways = np.zeros((recent + 1, sum(ranks[-recent:]) + 1))
    ways[0, 0] = 1
    for rank in ranks:
        ways[1:, rank:] += ways[:-1, :-rank]
    return np.asarray(ways[recent].cumsum() / ways[recent].sum())


def _tests(names: Sequence[str], values_NM: Floats) -> Iterator[dict[str, Any]]:
    recent = count_recent(len(values_NM))
    values_NM = values_NM[-recent - HISTORY_NIGHTS :]
    now_M, before_M = np.median(values_NM[-recent:], 0), np.median(values_NM[:-recent], 0)
    for name, now, before, p in zip(names, now_M, before_M, rank_test(values_NM.T, recent), strict=True):
        nights = {"nights": recent, "history": len(values_NM) - recent}
        yield {"measure": name, **nights, "recent": float(now), "before": float(before), "p": float(p)}


def _matters(test: Mapping[str, Any]) -> bool:
    least = LEAST_CHANGE[_kind(test)] * (test["before"] if test["measure"] == "sharpness" else 1)
    return bool(abs(test["recent"] - test["before"]) >= least)


def _kind(test: Mapping[str, Any]) -> str:
    return "share" if test["measure"].startswith("share_") else test["measure"]


def _sentence(test: Mapping[str, Any]) -> str:
    kind, q = _kind(test), test["q"]
    what = f"the share of {test['measure'].removeprefix('share_')}" if kind == "share" else f"mean {kind}"
    rose = "rose" if test["recent"] > test["before"] else "fell"
    form = {"share": ".1%", "sharpness": ",.1f"}.get(kind, ".3f")
    before, recent = (format(test[key], form).replace("%", " %") for key in ("before", "recent"))
    return (
        f"{group_name(test, ('site', 'camera'))}: {what} {rose} from {before} (median of {test['history']} "
        f"days) to {recent} (median of the last {test['nights']}), "
        f"q {'< 0.001' if q < 0.001 else f'= {q:.3f}'}"
    )


def _cameras(
    cells: pa.Table, classes: Sequence[str], measures: Sequence[str]
) -> Iterator[tuple[dict[str, Any], Floats, NDArray[np.int64]]]:
    """(site and camera, values (N, M), histograms (N, 3, B)) of each camera, nights in order.

    Values are the shares of `classes` and the means of `measures`; histograms are of all MEASURES.
    """
    cells = cells.filter(pc.and_(pc.equal(cells["status"], "ok"), pc.not_equal(cells["date"], UNKNOWN_DATE)))
    nights, night_L = number_groups(cells, ("site", "camera", "date"))
    if not len(nights):
        return
    order = np.argsort(night_L, kind="stable")
    cells, starts = cells.take(pa.array(order)), np.searchsorted(night_L[order], np.arange(len(nights)))
    count_L, labels = cells["count"].to_numpy(), cells["label"].to_numpy()
    of_class = [np.where(labels == name, count_L, 0) for name in classes]
    sums_LM = np.column_stack([*of_class, *[cells[f"{name}_sum"].to_numpy() for name in measures]])
    values_NM = np.add.reduceat(sums_LM, starts) / np.add.reduceat(count_L, starts)[:, None]
    histograms = (read_histograms(cells, name) for name in HISTOGRAMS)
    sums_NMB = np.stack([np.add.reduceat(counts, starts, dtype=np.int64) for counts in histograms], 1)
    cameras, camera_N = number_groups(nights, ("site", "camera"))
    firsts = np.flatnonzero(np.diff(camera_N)) + 1
    parts = (np.split(table, firsts) for table in (values_NM, sums_NMB))
    yield from zip(cameras.to_pylist(), *parts, strict=True)
