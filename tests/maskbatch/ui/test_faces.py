"""The page over a run of whole scenes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from maskbatch.config import ScoreConfig
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import open_checkpoint, open_detector
from maskbatch.predict.images import Predictor
from maskbatch.report.make import make_report
from maskbatch.review import corrections
from maskbatch.review.queue import read_queue
from maskbatch.runs.committed import open_committed
from maskbatch.stores.options import NO_OPTIONS
from maskbatch.stores.uris import local_path
from maskbatch.ui.app import _open_predictor
from maskbatch.ui.picture import PictureScorer
from maskbatch.ui.review import open_review, render_corrections, respond
from tests.maskbatch.samples import Run, read_scores
from tests.maskbatch.ui.conftest import Serve, Server
from tests.maskbatch.ui.test_picture import send
from tests.maskbatch.ui.test_review import SEEN, find_position, open_tab, press


@pytest.fixture(scope="module")
def scenes(lobby: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a run of whole scenes with its report, for this module to judge."""
    run = lobby.copy(tmp_path_factory.mktemp("scenes") / "run").run
    make_report([run], run.report)
    return Path(run.path)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what the server's visitors judge."""
    return tmp_path_factory.mktemp("said")


@pytest.fixture(scope="module")
def server(serve: Serve, scenes: Path, said: Path) -> Iterator[Server]:
    with serve("--run", scenes, "--corrections", said) as server:
        yield server


def test_a_reviewer_judges_a_face_beside_its_picture(
    page: Page, server: Server, scenes: Path, said: Path
) -> None:
    page.goto(server.url)
    open_tab(page, "Review")
    page.wait_for_selector(SEEN)
    page.fill("[name=name]", "anna")
    page.keyboard.press("Enter")
    page.wait_for_selector("[name=name][value=anna]")
    queue = read_queue(scenes / "report").to_pylist()
    for key in ("1", "4", "s"):
        row = queue[find_position(page)]
        expect(page.locator("dl")).to_contain_text(f"{row['region']} of {len(row['faces'])} from the left")
        near, whole = (page.locator("figure img").nth(k) for k in (0, 1))
        sizes = [
            image.evaluate("image => [image.naturalWidth, image.naturalHeight]") for image in (near, whole)
        ]
        assert sizes[1] == [1024, 576] and max(sizes[0]) == 1024
        boxes = [image.bounding_box() for image in (near, whole)]
        assert boxes[0] and boxes[1]
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"] and boxes[0]["width"] > boxes[1]["width"]
        press(page, key)
    rows = corrections.read_judgements(said).to_pylist()
    assert [row["label"] for row in rows] == ["with_mask", "no_face", None]
    assert [corrections.identify(row) for row in rows] == [corrections.identify(row) for row in queue[:3]]
    expect(page.locator(".done")).to_contain_text(f"2 of {len(queue)} judged")
    page.keyboard.press("u")
    page.wait_for_selector(f"{SEEN}[data-position='2']")


def test_faces_of_one_picture_are_judged_and_disputed_apart(scenes: Path, tmp_path: Path) -> None:
    with open_review(str(scenes), str(tmp_path / "said"), NO_OPTIONS) as review:
        uri = next(row["uri"] for row in review.queue.rows if len(row["faces"]) > 2)
        first, second = [k for k, row in enumerate(review.queue.rows) if row["uri"] == uri][:2]
        for by, position, label in (
            ("ann", first, "with_mask"),
            ("bob", first, "without_mask"),
            ("ann", second, "no_face"),
        ):
            review.queue.judgements.add(position, label, by)
        states = [review.queue.judgements.get_state(position) for position in (first, second)]
        assert states == ["disputed", "judged"]
        html = render_corrections(review)
        assert f"{uri}, face {review.queue.rows[first]['region']}" in html
        assert "1 face; the 1 disputed ones below are left out" in html
        assert "Nobody has judged" not in html


def test_without_its_picture_a_face_cannot_be_judged(lobby: Run, scenes: Path, tmp_path: Path) -> None:
    archive = json.loads((scenes / "run.json").read_bytes())["plan"]["archives"][0]
    away = Path(f"{archive}-away")
    Path(archive).rename(away)
    try:
        with open_review(str(scenes), str(tmp_path / "said"), NO_OPTIONS) as review:
            html = respond(review, {"tab": "1", "name": "ann", "what": "show"}, None)
    finally:
        away.rename(archive)
    assert "<img" not in html and "Skip the face" in html


def test_one_picture_shows_what_a_run_says_of_each_face(page: Page, server: Server, lobby: Run) -> None:
    rows = read_scores(lobby.run).to_pylist()
    picture = next(row for row in rows if row["region"] == 0 and row["num_faces"] > 2)
    faces = [row for row in rows if row["id"] == picture["id"] and row["region"]]
    page.goto(server.url)
    open_tab(page, "One picture")
    send(page, "scene.jpg", Path(local_path(picture["uri"]).decode()).read_bytes())
    items = page.locator("#answer .faces li")
    expect(items).to_have_count(len(faces))
    said = items.evaluate_all("items => items.map(item => [item.dataset.label, Number(item.dataset.share)])")
    assert [label or None for label, _ in said] == [face["label"] for face in faces]
    assert [share for _, share in said] == pytest.approx(
        [face["confidence"] or 0 for face in faces], abs=0.02
    )
    expect(page.locator("#answer h2")).to_contain_text(f"{len(faces)} faces")
    shown = page.locator("#picture img")
    assert shown.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [640, 360]
    expect(page.locator("#model")).to_contain_text("centerface, sees the picture with 960 pixels at most")
    assert server.uploads == []


def test_examples_of_whole_scenes_have_as_many_faces_as_people_or_fewer() -> None:
    detector = open_detector("yunet_n")
    config = ScoreConfig(view="scene", detect_px=640, dtype="float32")
    scorer = PictureScorer(Predictor(open_checkpoint(), config, detector=detector))
    counts = {}
    for name, data in scorer.examples.items():
        picture, html = scorer.score(data)
        assert picture and picture["url"].startswith("data:image/jpeg")
        counts[name] = html.count("<li data-label")
    assert counts["nobody"] == 0 < counts["two people"] <= 2 < counts["a crowd"] <= 9


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ("scene", 960, "centerface")),
        ({"detector": "yunet_n", "detect_px": 640}, ("scene", 640, "yunet_n")),
        ({"view": "face"}, ("face", None, None)),
    ],
)
def test_the_tab_scores_as_the_run_did_unless_flags_say_otherwise(
    lobby: Run, values: dict[str, object], expected: tuple[object, ...]
) -> None:
    predictor = _open_predictor(values, open_committed(lobby.run))
    name = predictor.detector and predictor.detector.card.architecture
    assert (predictor.config.view, predictor.config.detect_px, name) == expected


def test_a_detector_without_scenes_is_refused(committed: Run) -> None:
    with pytest.raises(UsageError, match="--detector yunet_n goes with --view scene"):
        _open_predictor({"detector": "yunet_n"}, open_committed(committed.run))
    assert _open_predictor({"view": "scene"}, open_committed(committed.run)).detector
