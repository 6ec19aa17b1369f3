"""What is wrong with a camera's view: frozen, duplicate, dark, over-exposed, covered or blurred.

An image has at most one condition, the first of CONDITIONS that applies. `score.quality` measures brightness,
contrast and sharpness on the resized image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch.report.cells import to_floats
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


def find_conditions(
    day: pa.Table, camera: NDArray[np.int64], duplicate: NDArray[np.bool_], assessed: Sequence[str]
) -> pa.Array:
    """The condition (N,) of each row, null for none.

    `day` is sorted by camera and time, or has no times; `camera` (N,) numbers its cameras; `duplicate` (N,)
    marks rows with the bytes of an earlier one; `assessed` are the labels that show a face.
    """
    brightness, contrast, sharpness = map(to_floats, day.select(["brightness", "contrast", "sharpness"]))
    holds = {
        "frozen": find_frozen(day, camera, assessed),
        "duplicate": duplicate,
        "dark": brightness < DARK,
        "over_exposed": brightness > OVER_EXPOSED,
        "covered": contrast < COVERED,
        "blurred": sharpness < BLURRED,
    }
    ok = pc.equal(day["status"], "ok").to_numpy()
    first = np.select([holds[name] & ok for name in CONDITIONS], np.arange(len(CONDITIONS)), -1)
    codes = pa.array(first.astype(np.int8), mask=first < 0)
    return pa.DictionaryArray.from_arrays(codes, pa.array(list(CONDITIONS)))


def find_frozen(day: pa.Table, camera: NDArray[np.int64], assessed: Sequence[str]) -> NDArray[np.bool_]:
    """Which rows (N,) are in a series of frames of one local day that hardly differ from one to the next."""
    flags = np.zeros(len(day), bool)
    known = pc.and_(pc.equal(day["status"], "ok"), pc.is_valid(day["captured_at"])).to_numpy()
    rows = np.flatnonzero(known)
    if len(rows) < FROZEN_FRAMES:
        return flags
    day, camera = day.take(pa.array(rows)), camera[rows]
    digest = day["digest"].to_numpy()
    equal = digest[1:] == digest[:-1]
    alike = (camera[1:] == camera[:-1]) & (equal | _near(day))
    time = day["captured_at"].cast(pa.int64()).to_numpy() / 1e6
    faces = pc.is_in(day["label"].cast(pa.string()), pa.array(list(assessed), pa.string())).to_numpy()
    for start, stop in _series(alike):
        shows_a_face = faces[start:stop].sum() >= FROZEN_FRAMES
        lasts = time[stop - 1] - time[start] >= (FACE_FROZEN_S if shows_a_face else EMPTY_FROZEN_S)
        if stop - start >= FROZEN_FRAMES and (lasts or equal[start : stop - 1].all()):
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
            name = list(CONDITIONS)[code[start]]
            stretches.append({**first, "condition": name, **times, "snapshots": stop - start})
    return stretches
