"""Was the archive there to be seen: each camera's snapshots against those expected, hour by hour, from cells.

What is expected of a camera in an hour of the day is what its own days usually hold then; or what --expect
says. Of a camera that keeps no pace nothing is expected. Gaps are whole hours.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch.config import Expect
from maskbatch.report.cells import number_groups
from maskbatch.schema import UNKNOWN_DATE

LEAST_SNAPSHOTS = 12
"""Of a camera with fewer in all, no pace is inferred."""


LEAST_DAYS = 3
"""With fewer, each hour between the first and the last is held to the usual of them all."""


STEADY = 0.6
"""The share of its hours in which a camera must keep its own pace (within a fifth, or less than one), or
nothing is expected of it: one that a sensor triggers keeps none."""


SAME = 0.9
"""The share of its days that hold the same in every hour, of a camera whose lost snapshots show by that."""


LEAST_DUE = 50
"""Snapshots are held to their number in blocks of whole days in which so many are due."""


LEAST_MISSING = 2
"""So many snapshots must be missing in hours that have under half of theirs, to make a gap."""


STRAY_SHARE, STRAY_DAYS, LEAST_TOTAL = 1000, 31, 100
"""The first and the last image in so many (one at least, of LEAST_TOTAL) are strays, as of a clock that was
reset, where more than so many days lie between them and the rest."""


Counts = NDArray[np.float64]


Period = tuple[datetime | None, datetime | None]


def measure_coverage(
    cells: pa.Table,
    expect: Expect | None,
    skipped: Callable[[str | None, date], int | None],
    period: Period,
    shown: Collection[tuple[str | None, str | None]],
) -> dict[str, Any]:
    """Snapshots against expected ones in all, by camera and by camera and day, and gaps, as in report.json.

    `skipped` gives the local hour that a change of clocks leaves out at a site on a day, or None; `period`
    the local times (from, before) that were asked for, None where the archive's own first or last image says
    it; by day come the cameras (site, camera) of `shown` only.
    """
    table = cells.select(["site", "camera", "date", "hour", "count"])
    table = table.filter(pc.and_(pc.not_equal(table["date"], UNKNOWN_DATE), pc.is_valid(table["hour"])))
    out: dict[str, Any] = {"by_camera": [], "by_camera_day": [], "gaps": []}
    if not len(table):
        return out | {"coverage": None, "stray_images": 0}
    hours, counts = _hours(table), table["count"].to_numpy()
    first, stop = _bounds(hours, counts, period)
    inside = (hours >= first) & (hours < stop)
    days = [date.fromordinal(day) for day in range(first // 24, -(-stop // 24))]
    num_due = num_missing = 0.0
    for name, found in _of_cameras(table.filter(pa.array(inside)), days):
        expected = _expected(found, expect)
        _leave_out(expected, found, (first % 24, stop - first // 24 * 24), period)
        for wanted, day in zip(expected, days, strict=True):
            if (hour := skipped(name["site"], day)) is not None:
                wanted[hour] = 0
        num_due, missing = num_due + float(expected.sum()), _missing(found, expected)
        num_missing, gaps = num_missing + missing, list(_gaps(found, expected, days[0]))
        out["gaps"] += [{**name, **gap} for gap in gaps]
        out["by_camera"].append({**name, **_row(found, expected, missing, expect, gaps)})
        if (name["site"], name["camera"]) in shown:
            out["by_camera_day"] += [{**name, **row} for row in _of_days(found, expected, days)]
    share = 1 - num_missing / num_due if num_due else None
    return out | {"coverage": share, "stray_images": int(counts[~inside].sum())}


def _hours(table: pa.Table) -> NDArray[np.int64]:
    """The local hour (N,) of each cell, counted from the first day of the calendar."""
    dates = table["date"].combine_chunks().dictionary_encode()
    day = np.array([date.fromisoformat(text).toordinal() for text in dates.dictionary.to_pylist()])
    numbers: NDArray[np.int64] = day[dates.indices.to_numpy()] * 24 + table["hour"].to_numpy()
    return numbers


def _bounds(hours: NDArray[np.int64], counts: NDArray[np.int64], period: Period) -> tuple[int, int]:
    """The first hour in which snapshots may be due, and the one after the last."""
    order = np.argsort(hours)
    upto, total = np.cumsum(counts[order]), int(counts.sum())
    strays = total // STRAY_SHARE or int(total >= LEAST_TOTAL)
    low, high = hours[order][np.searchsorted(upto, [strays, total - strays - 1], "right")] // 24
    near = hours[(hours // 24 >= low - STRAY_DAYS) & (hours // 24 <= high + STRAY_DAYS)]
    since, until = period
    first = since.toordinal() * 24 + since.hour if since else int(near.min())
    stop = until.toordinal() * 24 + until.hour + bool(until.minute) if until else int(near.max()) + 1
    return first, max(stop, first + 1)


def _of_cameras(table: pa.Table, days: Sequence[date]) -> Iterator[tuple[dict[str, Any], Counts]]:
    """Each camera's name and its snapshots (days, 24)."""
    cameras, number = number_groups(table, ("site", "camera"))
    place, counts = _hours(table) - days[0].toordinal() * 24, table["count"].to_numpy()
    parts = np.split(np.argsort(number), np.cumsum(np.bincount(number)))
    for name, rows in zip(cameras.to_pylist(), parts[:-1], strict=True):
        flat = np.bincount(place[rows], counts[rows], len(days) * 24)
        yield name, flat.astype(np.float64).reshape(-1, 24)


def _expected(counts: Counts, expect: Expect | None) -> Counts:
    """Expected snapshots (days, 24) of one camera, all 0 where it keeps no pace."""
    there = np.flatnonzero(counts.any(axis=1))
    own, usual = counts[there[0] : there[-1] + 1], np.zeros(24)
    # all in one hour of the day, as where a path has a date alone
    no_times = np.count_nonzero(own.any(axis=0)) == 1 and own.sum() > 2 * len(there)
    if expect is not None:
        if not (no_times and len(there) >= LEAST_DAYS and len(expect.hours) > 1):
            usual[expect.hours] = expect.per_hour
    elif own.sum() >= LEAST_SNAPSHOTS and not no_times:
        usual = _pace(own)
    return np.tile(usual, (len(counts), 1))


def _pace(own: Counts) -> Counts:
    """What each hour of the day (24,) usually holds on the days of a camera, 0 where it keeps no pace.

    The median, or where its days differ by one snapshot their mean: one every 7 minutes makes 8 or 9 an hour.
    """
    total, usual = own.sum(axis=1), np.median(own, axis=0)
    alike, same = np.abs(total - np.median(total)) <= 1, (own == usual).all(axis=1)
    if len(own) < LEAST_DAYS:
        usual = _pace_of_few(own)
    elif same.mean() < SAME and alike.mean() >= STEADY and _even(own, int(np.median(total))):
        usual = own[alike].mean(axis=0)
        usual[usual < usual.max() / 10] = 0
    active, wanted = own[:, usual > 0], usual[usual > 0]
    away = np.abs(active - wanted)
    if active.sum() < own.sum() / 2 or ((away < 1) | (away <= wanted / 5)).mean() < STEADY:
        return np.zeros(24)
    return usual


def _pace_of_few(own: Counts) -> Counts:
    """The usual of all hours, in each from the first to the last."""
    hours = np.flatnonzero(own.any(axis=0))
    there = own[own > 0]
    each = float(np.median(there))
    if each >= 2:
        each = _mean_at_median(there)
    inside = (np.arange(24) >= hours[0]) & (np.arange(24) <= hours[-1])
    return np.where(inside, each, 0.0)


def _mean_at_median(counts: Counts) -> float:
    """The mean of those within one of the median, or the median where it lies between counts far apart."""
    median = np.median(counts)
    near = counts[np.abs(counts - median) <= 1]
    return float(near.mean() if near.size else median)


def _even(own: Counts, num: int) -> bool:
    """Whether `num` snapshots, those of a day, take the same time within an hour wherever one begins."""
    if not 0 < num <= 48:  # of more, chance would not keep the days within one of each other
        return num > 48
    hours = np.repeat(np.arange(own.size), own.ravel().astype(int))
    lasts = hours[num:] - hours[:-num]
    return bool((np.abs(lasts - np.median(lasts)) <= 1).mean() >= STEADY)


def _leave_out(expected: Counts, counts: Counts, due: tuple[int, int], period: Period) -> None:
    """Expect nothing outside the hours `due`, and in a first or last one that is due in part what came."""
    flat, found = expected.reshape(-1), counts.reshape(-1)
    flat[: due[0]] = flat[due[1] :] = 0
    for hour, bound in zip((due[0], due[1] - 1), period, strict=True):
        if (bound is None or bound.minute) and found[hour]:
            flat[hour] = min(flat[hour], found[hour])


def _missing(counts: Counts, expected: Counts) -> int:
    """How many of the snapshots due did not come, whatever their number in an hour.

    The balance of found and due is kept within one: more in one hour makes up for one elsewhere at most. A
    camera that keeps its cadence owes less than one at the end of a block, whatever the cadence and phase.
    """
    most = expected.sum(axis=1).max()
    num_days = min(int(np.ceil(LEAST_DUE / most)), len(counts)) if most else 1
    blocks = -(-len(counts) // num_days)
    change = np.zeros(blocks * num_days * 24)
    change[: counts.size] = (counts - expected).ravel()
    balance = missing = np.zeros(blocks)
    for step in change.reshape(blocks, -1).T:
        balance = np.minimum(balance + step, 1)
        missing = missing + np.maximum(-1 - balance, 0)
        balance = np.maximum(balance, -1)
    return int(np.floor(missing - np.minimum(balance, 0) + 1e-6).sum())


def _gaps(counts: Counts, expected: Counts, first: date) -> Iterator[dict[str, Any]]:
    """Runs of hours with under half of what is expected; hours without expectation do not end one.

    `missing` is in whole snapshots, for between two of a slow camera lie empty hours that want less than one.
    """
    found, wanted, hours = counts.ravel(), expected.ravel(), np.flatnonzero(expected)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], (found < wanted / 2)[hours], [False]])))
    midnight = datetime(first.year, first.month, first.day)
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        begin, end = int(hours[start]), int(hours[stop - 1]) + 1
        missing = int((wanted - found)[begin:end].sum() + 1e-6)
        if missing >= LEAST_MISSING:
            yield {
                "from": midnight + timedelta(hours=begin),
                "to": midnight + timedelta(hours=end),
                "seconds": (end - begin) * 3600,
                "missing": missing,
            }


def _row(
    counts: Counts, expected: Counts, missing: int, expect: Expect | None, gaps: list[dict[str, Any]]
) -> dict[str, Any]:
    """One row of coverage by camera."""
    row: dict[str, Any] = {
        "cadence_s": None, "source": None, "hours": [], "expected": None, "snapshots": int(counts.sum()),
        "coverage": None, "num_gaps": len(gaps),
        "longest_gap_s": max((gap["seconds"] for gap in gaps), default=None),
    }  # fmt: skip
    if not expected.any():
        return row
    hours = np.flatnonzero(usual := expected.max(axis=0))
    if np.median(usual[hours]) <= 1:  # the hours between two snapshots count as well
        hours = np.arange(hours[0], hours[-1] + 1)
    return row | {
        "cadence_s": 3600 / expect.per_hour if expect else _cadence_s(usual),
        "source": "expected" if expect else "inferred",
        "hours": hours.tolist(),
        "expected": round(float(expected.sum())),
        "coverage": 1 - missing / float(expected.sum()),
    }


def _cadence_s(usual: Counts) -> float:
    """Seconds from one snapshot to the next, from what each hour of the day (24,) holds."""
    hours, each, total = np.flatnonzero(usual), np.median(usual[usual > 0]), float(usual.sum())
    if each > 1:
        return 3600 / _mean_at_median(usual[usual > 0])
    rest = np.diff([*hours, hours[0] + 24]).max()
    if total <= 1.5 or rest <= 24 / total + 1:  # it never rests
        return 24 * 3600 / total
    return float(hours[-1] - hours[0]) * 3600 / (total - 1)


def _of_days(counts: Counts, expected: Counts, days: Sequence[date]) -> Iterator[dict[str, Any]]:
    due = [round(wanted) if expected.any() else None for wanted in expected.sum(axis=1)]
    for day, found, wanted in zip(days, counts.sum(axis=1), due, strict=True):
        yield {"date": str(day), "snapshots": int(found), "expected": wanted}
