from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.errors import UsageError
from maskbatch.geometry import find_bands, measure_overlap
from maskbatch.schema import SIZE_BAND_NAMES, SIZE_BANDS
from training import scenes
from training.scenes import REPEATED, UNLABELLED

corners = st.tuples(*[st.integers(0, 40)] * 2, *[st.integers(1, 30)] * 2)
box = corners.map(lambda c: (c[0], c[1], c[0] + c[2], c[1] + c[3]))
boxes = st.lists(box, max_size=6).map(lambda rows: np.array(rows, float).reshape(-1, 4))


def table_of(
    rows: list[tuple[float, ...]], size: tuple[int, int] = (640, 480), **columns: object
) -> pd.DataFrame:
    """A table of boxes, all of the photograph a.jpg."""
    table = pd.DataFrame(rows, columns=scenes.BOX).astype(float)
    return table.assign(**({"file": "a.jpg", "width": size[0], "height": size[1]} | columns))


@given(boxes, boxes)
def test_the_shared_part_of_two_boxes_is_that_of_their_pixels(one: np.ndarray, other: np.ndarray) -> None:
    iou = measure_overlap(one[:, None], other)
    assert iou.shape == (len(one), len(other))
    for k, n in np.ndindex(iou.shape):
        planes = np.zeros((2, 80, 80), bool)
        for plane, (x0, y0, x1, y1) in zip(planes, (one[k], other[n]), strict=True):
            plane[int(y0) : int(y1), int(x0) : int(x1)] = True
        assert iou[k, n] == pytest.approx(planes.all(axis=0).sum() / planes.any(axis=0).sum())


@given(boxes, boxes, st.randoms(use_true_random=False))
def test_a_face_is_matched_once_and_never_with_a_box_that_is_less_sure_than_one_turned_away(
    found: np.ndarray, boxed: np.ndarray, random: object
) -> None:
    confidence = np.array([random.random() for _ in found])  # type: ignore[attr-defined]
    match = scenes.match_boxes(found, confidence, boxed)
    taken = match[match >= 0]
    assert len(set(taken)) == len(taken)
    iou = measure_overlap(found[:, None], boxed)
    for k, n in enumerate(match):
        near = set(np.flatnonzero(iou[k] >= scenes.MIN_IOU))
        if n >= 0:
            assert n in near
        elif n == REPEATED:
            surer = set(match[confidence >= confidence[k]])
            assert near and near <= surer
        else:
            assert n == UNLABELLED and not near


@given(boxes)
def test_boxes_as_people_drew_them_are_all_found(boxed: np.ndarray) -> None:
    distinct = np.unique(boxed, axis=0)
    match = scenes.match_boxes(distinct, np.ones(len(distinct)), distinct)
    assert sorted(match) == list(range(len(distinct)))


def test_faces_are_matched_within_their_photograph_and_counted_by_label_and_size() -> None:
    boxed = pd.concat(
        [
            table_of([(0, 0, 20, 20), (100, 0, 140, 40)], label=["with_mask", "without_mask"]),
            table_of([(0, 0, 20, 20)], label="with_mask", file="b.jpg"),
            table_of([(0, 0, 20, 20)], label="with_mask", file="c.jpg", size=(1920, 1080)),
        ],
        ignore_index=True,
    )
    found = pd.concat(
        [
            table_of([(101, 1, 141, 41), (300, 300, 340, 340)], confidence=[0.9, 0.8]),
            table_of([(1, 0, 21, 20), (0, 1, 20, 21)], confidence=[0.5, 0.6], file="b.jpg"),
            table_of([(0, 0, 20, 20)], confidence=0.5, file="elsewhere.jpg"),
        ],
        ignore_index=True,
    )
    match = scenes.match_faces(boxed, found)
    assert match.tolist() == [1, UNLABELLED, REPEATED, 2, UNLABELLED]
    is_found = scenes.find_matched(match, len(boxed))
    assert is_found.tolist() == [False, True, True, False]
    assert scenes.measure_sizes(boxed, 960).tolist() == [20, 40, 20, 10]
    counts = scenes.count_found(boxed, is_found, 960)
    bands = {label: dict(zip(SIZE_BAND_NAMES, rows, strict=True)) for label, rows in counts.items()}
    assert bands["with_mask"]["16-24"] == [1, 2] and bands["with_mask"]["0-16"] == [0, 1]
    assert bands["without_mask"]["32-48"] == [1, 1]
    assert sum(total for rows in counts.values() for _, total in rows) == len(boxed)
    figures = scenes.measure_precision(match)
    assert figures["precision"] == 2 / 3 and figures["precision_at_worst"] == 2 / 5
    assert figures["num_unlabelled"] == 2 and figures["num_repeated"] == 1
    labels = scenes.pick_labels(match, ["without_mask", "a", "b", "with_mask", "c"], len(boxed))
    assert labels.tolist() == ["", "without_mask", "with_mask", ""]


@given(st.floats(0, 4096))
def test_every_size_lies_in_the_band_of_its_edges(size: float) -> None:
    band = int(find_bands(np.array([size]))[0])
    assert SIZE_BANDS[band] <= size and size < (*SIZE_BANDS, np.inf)[band + 1]


def test_average_precision_is_one_for_all_faces_first_and_falls_with_a_repeated_box_above_them() -> None:
    sure_first, confidence = np.array([0, 1, UNLABELLED, REPEATED]), np.array([0.9, 0.8, 0.7, 0.6])
    assert scenes.measure_average_precision(sure_first, confidence, 2) == 1
    assert scenes.measure_average_precision(sure_first, confidence, 4) == 0.5
    repeated_first = np.array([REPEATED, 0, 1])
    assert scenes.measure_average_precision(repeated_first, confidence[:3], 2) == pytest.approx(2 / 3)
    assert scenes.measure_average_precision(np.array([UNLABELLED]), confidence[:1], 2) == 0


def test_nothing_found_has_no_precision() -> None:
    figures = scenes.measure_precision(np.empty(0, np.int64))
    assert figures["precision"] is None and figures["precision_at_worst"] is None


HEAD = "file,split,face,label,xmin,ymin,xmax,ymax,width,height\n"


def test_boxes_are_read_of_one_split_and_of_tables_without_splits(tmp_path: Path) -> None:
    rows = "train/a.jpg,train,0,with_mask,1,2,3.5,4,640,480\nval/b.jpg,val,0,without_mask,1,2,3,4,640,480\n"
    (tmp_path / "boxes.csv").write_text(HEAD + rows)
    val = scenes.read_boxes(tmp_path, "val")
    assert val["file"].tolist() == [str(tmp_path / "val/b.jpg")] and list(val) == scenes.BOXED
    assert scenes.read_boxes(tmp_path)[scenes.BOX].to_numpy().tolist() == [[1, 2, 3.5, 4], [1, 2, 3, 4]]
    (tmp_path / "boxes.csv").write_text(
        (HEAD + rows).replace(",split", "").replace(",train,", ",").replace(",val,", ",")
    )
    assert scenes.read_boxes(tmp_path, "val")["split"].tolist() == ["", ""]


@pytest.mark.parametrize(
    ("text", "named"), [("file,label\na.jpg,with_mask\n", "x0"), (HEAD, "no box"), (None, "")]
)
def test_a_folder_without_boxes_ends_in_one_sentence(tmp_path: Path, text: str | None, named: str) -> None:
    if text is not None:
        (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(UsageError, match=rf"boxed photographs .*boxes\.csv.*{named}"):
        scenes.read_boxes(tmp_path, "val")
