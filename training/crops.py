"""Faces of boxed photographs, cut as `maskbatch score --view scene` does, and further crops to learn from.

A detector's box differs from the one that a person drew: a classifier for scenes learns from the former.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from maskbatch.config import ScoreConfig
from maskbatch.decode.quality import dhash
from maskbatch.decode.source import Encoded
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Checkpoint, DetectorFile
from maskbatch.model.classifier import Classifier
from maskbatch.progress import step
from maskbatch.score.scene import Finder, Scene, decode_frames, frame_crop
from training import scenes, splits
from training.scenes import BOX

MIN_FACE_PX = 20
"""Smaller faces cannot be told apart, even by a person."""
GREY_PX = 64
ROW = ("label", "split", "cluster", "source", "suspect")

Row = dict[str, Any]
Crop = tuple[Image.Image, Row]
"""A picture, and its row of the manifest without the uri."""


def find_faces(
    files: Sequence[str], detector: DetectorFile, checkpoint: Checkpoint, config: ScoreConfig
) -> pd.DataFrame:
    """Find and label the faces of photographs as `--view scene` does: `found` of `training.scenes`.

    `predicted` is TOO_SMALL for a face that scoring does not assess. Raises UsageError.
    """
    classifier = Classifier(checkpoint, dtype=config.dtype, batch_size=config.batch_size, device="cpu")
    finder = Finder(detector, classifier, checkpoint.card.preset, config)
    with step("find faces", len(files), "photographs") as progress:

        def read_all() -> Iterator[Encoded]:
            for file in files:
                yield Encoded(_read(file))
                progress.advance()

        out = finder.score(decode_frames(read_all(), config))
    tables = [
        _list_faces(file, scene, checkpoint.card.classes)
        for file, scene in zip(files, out.scenes, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise UsageError(f"photograph {file}: {error.strerror}; put it beside its boxes.csv") from error


def _list_faces(file: str, scene: Scene | None, classes: Sequence[str]) -> pd.DataFrame:
    if scene is None:
        raise UsageError(f"photograph {file}: cannot be decoded; remove it and its boxes, or replace it")
    probs_FK = np.nan_to_num(scene.probs_FK, nan=-1)
    predicted = np.where(scene.assess_F, np.array(classes, object)[probs_FK.argmax(axis=1)], scenes.TOO_SMALL)
    table = pd.DataFrame(scene.boxes_F4, columns=BOX)
    return table.assign(file=file, confidence=scene.confidence_F, predicted=predicted)


def cut_faces(boxed: pd.DataFrame, found: pd.DataFrame) -> Iterator[Crop]:
    """Cut the faces of `boxed` that `found` has, as they were found (see `training.scenes`).

    Rows have ROW of the boxed face. Faces below MIN_FACE_PX and suspect labels are left out.
    """
    table = boxed.rename_axis("match").reset_index()
    found = found.assign(match=scenes.match_faces(boxed, found))
    table = found[["match", *BOX]].merge(table.drop(columns=BOX), on="match")
    table = table[table["suspect"] == 0]
    longer = np.maximum(table["x1"] - table["x0"], table["y1"] - table["y0"])
    photographs = table[longer >= MIN_FACE_PX].groupby("file")
    with step("cut faces", len(photographs), "photographs") as progress:
        for file, rows in photographs:
            with Image.open(file) as picture:
                scene = picture.convert("RGB")
            for row in rows.to_dict("records"):
                crop = scene.crop(frame_crop([row[name] for name in BOX], scene.size))
                yield crop, {name: row[name] for name in ROW}
            progress.advance()


def name_clusters(boxed: pd.DataFrame, faces: pd.DataFrame) -> pd.DataFrame:
    """Add `cluster` and `suspect` to boxed faces, which `faces`, a manifest of the same photographs, has.

    Photographs that are near-duplicates of one another share a cluster, whatever folder they are of.
    """
    known = {Path(row.file).stem: (row.cluster, int(row.suspect)) for row in faces.itertuples()}
    names = [f"{Path(row.file).stem}_{int(row.face):02d}" for row in boxed.itertuples()]
    files = boxed["file"].unique()
    hashes = []
    for file in files:
        with Image.open(file) as picture:
            hashes.append(dhash(picture.convert("L")))
    group_of = dict(zip(files, splits.group_near_duplicates(hashes), strict=True))
    group = boxed["file"].map(group_of)
    cluster = pd.Series([known.get(name, (None, 0))[0] for name in names], boxed.index, dtype=object)
    first = cluster.groupby(group).transform("first")
    return boxed.assign(
        cluster=cluster.fillna(first).fillna("photograph " + group.astype(str)),
        suspect=[known.get(name, (None, 0))[1] for name in names],
    )


def turn_grey(pictures: Iterable[tuple[Path, Row]]) -> Iterator[Crop]:
    """Turn pictures into small grey ones.

    The false alarms at hand are all grey. If faces were not as often, grey would mean `no_face`.
    """
    for path, row in pictures:
        with Image.open(path) as picture:
            small = picture.convert("L")
        small.thumbnail((GREY_PX, GREY_PX))
        yield small, row
