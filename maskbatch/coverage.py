"""Was the archive there to be seen: each camera's snapshots against those expected, hour by hour, from cells.

What is expected of a camera in an hour of the day is the median of its own days, between its first and its
last one; or what --expect says. Gaps are whole hours.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from maskbatch.config import Expect
from maskbatch.schema import UNKNOWN_DATE

LEAST_DAYS = 3
"""With fewer, what is expected in each hour between the first and the last is the median of them all."""
STEADY = 0.6
"""The share of its hours in which a camera must keep its own pace (within a fifth, or one), or nothing is
expected of it: one that a sensor triggers keeps none."""
LEAST_MISSING = 2
"""So many snapshots must be missing in hours that have under half of theirs, to make a gap."""

Counts = NDArray[np.float64]


def coverage(
    cells: pa.Table, expect: Expect | None, skipped: Callable[[str | None, date], int | None]
) -> dict[str, Any]:
    """Snapshots against expected ones by camera and by camera and day, and gaps, as in report.json.

    `skipped` gives the local hour that a change of clocks leaves out at a site on a day, or None.
    """
    frame = cells.select(["site", "camera", "date", "hour", "count"]).to_pandas()
    frame = frame[(frame["date"] != UNKNOWN_DATE) & frame["hour"].notna()]
    out: dict[str, list[dict[str, Any]]] = {"by_camera": [], "by_camera_day": [], "gaps": []}
    if len(frame):
        days = pd.date_range(frame["date"].min(), frame["date"].max()).date
        ends = _ends(frame)
        for (site, camera), rows in frame.groupby(["site", "camera"], dropna=False):
            name = {"site": _text(site), "camera": _text(camera)}
            counts = _by_day_and_hour(rows, days)
            expected = _expected(counts, expect)
            if expected is not None:
                _leave_out(expected, ends, [skipped(name["site"], day) for day in days])
            gaps = list(_gaps(counts, expected, days)) if expected is not None else []
            out["gaps"] += [{**name, **gap} for gap in gaps]
            out["by_camera"].append({**name, **_of_camera(counts, expected, expect, gaps)})
            out["by_camera_day"] += [{**name, **row} for row in _of_days(counts, expected, days)]
    return out


def _text(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)


def _ends(frame: pd.DataFrame) -> tuple[int, int]:
    """The hours in which the archive begins, on its first day, and ends, on its last."""
    first, last = (frame[frame["date"] == day]["hour"] for day in (frame["date"].min(), frame["date"].max()))
    return int(first.min()), int(last.max())


def _by_day_and_hour(rows: pd.DataFrame, days: NDArray[Any]) -> Counts:
    """Snapshots (days, 24) of one camera."""
    day = np.searchsorted(days.astype(str), rows["date"])
    flat = np.bincount(day * 24 + rows["hour"].astype(int), rows["count"], len(days) * 24)
    return flat.astype(np.float64).reshape(-1, 24)


def _expected(counts: Counts, expect: Expect | None) -> Counts | None:
    """Expected snapshots (days, 24) of one camera, None where it keeps no pace."""
    if expect is not None:
        return np.tile(np.isin(np.arange(24), expect.hours) * expect.per_hour, (len(counts), 1))
    there = np.flatnonzero(counts.any(axis=1))
    own = counts[there[0] : there[-1] + 1]
    if len(own) >= LEAST_DAYS:
        usual = np.median(own, axis=0)
    else:
        hours = np.flatnonzero(own.any(axis=0))
        inside = (np.arange(24) >= hours[0]) & (np.arange(24) <= hours[-1])
        usual = inside * np.median(own[own > 0])
    active = own[:, usual > 0]
    keeps = np.abs(active - usual[usual > 0]) <= np.maximum(usual[usual > 0] / 5, 1)
    if not active.size or active.sum() < own.sum() / 2 or keeps.mean() < STEADY:
        return None
    return np.tile(usual, (len(counts), 1))


def _leave_out(expected: Counts, ends: tuple[int, int], skipped: Sequence[int | None]) -> None:
    """Expect nothing before the archive begins, after it ends, or in an hour of a day that never was."""
    expected[0, : ends[0]] = 0
    expected[-1, ends[1] + 1 :] = 0
    for k, hour in enumerate(skipped):
        if hour is not None:
            expected[k, hour] = 0


def _gaps(counts: Counts, expected: Counts, days: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """Runs of hours with under half of what is expected; hours without expectation do not end one."""
    hours = np.flatnonzero(expected.ravel() > 0)
    found, wanted = counts.ravel()[hours], expected.ravel()[hours]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], found < wanted / 2, [False]])))
    midnight = datetime.combine(days[0], datetime.min.time())
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        missing = round(float((wanted - found)[start:stop].sum()))
        if missing >= LEAST_MISSING:
            begin, end = int(hours[start]), int(hours[stop - 1]) + 1
            yield {
                "from": midnight + timedelta(hours=begin),
                "to": midnight + timedelta(hours=end),
                "seconds": (end - begin) * 3600,
                "missing": missing,
            }


def _of_camera(
    counts: Counts, expected: Counts | None, expect: Expect | None, gaps: list[dict[str, Any]]
) -> dict[str, Any]:
    """One row of coverage by camera; surplus in one hour makes up for nothing in another."""
    row: dict[str, Any] = {
        "cadence_s": None, "source": None, "hours": [], "expected": None, "snapshots": int(counts.sum()),
        "coverage": None, "num_gaps": len(gaps),
        "longest_gap_s": max((gap["seconds"] for gap in gaps), default=None),
    }  # fmt: skip
    if expected is None or not expected.any():
        return row
    usual = expected.max(axis=0)
    hours, each = np.flatnonzero(usual), float(np.median(usual[usual > 0]))
    if each <= 1:  # the hours between two snapshots count as well
        hours = np.arange(hours[0], hours[-1] + 1)
        each = usual.sum() / len(hours)
    return row | {
        "cadence_s": 3600 / float(each),
        "source": "expected" if expect else "inferred",
        "hours": hours.tolist(),
        "expected": round(float(expected.sum())),
        "coverage": float(np.minimum(counts, expected).sum() / expected.sum()),
    }


def _of_days(counts: Counts, expected: Counts | None, days: NDArray[Any]) -> Iterator[dict[str, Any]]:
    for k, day in enumerate(days):
        wanted = None if expected is None else round(float(expected[k].sum()))
        yield {"date": str(day), "snapshots": int(counts[k].sum()), "expected": wanted}
