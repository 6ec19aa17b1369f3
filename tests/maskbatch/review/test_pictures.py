import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from maskbatch.config import ReportConfig
from maskbatch.model.checkpoint import open_detector
from maskbatch.model.detector import Detector
from maskbatch.report.make import make_report
from maskbatch.report.survey import Survey, survey_runs
from maskbatch.review.pictures import FACE_SCALE, OTHER, draw_upright, make_thumbnails, read_pictures
from maskbatch.runs.committed import open_committed
from maskbatch.stores.options import NO_OPTIONS
from maskbatch.stores.uris import local_path
from tests.maskbatch.samples import Run, draw, encode

SIDE_PX = 800


@pytest.fixture(scope="module")
def survey(lobby: Run) -> Survey:
    return survey_runs([open_committed(lobby.run)])


def load(jpeg: bytes | None) -> Image.Image:
    assert jpeg
    return Image.open(io.BytesIO(jpeg))


def path_of(row: dict[str, Any]) -> Path:
    return Path(local_path(row["uri"]).decode())


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), np.float64)


def measure_detail(image: Image.Image) -> float:
    """The mean difference of neighbouring pixels."""
    return float(np.abs(np.diff(pixels(image), axis=1)).mean())


def test_a_reviewer_sees_one_face_near_and_in_its_picture_and_no_other(lobby: Run, survey: Survey) -> None:
    queue = survey.selection.queue
    rows = queue.filter(pc.greater(pc.list_value_length(queue["faces"]), 2)).slice(0, 6).to_pylist()
    assert len(rows) == 6
    detector = Detector(open_detector(), dtype="float32", device="cpu")
    previews = read_pictures(open_committed(lobby.run), rows, NO_OPTIONS, SIDE_PX)
    for row, preview in zip(rows, previews, strict=True):
        near, whole = load(preview.jpeg), load(preview.whole)
        assert whole.size == (SIDE_PX, 450) and max(near.size) == SIDE_PX
        source = Image.open(path_of(row)).resize(whole.size)
        scale = SIDE_PX / row["width"]
        for region, box in enumerate(row["faces"], 1):
            face, shown = (image.crop(tuple(np.multiply(box, scale).round())) for image in (source, whole))
            if region == row["region"]:
                assert np.abs(pixels(face) - pixels(shown)).mean() < 6
            elif min(face.size) > 30:
                assert measure_detail(shown) < 0.4 * measure_detail(face)
        face = detector.detect(np.asarray(near.resize([side // 2 for side in near.size]))).boxes_K4[0]
        assert max(face[2:] - face[:2]) / (SIDE_PX / 2) == pytest.approx(1 / FACE_SCALE, rel=0.3)


def test_thumbnails_show_the_face_in_question_and_those_of_one_picture_differ(
    lobby: Run, survey: Survey
) -> None:
    rows = survey.selection.candidates.to_pylist()
    thumbnails = make_thumbnails(rows, [open_committed(lobby.run)], NO_OPTIONS)
    assert sorted(thumbnails) == [row["rank"] for row in rows]
    by_place = sorted(rows, key=lambda row: (row["id"], row["region"]))
    neighbours = [pair for pair in pairwise(by_place) if pair[0]["id"] == pair[1]["id"]]
    assert neighbours
    for one, other in neighbours:
        shown = [np.asarray(load(thumbnails[row["rank"]]).resize((32, 32)), int) for row in (one, other)]
        assert np.abs(shown[0] - shown[1]).mean() > 5


def test_the_page_of_a_report_has_the_thumbnails_of_faces(lobby: Run, tmp_path: Path) -> None:
    report = make_report([lobby.run], tmp_path, ReportConfig(thumbnails=True))
    candidates = report.values["review"]["candidates"]
    assert all(row["region"] and len(row["box"]) == 4 for row in candidates)
    assert (tmp_path / "report.html").read_text().count("data:image/jpeg") == len(candidates)


def test_a_picture_that_changed_shows_none_of_its_faces(lobby: Run, survey: Survey, tmp_path: Path) -> None:
    run, row = open_committed(lobby.run), survey.selection.queue.slice(0, 1).to_pylist()
    path = path_of(row[0])
    before = path.read_bytes()
    try:
        path.write_bytes(encode(draw(5, (640, 360))))
        (preview,) = read_pictures(run, row, NO_OPTIONS, SIDE_PX)
    finally:
        path.write_bytes(before)
    assert (preview.jpeg, preview.whole, preview.error) == (None, None, OTHER)


@pytest.mark.parametrize(
    ("size", "shown"), [((400, 300), (240, 180)), ((30, 60), (120, 240)), ((3000, 4), (240, 1))]
)
def test_a_picture_is_drawn_in_its_proportions(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert draw_upright(encode(draw(1, size)), (240, 240), 10**8).size == shown
