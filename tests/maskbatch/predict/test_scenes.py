"""Single pictures of whole scenes: against the rows of a run, in words, and on the sheet."""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from maskbatch.cli import terminal
from maskbatch.config import ScoreConfig
from maskbatch.decode.source import Encoded
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import open_checkpoint, open_detector
from maskbatch.predict import annotate, boxes
from maskbatch.predict.images import Predictor, predict_images
from maskbatch.predict.result import Face, Prediction, Predictions
from tests.conftest import Cli
from tests.maskbatch.predict.test_annotate import like, write
from tests.maskbatch.samples import encode, read_scores, stage_run, write_files
from tests.maskbatch.score.test_scene import CROWD, TWO, draw_scene

SCENE = ScoreConfig(view="scene", dtype="float32")
FILES = {
    "crowd.png": encode(CROWD, "PNG"), "empty.png": encode(draw_scene(), "PNG"), "two.jpg": encode(TWO),
    "tiny.png": encode(TWO.resize((20, 11)), "PNG"), "cut.jpg": encode(TWO)[:2000],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("scenes"), FILES)


@pytest.fixture(scope="module")
def predictions(folder: Path) -> Predictions:
    return predict_images([str(folder / name) for name in FILES], SCENE, box_px=boxes.SCENE_PX)


def test_every_face_of_a_run_gets_its_row_bit_for_bit(predictions: Predictions, folder: Path) -> None:
    run = stage_run(folder.parent / "run", folder, open_checkpoint(), view="scene", layout=None)
    run.commit(max_error_rate=1)
    rows = read_scores(run.run).sort_by([("id", "ascending"), ("region", "ascending")]).to_pylist()
    images = [row for row in rows if not row["region"]]
    assert len(images) == len(FILES)
    for row in images:
        (image,) = (image for image in predictions.images if image.uri == row["uri"])
        names = ("status", "error", "label", "confidence", "needs_review", "width", "height")
        assert [getattr(image, name) for name in names] == [row[name] for name in names]
        assert image.probs is None and len(image.faces) == (row["num_faces"] or 0)
        own = [face for face in rows if face["id"] == row["id"] and face["region"]]
        for face, expected in zip(image.faces, own, strict=True):
            values = face.as_dict()
            probs = values.pop("probs")
            values |= {f"prob_{name}": prob for name, prob in probs.items()}
            assert values == {name: expected[name] for name in values}


def test_what_is_said_of_a_scene_is_json(predictions: Predictions) -> None:
    said = json.loads(json.dumps(predictions.as_dict()))
    assert list(said) == ["checkpoint", "digest", "detector", "detector_digest", "classes", "images"]
    assert said["detector_digest"] == open_detector().digest
    crowd, empty, two, tiny, cut = said["images"]
    assert [len(image["faces"]) for image in said["images"]] == [4, 0, 2, 0, 0]
    assert (tiny["status"], tiny["width"], cut["status"]) == ("ok", 20, "truncated")
    assert (crowd["label"], crowd["num_faces_left_out"], empty["error"]) == (None, 0, None)
    left, right = two["faces"]
    assert left["box"][0] < right["box"][0]
    assert left["label"] == max(left["probs"], key=left["probs"].__getitem__) == "with_mask"
    assert not {"crop", "thumbnail", "model_input"} & {*two, *left}


def print_table(predictions: dict[str, Any]) -> list[str]:
    console = Console(width=120, file=io.StringIO(), markup=False, highlight=False)
    terminal.print_predictions(predictions, console)
    return [line.strip() for line in console.file.getvalue().splitlines()]


def test_the_table_has_a_row_for_each_face(predictions: Predictions) -> None:
    lines = print_table(predictions.as_dict())
    (first,) = (k for k, line in enumerate(lines) if line.startswith("two.jpg"))
    left, right = predictions.images[2].faces
    for face, line in ((left, lines[first]), (right, lines[first + 1])):
        box = ", ".join(f"{side:.0f}" for side in face.box)
        assert line.endswith(f"with mask {face.confidence:.1%} {box:18} {face.face_confidence:.1%}")
    assert lines[first + 2].startswith("tiny.png ")
    assert re.fullmatch("cut.jpg: JPEG data ends early +truncated", lines[first + 3])
    assert any(re.fullmatch("empty.png +no faces", line) for line in lines)


def make_face(box: tuple[float, ...], label: str | None = "with_mask", **values: Any) -> Face:
    probs = {name: 0.9 * (name == label) + 0.025 for name in ("with_mask", "without_mask", "c", "d")}
    judged = {"label": label, "confidence": 0.925 if label else None, "probs": probs if label else None}
    return Face(box=box, face_confidence=0.8, needs_review=False, **(judged | values))


def make_scene(faces: Sequence[Face], size: tuple[int, int] = (920, 300), left_out: int = 0) -> Prediction:
    return Prediction(
        uri="file:///a.jpg", status="ok", error=None, label=None, confidence=None, probs=None,
        needs_review=False, width=size[0] * 2, height=size[1] * 2, faces=tuple(faces),
        num_faces_left_out=left_out, model_input=np.zeros((0, 0, 3), np.uint8),
        thumbnail=Image.new("RGB", size, "#40ff40"),
    )  # fmt: skip


def test_faces_that_are_too_small_or_left_out_are_said() -> None:
    small = make_face((1, 2, 3, 4), None)
    values = Predictions("c", "d", ("with_mask",), [make_scene([small], left_out=1234)], "e", "f").as_dict()
    lines = print_table(values)
    assert any(re.search(r"too small +1, 2, 3, 4 +80\.0%$", line) for line in lines)
    assert "and 1,234 more" in lines
    assert boxes.count_faces([]) == "no faces"
    assert boxes.count_faces([small]) == "1 face: too small"
    assert boxes.count_faces([small, *[make_face((1, 2, 3, 4))] * 2]) == "3 faces: 2 with mask, 1 too small"


def test_boxes_lie_around_their_faces_in_the_colour_of_their_label(tmp_path: Path) -> None:
    faces = [make_face((200, 100, 400, 300)), make_face((800, 200, 1000, 500), "without_mask"),
             make_face((1400, 500, 1420, 520), None)]  # fmt: skip
    pixels = write(tmp_path / "out.png", make_scene(faces))
    top, left = annotate.MARGIN_PX + boxes.HEAD_PX, annotate.MARGIN_PX
    picture = pixels[top : top + 300, left : left + 920]
    for face, colour in zip(faces, (*boxes.COLOURS[:2], boxes.SMALL_COLOUR), strict=True):
        y, x = np.nonzero(like(picture, colour))
        x0, y0, x1, y1 = (side / 2 for side in face.box)
        assert (x.min(), x1, y.max()) == pytest.approx((x0 - 2, x1, y1 + 1), abs=3)
        inside = picture[int(y0) + 3 : int(y1) - 2, int(x0) + 3 : int(x1) - 2]
        assert like(inside, (64, 255, 64)).all()


@pytest.mark.parametrize("num_faces", [0, 1, 5, 40, 71, 500])
def test_a_sheet_holds_any_number_of_faces(num_faces: int, tmp_path: Path) -> None:
    crop = Image.new("RGB", (112, 112), "#ff40ff")
    lots = np.random.default_rng(num_faces).uniform(0, 500, (num_faces, 2))
    faces = [make_face((x, y, x + 40, y + 50), crop=crop) for x, y in sorted(lots.tolist())]
    pixels = write(tmp_path / "out.png", make_scene(faces))
    drawn = like(pixels, (255, 64, 255)).sum() / 112**2
    assert drawn == min(num_faces, boxes.MAX_CROPS)
    below = pixels[annotate.MARGIN_PX + boxes.HEAD_PX + 300 :]
    assert like(below[:, annotate.WIDTH_PX - annotate.MARGIN_PX + 1 :], annotate.PAPER).all()
    assert len(pixels) < 2100


def test_each_picture_of_a_scene_is_shown_with_its_faces(predictions: Predictions, tmp_path: Path) -> None:
    crowd, _, two, *_ = predictions.images
    assert [image.thumbnail and image.thumbnail.size for image in predictions.images] == [
        (920, 518), (920, 518), (920, 518), (60, 33), None
    ]  # fmt: skip
    for face in (*crowd.faces, *two.faces):
        assert max(face.crop.size) == boxes.CROP_PX
        assert np.asarray(face.crop).std() > 20
    sheet = write(tmp_path / "out.png", *predictions.images)
    heights = [len(write(tmp_path / "out.png", image)) for image in predictions.images]
    assert len(sheet) == sum(heights)
    assert heights[0] == heights[2] > heights[1] > heights[3]
    assert like(sheet[-heights[4] :], annotate.ALERT).sum() > 200


def test_a_predictor_with_a_detector_finds_faces_and_one_without_does_not() -> None:
    checkpoint, detector = open_checkpoint(), open_detector()
    small = replace(detector, card=replace(detector.card, min_face_px=120))
    (scene,) = Predictor(checkpoint, SCENE, detector=small).predict([Encoded(FILES["two.jpg"])])
    assert [(face.label, face.probs is None) for face in scene.faces] == [("with_mask", False), (None, True)]
    (image,) = Predictor(checkpoint, ScoreConfig(dtype="float32")).predict([Encoded(FILES["two.jpg"])])
    assert image.faces is None and image.label and "faces" not in image.as_dict()


@pytest.mark.parametrize(
    ("score", "files", "message"),
    [
        (ScoreConfig(), {"detector": "yunet_n"}, "--detector yunet_n goes with --view scene"),
        (SCENE, {"detector": open_checkpoint().path}, "it is a classifier, a face detector expected"),
        (SCENE, {"checkpoint": open_detector().path}, "it finds faces, a classifier expected"),
    ],
)
def test_networks_in_the_wrong_place_are_refused(
    score: ScoreConfig, files: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        predict_images(["a.jpg"], score, **files)


def test_the_command_finds_faces(folder: Path, tmp_path: Path, cli: Cli) -> None:
    flags = ("--view", "scene", "--detector", "yunet_n", "--detect-px", "640")
    done = cli("predict", str(folder / "two.jpg"), *flags, "--show", "sheet.png")
    assert (done.returncode, done.stderr) == (0, "Pictures: sheet.png\n")
    assert done.stdout.count("with mask 9") == 2
    assert (tmp_path / "sheet.png").exists()
    done = cli("predict", str(folder / "cut.jpg"), "--view", "scene")
    assert done.returncode == 1 and "1 of 1 images could not be scored" in done.stderr
