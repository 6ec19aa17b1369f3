"""Images of both sides of a comparison, and which of them are the same: counts by camera, hour and labels.

Shape suffixes: N images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch.buckets import hash_texts
from maskbatch.progress import Step
from maskbatch.report.cells import Camera, number_groups
from maskbatch.runs.committed import CommittedRun, Meaning, order_files, read_files

COLUMNS = ("id", "uri", "site", "camera", "captured_local", "region", "status", "label")
MANY = 1024
"""A picture of a scene has fewer faces: its label is `assessed * MANY + compliant`, its two counts in one."""
SIDES = ("first", "second")
CELL = ["camera", "hour", *SIDES]
Cameras = dict[Camera, int]
"""A number for each camera of both runs."""


@dataclass(slots=True)
class Extent:
    """What was read of one side."""

    num_images: int = 0
    times: list[str] = field(default_factory=list)
    """The first and the last local time of each file."""


def read_images(
    runs: Sequence[CommittedRun], side: str, cameras: Cameras, extent: Extent, progress: Step
) -> Iterator[pd.DataFrame]:
    """The images of each file, 20 bytes each: hash of the uri, camera, hour, and the label in column `side`.

    Hours are local, from 1970, -1 where unknown. A label is the number of a class, or K where the image
    failed; that of a picture of a scene is as MANY says, or MANY * MANY where it failed. Adds new cameras to
    `cameras`, and what is read to `extent`.
    """
    in_scenes, meaning = runs[0].score.view == "scene", runs[0].meaning
    for rows in read_files(order_files(runs), COLUMNS):
        is_face = pc.greater(rows["region"], 0)
        faces, rows = rows.filter(is_face), rows.filter(pc.invert(is_face))
        extent.num_images += len(rows)
        extent.times += [t.isoformat() for t in pc.min_max(rows["captured_local"]).as_py().values() if t]
        hour = pc.divide(rows["captured_local"].cast(pa.int64()), 3_600_000_000)
        label = _label_scenes(rows, faces, meaning) if in_scenes else _label_images(rows, meaning)
        images = {"uri": hash_texts(rows["uri"]), "camera": _number_cameras(rows, cameras)}
        images["hour"] = hour.fill_null(-1).to_numpy().astype(np.int32)
        yield pd.DataFrame({**images, side: label})
        progress.advance(len(rows) + len(faces))


def _label_images(rows: pa.Table, meaning: Meaning) -> NDArray[np.int32]:
    label = pc.if_else(pc.equal(rows["status"], "ok"), rows["label"], None)
    label = pc.index_in(label, pa.array(meaning.classes)).fill_null(len(meaning.classes))
    return np.asarray(label.to_numpy().astype(np.int32))


def _label_scenes(rows: pa.Table, faces: pa.Table, meaning: Meaning) -> NDArray[np.int32]:
    order = np.argsort(rows["id"].to_numpy())
    place = order[np.searchsorted(rows["id"].to_numpy(), faces["id"].to_numpy(), sorter=order)]
    assessed, compliant = (
        np.bincount(place[np.asarray(pc.is_in(faces["label"], pa.array(names)))], minlength=len(rows))
        for names in (meaning.assessed, meaning.compliant)
    )
    ok = pc.equal(rows["status"], "ok").to_numpy()
    return np.where(ok, assessed * MANY + compliant, MANY * MANY).astype(np.int32)


def _number_cameras(rows: pa.Table, cameras: Cameras) -> NDArray[np.int32]:
    names, group = number_groups(rows, ("site", "camera"))
    numbers = [cameras.setdefault((row["site"], row["camera"]), len(cameras)) for row in names.to_pylist()]
    return np.array(numbers, np.int32)[group]


def pair_images(
    first: Iterator[pd.DataFrame], second: Iterator[pd.DataFrame]
) -> tuple[list[pd.DataFrame], int]:
    """(strata, number of shared images); a stratum is counts by CELL.

    One stratum holds the shared images; where these are few, two hold each run's, with -1 as the other label.
    """
    kept = pd.concat(first, ignore_index=True).sort_values("uri")
    shared, alone = [], []
    for images in second:
        shared.append(_count(_pair(kept, images)))
        alone.append(_count(images.assign(first=-1)))
    both, second_alone = _add_up(shared), _add_up(alone)
    num_shared = int(both["count"].sum())
    if num_shared and 2 * num_shared >= min(len(kept), second_alone["count"].sum()):
        return [both], num_shared
    return [_count(kept.assign(second=-1)), second_alone], num_shared


def _pair(kept: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The images that are in `kept`, sorted by uri, too: its camera and hour, and both labels."""
    uri = kept["uri"].to_numpy()
    row = np.minimum(np.searchsorted(uri, images["uri"]), len(uri) - 1)
    is_shared = uri[row] == images["uri"].to_numpy()
    return kept.iloc[row[is_shared]].assign(second=images["second"].to_numpy()[is_shared])


def _count(images: pd.DataFrame) -> pd.DataFrame:
    return _cluster(images).value_counts(CELL, sort=False).reset_index()


def _add_up(cells: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return _cluster(pd.concat(cells)).groupby(CELL, as_index=False)["count"].sum()


def _cluster(rows: pd.DataFrame) -> pd.DataFrame:
    """`hour` becomes the first of its day, unless there is only one camera-day."""
    day = rows["hour"] // 24 * 24
    return rows.assign(hour=day) if max(day.nunique(), rows["camera"].nunique()) > 1 else rows
