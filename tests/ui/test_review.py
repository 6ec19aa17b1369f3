import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from playwright.sync_api import Page, expect
from samples import stage_run, write_files

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.review import corrections
from maskbatch.review import queue as queue_module
from maskbatch.stores.options import NO_OPTIONS
from maskbatch.ui.judgements import Judgements
from maskbatch.ui.review import Reviewing, _message, respond
from maskbatch.ui.session import Queue
from tests.ui.conftest import Serve, Server, make_run

SEEN = ".judging[data-seen]"
PASSWORD = "open sesame"
EAGER = """() => {
  const press = key => document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
  new MutationObserver(() => press('2')).observe(
    document.querySelector('.judging'), {attributeFilter: ['data-position']});
  [...'1213'].forEach(press);
}"""
"""Some keys at once, and one more in the moment that the next image comes."""
Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def run(reviewed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of its own to judge, whose archive is there."""
    return Path(shutil.copytree(reviewed, tmp_path_factory.mktemp("judged") / "run"))


@pytest.fixture(scope="module")
def server(serve: Serve, run: Path) -> Iterator[Server]:
    with serve("--run", run) as started:
        yield started


@pytest.fixture
def visit(page: Page, server: Server) -> Visit:
    """Open the tab Review, as somebody; in another browser tab from the second time on."""
    pages = [page]

    def start(name: str | None = "anna") -> Page:
        opened = pages.pop() if pages else page.context.new_page()
        opened.goto(server.url)
        opened.get_by_role("tab", name="Review", exact=True).click()
        opened.wait_for_selector(SEEN)
        if name:
            opened.fill("[name=name]", name)
            opened.keyboard.press("Enter")
            opened.wait_for_selector(f"[name=name][value={name}]")
            opened.wait_for_selector(SEEN)
        return opened

    return start


def shown(page: Page) -> int:
    """The position in the queue of the image on the screen."""
    return int(page.wait_for_selector(SEEN).get_attribute("data-position") or -1)


def press(page: Page, key: str) -> int:
    """Press a key, wait for the next image; the position of the one before."""
    before = shown(page)
    page.keyboard.press(key)
    page.wait_for_selector(f"{SEEN}:not([data-position='{before}'])")
    return before


def choose(page: Page, **filters: str) -> None:
    for name, value in filters.items():
        page.wait_for_selector(SEEN)
        page.select_option(f"[name={name}]", value)
        page.wait_for_selector(f"[name={name}] option[value='{value}'][selected]", state="attached")
    page.wait_for_selector(SEEN)


def said(run: Path, by: str) -> list[tuple[int, str | None]]:
    """What somebody said, in order: position of the image, label."""
    queue = queue_module.read_queue(run / "report")["uri"].to_pylist()
    rows = corrections.read_judgements(run / "corrections").to_pylist()
    return [(queue.index(row["uri"]), row["label"]) for row in rows if row["by"] == by]


def test_the_picture_is_that_of_its_row_and_only_an_uncertain_one_shows_what_was_suggested(
    visit: Visit, run: Path
) -> None:
    page = visit("looker")
    queue = queue_module.read_queue(run / "report").to_pylist()
    seen = set()
    while len(seen) < 2:
        row = queue[shown(page)]
        seen.add(row["stratum"])
        expect(page.locator("dd.uri")).to_have_text(row["uri"])
        expect(page.locator("dl")).to_contain_text(f"{row['site']}/{row['camera']}")
        expect(page.locator("dl")).to_contain_text(f"{row['captured_local']:%H:%M:%S}")
        size = page.evaluate(
            "() => { const i = document.querySelector('figure img'); return [i.naturalWidth, i.naturalHeight] }"
        )
        assert size == [1024, 768]
        bars = page.locator(".bars li")
        expect(bars).to_have_count(4 if row["stratum"] == queue_module.UNCERTAIN else 0)
        if row["stratum"] == queue_module.UNCERTAIN:
            expect(page.locator(".bars .top")).to_contain_text(row["label"].replace("_", " "))
        press(page, "1")


def test_keys_judge_skip_and_take_back(visit: Visit, run: Path) -> None:
    page = visit("anna")
    labels = ("with_mask", "without_mask", "incorrect_mask", "no_face")
    expected: list[tuple[int, str | None]] = [
        (press(page, str(k + 1)), name) for k, name in enumerate(labels)
    ]
    expected.append((press(page, "s"), None))
    assert said(run, "anna") == expected
    assert press(page, "Backspace") > shown(page) == expected[4][0]
    press(page, "u")
    assert shown(page) == expected[3][0]
    assert said(run, "anna") == [*expected, (expected[3][0], None)]
    expect(page.locator(".done p")).to_contain_text(" of 108 judged")
    page.get_by_role("button", name="incorrect mask").click()
    page.wait_for_selector(f".judging:not([data-position='{expected[3][0]}'])")
    assert said(run, "anna")[-1] == (expected[3][0], "incorrect_mask")


def test_a_name_is_required_and_what_is_typed_there_judges_nothing(visit: Visit, run: Path) -> None:
    page = visit(None)
    before, num = shown(page), len(list((run / "corrections").glob("*")))
    page.keyboard.press("1")
    expect(page.locator(".notice")).to_contain_text("Your name first")
    expect(page.locator("[name=name]")).to_be_focused()
    page.keyboard.type("s1 u2")
    page.keyboard.press("Enter")
    page.wait_for_selector("[name=name][value='s1 u2']")
    assert shown(page) == before and len(list((run / "corrections").glob("*"))) == num
    assert said(run, "s1 u2") == []
    press(page, "2")
    assert said(run, "s1 u2") == [(before, "without_mask")]
    again = page.context.new_page()
    again.goto(page.url)
    again.get_by_role("tab", name="Review", exact=True).click()
    again.wait_for_selector("[name=name][value='s1 u2']")


def test_a_key_pressed_twice_judges_only_the_image_on_the_screen(visit: Visit, run: Path) -> None:
    page = visit("eager")
    expected = []
    for _ in range(3):
        before = shown(page)
        page.evaluate(EAGER)
        page.wait_for_selector(f"{SEEN}:not([data-position='{before}'])")
        expected.append((before, "with_mask"))
    assert said(run, "eager") == expected
    press(page, "4")
    page.keyboard.down("4")  # held down, it comes again and again
    for _ in range(5):
        page.wait_for_timeout(100)
        page.keyboard.down("4")
    page.keyboard.up("4")
    assert len(said(run, "eager")) == 5


def test_a_page_loaded_again_in_the_middle_goes_on_where_it_stood(visit: Visit, run: Path) -> None:
    page = visit("reloader")
    choose(page, camera="north/gate-1")
    first = press(page, "1")
    before = shown(page)
    page.reload()
    assert shown(page) == before
    assert page.input_value("[name=camera]") == "north/gate-1"
    assert page.input_value("[name=name]") == "reloader"
    press(page, "u")
    assert shown(page) == first
    assert said(run, "reloader") == [(first, "with_mask"), (first, None)]


def test_a_key_that_comes_too_early_is_not_lost_without_a_word(visit: Visit, run: Path) -> None:
    page = visit("hasty")
    press(page, "1")
    page.evaluate("document.querySelector('.judging').removeAttribute('data-seen')")
    page.keyboard.press("1")
    expect(page.locator(".notice")).to_contain_text("too quick")
    assert len(said(run, "hasty")) == 1


def test_an_open_page_says_every_20_s_that_it_is_there_until_nothing_was_done_for_long(
    visit: Visit, page: Page
) -> None:
    page.clock.install()
    visit("present")
    for _ in range(2):
        with page.expect_response("**/queue/join*"):
            page.clock.run_for(20_000)
    page.clock.run_for(20 * 20_000)
    page.wait_for_timeout(500)
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "queue/join" in request.url else None)
    page.clock.run_for(5 * 20_000)
    page.wait_for_timeout(500)
    assert asked == []


def test_two_tabs_never_show_the_same_image(visit: Visit, run: Path) -> None:
    pages = [visit("left"), visit("right")]
    for k in range(4):
        assert shown(pages[0]) != shown(pages[1])
        press(pages[k % 2], "1")
    assert not {place for place, _ in said(run, "left")} & {place for place, _ in said(run, "right")}


def test_filters_by_camera_and_day_escape_names_and_show_when_there_is_no_more(visit: Visit) -> None:
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
    while "Judged by others" in page.locator(".why").inner_text():
        press(page, "s")
    expect(page.locator(".why")).to_contain_text("Judged so far: ")


def test_disagreements_are_shown_and_listed_with_who_said_what(visit: Visit, run: Path) -> None:
    page = visit("bob")
    place = press(page, "1")
    page.fill("[name=name]", "<i>eve")
    page.keyboard.press("Enter")
    page.wait_for_selector("[name=name][value='<i>eve']")
    choose(page, show="judged")
    while shown(page) != place:
        press(page, "s")
    expect(page.locator(".why")).to_contain_text("Judged by others")
    expect(page.locator(".why")).not_to_contain_text("bob")
    press(page, "4")
    assert said(run, "<i>eve") == [(place, "no_face")]
    expect(page.locator(".done p")).to_contain_text("1 disputed")
    page.get_by_role("tab", name="Corrections").click()
    uri = queue_module.read_queue(run / "report")["uri"][place].as_py()
    row = page.locator(".said tr", has_text=uri)
    expect(row).to_contain_text("with mask by bob")
    expect(row).to_contain_text("no face by <i>eve")
    num = len(list((run / "corrections").glob("*")))
    page.keyboard.press("1")  # which judges nothing that is not on the screen
    page.get_by_role("tab", name="Review", exact=True).click()
    press(page, "s")
    assert len(list((run / "corrections").glob("*"))) == num


def test_the_report_is_shown_and_made_anew_in_the_run(page: Page, server: Server, run: Path) -> None:
    page.goto(server.url)
    frame = page.frame_locator("#report iframe")
    expect(frame.locator("h1")).to_have_text("Mask compliance report")
    frame.get_by_role("link", name="Method and limits").click()
    expect(frame.get_by_role("heading", name="Method and limits")).to_be_in_viewport()
    before = (run / "report/report.html").stat().st_mtime_ns
    page.get_by_role("button", name="Make it anew").click()
    expect(page.get_by_text(f"Made anew in {run}/report")).to_be_visible()
    assert (run / "report/report.html").stat().st_mtime_ns > before
    words = corrections.find_latest_judgements(corrections.read_judgements(run / "corrections"))
    said = json.loads((run / "report/report.json").read_text())["judged"]
    assert said["num_judged"] + said["num_waiting"] == words.dropna(subset="label").groupby("uri").ngroups > 0


def test_the_review_needs_no_scrolling_and_fits_a_phone(visit: Visit) -> None:
    page = visit("scroller")
    for name in (None, "Skip"):
        for locator in (
            page.locator("figure img"),
            page.get_by_role("button", name=name or "no face"),
            page.locator("progress"),
        ):
            expect(locator).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollHeight") <= 800
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    expect(page.locator("figure img")).to_be_in_viewport(ratio=1)
    expect(page.get_by_role("button", name="no face")).to_be_in_viewport(ratio=1)
    for name in ("Report", "Review", "Corrections", "One picture"):
        expect(page.get_by_role("tab", name=name, exact=True)).to_be_in_viewport(ratio=1)


@pytest.fixture(scope="module")
def bare_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a report whose archive has gone."""
    made = make_run(tmp_path_factory.mktemp("bare"))
    shutil.rmtree(made.with_name("archive"))
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_may_not_be_changed_and_whose_archive_has_gone_is_shown_by_its_rows(
    serve: Serve, page: Page, bare_run: Path, tmp_path: Path
) -> None:
    before = files(bare_run)
    arguments = ("--run", bare_run, "--corrections", tmp_path / "said")
    with serve(*arguments, MASKBATCH_UI_PASSWORD=PASSWORD) as server:
        page.goto(server.url)
        page.get_by_label("username").fill("carol")
        page.get_by_label("password").fill(PASSWORD)
        page.get_by_role("button", name="Login").click()
        expect(page.frame_locator("#report iframe").locator("h1")).to_have_text("Mask compliance report")
        page.get_by_role("tab", name="Review", exact=True).click()
        place = shown(page)
        expect(page.locator(".by")).to_have_text("Judged by carol")
        expect(page.locator(".gone")).to_contain_text("unreachable")
        expect(page.locator(".gone")).to_contain_text("the file is not there any more")
        expect(page.locator("dd.uri")).to_contain_text("file://")
        expect(page.get_by_role("button", name="no face")).to_be_disabled()
        page.keyboard.press("1")
        assert press(page, "s") == place
        assert "cannot be shown (the file is not there any more)" in server.log.read_text()
        (row,) = corrections.read_judgements(tmp_path / "said").to_pylist()
        assert (row["by"], row["label"]) == ("carol", None)
        page.get_by_role("tab", name="Report", exact=True).click()
        page.get_by_role("button", name="Make it anew").click()
        expect(page.get_by_text("Made anew for this session only")).to_be_visible()
    assert files(bare_run) == before
    assert not list(server.temp.glob("maskbatch-*"))


def cards(run: Reviewing, folder: Path, threshold: float = 0.5, **said: Any) -> list[str]:
    """What the first two tabs show, where the rows of the queue say this."""
    rows = [{**row, **said} for row in run.queue.rows]
    queue = Queue(rows, Judgements(rows, folder), run.queue.pictures)
    checkpoint = {**run.one.settings["checkpoint"], "card": {**run.one.card, "review_threshold": threshold}}
    one = replace(run.one, settings={**run.one.settings, "checkpoint": checkpoint})
    tabs = [{"tab": tab, "name": "anna", "what": "show"} for tab in ("1", "2")]
    return [respond(replace(run, one=one, queue=queue), tab, None) for tab in tabs]


def test_nothing_of_a_random_row_depends_on_what_the_classifier_said(reviewed: Path, tmp_path: Path) -> None:
    with Reviewing.open(str(reviewed), str(tmp_path), NO_OPTIONS) as opened:
        assert [row["stratum"] for row in opened.queue.rows[:2]] == [
            queue_module.RANDOM,
            queue_module.UNCERTAIN,
        ]
        random, uncertain = cards(
            opened, tmp_path, label="with_mask", prob_with_mask=0.9, confidence=0.9, condition="frozen"
        )
        other_random, other_uncertain = cards(
            opened, tmp_path, label="no_face", prob_with_mask=0.3, confidence=0.7, condition=None
        )
        assert random == other_random and uncertain != other_uncertain
        assert "<dt>View</dt><dd>frozen</dd>" in uncertain


def test_only_what_needs_review_is_called_unsure(reviewed: Path, tmp_path: Path) -> None:
    with Reviewing.open(str(reviewed), str(tmp_path), NO_OPTIONS) as opened:
        _, unsure = cards(opened, tmp_path, threshold=0.9, confidence=0.89)
        _, sure = cards(opened, tmp_path, threshold=0.9, confidence=0.9)
    assert "The classifier is unsure." in unsure and "The classifier is unsure." not in sure
    assert "Among the least certain of this run." in sure


def test_it_is_said_what_makes_a_rate_until_there_is_one(reviewed: Path, tmp_path: Path) -> None:
    with Reviewing.open(str(reviewed), str(tmp_path), NO_OPTIONS) as opened:
        needed = [one["num_needed"] for one in opened.queue.progress().targets]

        def line() -> str:
            tab = {"tab": "1", "name": "anna", "what": "show"}
            return " ".join(respond(opened, tab, None).split("<p>")[1].split("</p>")[0].split())

        assert line() == (
            f"<b>0</b> of {len(opened.queue.rows)} judged; "
            f"rate from the first {needed[0]} random (0 so far) and {needed[1]} uncertain (0 so far)"
        )
        for position in range(len(opened.queue.rows)):
            opened.queue.judgements.add(position, None if position % 20 == 1 else "with_mask", "anna")
        assert "judged; enough for a rate; " in line()


def test_a_login_is_shortened_as_a_name_is_and_what_no_page_sends_is_refused(
    reviewed: Path, tmp_path: Path
) -> None:
    with Reviewing.open(str(reviewed), str(tmp_path), NO_OPTIONS) as opened:
        for name, login in (("  anna \n b" + "c" * 99, None), ("bob", "  anna \n b" + "c" * 99)):
            tab = {"tab": "1", "name": name, "what": "show"}
            position = opened.queue.session("1").position or 0
            for what in ("show", "judge"):
                respond(opened, {**tab, "what": what, "label": "no_face", "position": position}, login)
            (by,) = opened.queue.judgements.said(position)
            assert by == "anna b" + "c" * 54
        for message in ({"tab": "1"}, {"tab": "1", "what": "judge"}, {"tab": "1", "what": "narrow"}):
            assert "judging" in respond(opened, message, None)
    for data in (None, {}, {"message": 1}, {"message": {}}, {"message": {"tab": "1" * 65}}):
        with pytest.raises(gr.Error, match="load it again"):
            _message(gr.EventData(None, data))


def test_where_only_others_have_what_was_asked_for_the_page_does_not_say_that_all_is_done(
    reviewed: Path, tmp_path: Path
) -> None:
    with Reviewing.open(str(reviewed), str(tmp_path), NO_OPTIONS) as opened:
        for position in range(1, len(opened.queue.rows)):
            opened.queue.judgements.add(position, "with_mask", "anna")
        tabs = [{"tab": tab, "name": "anna", "what": "show"} for tab in ("1", "2")]
        first, second = (respond(opened, tab, None) for tab in tabs)
        assert "1 image is in other hands" in second and "All that was" not in second
        respond(opened, {**tabs[0], "what": "judge", "label": "no_face", "position": 0}, None)
        assert "All that was asked for is judged" in respond(opened, tabs[1], None)
        assert 'alt="The image to judge"' in first


def refused(run: Path, to: Path | None = None) -> str:
    """The sentence that says why `run` cannot be reviewed."""
    with (
        pytest.raises(UsageError) as error,
        Reviewing.open(str(run), str(to) if to else None, NO_OPTIONS),
    ):
        pass
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run_that_is_not_there_or_not_finished_is_refused(reviewed: Path, tmp_path: Path) -> None:
    assert "no run is there" in refused(tmp_path)
    shutil.copytree(reviewed, tmp_path / "run")
    (tmp_path / "run/_SUCCESS").unlink()
    assert "is not finished" in refused(tmp_path / "run")


def test_a_run_without_a_scored_image_is_refused(reviewed: Path, tmp_path: Path) -> None:
    write_files(tmp_path / "archive", {"one.jpg": b"no image", "two.jpg": b""})
    checkpoint = open_checkpoint(str(reviewed.with_name("tiny.safetensors")))
    stage_run(tmp_path / "run", tmp_path / "archive", checkpoint, layout=None).commit()
    assert "none can be judged" in refused(tmp_path / "run", tmp_path / "said")


def test_where_nothing_can_be_written_it_is_refused_with_the_flag_that_helps(
    reviewed: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(reviewed, tmp_path / "run"))
    (run / "corrections").write_text("in the way")
    message = refused(run)
    assert f"{run}/corrections" in message and "--corrections DIR" in message
    with Reviewing.open(str(run), str(tmp_path / "said"), NO_OPTIONS) as opened:
        assert opened.queue.judgements.folder == tmp_path / "said"


def test_corrections_that_are_a_file_are_refused(reviewed: Path, tmp_path: Path) -> None:
    (tmp_path / "said").touch()
    assert f"{tmp_path}/said is a file, not a folder" in refused(reviewed, tmp_path / "said")


def test_a_damaged_correction_is_named_at_the_start(reviewed: Path, tmp_path: Path) -> None:
    (tmp_path / "zero.parquet").write_bytes(b"")
    assert "zero.parquet is not a correction" in refused(reviewed, tmp_path)


def test_corrections_may_lie_in_a_store(reviewed: Path) -> None:
    for num_said in (0, 1):
        with Reviewing.open(str(reviewed), f"memory://{reviewed.parent.name}/said", NO_OPTIONS) as opened:
            assert opened.queue.progress().judged == num_said
            opened.queue.judgements.add(num_said, "no_face", "anna")


def test_of_a_run_that_is_superseded_it_is_said(
    reviewed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (Path(shutil.copytree(reviewed, tmp_path / name)) for name in ("run", "run.v2"))
    settings = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps({**settings, "replaces": str(first)}))
    with Reviewing.open(str(first), None, NO_OPTIONS):
        assert f"{first} is superseded by {second}" in capsys.readouterr().err
    with Reviewing.open(str(second), None, NO_OPTIONS):
        assert "superseded" not in capsys.readouterr().err


def test_what_was_said_of_a_version_before_counts_in_the_next(reviewed: Path, tmp_path: Path) -> None:
    first, second = (Path(shutil.copytree(reviewed, tmp_path / name)) for name in ("run", "run.v2"))
    settings = json.loads((second / "run.json").read_text())
    (second / "run.json").write_text(json.dumps({**settings, "replaces": str(first)}))
    with Reviewing.open(str(first), None, NO_OPTIONS) as opened:
        opened.queue.judgements.add(3, "no_face", "anna")
    with Reviewing.open(str(second), None, NO_OPTIONS) as opened:
        assert opened.queue.judgements.said(3) == {"anna": "no_face"}
        opened.queue.judgements.add(3, "with_mask", "anna")
    assert [len(corrections.read_judgements(run / "corrections")) for run in (first, second)] == [1, 1]
