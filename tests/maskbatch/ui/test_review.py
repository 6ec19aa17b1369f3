import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Page, expect

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.review import corrections
from maskbatch.review import queue as queue_module
from maskbatch.stores.options import NO_OPTIONS
from maskbatch.ui.judgements import Judgements
from maskbatch.ui.review import Review, _check_message, open_review, respond
from maskbatch.ui.session import Queue
from tests.maskbatch.samples import stage_run, write_files
from tests.maskbatch.ui.conftest import Serve, Server, log_in, make_run

SEEN = ".judging[data-seen]"
PASSWORD = "open sesame"
PRESS_EARLY = """() => {
  const press = key => document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
  new MutationObserver(() => press('2')).observe(
    document.querySelector('.judging'), {attributeFilter: ['data-position']});
  [...'1213'].forEach(press);
}"""
"""Some keys at once, and another at the moment when the next image appears."""
Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def run(reviewed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for this module to judge, with its archive."""
    return Path(shutil.copytree(reviewed, tmp_path_factory.mktemp("judged") / "run"))


@pytest.fixture(scope="module")
def server(serve: Serve, run: Path) -> Iterator[Server]:
    with serve("--run", run) as server:
        yield server


@pytest.fixture
def visit(page: Page, server: Server) -> Visit:
    """Open the tab Review with a name; from the second call on in another browser tab."""
    pages = [page]

    def start(name: str | None = "anna") -> Page:
        tab = pages.pop() if pages else page.context.new_page()
        tab.goto(server.url)
        open_tab(tab, "Review")
        tab.wait_for_selector(SEEN)
        if name:
            tab.fill("[name=name]", name)
            tab.keyboard.press("Enter")
            tab.wait_for_selector(f"[name=name][value={name}]")
            tab.wait_for_selector(SEEN)
        return tab

    return start


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def find_position(page: Page) -> int:
    """The position in the queue of the image on the screen."""
    return int(page.wait_for_selector(SEEN).get_attribute("data-position") or -1)


def press(page: Page, key: str) -> int:
    """Press a key and wait for the next image; returns the position of the image before."""
    before = find_position(page)
    page.keyboard.press(key)
    page.wait_for_selector(f"{SEEN}:not([data-position='{before}'])")
    return before


def choose(page: Page, **filters: str) -> None:
    for name, value in filters.items():
        page.wait_for_selector(SEEN)
        page.select_option(f"[name={name}]", value)
        page.wait_for_selector(f"[name={name}] option[value='{value}'][selected]", state="attached")
    page.wait_for_selector(SEEN)


def read_judgements(run: Path, by: str) -> list[tuple[int, str | None]]:
    """Position and label of all that somebody judged, in order."""
    queue = queue_module.read_queue(run / "report")["uri"].to_pylist()
    rows = corrections.read_judgements(run / "corrections").to_pylist()
    return [(queue.index(row["uri"]), row["label"]) for row in rows if row["by"] == by]


def count_corrections(run: Path) -> int:
    return len(list((run / "corrections").glob("*")))


def test_an_image_has_its_own_picture_and_a_random_one_no_label(visit: Visit, run: Path) -> None:
    page = visit("looker")
    queue = queue_module.read_queue(run / "report").to_pylist()
    strata = set()
    while len(strata) < 2:
        row = queue[find_position(page)]
        strata.add(row["stratum"])
        expect(page.locator("dd.uri")).to_have_text(row["uri"])
        expect(page.locator("dl")).to_contain_text(f"{row['site']}/{row['camera']}")
        expect(page.locator("dl")).to_contain_text(f"{row['captured_local']:%H:%M:%S}")
        image = page.locator("figure img")
        assert image.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [1024, 768]
        uncertain = row["stratum"] == queue_module.UNCERTAIN
        expect(page.locator(".bars li")).to_have_count(4 if uncertain else 0)
        if uncertain:
            expect(page.locator(".bars .top")).to_contain_text(row["label"].replace("_", " "))
        press(page, "1")


def test_keys_judge_skip_and_undo(visit: Visit, run: Path) -> None:
    page = visit("anna")
    labels = ("with_mask", "without_mask", "incorrect_mask", "no_face", None)
    expected = [(press(page, key), label) for key, label in zip("1234s", labels, strict=True)]
    assert read_judgements(run, "anna") == expected
    assert press(page, "Backspace") > find_position(page) == expected[4][0]
    press(page, "u")
    assert find_position(page) == expected[3][0]
    assert read_judgements(run, "anna") == [*expected, (expected[3][0], None)]
    expect(page.locator(".done p")).to_contain_text(" of 108 judged")
    page.get_by_role("button", name="incorrect mask").click()
    page.wait_for_selector(f".judging:not([data-position='{expected[3][0]}'])")
    assert read_judgements(run, "anna")[-1] == (expected[3][0], "incorrect_mask")


def test_a_name_is_required_and_typing_it_judges_nothing(visit: Visit, run: Path) -> None:
    page = visit(None)
    before, num = find_position(page), count_corrections(run)
    page.keyboard.press("1")
    expect(page.locator(".notice")).to_contain_text("Enter your name")
    expect(page.locator("[name=name]")).to_be_focused()
    page.keyboard.type("s1 u2")
    page.keyboard.press("Enter")
    page.wait_for_selector("[name=name][value='s1 u2']")
    assert find_position(page) == before and count_corrections(run) == num
    press(page, "2")
    assert read_judgements(run, "s1 u2") == [(before, "without_mask")]
    again = page.context.new_page()
    again.goto(page.url)
    open_tab(again, "Review")
    again.wait_for_selector("[name=name][value='s1 u2']")


def test_repeated_keys_judge_only_the_image_on_the_screen(visit: Visit, run: Path) -> None:
    page = visit("eager")
    expected = []
    for _ in range(3):
        before = find_position(page)
        page.evaluate(PRESS_EARLY)
        page.wait_for_selector(f"{SEEN}:not([data-position='{before}'])")
        expected.append((before, "with_mask"))
    assert read_judgements(run, "eager") == expected
    press(page, "4")
    for _ in range(6):  # a key that is held down
        page.keyboard.down("4")
        page.wait_for_timeout(100)
    page.keyboard.up("4")
    assert len(read_judgements(run, "eager")) == 5


def test_a_reloaded_page_continues_where_it_was(visit: Visit, run: Path) -> None:
    page = visit("reloader")
    choose(page, camera="north/gate-1")
    first = press(page, "1")
    before = find_position(page)
    page.reload()
    assert find_position(page) == before
    assert page.input_value("[name=camera]") == "north/gate-1"
    assert page.input_value("[name=name]") == "reloader"
    press(page, "u")
    assert find_position(page) == first
    assert read_judgements(run, "reloader") == [(first, "with_mask"), (first, None)]


def test_a_key_pressed_too_early_gives_a_notice(visit: Visit, run: Path) -> None:
    page = visit("hasty")
    press(page, "1")
    page.evaluate("document.querySelector('.judging').removeAttribute('data-seen')")
    page.keyboard.press("1")
    expect(page.locator(".notice")).to_contain_text("Too quick")
    assert len(read_judgements(run, "hasty")) == 1


def test_a_page_reports_every_20_s_until_it_is_idle(visit: Visit, page: Page) -> None:
    page.clock.install()
    visit("present")
    for _ in range(2):
        with page.expect_response("**/queue/join*"):
            page.clock.run_for(20_000)
    page.clock.run_for(20 * 20_000)
    page.wait_for_timeout(500)
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.clock.run_for(5 * 20_000)
    page.wait_for_timeout(500)
    assert not [url for url in urls if "queue/join" in url]


def test_two_tabs_never_show_the_same_image(visit: Visit, run: Path) -> None:
    pages = [visit("left"), visit("right")]
    for k in range(4):
        assert find_position(pages[0]) != find_position(pages[1])
        press(pages[k % 2], "1")
    left, right = (dict(read_judgements(run, by)) for by in ("left", "right"))
    assert not left.keys() & right.keys()


def test_filters_escape_names_and_say_when_no_image_is_left(visit: Visit) -> None:
    page = visit("sieve")
    assert page.locator("[name=camera] option").all_inner_texts()[0] == "all"
    choose(page, camera="south/<b>dock", day="2026-10-02")
    expect(page.locator("dd.uri")).to_contain_text("<b>dock/2026-10-02/")
    while page.locator("dd.uri").count():
        press(page, "1")
    expect(page.locator(".empty h2")).to_contain_text("judged or skipped")
    page.wait_for_selector(SEEN)
    page.keyboard.press("u")
    expect(page.locator("dd.uri")).to_contain_text("<b>dock/2026-10-02/")
    press(page, "1")
    choose(page, show="judged")
    while "Others have judged it" in page.locator(".why").inner_text():
        press(page, "s")
    expect(page.locator(".why")).to_contain_text("Labels so far: ")


def test_disagreements_are_listed_with_their_reviewers(visit: Visit, run: Path) -> None:
    page = visit("bob")
    position = press(page, "1")
    page.fill("[name=name]", "<i>eve")
    page.keyboard.press("Enter")
    page.wait_for_selector("[name=name][value='<i>eve']")
    choose(page, show="judged")
    while find_position(page) != position:
        press(page, "s")
    expect(page.locator(".why")).to_contain_text("Others have judged it")
    expect(page.locator(".why")).not_to_contain_text("bob")
    press(page, "4")
    assert read_judgements(run, "<i>eve") == [(position, "no_face")]
    expect(page.locator(".done p")).to_contain_text("1 disputed")
    open_tab(page, "Corrections")
    uri = queue_module.read_queue(run / "report")["uri"][position].as_py()
    row = page.locator(".corrections tr", has_text=uri)
    expect(row).to_contain_text("with mask by bob")
    expect(row).to_contain_text("no face by <i>eve")
    num = count_corrections(run)
    page.keyboard.press("1")  # judges nothing, as no image is on the screen
    open_tab(page, "Review")
    press(page, "s")
    assert count_corrections(run) == num


def test_the_report_is_shown_and_updated_in_the_run(page: Page, server: Server, run: Path) -> None:
    page.goto(server.url)
    frame = page.frame_locator("#report iframe")
    expect(frame.locator("h1")).to_have_text("Mask compliance report")
    frame.get_by_role("link", name="Method and limits").click()
    expect(frame.get_by_role("heading", name="Method and limits")).to_be_in_viewport()
    before = (run / "report/report.html").stat().st_mtime_ns
    page.get_by_role("button", name="Update the report").click()
    expect(page.get_by_text(f"Report updated in {run}/report")).to_be_visible()
    assert (run / "report/report.html").stat().st_mtime_ns > before
    last = corrections.find_latest_judgements(corrections.read_judgements(run / "corrections"))
    judged = json.loads((run / "report/report.json").read_text())["judged"]
    assert judged["num_judged"] + judged["num_waiting"] == last.dropna(subset="label")["uri"].nunique() > 0


def test_the_review_needs_no_scrolling_and_fits_a_phone(visit: Visit) -> None:
    page = visit("scroller")
    buttons = [page.get_by_role("button", name=name) for name in ("no face", "Skip")]
    for locator in (page.locator("figure img"), page.locator("progress"), *buttons):
        expect(locator).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollHeight") <= 800
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    tabs = ("Report", "Review", "Corrections", "One picture")
    tabs_shown = [page.get_by_role("tab", name=name, exact=True) for name in tabs]
    for locator in (page.locator("figure img"), buttons[0], *tabs_shown):
        expect(locator).to_be_in_viewport(ratio=1)


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_without_report_and_archive_can_be_viewed_unchanged(
    serve: Serve, page: Page, tmp_path: Path
) -> None:
    run = make_run(tmp_path)
    shutil.rmtree(tmp_path / "archive")
    before = read_files(run)
    arguments = ("--run", run, "--corrections", tmp_path / "corrections")
    with serve(*arguments, MASKBATCH_UI_PASSWORD=PASSWORD) as server:
        page.goto(server.url)
        log_in(page, "carol", PASSWORD)
        expect(page.frame_locator("#report iframe").locator("h1")).to_have_text("Mask compliance report")
        open_tab(page, "Review")
        position = find_position(page)
        expect(page.locator(".by")).to_have_text("Judging as carol")
        expect(page.locator(".gone")).to_contain_text("cannot be shown")
        expect(page.locator(".gone")).to_contain_text("the file is not there any more")
        expect(page.locator("dd.uri")).to_contain_text("file://")
        expect(page.get_by_role("button", name="no face")).to_be_disabled()
        page.keyboard.press("1")
        assert press(page, "s") == position
        assert "cannot be shown (the file is not there any more)" in server.log.read_text()
        (row,) = corrections.read_judgements(tmp_path / "corrections").to_pylist()
        assert (row["by"], row["label"]) == ("carol", None)
        open_tab(page, "Report")
        page.get_by_role("button", name="Update the report").click()
        expect(page.get_by_text("Report updated for this session only")).to_be_visible()
    assert read_files(run) == before
    assert not list(server.temp.glob("maskbatch-*"))


@pytest.fixture
def run_review(reviewed: Path, tmp_path: Path) -> Iterator[Review]:
    """The run, and a new folder for corrections."""
    with open_review(str(reviewed), str(tmp_path / "corrections"), NO_OPTIONS) as run_review:
        yield run_review


def send(run_review: Review, tab: str = "1", login: str | None = None, **message: Any) -> str:
    """What a browser tab shows after it sends a message."""
    return respond(run_review, {"tab": tab, "name": "anna", "what": "show", **message}, login)


def show_two(run_review: Review, threshold: float = 0.5, **values: Any) -> list[str]:
    """What two tabs show if all rows of the queue have these `values`."""
    rows = [{**row, **values} for row in run_review.queue.rows]
    queue = Queue(rows, Judgements(rows, run_review.queue.judgements.folder), run_review.queue.pictures)
    card = {**run_review.run.card, "review_threshold": threshold}
    checkpoint = replace(run_review.run.checkpoint, card=card)
    run = replace(run_review.run, settings=replace(run_review.run.settings, checkpoint=checkpoint))
    return [send(replace(run_review, run=run, queue=queue), tab) for tab in ("1", "2")]


def test_a_random_image_shows_nothing_of_the_classifier(run_review: Review) -> None:
    assert [row["stratum"] for row in run_review.queue.rows[:2]] == [
        queue_module.RANDOM,
        queue_module.UNCERTAIN,
    ]
    values = {"label": "with_mask", "prob_with_mask": 0.9, "confidence": 0.9, "condition": "frozen"}
    others = {"label": "no_face", "prob_with_mask": 0.3, "confidence": 0.7, "condition": None}
    random, uncertain = show_two(run_review, **values)
    other_random, other_uncertain = show_two(run_review, **others)
    assert random == other_random and uncertain != other_uncertain
    assert "<dt>View</dt><dd>frozen</dd>" in uncertain


@pytest.mark.parametrize(
    ("confidence", "words"),
    [(0.89, "The classifier is unsure."), (0.9, "Among the least certain images of this run.")],
)
def test_only_images_that_need_review_are_called_unsure(
    confidence: float, words: str, run_review: Review
) -> None:
    assert f"<b>{words}</b>" in show_two(run_review, threshold=0.9, confidence=confidence)[1]


def test_the_progress_says_what_a_rate_needs(run_review: Review) -> None:
    def read_line() -> str:
        return " ".join(send(run_review).split("<p>")[1].split("</p>")[0].split())

    random, uncertain = (target["num_needed"] for target in run_review.queue.count_progress().targets)
    assert read_line() == (
        f"<b>0</b> of {len(run_review.queue.rows)} judged; "
        f"a rate needs the first {random} random (0 so far) and {uncertain} uncertain (0 so far)"
    )
    for position in range(len(run_review.queue.rows)):
        run_review.queue.judgements.add(position, None if position % 20 == 1 else "with_mask", "anna")
    assert "judged; enough for a rate; " in read_line()


@pytest.mark.parametrize("by_login", [True, False])
def test_names_and_logins_are_shortened(by_login: bool, run_review: Review) -> None:
    long = "  anna \n b" + "c" * 99
    names: Any = {"name": "bob", "login": long} if by_login else {"name": long}
    send(run_review, **names)
    send(run_review, **names, what="judge", label="no_face", position=0)
    assert run_review.queue.judgements.get_labels(0) == {"anna b" + "c" * 54: "no_face"}


def test_messages_that_no_page_sends_are_refused(run_review: Review) -> None:
    for message in ({"tab": "1"}, {"tab": "1", "what": "judge"}, {"tab": "1", "what": "filter"}):
        assert "judging" in respond(run_review, message, None)
    for data in (None, {}, {"message": 1}, {"message": {}}, {"message": {"tab": "1" * 65}}):
        with pytest.raises(gr.Error, match="load it again"):
            _check_message(gr.EventData(None, data))


def test_images_in_other_tabs_are_not_called_done(run_review: Review) -> None:
    for position in range(1, len(run_review.queue.rows)):
        run_review.queue.judgements.add(position, "with_mask", "anna")
    first, second = send(run_review, "1"), send(run_review, "2")
    assert 'alt="The image to judge"' in first
    assert "1 image is open in other tabs" in second and "All these images" not in second
    send(run_review, "1", what="judge", label="no_face", position=0)
    assert "All these images are judged or skipped" in send(run_review, "2")


def refuse(run: Path, to: Path | None = None) -> str:
    """The sentence that says why `run` cannot be reviewed."""
    with (
        pytest.raises(UsageError) as error,
        open_review(str(run), str(to) if to else None, NO_OPTIONS),
    ):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_missing_or_unfinished_run_is_refused(reviewed: Path, tmp_path: Path) -> None:
    assert "no run is there" in refuse(tmp_path)
    shutil.copytree(reviewed, tmp_path / "run")
    (tmp_path / "run/_SUCCESS").unlink()
    assert "is not finished" in refuse(tmp_path / "run")


def test_a_run_without_a_scored_image_is_refused(reviewed: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "archive", {"one.jpg": b"no image", "two.jpg": b""})
    checkpoint = open_checkpoint(str(reviewed.with_name("tiny.safetensors")))
    stage_run(tmp_path / "run", tmp_path / "archive", checkpoint, layout=None).commit()
    assert "no scored image to judge" in refuse(tmp_path / "run", tmp_path / "corrections")


def test_a_folder_that_cannot_be_written_is_refused(reviewed: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(reviewed, tmp_path / "run"))
    (run / "corrections").write_text("in the way")
    message = refuse(run)
    assert f"{run}/corrections is a file, not a folder" in message and "--corrections DIR" in message
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file is a file, not a folder" in refuse(reviewed, tmp_path / "file")
    with open_review(str(run), str(tmp_path / "other"), NO_OPTIONS) as run_review:
        assert run_review.queue.judgements.folder == tmp_path / "other"


def test_a_damaged_correction_is_named_at_the_start(reviewed: Path, tmp_path: Path) -> None:
    (tmp_path / "zero.parquet").write_bytes(b"")
    assert "zero.parquet is not a correction" in refuse(reviewed, tmp_path)


def test_corrections_can_be_in_a_store(reviewed: Path) -> None:
    for num_judged in (0, 1):
        with open_review(str(reviewed), f"memory://{reviewed.parent.name}/said", NO_OPTIONS) as run_review:
            assert run_review.queue.count_progress().judged == num_judged
            run_review.queue.judgements.add(num_judged, "no_face", "anna")


@pytest.fixture
def versions(reviewed: Path, tmp_path: Path) -> list[Path]:
    """A run, and the run that replaces it."""
    first, second = (Path(shutil.copytree(reviewed, tmp_path / name)) for name in ("run", "run.v2"))
    settings = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps({**settings, "replaces": str(first)}))
    return [first, second]


def test_a_message_names_the_newer_version(versions: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for run, is_old in zip(versions, (True, False), strict=True):
        with open_review(str(run), None, NO_OPTIONS):
            assert (f"{run} is superseded by {versions[1]}" in capsys.readouterr().err) == is_old


def test_judgements_of_the_older_version_count_in_the_next(versions: list[Path]) -> None:
    for run, label in zip(versions, ("no_face", "with_mask"), strict=True):
        with open_review(str(run), None, NO_OPTIONS) as run_review:
            assert run_review.queue.judgements.get_labels(3) == (
                {} if run == versions[0] else {"anna": "no_face"}
            )
            run_review.queue.judgements.add(3, label, "anna")
    assert [len(corrections.read_judgements(run / "corrections")) for run in versions] == [1, 1]
