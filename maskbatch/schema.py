"""The columns of the plan and of the scores, and the names in them, which every hop shares."""

from collections.abc import Sequence
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

STATUSES = (
    "ok", "missing", "read_error", "timeout", "unsupported", "truncated", "corrupt", "too_large",
    "score_error",
)  # fmt: skip
"""Every image has exactly one. All but `ok` are failures, with the reason in `error`."""
MAY_HEAL = ("missing", "read_error", "timeout", "score_error")
"""Failures that reading the image again may mend."""
DECODE_WALL_FACTOR = 10
"""Decoding may take so many times the processor time of an image: a busy machine makes none bad."""


def explain_timeout(decode_timeout_s: float) -> str:
    """The `error` of an image whose decode took too long; unlike other `timeout` rows, it is final."""
    wall = f"or {DECODE_WALL_FACTOR * decode_timeout_s:g} s in all"
    return f"decoding took more than {decode_timeout_s:g} s of processor time, {wall} (--decode-timeout-s)"


CONDITIONS = {
    "frozen": "one frame 4 times or more in a day: byte for byte, with faces for 60 s, or empty for 12 hours",
    "duplicate": "the bytes of another image, in this archive once already",
    "static_face": "a face in a scene that hardly moves for 3 hours and looks the same, as on a poster",
    "dark": "mean luma under 0.06 of white",
    "over_exposed": "mean luma over 0.94 of white",
    "covered": "luma hardly varies: its standard deviation is under 0.03 of white",
    "blurred": "the variance of the Laplacian is under 5 grey levels squared",
}
"""What may be wrong with a camera's view, or with a face in it."""
FACE_CONDITIONS = ("static_face",)
"""Those of faces; the others are of pictures, and of the faces in them."""
MEASURES = ("brightness", "contrast", "sharpness")
"""Of a resized image."""
VIEWS = ("face", "scene")
"""`face`: one face fills the picture; `scene`: a detector finds the faces, and each has a row of its own."""
MAX_FACES = 500
"""Rows that a picture's faces may have; the most certain ones are kept."""
SIZE_BANDS = (0, 16, 24, 32, 48, 64, 96, 128, 256)
"""Lower edges, in pixels, of the bands of face sizes.

A face's size is the longer side of its box as the detector saw it: in source pixels, times `detect_px` over
the longest side of a picture that is larger than that.
"""
SIZE_BAND_NAMES = (*(f"{low}-{high}" for low, high in pairwise(SIZE_BANDS)), f"{SIZE_BANDS[-1]}+")
BOX = pa.list_(pa.float32())
"""x0, y0, x1, y1 or null. Not of fixed size: pyarrow below 26 cannot read a null in such a list."""
TIMESTAMP = pa.timestamp("us", tz="UTC")


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


PLAN = pa.schema([
    _required("id", pa.int64()), _required("uri", pa.string()), ("container", pa.string()),
    ("offset", pa.int64()), ("length", pa.int64()), _required("encoding", pa.string()),
    ("num_bytes", pa.int64()), ("version", pa.string()),
    ("site", pa.string()), ("camera", pa.string()), ("captured_at", TIMESTAMP), ("time_source", pa.string()),
    ("kept", pa.string()), ("fetch", pa.string()), ("status", pa.string()), ("error", pa.string()),
    ("reuse_run", pa.int16()), ("reuse_id", pa.int64()),
])  # fmt: skip
"""One row an image, `id` 0..N-1; those to score come first.

The bytes are the whole file at `uri`, or `length` bytes of `container` from `offset`; with encoding `row`,
row `length` of row group `offset` of a Parquet file. A range of a zip begins at the member's local header.
`kept`: the value of --keep-column. `fetch`: the whole URL, if `uri` lacks a query or a login; until commit.
`status`, `error`: only for rows refused at planning. `reuse_run`: the index in run.json's `reuse` of the run
to copy the row from. `reuse_id`: its id there. Both are null for an image to score.
"""


SCENE_COLUMNS = {
    "num_faces": pa.int16(), "num_faces_left_out": pa.int32(), "face_confidence": pa.float32(),
}  # fmt: skip
"""The columns that only runs of `scene` have: of pictures the first two, of faces the third."""


def scores(classes: Sequence[str], keep_column: str | None = None, view: str = "face") -> pa.Schema:
    """The columns of staging/ and scores/, by the `id` of the plan.

    One row an image (region 0); with the view `scene` its faces follow it, from left to right (1, 2, ...).
    """
    return pa.schema([
        _required("id", pa.int64()), _required("uri", pa.string()),
        ("site", pa.string()), ("camera", pa.string()),
        ("captured_at", TIMESTAMP), ("captured_local", pa.timestamp("us")), ("time_source", pa.string()),
        _required("region", pa.int16()), ("box", BOX),
        _required("status", pa.string()), ("error", pa.string()),
        ("width", pa.int32()), ("height", pa.int32()), ("num_bytes", pa.int64()), ("sha256", pa.string()),
        ("brightness", pa.float32()), ("contrast", pa.float32()), ("sharpness", pa.float32()),
        ("dhash", pa.binary(8)),
        ("label", pa.string()), *[(f"prob_{name}", pa.float32()) for name in classes],
        ("confidence", pa.float32()), _required("needs_review", pa.bool_()),
        *(SCENE_COLUMNS.items() if view == "scene" else ()),
        *([(keep_column, pa.string())] if keep_column else []),
    ])  # fmt: skip


UNKNOWN_DATE = "unknown"


def local_days(rows: pa.Table) -> pa.ChunkedArray:
    """The local day of each scores row, (N,) string, as in the folder names of scores/."""
    seconds = rows["captured_local"].cast(pa.timestamp("s"), safe=False)
    return pc.fill_null(pc.strftime(seconds, "%Y-%m-%d"), UNKNOWN_DATE)


RESERVED_COLUMNS = frozenset(
    [
        *PLAN.names, *scores((), view="scene").names, "date", "hour", "weekday", "count",
        "day", "camera_day", "listed", "scored", "assessed", "compliant", "compliance", "compliance_low",
        "compliance_high", "corrected", "corrected_low", "corrected_high", "excluded", "condition",
        "design_effect", "degrees_of_freedom", "few_clusters", "mean_confidence", "confidence_sum",
        "file", "row", "digest",
        "region_kind", "size_band", "everyone_complies", "faces", "too_small", "false_alarms",
        "pictures_assessed", "pictures_compliant", "faces_per_picture", "picture_compliance",
        "picture_compliance_low", "picture_compliance_high",
    ]
)  # fmt: skip
"""Names that --keep-column cannot have."""
