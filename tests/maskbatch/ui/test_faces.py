"""The page over a run of whole scenes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from maskbatch.report.make import make_report
from maskbatch.review import corrections
from maskbatch.review.queue import read_queue
from maskbatch.stores.options import NO_OPTIONS
from maskbatch.ui.review import open_review, render_corrections, respond
from tests.maskbatch.samples import Run
from tests.maskbatch.ui.conftest import Serve, Server
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
