"""Rows of faces held to those of their pictures, and to themselves."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch.geometry import measure_sides
from maskbatch.runs.committed import CommittedRun
from maskbatch.schema import MEASURES
from maskbatch.verify.result import Verification
from maskbatch.verify.rows import check_labels

SHARED = (
    "uri", "site", "camera", "captured_at", "captured_local", "time_source", "width", "height",
)  # fmt: skip
"""Columns that a face repeats of its picture, beside --keep-column."""
PICTURES_OWN = ("error", "num_bytes", "sha256", "dhash", "num_faces", "num_faces_left_out")
FACES_OWN = ("face_confidence", *MEASURES)
SLACK_PX = 0.01
"""By so much rounding may put a box outside of its picture."""


def check_faces(faces: pa.Table, pictures: pa.Table, run: CommittedRun, result: Verification) -> pa.Table:
    """Compare faces with the rows of their `pictures`, and their columns with each other.

    `pictures` are sorted by id. Returns those that have a picture, a box and a confidence, by id and region.
    """
    detector = run.detector
    assert detector  # noqa: S101  a run with faces has one
    ids = pictures["id"]
    faces = faces.filter(pc.is_in(faces["id"], ids.combine_chunks()))
    faces = faces.sort_by([("id", "ascending"), ("region", "ascending")])
    beside = pictures.take(np.searchsorted(ids.to_numpy(), faces["id"].to_numpy()))
    for name in (*SHARED, *filter(None, [run.keep_column])):
        result.compare(faces, name, beside[name], faces[name])
    result.compare(faces, "status", pa.repeat("ok", len(faces)), faces["status"])
    faces, boxes_N4 = _check_boxes(faces, beside, result)
    _check_order(faces, boxes_N4, result)
    confidence, threshold = faces["face_confidence"], detector.card["threshold"]
    least = pa.scalar(threshold, pa.float32())
    within = pc.and_(pc.greater_equal(confidence, least), pc.less_equal(confidence, 1))
    outside = pc.invert(pc.fill_null(within, True))
    result.mark(faces, outside, "face_confidence", f"{threshold:g} to 1", confidence)
    side_N = measure_sides(boxes_N4)
    nulls = dict.fromkeys(PICTURES_OWN, pa.repeat(True, len(faces)))
    nulls |= dict.fromkeys(FACES_OWN, pa.repeat(False, len(faces)))
    check_labels(faces, nulls, pa.array(side_N >= detector.card["min_face_px"]), run, result)
    return faces.filter(pc.fill_null(within, False))


def _check_boxes(
    faces: pa.Table, beside: pa.Table, result: Verification
) -> tuple[pa.Table, NDArray[np.float32]]:
    """The faces with a box inside of their picture, and their boxes (N, 4)."""
    sound = pc.fill_null(pc.equal(pc.list_value_length(faces["box"]), 4), False).to_numpy()
    boxes_N4 = pc.list_flatten(faces.filter(pa.array(sound))["box"]).to_numpy().reshape(-1, 4)
    right_N, bottom_N = (beside[name].to_numpy()[sound] + SLACK_PX for name in ("width", "height"))
    x0, y0, x1, y1 = boxes_N4.T
    inside = (x0 >= 0) & (y0 >= 0) & (x0 < x1) & (y0 < y1) & (x1 <= right_N) & (y1 <= bottom_N)
    sound[sound] = inside
    expected = "x0, y0, x1, y1 inside the picture, x0 < x1, y0 < y1"
    result.mark(faces, pa.array(~sound), "box", expected, faces["box"])
    return faces.filter(pa.array(sound)), boxes_N4[inside]


def _check_order(faces: pa.Table, boxes_N4: NDArray[np.float32], result: Verification) -> None:
    """The faces of a picture stand by x0, then y0, x1, y1."""
    steps = np.diff(boxes_N4, axis=0, prepend=boxes_N4[:1])
    decisive = (steps != 0).argmax(axis=1)
    back = np.take_along_axis(steps, decisive[:, None], axis=1)[:, 0] < 0
    back[1:] &= np.diff(faces["id"].to_numpy()) == 0
    result.mark(faces, pa.array(back), "order of faces", "from left to right", faces["box"])
