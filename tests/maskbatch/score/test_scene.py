from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import ExifTags, Image

from maskbatch import schema
from maskbatch.clock import Clock
from maskbatch.cluster.packing import pack, unpack
from maskbatch.config import ScoreConfig
from maskbatch.decode.source import Encoded
from maskbatch.model.checkpoint import DetectorFile, open_checkpoint, open_detector, save_checkpoint
from maskbatch.schema import MAX_FACES
from maskbatch.score.networks import Networks, decode_pixels
from maskbatch.score.scene import CROP_SCALE, frame_crop
from tests.maskbatch.samples import NOW, draw, encode

CLOCK = Clock.parse(["Europe/Paris"], NOW)
CONFIG = ScoreConfig(view="scene", dtype="float32", batch_size=4)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks(open_checkpoint(), open_detector(), CONFIG, device="cpu")


def draw_scene(*people: tuple[int, int, int], size: tuple[int, int] = (640, 360)) -> Image.Image:
    """A wall with one person each at (left, top) whose picture has so many pixels in height."""
    scene = Image.new("RGB", size, (190, 184, 170))
    for k, (left, top, height) in enumerate(people):
        scene.paste(draw(k + 1, (height, height)), (left, top))
    return scene


def plan(num_rows: int) -> pa.Table:
    rows = {"id": list(range(7, 7 + num_rows)), "uri": [f"file:///{i}.jpg" for i in range(num_rows)]}
    rows |= {"encoding": ["raw"] * num_rows, "camera": ["lobby"] * num_rows}
    return pa.Table.from_pydict(
        {f.name: rows.get(f.name, [None] * num_rows) for f in schema.PLAN}, schema.PLAN
    )


def score(networks: Networks, *data: bytes, config: ScoreConfig = CONFIG) -> Rows:
    encoded = [Encoded(item, num_bytes=len(item)) for item in data]
    pixels = decode_pixels(encoded, len(data), networks.card.preset, config)
    table = networks.score(plan(len(data)), pixels, CLOCK)
    assert table.schema == schema.scores(networks.card.classes, None, "scene")
    return table.to_pylist()


def faces_of(rows: Rows, number: int = 7) -> Rows:
    return [row for row in rows if row["id"] == number and row["region"]]


TWO = draw_scene((380, 60, 200), (60, 100, 240))
CROWD = draw_scene(*((40 + 150 * k, 60 + 10 * k, 140) for k in range(4)))


def test_a_picture_has_a_row_and_its_faces_follow_from_left_to_right(networks: Networks) -> None:
    picture, left, right = score(networks, encode(TWO))
    assert (picture["region"], picture["num_faces"], picture["num_faces_left_out"]) == (0, 2, 0)
    assert [picture[name] for name in ("label", "confidence", "box", "face_confidence")] == [None] * 4
    assert picture["num_bytes"] and picture["sha256"] and picture["dhash"] and not picture["needs_review"]
    for region, face in enumerate((left, right), 1):
        assert (face["id"], face["uri"], face["camera"]) == (7, "file:///0.jpg", "lobby")
        assert (face["region"], face["status"], face["width"], face["height"]) == (region, "ok", 640, 360)
        assert [face[name] for name in ("num_bytes", "sha256", "dhash", "error", "num_faces")] == [None] * 5
        assert face["label"] == "with_mask" and face["confidence"] == face["prob_with_mask"]
        assert 0.3 <= face["face_confidence"] <= 1 and face["sharpness"] > 0
    assert left["box"][0] < 250 < right["box"][0]
    assert left["box"][3] - left["box"][1] > right["box"][3] - right["box"][1]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_pictures_rows_do_not_depend_on_those_beside_it(networks: Networks, first: int) -> None:
    pictures = [encode(TWO), encode(CROWD), encode(draw_scene(size=(500, 300))), b"no picture"]
    rows = score(networks, *pictures[first:], *pictures[:first])
    at = 7 + pictures[first:].index(pictures[1]) if first < 2 else 7 + 4 - first + 1
    alone = score(networks, pictures[1])
    assert len(alone) == 5
    together = [row for row in rows if row["id"] == at]
    for row in (*alone, *together):
        del row["id"], row["uri"]
    assert together == alone


def test_a_picture_that_cannot_be_read_has_its_reason_and_no_faces(networks: Networks) -> None:
    rows = score(networks, encode(TWO)[:2000], encode(TWO))
    assert [(row["id"], row["status"], row["num_faces"]) for row in rows] == [
        (7, "truncated", None), (8, "ok", 2), (8, "ok", None), (8, "ok", None),
    ]  # fmt: skip


def test_a_face_that_is_too_small_keeps_its_box_and_has_no_label(networks: Networks) -> None:
    detector = open_detector()
    small = replace(detector, card=replace(detector.card, min_face_px=120))
    picture, left, right = score(Networks(open_checkpoint(), small, CONFIG, device="cpu"), encode(TWO))
    assert picture["num_faces"] == 2
    assert left["label"] == "with_mask"
    assert right["box"] and right["face_confidence"] and right["sharpness"]
    assert [right[name] for name in ("label", "confidence", "prob_with_mask")] == [None] * 3
    assert right["status"] == "ok" and not right["needs_review"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_in_pixels_of_the_upright_picture(networks: Networks, orientation: int) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = TWO.transpose(turns[orientation]) if orientation > 1 else TWO
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    rows = score(networks, encode(stored, "PNG", exif=exif))
    upright = score(networks, encode(TWO, "PNG"))
    assert [(row["width"], row["height"]) for row in rows] == [(640, 360)] * 3
    assert [row["box"] for row in rows] == [row["box"] for row in upright]


@pytest.mark.parametrize("scale", [2, 3, 6])
def test_a_large_picture_is_decoded_smaller_and_its_boxes_are_of_the_source(
    networks: Networks, scale: int
) -> None:
    large = TWO.resize((640 * scale, 360 * scale), Image.Resampling.BICUBIC)
    rows = faces_of(score(networks, encode(large, quality=92), config=replace(CONFIG, detect_px=640)))
    small = faces_of(score(networks, encode(TWO, quality=92)))
    assert [row["label"] for row in rows] == [row["label"] for row in small]
    for row, expected in zip(rows, small, strict=True):
        assert (row["width"], row["height"]) == large.size
        assert np.abs(np.array(row["box"]) / scale - expected["box"]).max() < 8


def test_detect_px_bounds_what_the_detector_sees_and_not_what_the_classifier_gets(networks: Networks) -> None:
    coarse = replace(CONFIG, detect_px=320)
    rows = faces_of(score(networks, encode(TWO), config=coarse))
    fine = faces_of(score(networks, encode(TWO)))
    for row, expected in zip(rows, fine, strict=True):
        assert np.abs(np.array(row["box"]) - expected["box"]).max() < 12
        assert row["sharpness"] == pytest.approx(expected["sharpness"], rel=0.5)


@pytest.mark.parametrize("size", [(20, 20), (1, 1), (3000, 40), (40, 3000), (33, 700)])
def test_pictures_of_any_shape_have_a_row(networks: Networks, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    rows = score(networks, encode(Image.fromarray(noise), "PNG"))
    assert (rows[0]["status"], rows[0]["width"], rows[0]["height"]) == ("ok", *size)
    assert rows[0]["num_faces"] == len(rows) - 1


def test_a_face_at_the_border_is_clipped_to_the_picture(networks: Networks) -> None:
    cut = TWO.crop((120, 0, 640, 360))
    face = faces_of(score(networks, encode(cut)))[0]
    assert face["box"][0] == 0
    assert 0 < face["box"][2] < 200


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((100, 100, 120, 140), (84, 94, 136, 146)),
        ((0, 0, 40, 40), (0, 0, 46, 46)),
        ((190, 140, 200, 150), (188, 138, 200, 150)),
        ((5.2, 5.2, 5.9, 5.4), (5, 4, 7, 6)),
        ((0, 0, 400, 300), (0, 0, 200, 150)),
    ],
)
def test_a_crop_is_a_square_around_the_face_within_the_picture(
    box: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    assert CROP_SCALE == 1.3
    assert frame_crop(box, (200, 150)) == expected


@pytest.fixture
def finds_everywhere(tmp_path: Path) -> Iterator[DetectorFile]:
    """The quick detector, which takes every place for a face."""
    quick = open_detector("yunet_n")
    card = replace(quick.card, threshold=0.0, nms_iou=1.0, min_face_px=1024)
    save_checkpoint(tmp_path / "all.safetensors", card, quick.load_state())
    yield open_detector(str(tmp_path / "all.safetensors"))


def test_a_picture_has_at_most_500_faces_and_counts_the_rest(finds_everywhere: DetectorFile) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (640, 640, 3), np.uint8)
    networks = Networks(open_checkpoint(), finds_everywhere, CONFIG, device="cpu")
    picture, *faces = score(networks, encode(Image.fromarray(noise), "PNG"))
    assert picture["num_faces"] == len(faces) == MAX_FACES
    assert picture["num_faces_left_out"] > 500
    assert [face["region"] for face in faces] == list(range(1, MAX_FACES + 1))
    assert [face["box"] for face in faces] == sorted(face["box"] for face in faces)


@pytest.mark.parametrize("broken", ["model", "detector"])
def test_networks_that_give_no_number_make_the_picture_a_score_error(tmp_path: Path, broken: str) -> None:
    files: dict[str, Any] = {"model": open_checkpoint(), "detector": open_detector()}
    state = {
        name: tensor * 1e38 if tensor.ndim == 2 or (tensor.ndim == 4 and "heads" in name) else tensor
        for name, tensor in files[broken].load_state().items()
    }
    save_checkpoint(tmp_path / "broken.safetensors", files[broken].card, state, halved=False)
    files[broken] = (open_checkpoint if broken == "model" else open_detector)(
        str(tmp_path / "broken.safetensors")
    )
    networks = Networks(files["model"], files["detector"], CONFIG, device="cpu")
    (row,) = score(networks, encode(TWO))
    assert (row["status"], row["num_faces"]) == ("score_error", None)
    assert row["error"] == f"the {broken}'s output is not a finite number"


def test_batches_of_pictures_of_one_size_as_on_a_gpu_find_the_same_faces(networks: Networks) -> None:
    pictures = [encode(picture) for picture in (TWO, CROWD, TWO.crop((0, 0, 400, 300)), CROWD, TWO)]
    alone = score(networks, *pictures)
    assert networks.finder
    networks.finder.detector.batch_size = 2
    try:
        together = score(networks, *pictures)
    finally:
        networks.finder.detector.batch_size = 1
    for row, expected in zip(together, alone, strict=True):
        assert row["box"] == (expected["box"] and pytest.approx(expected["box"], abs=0.05))
        assert row["label"] == expected["label"]


def test_what_is_packed_for_a_gpu_gives_the_same_rows(networks: Networks) -> None:
    pictures = [encode(TWO), b"no picture", encode(CROWD), encode(TWO.resize((20, 11)))]
    encoded = [Encoded(item, num_bytes=len(item)) for item in pictures]
    packed, statuses = pack(plan(4), decode_pixels(encoded, 4, networks.card.preset, CONFIG))
    assert statuses == ["ok", "unsupported", "ok", "ok"]
    planned, pixels = unpack(pa.table(packed))
    assert networks.score(planned, pixels, CLOCK).to_pylist() == score(networks, *pictures)
