"""Which cameras had a wrong clock, from cells: dates of few cameras, far from what the archive holds.

A clock falls back to 2000-01-01 when its battery is empty, or is set to the wrong year. Its images are real,
so they stay in every total; their days and hours are not, so these become unknown.

A false alarm sends somebody up a ladder. So an archive of sparse years, of two full months, of one camera, or
of cameras that came late or left early has no wrong clock, where its days lie no further apart than half a
year or twice the time that its bulk spans; and a clock that is off by less is not found. A few days far from
the rest, as of a short pilot of one camera, cannot be told from a wrong clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch.clock import LAST_RESET, fell_back
from maskbatch.report.cells import SCHEMA, group_name, merge_cells, number_groups
from maskbatch.schema import UNKNOWN_DATE

FAR_DAYS, TIMES_LONGER = 180, 2
"""A period is far where so many days, and so many times the length of the bulk, lie between."""
LARGE = 0.4
"""A period with this share of the images of the largest one belongs to the bulk."""
FEW = 0.02
"""Of all images."""
LONE = 0.1
"""Of all cameras, or one camera."""
LEAST_CAMERAS = 3
"""Others that agree on when the archive was made, where a camera has more than FEW images elsewhere."""
MOST_PERIODS = 2
"""A camera with more of them was visited now and then."""
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Days:
    """Images of each camera and day (N), and the periods (P) that FAR_DAYS without any image keep apart."""

    cameras: pa.Table
    camera_N: Numbers
    day_N: Numbers
    images_N: Numbers
    period_N: Numbers

    def count(self, chosen_N: NDArray[np.bool_], of_N: Numbers) -> int:
        """How many different days or cameras there are."""
        return len(np.unique(of_N[chosen_N]))


def find_wrong_clocks(cells: pa.Table) -> list[dict[str, Any]]:
    """A row for each camera whose clock was wrong: its images and their dates, and those of the archive.

    Clocks that fell back are found however many they are, if any image has another date. A night has all
    their images, which may be most of what it has.
    """
    known = cells.filter(pc.not_equal(cells["date"], UNKNOWN_DATE))
    if not len(known):
        return []
    days = _count_days(known)
    bulk_P, reset_P = _find_bulk(days)
    bulk_N = bulk_P[days.period_N]
    clear = 2 * days.images_N[bulk_N].sum() >= days.images_N[~reset_P[days.period_N]].sum()
    span = int(days.day_N[bulk_N].min()), int(days.day_N[bulk_N].max())
    wrong_N = np.zeros(len(bulk_N), bool)
    for period in np.flatnonzero(~bulk_P):
        inside_N = days.period_N == period
        if reset_P[period] or (clear and _is_lone(days, inside_N, span)):
            for camera in np.unique(days.camera_N[inside_N]):
                own_N = inside_N & (days.camera_N == camera)
                if reset_P[period] or _is_wrong(days, own_N, bulk_N):
                    wrong_N |= own_N
    return [_row(days, wrong_N, camera, span) for camera in np.unique(days.camera_N[wrong_N])]


def _count_days(known: pa.Table) -> _Days:
    groups, group_L = number_groups(known, ("site", "camera", "date"))
    cameras, camera_N = number_groups(groups, ("site", "camera"))
    day_N = np.array([date.fromisoformat(text).toordinal() for text in groups["date"].to_pylist()], np.int64)
    images_N = np.bincount(group_L, known["count"].to_numpy(), len(groups)).astype(np.int64)
    days, place_N = np.unique(day_N, return_inverse=True)
    period_D = np.concatenate([[0], np.cumsum(np.diff(days) > FAR_DAYS)])
    return _Days(cameras, camera_N, day_N, images_N, period_D[place_N])


def _find_bulk(days: _Days) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which periods (P,) hold the bulk of the archive, and which (P,) those of clocks that were reset."""
    images_P = np.bincount(days.period_N, days.images_N)
    bounds = [_bounds(days.day_N[days.period_N == p]) for p in range(len(images_P))]
    early_P = np.array([first <= LAST_RESET for first, _ in bounds])
    if early_P.all():
        return np.ones(len(images_P), bool), np.zeros(len(images_P), bool)
    bulk_P = ~early_P & (images_P >= LARGE * images_P[~early_P].max())
    begins = min(first for (first, _), is_bulk in zip(bounds, bulk_P, strict=True) if is_bulk)
    reset_P = np.array([fell_back(first, last, begins) for first, last in bounds])
    return bulk_P | (early_P & ~reset_P), reset_P


def _bounds(day_N: Numbers) -> tuple[date, date]:
    return date.fromordinal(int(day_N.min())), date.fromordinal(int(day_N.max()))


def _is_lone(days: _Days, inside_N: NDArray[np.bool_], span: tuple[int, int]) -> bool:
    """Whether a period is far from the bulk, and of few cameras."""
    first, last = days.day_N[inside_N].min(), days.day_N[inside_N].max()
    away = max(span[0] - last, first - span[1])
    is_far = away > max(FAR_DAYS, TIMES_LONGER * (span[1] - span[0] + 1))
    return bool(is_far and days.count(inside_N, days.camera_N) <= max(1, LONE * len(days.cameras)))


def _is_wrong(days: _Days, own_N: NDArray[np.bool_], bulk_N: NDArray[np.bool_]) -> bool:
    """Whether a camera's images of a lone period are few, or those that it lacks in the bulk."""
    camera_N = days.camera_N == days.camera_N[own_N][0]
    if days.count(camera_N & ~bulk_N, days.period_N) > MOST_PERIODS:
        return False
    if days.images_N[own_N].sum() <= FEW * days.images_N.sum():
        return True
    due = days.count(bulk_N, days.day_N) - days.count(bulk_N & camera_N, days.day_N)
    return days.count(bulk_N & ~camera_N, days.camera_N) >= LEAST_CAMERAS and own_N.sum() <= due


def _row(days: _Days, wrong_N: NDArray[np.bool_], camera: int, span: tuple[int, int]) -> dict[str, Any]:
    own_N = wrong_N & (days.camera_N == camera)
    bounds = (days.day_N[own_N].min(), days.day_N[own_N].max(), *span)
    names = ("first", "last", "archive_first", "archive_last")
    dates = {name: _iso(day) for name, day in zip(names, bounds, strict=True)}
    return {
        **days.cameras.slice(int(camera), 1).to_pylist()[0],
        "images": int(days.images_N[own_N].sum()),
        **dates,
        "dates": list(map(_iso, np.unique(days.day_N[own_N]))),
    }


def _iso(day: int) -> str:
    return date.fromordinal(int(day)).isoformat()


def set_times_unknown(cells: pa.Table, clocks: Sequence[Mapping[str, Any]]) -> pa.Table:
    """The cells with neither day nor hour for the images of a wrong clock."""
    if not clocks:
        return cells
    names = ("site", "camera", "date")
    groups, group_L = number_groups(cells, names)
    wrong = {(row["site"], row["camera"], day) for row in clocks for day in row["dates"]}
    wrong_G = [key in wrong for key in zip(*(groups[name].to_pylist() for name in names), strict=True)]
    mask = pa.array(np.array(wrong_G)[group_L])
    changed = {"date": pa.scalar(UNKNOWN_DATE), "hour": pa.scalar(None, SCHEMA.field("hour").type)}
    for name, value in changed.items():
        place = SCHEMA.get_field_index(name)
        cells = cells.set_column(place, SCHEMA.field(name), pc.if_else(mask, value, cells[name]))
    return merge_cells([cells])


def find_clock_alerts(clocks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """An alert for each camera with a wrong clock."""
    return [
        {"kind": "clock", **_without_dates(row), "measure": "clock", "sentence": _sentence(row)}
        for row in clocks
    ]


def _without_dates(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "dates"}


def _sentence(row: Mapping[str, Any]) -> str:
    name, num = group_name(row, ("site", "camera")), row["images"]
    dated = row["first"] if row["first"] == row["last"] else f"{row['first']} to {row['last']}"
    return (
        f"{name}: the clock of this camera is wrong: {num:,} {'image' if num == 1 else 'images'} dated "
        f"{dated}, while the archive spans {row['archive_first']} to {row['archive_last']}; set the clock, "
        "and give the right times in a manifest if these images should count by day and hour"
    )
