"""What a sample of a run's pictures shows to the quick detector: the work of the process of `guard`.

Of the pictures with a face, these shares were measured (YuNet-n, 640 pixels):

| pictures | several or far | filled |
| --- | --- | --- |
| face crops of three collections, 1,194 | 0.00 to 0.04 | 0.92 to 1.00 |
| drawn gates of `maskbatch demo`, 394 | 0.00 | 1.00 |
| photographs of groups, streets and portraits, 979 | 0.41 to 0.57 | 0.32 to 0.42 |
"""

import json
import os
import pickle
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch.decode.images import decode_each
from maskbatch.decode.sandbox import Sandbox
from maskbatch.geometry import measure_sides
from maskbatch.model.checkpoint import open_detector
from maskbatch.model.detector import Detector, Faces
from maskbatch.plan.table import GROUP_ROWS, read_plan
from maskbatch.runs.work import Work
from maskbatch.score.guard import Found
from maskbatch.score.read import READ_COLUMNS, PlanRow, read_images
from maskbatch.score.scene import frame_shape, shrink

SAMPLE = 64
PLAN_GROUPS = 16
"""Row groups of the plan that the sample is drawn from, milliseconds each."""
ROW_GROUPS = 8
"""Of Parquet files with pictures in them, it reads no more row groups, which may have 100 MB each."""
DETECTOR, LONGEST_PX = "yunet_n", 640
CONFIDENCE = 0.6
"""Of a face that counts here: more than a run asks, so that a lamp is nobody."""
BESIDE = 0.5
"""A face that is smaller than this times the largest one, by length, is someone in the background."""
FAR = 0.1
"""Length of a face over its picture's shorter side; a head of a fifth of the height, 1.5 m away, has 0.17."""
FILLS = 0.35


def serve() -> None:
    """Answer the `Work` on stdin by lines of `Found` on stdout; ends when stdin does, with the run."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print do not reach the answer
    work = pickle.load(sys.stdin.buffer)  # noqa: S301  our parent's
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for found in look(work):
        print(json.dumps(asdict(found)), file=answers, flush=True)


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


def look(work: Work) -> Iterator[Found]:
    """What a sample of the pictures of `work` shows, after each; those that do not decode are left out."""
    detector = Detector(open_detector(DETECTOR), dtype="auto", device="cpu")
    shown = Counter[str]()
    for image_HWC in _decode(draw_sample(work), work):
        shown[judge(detector.detect(image_HWC), image_HWC.shape[:2])] += 1
        num_pictures = shown.total() - shown["nobody"]
        yield Found(pictures=num_pictures, **{name: shown[name] for name in ("several", "far", "filled")})


def _decode(rows: list[PlanRow], work: Work) -> Iterator[NDArray[np.uint8]]:
    """The pictures (H, W, 3) as the detector sees them."""
    with Sandbox(work.decode_timeout_s) as sandbox:
        encoded = read_images(rows, work.access, work.config.max_bytes)
        shape, max_pixels = frame_shape(LONGEST_PX), work.config.max_pixels
        for _, picture in decode_each(encoded, shape, max_pixels, lambda _, *image: sandbox.decode(*image)):
            if picture:
                yield shrink(picture.image, LONGEST_PX)


def draw_sample(work: Work) -> list[PlanRow]:
    """Rows of the plan that are to be scored, the same ones every time.

    They, and the first of them, are spread over cameras and time; those of Parquet files are in their order.
    """
    num_groups = -(-work.num_images // GROUP_ROWS)
    num_read = min(num_groups, PLAN_GROUPS)
    starts = (k * num_groups // num_read * GROUP_ROWS for k in range(num_read))
    ends = ((start, min(start + GROUP_ROWS, work.num_images)) for start in starts)
    planned = pa.concat_tables(read_plan(work.run.plan, *ids) for ids in ends)
    planned = planned.filter(pc.is_null(planned["status"]))
    rows = planned.select(["site", "camera", "container", "offset", "encoding"]).to_pandas()
    rows = rows.sample(frac=1, random_state=0)
    place = (rows["container"] + rows["offset"].astype(str)).where(rows["encoding"] == "row", "")
    rows = rows[place.isin(place.unique()[:ROW_GROUPS])]
    turn = rows.groupby(["site", "camera"], dropna=False).cumcount()
    chosen = list(turn.sort_values(kind="stable").index[:SAMPLE])
    if place.any():
        chosen.sort()
    sample: list[PlanRow] = planned.select(READ_COLUMNS).take(chosen).to_pylist()
    return sample


def judge(faces: Faces, size: tuple[int, int]) -> str:
    """What a picture of `size` (H, W) shows: nobody, several people, or one, who is far, or fills it."""
    boxes = faces.boxes_K4[faces.confidence_K >= CONFIDENCE]
    if not len(boxes):
        return "nobody"
    lengths = measure_sides(boxes) / min(size)
    largest = lengths.max()
    if (lengths >= BESIDE * largest).sum() > 1:
        return "several"
    if largest < FAR:
        return "far"
    return "filled" if largest >= FILLS else "one"
