from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from maskbatch.score.scene import frame_crop
from training import crops, scenes
from training.prepare import draw

SIZE = (320, 240)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three drawings, and the first one again, smaller."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = []
    for k, (picture, _) in enumerate(draw(1, seed=3, sizes=(SIZE,))):
        paths.append(folder / f"{k}.png")
        picture.save(paths[-1])
    with Image.open(paths[0]) as first:
        first.resize((240, 180)).save(folder / "again.png")
    return [*paths[:3], folder / "again.png"]


@pytest.fixture
def boxed(photographs: list[Path]) -> pd.DataFrame:
    """One face of 60 px in each photograph."""
    rows = [(str(path), "train", 0, "with_mask", 100.0, 80.0, 160.0, 140.0, *SIZE) for path in photographs]
    table = pd.DataFrame(rows, columns=scenes.BOXED)
    return table.assign(cluster=["c0", "c1", "c2", "c0"], suspect=0, source="found")


def look(boxed: pd.DataFrame, **shift: float) -> pd.DataFrame:
    """A detector's boxes: those that people drew, and a false one in each photograph."""
    own = boxed[["file", *scenes.BOX]].assign(confidence=0.9)
    own = own.assign(**{name: own[name] + by for name, by in shift.items()})
    false = own.assign(x0=0.0, y0=0.0, x1=30.0, y1=30.0, confidence=0.95)
    return pd.concat([false, own], ignore_index=True)


def cut(crop: Iterator[crops.Crop]) -> list[tuple[np.ndarray, crops.Row]]:
    return [(np.asarray(picture), row) for picture, row in crop]


def test_faces_are_cut_as_they_were_found_and_false_ones_never(boxed: pd.DataFrame) -> None:
    pictures = cut(crops.cut_faces(boxed, look(boxed, x0=6.0, x1=10.0)))
    assert len(pictures) == len(boxed)
    for (pixels, row), face in zip(pictures, boxed.to_dict("records"), strict=True):
        assert row == {name: face[name] for name in crops.ROW}
        with Image.open(face["file"]) as picture:
            expected = picture.convert("RGB").crop(frame_crop((106, 80, 170, 140), picture.size))
        assert np.array_equal(pixels, np.asarray(expected))


def test_faces_not_found_too_small_or_of_a_doubtful_label_are_left_out(boxed: pd.DataFrame) -> None:
    found = look(boxed)
    assert len(cut(crops.cut_faces(boxed, found[found["file"] != boxed["file"][0]]))) == len(boxed) - 1
    assert len(cut(crops.cut_faces(boxed.assign(suspect=[1, 0, 0, 0]), found))) == len(boxed) - 1
    for side, num in ((crops.MIN_FACE_PX, len(boxed)), (crops.MIN_FACE_PX - 1, 0)):
        small = boxed.assign(x1=boxed["x0"] + side, y1=boxed["y0"] + side)
        assert len(cut(crops.cut_faces(small, look(small)))) == num


def test_photographs_that_are_near_duplicates_share_a_cluster_and_known_faces_keep_theirs(
    boxed: pd.DataFrame,
) -> None:
    table = boxed.drop(columns=["cluster", "suspect"])
    faces = pd.DataFrame({"file": ["train/with_mask/1_00.jpg"], "cluster": ["known"], "suspect": ["1"]})
    named = crops.name_clusters(table, faces)
    assert named["suspect"].tolist() == [0, 1, 0, 0] and named["cluster"][1] == "known"
    assert named["cluster"][0] == named["cluster"][3]
    assert named["cluster"].nunique() == 3
    faces = faces.assign(file="train/with_mask/0_00.jpg")
    assert crops.name_clusters(table, faces)["cluster"][[0, 3]].tolist() == ["known", "known"]


def test_grey_copies_are_small_and_keep_their_rows(photographs: list[Path]) -> None:
    rows = [{"label": f"label {k}", "cluster": str(k)} for k in range(len(photographs))]
    copies = list(crops.turn_grey(zip(photographs, rows, strict=True)))
    assert [row for _, row in copies] == rows
    for picture, _ in copies:
        assert picture.mode == "L" and max(picture.size) == crops.GREY_PX
