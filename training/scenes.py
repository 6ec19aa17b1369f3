"""Boxed photographs: which of the faces that people boxed a detector finds, and how they are labelled.

Pure functions over two tables. `boxed` has a row for each boxed face: `file, split, face, label, x0, y0, x1,
y1, width, height`; `found` one for each box of the detector: `file, x0, y0, x1, y1, confidence`, and later
`match` and the label `predicted`. Boxes are in pixels of the photograph, whose size is (width, height).

Nobody boxed every face: 85 to 90 % of the found boxes that match no boxed face are faces too. Such a box is
ignored, and counted; only a second box on a face that is taken is an error.

Shape suffixes: K found boxes, N boxed faces.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskbatch.errors import UsageError
from maskbatch.geometry import find_bands, measure_overlap, measure_seen, measure_sides
from maskbatch.schema import SIZE_BANDS
from training.metrics import Bools, Floats

BOX = ["x0", "y0", "x1", "y1"]
BOXED = ["file", "split", "face", "label", *BOX, "width", "height"]
MIN_IOU = 0.4
"""A found box is of a boxed face if it shares so much of their union."""
AP_IOU = 0.5
TOO_SMALL = "too_small"
"""The label of a found face that is too small to assess."""
UNLABELLED, REPEATED = -1, -2
"""Matches of a found box: a face that nobody boxed, or none; and a face that a surer box has taken."""


def read_boxes(folder: Path, split: str | None = None) -> pd.DataFrame:
    """Read `boxes.csv` of a folder of photographs as BOXED, of one split or all; raises UsageError.

    `split` is '' where the file has no such column; `file` is the path of the photograph.
    """
    path = folder / "boxes.csv"
    try:
        table = pd.read_csv(path, dtype={"file": str, "label": str, "split": str})
        table = table.rename(columns={"xmin": "x0", "ymin": "y0", "xmax": "x1", "ymax": "y1"})
        table = table.assign(file=[str(folder / file) for file in table["file"]])
        table = (table if "split" in table else table.assign(split=""))[BOXED]
        table = table.astype(dict.fromkeys(BOX, float))
    except (OSError, ValueError, KeyError) as error:
        remedy = (
            "give a folder of photographs with boxes.csv: file,face,label,xmin,ymin,xmax,ymax,width,height"
        )
        raise UsageError(f"boxed photographs {path}: cannot be read ({error}); {remedy}") from error
    if split is not None and "split" in table and (table["split"] != "").any():
        table = table[table["split"] == split]
    if table.empty:
        raise UsageError(f"boxed photographs {path}: no box of split {split!r}; check --split")
    return table.reset_index(drop=True)


def match_boxes(
    found_K4: Floats, confidence_K: Floats, boxed_N4: Floats, min_iou: float = MIN_IOU
) -> NDArray[np.int64]:
    """Match the found boxes of one photograph, the surest first, each with the nearest face still free.

    Returns the number (K,) of the boxed face, UNLABELLED or REPEATED.
    """
    iou_KN = measure_overlap(found_K4[:, None], boxed_N4)
    match_K, free_N = np.full(len(found_K4), UNLABELLED, np.int64), np.ones(len(boxed_N4), bool)
    for k in np.argsort(-confidence_K, kind="stable"):
        near_N = iou_KN[k] >= min_iou
        if (near_N & free_N).any():
            match_K[k] = np.where(near_N & free_N, iou_KN[k], -1).argmax()
            free_N[match_K[k]] = False
        elif near_N.any():
            match_K[k] = REPEATED
    return match_K


def match_faces(boxed: pd.DataFrame, found: pd.DataFrame, min_iou: float = MIN_IOU) -> NDArray[np.int64]:
    """Match the found boxes (K,) of all photographs: the row number in `boxed`, UNLABELLED or REPEATED."""
    match_K = np.full(len(found), UNLABELLED, np.int64)
    rows_of = {file: np.asarray(rows) for file, rows in boxed.groupby("file").indices.items()}
    for file, rows in found.groupby("file").indices.items():
        if file not in rows_of:
            continue
        boxes, confidence = (found[name].to_numpy()[rows] for name in (BOX, "confidence"))
        match = match_boxes(boxes, confidence, boxed[BOX].to_numpy()[rows_of[file]], min_iou)
        match[match >= 0] = rows_of[file][match[match >= 0]]
        match_K[rows] = match
    return match_K


def measure_sizes(boxed: pd.DataFrame, detect_px: int) -> Floats:
    """Measure the longer side (N,) of each box, in pixels of the copy that the detector sees."""
    sides_N = measure_sides(boxed[BOX].to_numpy(float))
    return measure_seen(sides_N, boxed["width"], boxed["height"], detect_px)


def count_found(boxed: pd.DataFrame, is_found_N: Bools, detect_px: int) -> dict[str, list[list[int]]]:
    """Count [found, boxed] by label and size band, as the card of a detector holds them."""
    bands_N = find_bands(measure_sizes(boxed, detect_px))
    counts = {}
    for label, rows in sorted(boxed.groupby("label").indices.items()):
        found, total = (
            np.bincount(bands_N[rows], weights=weights, minlength=len(SIZE_BANDS)).astype(int)
            for weights in (is_found_N[rows].astype(float), None)
        )
        counts[str(label)] = np.stack([found, total], axis=1).tolist()
    return counts


def find_matched(match_K: NDArray[np.int64], num_boxed: int) -> Bools:
    """Find which boxed faces (N,) some box was matched with."""
    found_N = np.zeros(num_boxed, bool)
    found_N[match_K[match_K >= 0]] = True
    return found_N


def measure_precision(match_K: NDArray[np.int64]) -> dict[str, Any]:
    """Measure the share of found boxes that are right: unlabelled ones ignored, and at worst all wrong."""
    right, repeated = int((match_K >= 0).sum()), int((match_K == REPEATED).sum())
    return {
        "num_matched": right,
        "num_repeated": repeated,
        "num_unlabelled": len(match_K) - right - repeated,
        "precision": right / (right + repeated) if right + repeated else None,
        "precision_at_worst": right / len(match_K) if len(match_K) else None,
    }


def measure_average_precision(match_K: NDArray[np.int64], confidence_K: Floats, num_boxed: int) -> float:
    """Measure the area under precision by recall of found boxes; unlabelled ones are ignored.

    Source: Everingham et al. 2010, with all points (as of VOC 2010).
    """
    kept = match_K != UNLABELLED
    right = match_K[kept][np.argsort(-confidence_K[kept], kind="stable")] >= 0
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best[right].sum() / num_boxed)


def pick_labels(
    match_K: NDArray[np.int64], predicted_K: Sequence[str], num_boxed: int
) -> NDArray[np.object_]:
    """Pick the predicted label (N,) of each boxed face; '' where it was not found."""
    labels_N = np.full(num_boxed, "", object)
    labels_N[match_K[match_K >= 0]] = np.asarray(predicted_K, object)[match_K >= 0]
    return labels_N
