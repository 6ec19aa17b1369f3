"""Faces that stand still for hours with the same look: posters, mannequins, pictures on a wall.

A person who sits still moves more than a poster: 3 cm are a fifth of a face, and in an hour a head moves as
far as that many times. So a place alone does not tell: a spot is static if nearly all boxes near it hardly
differ from their median box and look the same, in at least half of the pictures of three hours in which
anything moved. Light may change: looks are compared with the sightings before and after.

CenterFace's boxes of a face in copies of one photograph (other noise, JPEG quality, and exposure by 15 %)
overlap their median box by 0.8 or more in 98 % of cases from 24 pixels on, in 78 to 87 % below.

Spots are medians and counts, so that no order of rows changes them. Shape suffixes: N pictures, M faces.
"""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.ndimage import median_filter

from maskbatch.geometry import measure_overlap
from maskbatch.report.cells import to_floats
from maskbatch.report.faces import SAME_OVERLAP, Bools, Faces, Floats, Numbers

STATIC_S = 3 * 3600
LEAST_SIGHTINGS = 12
LEAST_PRESENT = 0.5
"""Of the pictures from the first sighting to the last; people stand before it, and the detector misses it."""
LEAST_STILL = 0.8
"""Of the boxes near a spot."""
NEAR_OVERLAP = 0.3
SAME_LOOK, LEAST_LOOK, LOOKED_AT = 0.15, 0.02, 9
"""How far brightness and contrast may be from the median of so many sightings around: as a share of it, for a
camera exposes a little differently from picture to picture, and at least so much of white."""
CELL = 0.25
"""Side of a cell that holds a spot's centres, as a share of a face; its faces differ as much in size."""


def find_static(
    day: pa.Table, camera: Numbers, faces: Faces, fresh: Bools
) -> tuple[Bools, list[dict[str, Any]]]:
    """Which faces (M,) stand still, and a stretch for each such spot.

    `day` is sorted by camera and time; `camera` (N,) numbers its cameras; `fresh` (N,) marks the pictures
    whose faces are evidence.
    """
    static_M = np.zeros(len(faces.rows), bool)
    stretches: list[dict[str, Any]] = []
    group_M = _number_frames(camera, faces)
    fresh_M = fresh[faces.picture_M]
    time_N = day["captured_at"].cast(pa.int64()).fill_null(0).to_numpy() / 1e6
    rank_N = np.cumsum(fresh, dtype=np.int64)
    look_M2 = np.column_stack([to_floats(faces.rows[name]) for name in ("brightness", "contrast")])
    by_group = np.split(np.argsort(group_M, kind="stable"), np.cumsum(np.bincount(group_M))[:-1])
    for cell in _find_cells(faces, group_M, fresh_M, time_N, rank_N):
        if static_M[cell].any():
            continue  # of a spot that is found already
        own = by_group[group_M[cell[0]]]
        overlap = measure_overlap(faces.box_M4[own], np.median(faces.box_M4[cell], axis=0))
        same = own[overlap >= SAME_OVERLAP]
        still = same[_looks_alike(look_M2[same])]
        seen = np.unique(faces.picture_M[still[fresh_M[still]]])
        near = np.count_nonzero(overlap[fresh_M[own]] >= NEAR_OVERLAP)
        if _lasts(seen, time_N, rank_N, LEAST_PRESENT) and len(seen) >= LEAST_STILL * near:
            static_M[still] = True
            stretches.append(_describe(day, np.unique(faces.picture_M[still])))
    return static_M, stretches


def _number_frames(camera: Numbers, faces: Faces) -> Numbers:
    """A number (M,) for each camera and size of its pictures: only their boxes can be compared."""
    frame_M3 = np.column_stack(
        [camera[faces.picture_M], *(faces.rows[name].to_numpy() for name in ("width", "height"))]
    )
    return np.unique(frame_M3, axis=0, return_inverse=True)[1].reshape(-1)


def _find_cells(
    faces: Faces, group_M: Numbers, fresh_M: Bools, time_N: Floats, rank_N: Numbers
) -> Iterator[Numbers]:
    """The faces of each cell of place and size that may hold a spot, the fullest cells first.

    What differs by less than half a cell lies in one cell of at least one of the eight grids.
    """
    rows = np.flatnonzero(fresh_M)
    box = faces.box_M4[rows]
    size = np.sqrt(np.maximum(np.prod(box[:, 2:] - box[:, :2], axis=1), 1))
    step = np.log(size) / np.log1p(CELL)
    found: list[tuple[int, int, Numbers]] = []
    for shift in product((0, 0.5), repeat=3):
        level = np.floor(step + shift[0])
        side = CELL * np.exp((level - shift[0]) * np.log1p(CELL))
        across, down = (np.floor((box[:, k] + box[:, k + 2]) / 2 / side + shift[k + 1]) for k in (0, 1))
        keys = np.stack([down, across, level, group_M[rows]])
        order = np.lexsort(keys)
        ends = np.flatnonzero(np.any(np.diff(keys[:, order], axis=1, append=np.nan) != 0, axis=0)) + 1
        sizes = np.diff(ends, prepend=0)
        for end, num in zip(ends[sizes >= LEAST_SIGHTINGS], sizes[sizes >= LEAST_SIGHTINGS], strict=True):
            cell = np.sort(rows[order[end - num : end]])
            if _lasts(np.unique(faces.picture_M[cell]), time_N, rank_N, LEAST_PRESENT / 2):
                found.append((-int(num), int(cell[0]), cell))
    yield from (cell for *_, cell in sorted(found, key=lambda item: item[:2]))


def _lasts(pictures: Numbers, time_N: Floats, rank_N: Numbers, least: float) -> bool:
    """Whether these pictures, ascending, span hours and are at least so large a share of those in between."""
    if len(pictures) < LEAST_SIGHTINGS:
        return False
    first, last = pictures[[0, -1]]
    return bool(
        time_N[last] - time_N[first] >= STATIC_S
        and len(pictures) >= least * (rank_N[last] - rank_N[first] + 1)
    )


def _looks_alike(look_M2: Floats) -> Bools:
    """Whether each sighting (M,) looks like those around it."""
    usual_M2 = median_filter(look_M2, size=(LOOKED_AT, 1), mode="nearest")
    most_M2 = np.maximum(SAME_LOOK * usual_M2, LEAST_LOOK)
    return np.asarray((np.abs(look_M2 - usual_M2) <= most_M2).all(axis=1))


def _describe(day: pa.Table, pictures: Numbers) -> dict[str, Any]:
    ends = day.select(["site", "camera", "captured_local"]).take(pa.array(pictures[[0, -1]]))
    first, last = ends.to_pylist()
    times = {"from": first.pop("captured_local"), "to": last["captured_local"]}
    return {**first, "condition": "static_face", **times, "snapshots": len(pictures)}
