"""What raises an alert: a rate below its bound, a camera that drifts or whose clock is wrong, a bad night."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch.archives.tally import describe_unreadable
from maskbatch.config import ReportConfig
from maskbatch.report.cells import group_name, number_groups
from maskbatch.report.clocks import find_clock_alerts
from maskbatch.report.compare import Comparison
from maskbatch.report.drift import ALERT_Q, LEAST_CHANGE, find_drift_alerts

NOWHERE = {"site": None, "camera": None}
Floats = NDArray[np.float64]
Row = Mapping[str, Any]
LEAST_DAYS = 20
"""The last of so many days is the worst by chance with probability 1 / LEAST_DAYS."""


def find_alerts(
    tables: Mapping[str, pa.Table],
    keys: Mapping[str, tuple[str, ...]],
    drift: Row,
    config: ReportConfig,
    clocks: Sequence[Row] = (),
) -> list[dict[str, Any]]:
    """The alerts of a report: rates below their bound, from tables grouped by `keys`, clocks and drift."""
    others = find_clock_alerts(clocks) + find_drift_alerts(drift)
    if config.alert_below is None:
        return others
    if not tables["overall"]["assessed"][0].as_py():
        bound = _percent(config.alert_below)
        what = f"nothing was assessed, so nothing shows that compliance is not below {bound}"
        return [{"kind": "compliance", **NOWHERE, "measure": "compliance", "sentence": what}, *others]
    name = f"by_{config.alert_by}" if config.alert_by else "overall"
    rate = "corrected" if config.alert_corrected else "compliance"
    below = tables[name].filter(pc.less(tables[name][f"{rate}_high"], config.alert_below))
    return [_alert(row, keys[name], rate, config.alert_below) for row in below.to_pylist()] + others


def find_unreadable(listings: Sequence[Row]) -> list[dict[str, Any]]:
    """An alert for each run that passed over folders that could not be read."""
    lost = [describe_unreadable(row) for row in listings if row["unreadable"]]
    kind = {"kind": "unreadable", **NOWHERE, "measure": "folders"}
    return [{**kind, "sentence": f"{text}, so their images are in no rate"} for text in lost]


def find_fall(comparison: Comparison) -> list[dict[str, Any]]:
    """An alert where the overall compliance is surely lower on the second side of a comparison."""
    row = comparison.overall
    if row["p"] is None or row["p"] > ALERT_Q or row["difference"] > -LEAST_CHANGE["share"]:
        return []
    how = "p < 0.001" if row["p"] < 0.001 else f"p = {row['p']:.3f}"
    before, rate = row["compliance_first"], row["compliance_second"]
    return [_fall("overall", NOWHERE, before, rate, row["assessed_second"], how)]


def find_camera_falls(by_camera_day: pa.Table, day: str) -> list[dict[str, Any]]:
    """An alert for each camera whose compliance on `day` fell further than any camera's on any day before.

    A camera's fall on a day is measured from its other days, in their standard deviations on Anscombe's
    scale, but at least in those of independent images. If all D days are alike, the worst fall is on the last
    one with probability 1 / D, however cameras depend on each other; with under LEAST_DAYS there is no alert.

    Source: permutation test of a maximum, Westfall and Young 1993; Anscombe 1948.
    """
    rows = by_camera_day.filter((pc.field("date") <= day) & (pc.field("assessed") > 0))
    days, day_N = np.unique(rows["date"].to_numpy(), return_inverse=True)
    if len(days) < LEAST_DAYS or days[-1] != day:
        return []
    cameras, camera_N = number_groups(rows, ("site", "camera"))
    compliant_DC, assessed_DC = np.full((2, len(days), len(cameras)), np.nan)
    compliant_DC[day_N, camera_N], assessed_DC[day_N, camera_N] = rows["compliant"], rows["assessed"]
    fall_DC = _measure_falls(compliant_DC, assessed_DC)
    worst_D = np.nanmax(fall_DC, axis=1, initial=-np.inf)
    alerts = []
    for place in np.flatnonzero(fall_DC[-1] > worst_D[:-1].max()):
        before = np.nansum(compliant_DC[:-1, place]) / np.nansum(assessed_DC[:-1, place])
        rate, assessed = compliant_DC[-1, place] / assessed_DC[-1, place], int(assessed_DC[-1, place])
        if before - rate >= LEAST_CHANGE["share"]:
            where = cameras.slice(place, 1).to_pylist()[0]
            how = f"further than any camera's on the {len(days) - 1} days before"
            alerts.append(_fall(group_name(where, ("site", "camera")), where, before, rate, assessed, how))
    return alerts


def _measure_falls(compliant_DC: Floats, assessed_DC: Floats) -> Floats:
    """How far each day (D) of each camera (C) is below the camera's other days; NaN where that is unknown."""
    angle_DC = np.arcsin(np.sqrt((compliant_DC + 3 / 8) / (assessed_DC + 3 / 4)))
    others_DC = (~np.isnan(angle_DC)).sum(axis=0) - 1.0
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_DC = (np.nansum(angle_DC, axis=0) - angle_DC) / others_DC
        square_DC = (np.nansum(angle_DC**2, axis=0) - angle_DC**2) / others_DC
        spread_DC = (square_DC - mean_DC**2) * others_DC / (others_DC - 1)
        fall_DC: Floats = (mean_DC - angle_DC) / np.sqrt(np.maximum(spread_DC, 1 / (4 * assessed_DC + 2)))
    fall_DC[:, others_DC < LEAST_DAYS - 1] = np.nan
    return fall_DC


def _fall(name: str, where: Row, before: float, rate: float, assessed: int, how: str) -> dict[str, Any]:
    sentence = f"{name}: compliance fell from {_percent(before)} to {_percent(rate)}, {how}"
    figures = {"rate": rate, "before": before, "assessed": assessed}
    return {"kind": "fall", **where, "measure": "compliance", **figures, "sentence": sentence}


def _alert(row: Row, keys: tuple[str, ...], rate: str, bound: float) -> dict[str, Any]:
    """The alert of a rate whose whole interval is below the bound."""
    measure = "corrected compliance" if rate == "corrected" else "compliance"
    low, high = row[f"{rate}_low"], row[f"{rate}_high"]
    few = "; few clusters, so the interval is likely too narrow" if row["few_clusters"] else ""
    figures = {"rate": row[rate], "low": low, "high": high, "below": bound, "assessed": row["assessed"]}
    sentence = (
        f"{group_name(row, keys)}: {measure} {_percent(row[rate])} ({100 * low:.1f} to {_percent(high)}) "
        f"is below {_percent(bound)}, the upper end of its interval too{few}"
    )
    where = {**NOWHERE, **{key: row[key] for key in keys}}
    return {"kind": "compliance", **where, "measure": measure, **figures, "sentence": sentence}


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"
