"""What an archive lacks: each camera's snapshots against the expected ones, hour by hour, from cells.

In each hour of the day a camera is expected to send what it usually sends then, or what --expect says.
Nothing is expected of a camera without a steady pace. Gaps are whole hours.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch.config import Expect
from maskbatch.report.cells import Camera, number_groups
from maskbatch.schema import UNKNOWN_DATE

LEAST_SNAPSHOTS = 12
"""A camera with fewer in all has no inferred pace."""
LEAST_DAYS = 3
"""With fewer, every hour between the first and the last is expected to hold what all usually hold."""
STEADY = 0.6
"""The share of its hours in which a camera must keep its own pace, to a fifth or to less than one snapshot.
Otherwise nothing is expected of it, as of one that a sensor triggers."""
SAME = 0.9
"""Where this share of a camera's days hold the same in every hour, medians show its lost snapshots."""
LEAST_DUE = 50
"""Missing snapshots are counted in blocks of whole days in which so many are expected."""
LEAST_MISSING = 2
"""Snapshots that must be missing to make a gap, in hours with under half of theirs."""
STRAY_SHARE, STRAY_DAYS, LEAST_TOTAL = 1000, 31, 100
"""The first and last image of every STRAY_SHARE (at least one, from LEAST_TOTAL on) are strays, as after a
clock reset, if more than STRAY_DAYS lie between them and the rest."""
Counts = NDArray[np.float64]
Period = tuple[datetime | None, datetime | None]


def measure_coverage(
    cells: pa.Table,
    expect: Expect | None,
    skipped: Callable[[str | None, date], int | None],
    period: Period,
    mapped: Collection[Camera],
) -> dict[str, Any]:
    """The section `coverage` of report.json: over all, by camera, by day for `mapped` cameras, and gaps.

    `skipped(site, day)` is the local hour that a change of clocks skips, or None. `period` holds the local
    times (from, before) that were asked for, None where the archive's own first or last image sets them.
    """
    table = cells.select(["site", "camera", "date", "hour", "count"])
    table = table.filter(pc.and_(pc.not_equal(table["date"], UNKNOWN_DATE), pc.is_valid(table["hour"])))
    section: dict[str, Any] = {"by_camera": [], "by_camera_day": [], "gaps": []}
    if not len(table):
        return section | {"coverage": None, "stray_images": 0}
    hours, counts = _hours(table), table["count"].to_numpy()
    first, stop = _bounds(hours, counts, period)
    inside = (hours >= first) & (hours < stop)
    days = [date.fromordinal(day) for day in range(first // 24, -(-stop // 24))]
    num_due = num_missing = 0.0
    for name, arrived in _count_by_camera(table.filter(pa.array(inside)), days):
        expected = _expected(arrived, expect)
        _clear_outside(expected, arrived, (first % 24, stop - first // 24 * 24), period)
        for of_day, day in zip(expected, days, strict=True):
            if (hour := skipped(name["site"], day)) is not None:
                of_day[hour] = 0
        num_due, missing = num_due + float(expected.sum()), _count_missing(arrived, expected)
        num_missing, gaps = num_missing + missing, list(_gaps(arrived, expected, days[0]))
        section["gaps"] += [{**name, **gap} for gap in gaps]
        section["by_camera"].append({**name, **_row(arrived, expected, missing, expect, gaps)})
        if (name["site"], name["camera"]) in mapped:
            section["by_camera_day"] += [{**name, **row} for row in _days(arrived, expected, days)]
    share = 1 - num_missing / num_due if num_due else None
    return section | {"coverage": share, "stray_images": int(counts[~inside].sum())}


def _hours(table: pa.Table) -> NDArray[np.int64]:
    """The local hour (N,) of each cell, counted from the first day of the calendar."""
    dates = table["date"].combine_chunks().dictionary_encode()
    day = np.array([date.fromisoformat(text).toordinal() for text in dates.dictionary.to_pylist()])
    return np.asarray(day[dates.indices.to_numpy()] * 24 + table["hour"].to_numpy(), np.int64)


def _bounds(hours: NDArray[np.int64], counts: NDArray[np.int64], period: Period) -> tuple[int, int]:
    """The first hour in which snapshots are expected, and the one after the last."""
    order = np.argsort(hours)
    upto, total = np.cumsum(counts[order]), int(counts.sum())
    strays = total // STRAY_SHARE or int(total >= LEAST_TOTAL)
    low, high = hours[order][np.searchsorted(upto, [strays, total - strays - 1], "right")] // 24
    near = hours[(hours // 24 >= low - STRAY_DAYS) & (hours // 24 <= high + STRAY_DAYS)]
    since, until = period
    first = since.toordinal() * 24 + since.hour if since else int(near.min())
    stop = until.toordinal() * 24 + until.hour + bool(until.minute) if until else int(near.max()) + 1
    return first, max(stop, first + 1)


def _count_by_camera(table: pa.Table, days: Sequence[date]) -> Iterator[tuple[dict[str, Any], Counts]]:
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
    """What each hour of the day (24,) usually holds on a camera's days, 0 where it keeps no pace.

    The median, or the mean where days differ by one snapshot: one every 7 minutes makes 8 or 9 an hour.
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
    """What all hours usually hold, in each hour from the first to the last."""
    hours, there = np.flatnonzero(own.any(axis=0)), own[own > 0]
    each = _mean_at_median(there) if np.median(there) >= 2 else np.median(there)
    inside = (np.arange(24) >= hours[0]) & (np.arange(24) <= hours[-1])
    return np.where(inside, each, 0.0)


def _mean_at_median(counts: Counts) -> float:
    """The mean of the counts within one of the median; the median itself where none is."""
    median = np.median(counts)
    near = counts[np.abs(counts - median) <= 1]
    return float(near.mean() if near.size else median)


def _even(own: Counts, num: int) -> bool:
    """Whether any `num` snapshots in a row, a day's number, take the same time to within an hour."""
    if not 0 < num <= 48:  # with more, chance would not keep days within one of each other
        return num > 48
    hours = np.repeat(np.arange(own.size), own.ravel().astype(int))
    lasts = hours[num:] - hours[:-num]
    return bool((np.abs(lasts - np.median(lasts)) <= 1).mean() >= STEADY)


def _clear_outside(expected: Counts, counts: Counts, due: tuple[int, int], period: Period) -> None:
    """Expect nothing outside the hours `due`; in a first or last hour that is due in part, what arrived."""
    flat, arrived = expected.reshape(-1), counts.reshape(-1)
    flat[: due[0]] = flat[due[1] :] = 0
    for hour, bound in zip((due[0], due[1] - 1), period, strict=True):
        if (bound is None or bound.minute) and arrived[hour]:
            flat[hour] = min(flat[hour], arrived[hour])


def _count_missing(counts: Counts, expected: Counts) -> int:
    """How many of the expected snapshots are missing, whatever their number in an hour.

    The balance of arrived and expected is kept within one: a surplus in one hour makes up for at most one
    missing elsewhere. A camera that keeps its cadence owes less than one at the end of a block.
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
    """Series of hours with under half of the expected snapshots; hours that expect none do not end one.

    `missing` is in whole snapshots: a slow camera has empty hours that expect less than one.
    """
    arrived, due, hours = counts.ravel(), expected.ravel(), np.flatnonzero(expected)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], (arrived < due / 2)[hours], [False]])))
    midnight = datetime(first.year, first.month, first.day)
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        begin, end = int(hours[start]), int(hours[stop - 1]) + 1
        missing = int((due - arrived)[begin:end].sum() + 1e-6)
        if missing >= LEAST_MISSING:
            first_time, last_time = (midnight + timedelta(hours=hour) for hour in (begin, end))
            length = (end - begin) * 3600
            yield {"from": first_time, "to": last_time, "seconds": length, "missing": missing}


def _row(
    counts: Counts, expected: Counts, missing: int, expect: Expect | None, gaps: list[dict[str, Any]]
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "cadence_s": None, "source": None, "hours": [], "expected": None, "snapshots": int(counts.sum()),
        "coverage": None, "num_gaps": len(gaps),
        "longest_gap_s": max((gap["seconds"] for gap in gaps), default=None),
    }  # fmt: skip
    if not expected.any():
        return row
    hours = np.flatnonzero(usual := expected.max(axis=0))
    if np.median(usual[hours]) <= 1:  # also the hours between two snapshots
        hours = np.arange(hours[0], hours[-1] + 1)
    return row | {
        "cadence_s": 3600 / expect.per_hour if expect else _cadence_s(usual),
        "source": "expected" if expect else "inferred",
        "hours": hours.tolist(),
        "expected": round(float(expected.sum())),
        "coverage": 1 - missing / float(expected.sum()),
    }


def _cadence_s(usual: Counts) -> float:
    """Seconds from one snapshot to the next, from what each hour of the day (24,) usually holds."""
    hours, each, total = np.flatnonzero(usual), np.median(usual[usual > 0]), float(usual.sum())
    if each > 1:
        return 3600 / _mean_at_median(usual[usual > 0])
    rest = np.diff([*hours, hours[0] + 24]).max()
    if total <= 1.5 or rest <= 24 / total + 1:  # it never rests
        return 24 * 3600 / total
    return float(hours[-1] - hours[0]) * 3600 / (total - 1)


def _days(counts: Counts, expected: Counts, days: Sequence[date]) -> Iterator[dict[str, Any]]:
    for day, num, due in zip(days, counts.sum(axis=1), expected.sum(axis=1), strict=True):
        yield {"date": str(day), "snapshots": int(num), "expected": round(due) if expected.any() else None}
