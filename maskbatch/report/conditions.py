"""What is wrong with a camera's view: frozen, duplicate, dark, over-exposed, covered or blurred.

An image has at most one condition, the first of CONDITIONS that applies. `score.quality` measures brightness,
contrast and sharpness on the resized image. A face of a whole scene has the first of its picture's condition
and its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch.report.cells import to_floats
from maskbatch.report.faces import Bools, Faces, Numbers
from maskbatch.report.static import find_static
from maskbatch.schema import CONDITIONS

DARK, OVER_EXPOSED, COVERED, BLURRED = 0.06, 0.94, 0.03, 5.0
"""These bounds flag 0, 0, 0 and 2 % of 600 sharp photographs of faces and scenes. Blurred by a Gaussian of 4
pixels at 160 pixels, all are flagged as blurred."""
FROZEN_FRAMES = 4
FACE_FROZEN_S, EMPTY_FROZEN_S = 60, 12 * 3600
"""Nobody stands still for so long, but an empty gate at night looks the same for hours. FROZEN_FRAMES frames
must show a face, since one empty frame may be misread. Equal bytes need no time."""
SAME_BITS, SAME_LEVEL, SAME_SHARPNESS = 2, 0.004, 0.05
"""How far two frames of a frozen camera may differ, by its clock overlay and noise: in bits of dhash, in
brightness and contrast as shares of white, and in sharpness as a share."""
STRETCH_FRAMES = 3
"""Snapshots in a row that make a stretch in the report."""


NAMES = list(CONDITIONS)


@dataclass(frozen=True, slots=True)
class Series:
    """The ok frames of one day whose time is known, R, and which of them look like the one before."""

    rows_R: Numbers
    """Their places in the day, by camera and time."""
    alike: Bools
    """(R - 1,): of one camera, and hardly another frame."""
    equal: Bools
    """(R - 1,): byte for byte."""


def find_conditions(day: pa.Table, camera: Numbers, duplicate: Bools, assessed: Sequence[str]) -> pa.Array:
    """The condition (N,) of each row, null for none.

    `day` is sorted by camera and time, or has no times; `camera` (N,) numbers its cameras; `duplicate` (N,)
    marks rows with the bytes of an earlier one; `assessed` are the labels that show a face.
    """
    there = pc.is_in(day["label"].cast(pa.string()), pa.array(list(assessed), pa.string())).to_numpy()
    return _name_conditions(day, duplicate, find_frozen(day, find_series(day, camera), there))


def find_scene_conditions(
    day: pa.Table, camera: Numbers, duplicate: Bools, faces: Faces, assessed: Sequence[str]
) -> tuple[pa.Array, pa.Array, list[dict[str, Any]]]:
    """(conditions of pictures (N,), of their faces (M,), stretches of faces that stand still).

    A series of alike pictures is one look at what hangs on the wall: only pictures in which something moved
    show that a face stands still, and only faces that do not are somebody before a frozen camera.
    """
    series = find_series(day, camera, faces)
    fresh = np.zeros(len(day), bool)
    fresh[series.rows_R] = np.concatenate([[True], ~series.alike])[: len(series.rows_R)]
    static_M, stretches = find_static(day, camera, faces, fresh)
    there = np.zeros(len(day), bool)
    there[faces.picture_M[faces.is_labelled(assessed) & ~static_M]] = True
    pictures = _name_conditions(day, duplicate, find_frozen(day, series, there))
    inherited = pictures.indices.fill_null(len(NAMES)).to_numpy()[faces.picture_M]
    own = np.where(static_M, NAMES.index("static_face"), len(NAMES))
    return pictures, _name(np.minimum(inherited, own)), stretches


def _name_conditions(day: pa.Table, duplicate: Bools, frozen: Bools) -> pa.Array:
    brightness, contrast, sharpness = map(to_floats, day.select(["brightness", "contrast", "sharpness"]))
    holds = {
        "frozen": frozen,
        "duplicate": duplicate,
        "dark": brightness < DARK,
        "over_exposed": brightness > OVER_EXPOSED,
        "covered": contrast < COVERED,
        "blurred": sharpness < BLURRED,
    }
    ok = pc.equal(day["status"], "ok").to_numpy()
    places = [NAMES.index(name) for name in holds]
    return _name(np.select([holding & ok for holding in holds.values()], places, len(NAMES)))


def _name(codes: Numbers) -> pa.Array:
    """Conditions by their place in CONDITIONS; one beyond is none."""
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8), mask=codes == len(NAMES)), NAMES)


def find_series(day: pa.Table, camera: Numbers, faces: Faces | None = None) -> Series:
    """Which frames hardly differ from the one before; `faces`: and show the same faces at the same place."""
    known = pc.and_(pc.equal(day["status"], "ok"), pc.is_valid(day["captured_at"])).to_numpy()
    rows = np.flatnonzero(known)
    frames, camera = day.take(pa.array(rows)), camera[rows]
    digest = frames["digest"].to_numpy()
    equal = digest[1:] == digest[:-1]
    near = _near(frames) if len(rows) > 1 else equal
    if faces is not None:
        near &= ~faces.find_moves(rows, len(day))
    return Series(rows, (camera[1:] == camera[:-1]) & (equal | near), equal)


def find_frozen(day: pa.Table, series: Series, there: Bools) -> Bools:
    """Which rows (N,) are in a series of frames of one local day that hardly differ from one to the next.

    `there` (N,): whether a frame shows somebody.
    """
    flags, rows = np.zeros(len(day), bool), series.rows_R
    time = day["captured_at"].cast(pa.int64()).take(pa.array(rows)).to_numpy() / 1e6
    for start, stop in _series(series.alike):
        shows_a_face = there[rows[start:stop]].sum() >= FROZEN_FRAMES
        lasts = time[stop - 1] - time[start] >= (FACE_FROZEN_S if shows_a_face else EMPTY_FROZEN_S)
        if stop - start >= FROZEN_FRAMES and (lasts or series.equal[start : stop - 1].all()):
            flags[rows[start:stop]] = True
    return flags


def _near(day: pa.Table) -> NDArray[np.bool_]:
    """Whether each frame (N - 1,) looks like the one before it."""
    dhash = pc.fill_null(day["dhash"], b"\0" * 8).combine_chunks()
    bits = np.frombuffer(dhash.buffers()[1], np.uint64)[dhash.offset :][: len(dhash)]
    near: NDArray[np.bool_] = np.bitwise_count(bits[1:] ^ bits[:-1]) <= SAME_BITS
    for name in ("brightness", "contrast"):
        near &= np.abs(np.diff(to_floats(day[name]))) <= SAME_LEVEL
    sharpness = to_floats(day["sharpness"])
    return near & (np.abs(np.diff(sharpness)) <= SAME_SHARPNESS * np.maximum(sharpness[1:], 1))


def _series(alike: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The series (start, stop) of two frames or more, each like the one before."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], alike, [False]])))
    return [(int(start), int(stop) + 1) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def find_stretches(day: pa.Table, camera: NDArray[np.int64], condition: pa.Array) -> list[dict[str, Any]]:
    """Each series of STRETCH_FRAMES snapshots or more of one camera and condition, with its times.

    Failed snapshots do not end a series; rows without a time are in none.
    """
    code = condition.indices.fill_null(-1).to_numpy()
    ok = pc.and_(pc.equal(day["status"], "ok"), pc.is_valid(day["captured_local"])).to_numpy()
    rows = np.flatnonzero(ok)
    code, camera = code[rows], camera[rows]
    ends, stretches = day.select(["site", "camera", "captured_local"]), []
    for start, stop in _series((code[1:] == code[:-1]) & (camera[1:] == camera[:-1]) & (code[1:] >= 0)):
        if stop - start >= STRETCH_FRAMES:
            first, last = ends.take(pa.array(rows[[start, stop - 1]])).to_pylist()
            times = {"from": first.pop("captured_local"), "to": last["captured_local"]}
            name = NAMES[code[start]]
            stretches.append({**first, "condition": name, **times, "snapshots": stop - start})
    return stretches
