import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from maskbatch.review import corrections
from maskbatch.review import queue as queue_module
from maskbatch.review.pictures import OTHER
from maskbatch.runs.committed import open_committed
from maskbatch.runs.directory import RunDir
from maskbatch.stores.options import NO_OPTIONS
from maskbatch.ui import session
from maskbatch.ui.judgements import DISPUTED, JUDGED, SKIPPED, TO_JUDGE, Judgements
from maskbatch.ui.prefetch import Pictures
from maskbatch.ui.session import Filters, Progress, Queue, Session
from tests.maskbatch.samples import speckle

StartServer = Callable[[], Queue]


@pytest.fixture
def start_server(reviewed: Path, tmp_path: Path) -> StartServer:
    """Each call opens the queue of one run, as another server does, with the same corrections."""
    run = open_committed(RunDir.at(str(reviewed)))
    rows = queue_module.read_queue(run.run.report).to_pylist()

    def start() -> Queue:
        judgements = Judgements(rows, tmp_path / "corrections")
        judgements.read_new()
        return Queue(rows, judgements, Pictures(run, rows, NO_OPTIONS))

    return start


@pytest.fixture
def queue(start_server: StartServer) -> Queue:
    return start_server()


@pytest.fixture
def tab(queue: Queue) -> Session:
    return open_tab(queue)


def open_tab(queue: Queue, name: str = "tab") -> Session:
    tab = queue.find_session(name)
    tab.show_image()
    return tab


def find_judged(queue: Queue) -> list[int]:
    return [k for k in range(len(queue.rows)) if queue.judgements.get_state(k) in (JUDGED, DISPUTED)]


def answer(tab: Session, label: str | None, by: str = "anna") -> int:
    """Answer the image on the screen, and return its position."""
    position = tab.position
    assert position is not None
    tab.answer(position, label, by)
    return position


def test_each_judgement_in_order_is_one_object(queue: Queue, tab: Session, tmp_path: Path) -> None:
    assert [answer(tab, "no_face") for _ in range(3)] == [0, 1, 2] == find_judged(queue)
    rows = corrections.read_judgements(tmp_path / "corrections").to_pylist()
    for row, saved in zip(queue.rows, rows, strict=False):
        names = ("uri", "sha256", "stratum", "probability")
        assert [saved[name] for name in names] == [row[name] for name in names]
        assert [saved[name] for name in ("label", "was", "by")] == ["no_face", row["label"], "anna"]
        assert saved["region"] == 0


def test_answers_to_other_images_are_ignored(queue: Queue, tab: Session) -> None:
    for position in (0, 0, 7):
        tab.answer(position, "with_mask", "anna")
    tab.undo(0)
    assert find_judged(queue) == [0] and tab.position == 1 and not tab.notice


def test_after_a_restart_a_late_answer_shows_the_next_image(tab: Session, start_server: StartServer) -> None:
    answer(tab, "with_mask")
    again = start_server().find_session("tab")
    again.answer(5, "with_mask", "anna")
    assert again.position == 1


def test_skipped_images_come_again_only_with_their_filter(queue: Queue, tab: Session) -> None:
    assert [answer(tab, None), answer(tab, "with_mask"), answer(tab, None)] == [0, 1, 2]
    tab.set_filters(Filters(show=SKIPPED))
    assert [answer(tab, None), answer(tab, "with_mask"), tab.position] == [0, 2, None]
    assert queue.count_progress().judged == 2 and queue.judgements.get_state(0) == SKIPPED


def test_undo_works_back_through_all_answers(queue: Queue, tab: Session, tmp_path: Path) -> None:
    for label in ("with_mask", None, "no_face"):
        answer(tab, label)
    for position in (2, 1, 0):
        tab.undo(tab.position)
        assert tab.position == position
    tab.undo(0)
    assert tab.position == 0 and not find_judged(queue) and not tab.can_undo
    rows = corrections.read_judgements(tmp_path / "corrections").to_pylist()
    assert [row["label"] for row in rows] == ["with_mask", None, "no_face", None, None]
    answer(tab, "without_mask")
    assert queue.judgements.get_labels(0) == {"anna": "without_mask"}


def test_undoing_a_second_judgement_restores_the_first(queue: Queue, tab: Session) -> None:
    answer(tab, "with_mask")
    tab.set_filters(Filters(show=JUDGED))
    answer(tab, "no_face")
    assert queue.judgements.get_labels(0) == {"anna": "no_face"}
    tab.undo(tab.position)
    assert queue.judgements.get_labels(0) == {"anna": "with_mask"}


def test_a_judged_image_stays_judged_if_it_is_skipped(queue: Queue, tab: Session) -> None:
    answer(tab, "with_mask")
    tab.set_filters(Filters(show=JUDGED))
    answer(tab, None)
    assert tab.position is None and find_judged(queue) == [0]


def test_two_tabs_never_show_the_same_image(queue: Queue) -> None:
    tabs = [open_tab(queue, name) for name in ("one", "two", "three")]
    assert [tab.position for tab in tabs] == [0, 1, 2]
    tabs[1].set_filters(Filters())  # looks again, and may not take the first image
    for k in range(9):
        answer(tabs[k % 3], "with_mask")
        assert len({tab.position for tab in tabs}) == 3
    assert find_judged(queue) == list(range(9))


def test_a_reloaded_page_goes_on_where_it_stood(queue: Queue, tab: Session) -> None:
    tab.set_filters(Filters(camera="north/gate-2"))
    answer(tab, "with_mask")
    position = tab.position
    again = open_tab(queue)
    assert again.position == position and again.filters.camera == "north/gate-2" and again.can_undo


def test_only_an_open_page_holds_its_image_for_long(queue: Queue) -> None:
    killed, other = open_tab(queue, "killed"), open_tab(queue, "other")
    killed.seen_at -= session.HOLD_S - 10
    other.set_filters(Filters())
    assert other.position == 1
    queue.find_session("killed")  # as an open page does
    killed.seen_at -= session.HOLD_S - 10
    other.set_filters(Filters())
    assert other.position == 1
    killed.seen_at -= 10
    other.set_filters(Filters())
    assert other.position == 0


def test_an_image_that_another_tab_took_is_not_saved_twice(queue: Queue) -> None:
    slow = open_tab(queue, "slow")
    slow.seen_at -= session.HOLD_S
    quick = open_tab(queue, "quick")
    assert slow.position == quick.position == 0
    slow.answer(0, "no_face", "anna")
    assert "Nothing was saved" in slow.notice and slow.position == 1 and not find_judged(queue)
    answer(quick, "with_mask", "bob")
    assert queue.judgements.get_labels(0) == {"bob": "with_mask"}


def test_images_in_other_tabs_are_counted_as_held(queue: Queue) -> None:
    filters = Filters(camera="north/gate-2", day="2026-10-02")
    first, *rest = queue.find_images(filters)
    for position in rest:
        queue.judgements.add(position, "with_mask", "anna")
    tabs = [queue.find_session(name) for name in ("one", "two")]
    for tab in tabs:
        tab.set_filters(filters)
    assert [(tab.position, tab.num_held) for tab in tabs] == [(first, 0), (None, 1)]
    answer(tabs[0], "with_mask")
    tabs[1].show_image()
    assert [(tab.position, tab.num_held) for tab in tabs] == [(None, 0), (None, 0)]


def test_only_the_latest_tabs_are_remembered(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "NUM_TABS", 2)
    first, second = queue.find_session("one"), queue.find_session("two")
    assert queue.find_session("one") is first
    queue.find_session("three")
    assert queue.find_session("one") is first and queue.find_session("two") is not second


def test_undo_fails_while_another_tab_shows_the_image(queue: Queue) -> None:
    tab, other = open_tab(queue, "one"), open_tab(queue, "other")
    answer(tab, "with_mask")
    other.set_filters(Filters(show=JUDGED))
    tab.undo(tab.position)
    assert "Nothing was undone" in tab.notice and find_judged(queue) == [0]
    other.set_filters(Filters())
    tab.undo(tab.position)
    assert tab.position == 0 and not find_judged(queue)


def test_filters_select_by_camera_day_and_state(queue: Queue, tab: Session) -> None:
    assert queue.cameras == ["north/gate-1", "north/gate-2", "south/<b>dock"]
    assert queue.days == ["2026-10-01", "2026-10-02", "2026-10-03"]
    filters = Filters(camera="north/gate-2", day="2026-10-02")
    positions = list(queue.find_images(filters))
    assert positions and all("north/gate-2/2026-10-02" in queue.rows[k]["uri"] for k in positions)
    tab.set_filters(filters)
    assert [answer(tab, "with_mask") for _ in positions] == positions and tab.position is None
    assert list(queue.find_images(Filters(show=JUDGED))) == positions
    assert not list(queue.find_images(Filters(show=DISPUTED)))


def test_disputed_images_can_be_judged_again(queue: Queue, tab: Session) -> None:
    for by, label, state in (("anna", "with_mask", TO_JUDGE), ("bob", "no_face", JUDGED)):
        tab.set_filters(Filters(show=state))
        answer(tab, label, by)
        answer(tab, "with_mask", by)
    assert [queue.judgements.get_state(k) for k in (0, 1)] == [DISPUTED, JUDGED]
    num_random = len([row for row in queue.rows if row["stratum"] == queue_module.RANDOM])
    progress = queue.count_progress()
    assert progress == Progress(len(queue.rows), judged=2, skipped=0, disputed=1, targets=progress.targets)
    assert [(of["stratum"], of["num_queued"], of["num_judged"]) for of in progress.targets] == [
        (queue_module.RANDOM, num_random, 1),
        (queue_module.UNCERTAIN, len(queue.rows) - num_random, 1),
    ]
    tab.set_filters(Filters(show=DISPUTED))
    assert answer(tab, "with_mask", "bob") == 0
    assert queue.count_progress().disputed == 0


@pytest.fixture
def moved(reviewed: Path, tmp_path: Path) -> Iterator[Path]:
    """The place of the archive, which is elsewhere."""
    archive = reviewed.with_name("archive")
    archive.rename(tmp_path / "archive")
    yield archive
    if archive.exists():
        shutil.rmtree(archive)
    (tmp_path / "archive").rename(archive)


def test_an_image_that_cannot_be_shown_can_only_be_skipped(queue: Queue, moved: Path) -> None:
    tab = open_tab(queue)
    lost = answer(tab, "with_mask")
    assert tab.position == lost and "cannot be shown" in tab.notice
    assert tab.get_picture().error == "the file is not there any more"
    answer(tab, None)
    assert tab.position != lost and queue.judgements.get_state(lost) == SKIPPED


def test_a_failed_picture_is_read_again_and_checked(queue: Queue, moved: Path) -> None:
    tab = open_tab(queue)
    assert tab.get_picture().error
    path = Path(queue.rows[0]["uri"].removeprefix("file://"))
    path.parent.mkdir(parents=True)
    path.write_bytes(speckle(999))
    assert tab.get_picture().error == OTHER


def test_a_judgement_that_cannot_be_saved_says_why(queue: Queue, tab: Session, tmp_path: Path) -> None:
    folder = tmp_path / "corrections"
    folder.write_text("a file is in the way")
    answer(tab, "with_mask")
    assert tab.position == 0 and not find_judged(queue) and not tab.can_undo
    assert str(folder) in tab.notice and "--corrections DIR" in tab.notice
    folder.unlink()
    answer(tab, "with_mask")
    assert find_judged(queue) == [0] and not tab.notice


def test_servers_read_each_others_judgements_and_part(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = start_server(), start_server()
    monkeypatch.setattr(session.random, "randrange", lambda first, end: end - 1)
    tab, other = open_tab(here), open_tab(there)
    answer(tab, "with_mask", "anna")
    answer(other, "with_mask", "bob")  # the same image: neither server can know
    here.read_others()
    assert here.judgements.get_labels(0) == {"anna": "with_mask", "bob": "with_mask"}
    answer(tab, "with_mask", "anna")
    assert tab.position == 2 + session.MAX_OFFSET - 1
    here.read_others()
    there.read_others()
    answer(tab, "with_mask", "anna")
    assert tab.position == 2  # one of those that it left out
    assert find_judged(there) == [0, 1]


def test_only_the_last_judgement_of_a_reviewer_counts(queue: Queue, start_server: StartServer) -> None:
    for label in ("with_mask", "no_face"):
        queue.judgements.add(0, label, "anna")
    queue.read_others()
    assert queue.judgements.get_labels(0) == start_server().judgements.get_labels(0) == {"anna": "no_face"}
    assert len(queue.judgements.find_last()) == 1


class Clock:
    """Stands still, in place of `datetime`."""

    def __init__(self, time: datetime) -> None:
        self.time = time

    def now(self, zone: object) -> datetime:
        return self.time


def test_the_last_judgement_counts_though_the_clock_was_set_back(
    queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "corrections", tmp_path / "others"]
    clock = Clock(datetime.now(UTC) + timedelta(hours=1))
    monkeypatch.setattr(corrections, "datetime", clock)
    queue.judgements.add(0, "with_mask", "anna")
    queue.judgements.add(1, "with_mask", "anna")
    clock.time -= timedelta(hours=1)
    queue.judgements.add(0, "no_face", "anna")
    queue.judgements.add(0, None, "anna")
    Judgements(queue.rows, folders[1]).add(1, "no_face", "anna")  # which has not read the other judgement
    for order in (folders, folders[::-1]):
        read = Judgements(queue.rows, order[0], order[1:])
        read.read_new()
        assert (read.get_labels(0), read.get_labels(1)) == ({}, {"anna": "with_mask"})
    last = corrections.find_latest_judgements(corrections.read_judgements(folders[0]))
    assert last["label"].isna().tolist() == [False, True]


def test_a_damaged_correction_is_named_and_stops_nobody(queue: Queue, tab: Session, tmp_path: Path) -> None:
    answer(tab, "with_mask")
    damaged = tmp_path / "corrections" / "zero.parquet"
    damaged.write_bytes(b"")
    queue.read_others()
    assert "zero.parquet" in queue.trouble and answer(tab, "with_mask") == 1
    damaged.unlink()
    queue.read_others()
    assert not queue.trouble


def test_the_next_pictures_are_read_ahead(queue: Queue, tab: Session) -> None:
    assert tab.position == 0 and list(queue.pictures._futures) == [1, 2]
