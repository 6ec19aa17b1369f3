"""Pixels judged to scores rows: one an image, and of a scene one more for each face."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch import schema
from maskbatch.clock import Clock
from maskbatch.decode.images import Columns
from maskbatch.model.card import Card
from maskbatch.runs.work import take_planned
from maskbatch.schema import MEASURES
from maskbatch.score.scene import BROKEN_MODEL, Scene, Scenes

PICTURES_OWN = ("status", "error", "num_bytes", "sha256", *MEASURES, "dhash")
"""Of the columns that decoding gives, those that the faces of a picture do not share with it."""


def make_rows(
    planned: pa.Table,
    decoded: Columns,
    probs_NK: NDArray[np.float32],
    card: Card,
    clock: Clock,
    keep_column: str | None = None,
) -> pa.Table:
    """The scores rows of a shard, in the order of its plan rows.

    probs_NK: probabilities (N, K) of every image; drops those of images that are not ok.
    Values that are not finite make the row a `score_error`.
    """
    columns: dict[str, Any] = {name: list(values) for name, values in decoded.items()}
    ok = np.array([status == "ok" for status in columns["status"]], bool)
    broken = ok & ~np.isfinite(probs_NK).all(axis=1)
    for i in np.flatnonzero(broken):
        for name, value in BROKEN_MODEL.items():
            columns[name][i] = value
    values = {
        **take_planned(planned, columns.pop("exif_time"), clock, keep_column),
        **columns,
        "num_bytes": pc.coalesce(pa.array(columns["num_bytes"], pa.int64()), planned["num_bytes"]),
        "region": np.zeros(planned.num_rows, np.int16),
        **_tell_labels(probs_NK, ok & ~broken, card),
    }
    return _fill(values, schema.scores(card.classes, keep_column))


def _tell_labels(probs_NK: NDArray[np.float32], known_N: NDArray[np.bool_], card: Card) -> dict[str, Any]:
    """The columns that follow from probabilities; null where they are not known."""
    confidence_N = probs_NK.max(axis=1, initial=0)
    labels_N = np.array(card.classes, object)[probs_NK.argmax(axis=1)]
    return {
        "label": pa.array(labels_N, pa.string(), mask=~known_N),
        **{f"prob_{n}": pa.array(probs_NK[:, k], mask=~known_N) for k, n in enumerate(card.classes)},
        "confidence": pa.array(confidence_N, pa.float32(), mask=~known_N),
        "needs_review": known_N & (confidence_N < card.review_threshold),
    }


def make_scene_rows(
    planned: pa.Table, found: Scenes, card: Card, clock: Clock, keep_column: str | None = None
) -> pa.Table:
    """The scores rows of a shard: each picture in the order of its plan rows, then its faces.

    A picture in which the model gives a face a number that is not finite is a `score_error` without faces.
    """
    columns, scenes = _drop_broken(found)
    target = schema.scores(card.classes, keep_column, "scene")
    shared = {
        **take_planned(planned, columns["exif_time"], clock, keep_column),
        **{name: pa.array(columns[name], target.field(name).type) for name in ("width", "height")},
    }
    none_NK, no_N = np.zeros((len(scenes), len(card.classes)), np.float32), np.zeros(len(scenes), bool)
    own = {name: pa.array(columns[name], target.field(name).type) for name in PICTURES_OWN}
    pictures = {
        **shared,
        **own,
        "num_bytes": pc.coalesce(own["num_bytes"], planned["num_bytes"]),
        "region": np.zeros(len(scenes), np.int16),
        "num_faces": [len(scene.boxes_F4) if scene else None for scene in scenes],
        "num_faces_left_out": [scene.num_left_out if scene else None for scene in scenes],
        **_tell_labels(none_NK, no_N, card),
    }
    of_picture = np.repeat(np.arange(len(scenes)), [len(scene.boxes_F4) if scene else 0 for scene in scenes])
    shared_by_faces = pa.table(shared).take(pa.array(of_picture))
    faces = [_describe_faces(scene, card) for scene in scenes if scene]
    tables = [
        _fill(pictures, target),
        _fill({**_columns_of(shared_by_faces), **_columns_of(pa.concat_tables(faces))}, target)
        if faces
        else target.empty_table(),
    ]
    return pa.concat_tables(tables).sort_by([("id", "ascending"), ("region", "ascending")])


def _describe_faces(scene: Scene, card: Card) -> pa.Table:
    """What the rows of a picture's faces have of their own."""
    num_faces = len(scene.boxes_F4)
    return pa.table(
        {
            "region": np.arange(1, num_faces + 1, dtype=np.int16),
            "box": pa.array(list(scene.boxes_F4), schema.BOX),
            "status": pa.array(["ok"] * num_faces, pa.string()),
            **{n: pa.array([row[n] for row in scene.measures], pa.float32()) for n in MEASURES},
            "face_confidence": scene.confidence_F,
            **_tell_labels(scene.probs_FK, scene.assess_F, card),
        }
    )


def _drop_broken(found: Scenes) -> tuple[dict[str, list[object]], list[Scene | None]]:
    """The pictures, those with a number that is not finite as `score_error`, without their scene."""
    columns = {name: list(values) for name, values in found.columns.items()}
    scenes = list(found.scenes)
    for i, scene in enumerate(scenes):
        if scene and not np.isfinite(scene.probs_FK[scene.assess_F]).all():
            scenes[i] = None
            for name, value in BROKEN_MODEL.items():
                columns[name][i] = value
    return columns, scenes


def _columns_of(table: pa.Table) -> dict[str, Any]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _fill(values: Mapping[str, Any], target: pa.Schema) -> pa.Table:
    """The columns of `target`, null where `values` has none."""
    num_rows = len(values["region"])
    return pa.table(
        {f.name: values[f.name] if f.name in values else pa.nulls(num_rows, f.type) for f in target}, target
    )
