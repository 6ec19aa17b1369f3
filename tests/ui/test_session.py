import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from samples import speckle

from maskbatch.review import corrections
from maskbatch.review import queue as queue_module
from maskbatch.review.pictures import OTHER
from maskbatch.runs.committed import open_committed
from maskbatch.runs.directory import RunDir
from maskbatch.stores.options import NO_OPTIONS
from maskbatch.ui import judgements, session
from maskbatch.ui.judgements import DISPUTED, JUDGED, SKIPPED, TO_JUDGE, Judgements
from maskbatch.ui.prefetch import Pictures
from maskbatch.ui.session import Filters, Progress, Queue, Session

Open = Callable[[], Queue]


@pytest.fixture
def queue_of(reviewed: Path, tmp_path: Path) -> Open:
    """A server's queue over one run and one folder of corrections, as often as it is called."""
    one = open_committed(RunDir.at(str(reviewed)))
    rows = queue_module.read_queue(one.run.report).to_pylist()

    def start() -> Queue:
        judgements = Judgements(rows, tmp_path / "corrections")
        judgements.refresh()
        return Queue(rows, judgements, Pictures(one, rows, NO_OPTIONS))

    return start


class Clock:
    """One that stands still, where `datetime` is asked for the time."""

    def __init__(self, time: datetime) -> None:
        self.time = time

    def now(self, zone: object) -> datetime:
        return self.time


def opened(queue: Queue, tab: str = "tab") -> Session:
    tab_session = queue.session(tab)
    tab_session.show()
    return tab_session


def judged(queue: Queue) -> list[int]:
    return [k for k in range(len(queue.rows)) if queue.judgements.stands(k) in (JUDGED, DISPUTED)]


def answer(tab: Session, label: str | None, by: str = "anna") -> int:
    position = tab.position
    assert position is not None
    tab.answer(position, label, by)
    return position


def test_images_come_in_the_order_of_the_queue_and_each_judgement_is_an_object(
    queue_of: Open, tmp_path: Path
) -> None:
    tab = opened(queue := queue_of())
    assert [answer(tab, "no_face") for _ in range(3)] == [0, 1, 2] == judged(queue)
    table = corrections.read_judgements(tmp_path / "corrections").to_pylist()
    for row, said in zip(queue.rows, table, strict=False):
        names = ("uri", "sha256", "stratum", "probability")
        assert [said[name] for name in names] == [row[name] for name in names]
        assert (said["label"], said["was"], said["by"], said["region"]) == (
            "no_face",
            row["label"],
            "anna",
            0,
        )


def test_an_answer_to_an_image_that_is_not_on_the_screen_is_ignored(queue_of: Open) -> None:
    tab = opened(queue := queue_of())
    tab.answer(0, "with_mask", "anna")
    tab.answer(0, "with_mask", "anna")
    tab.answer(7, "with_mask", "anna")
    tab.undo(0)
    assert judged(queue) == [0] and tab.position == 1 and not tab.notice


def test_after_a_new_start_of_the_server_a_late_answer_shows_where_it_stands(queue_of: Open) -> None:
    answer(opened(queue_of()), "with_mask")
    tab = queue_of().session("tab")
    tab.answer(5, "with_mask", "anna")
    assert tab.position == 1


def test_what_is_skipped_does_not_come_again_until_it_is_asked_for(queue_of: Open) -> None:
    tab = opened(queue := queue_of())
    assert [answer(tab, None), answer(tab, "with_mask"), answer(tab, None)] == [0, 1, 2]
    tab.narrow(Filters(show=SKIPPED))
    assert [answer(tab, None), answer(tab, "with_mask"), tab.position] == [0, 2, None]
    assert queue.progress().judged == 2 and queue.judgements.stands(0) == SKIPPED


def test_undo_takes_back_one_answer_after_the_other(queue_of: Open, tmp_path: Path) -> None:
    tab = opened(queue := queue_of())
    answer(tab, "with_mask")
    answer(tab, None)
    answer(tab, "no_face")
    for position in (2, 1, 0):
        tab.undo(tab.position)
        assert tab.position == position
    tab.undo(0)
    assert tab.position == 0 and not judged(queue) and not tab.can_undo
    rows = corrections.read_judgements(tmp_path / "corrections").to_pylist()
    assert [row["label"] for row in rows] == ["with_mask", None, "no_face", None, None]
    answer(tab, "without_mask")
    assert queue.judgements.said(0) == {"anna": "without_mask"}


def test_undo_of_a_second_judgement_brings_the_first_one_back(queue_of: Open) -> None:
    tab = opened(queue := queue_of())
    answer(tab, "with_mask")
    tab.narrow(Filters(show=JUDGED))
    answer(tab, "no_face")
    assert queue.judgements.said(0) == {"anna": "no_face"}
    tab.undo(tab.position)
    assert queue.judgements.said(0) == {"anna": "with_mask"}


def test_skipping_an_image_that_is_judged_leaves_it_judged(queue_of: Open) -> None:
    tab = opened(queue := queue_of())
    answer(tab, "with_mask")
    tab.narrow(Filters(show=JUDGED))
    answer(tab, None)
    assert tab.position is None and judged(queue) == [0]


def test_two_tabs_never_have_the_same_image(queue_of: Open) -> None:
    queue = queue_of()
    tabs = [opened(queue, name) for name in ("one", "two", "three")]
    assert [tab.position for tab in tabs] == [0, 1, 2]
    tabs[1].narrow(Filters())  # asks anew, and nobody has the first one that it may take
    for k in range(9):
        answer(tabs[k % 3], "with_mask")
        assert len({tab.position for tab in tabs}) == 3
    assert judged(queue) == list(range(9))


def test_a_page_that_is_loaded_again_goes_on_where_it_stood(queue_of: Open) -> None:
    tab = opened(queue := queue_of())
    tab.narrow(Filters(camera="north/gate-2"))
    answer(tab, "with_mask")
    position = tab.position
    again = opened(queue)
    assert again.position == position and again.filters.camera == "north/gate-2" and again.can_undo


def test_an_open_page_keeps_its_image_and_a_killed_browser_holds_nothing_for_long(queue_of: Open) -> None:
    queue = queue_of()
    killed = opened(queue, "killed")
    other = opened(queue, "other")
    killed.seen_at -= session.HOLD_S - 10
    other.narrow(Filters())
    assert other.position == 1
    queue.session("killed")  # a page that is open says that it is there
    killed.seen_at -= session.HOLD_S - 10
    other.narrow(Filters())
    assert other.position == 1
    killed.seen_at -= 10
    other.narrow(Filters())
    assert other.position == 0


def test_an_image_that_went_to_another_tab_meanwhile_is_not_saved_twice(queue_of: Open) -> None:
    queue = queue_of()
    slow = opened(queue, "slow")
    slow.seen_at -= session.HOLD_S
    quick = opened(queue, "quick")
    assert slow.position == quick.position == 0
    slow.answer(0, "no_face", "anna")
    assert "nothing was saved" in slow.notice and slow.position == 1 and not judged(queue)
    answer(quick, "with_mask", "bob")
    assert queue.judgements.said(0) == {"bob": "with_mask"}


def test_images_that_others_hold_are_counted_and_not_taken_for_done(queue_of: Open) -> None:
    queue = queue_of()
    filters = Filters(camera="north/gate-2", day="2026-10-02")
    fits = list(queue.fitting(filters))
    for place in fits[1:]:
        queue.judgements.add(place, "with_mask", "anna")
    tabs = [queue.session(name) for name in ("one", "two")]
    for tab in tabs:
        tab.narrow(filters)
    assert [(tab.position, tab.num_held) for tab in tabs] == [(fits[0], 0), (None, 1)]
    answer(tabs[0], "with_mask")
    tabs[1].show()
    assert [(tab.position, tab.num_held) for tab in tabs] == [(None, 0), (None, 0)]


def test_only_the_latest_tabs_are_remembered(queue_of: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "NUM_TABS", 2)
    queue = queue_of()
    first, second = queue.session("one"), queue.session("two")
    assert queue.session("one") is first
    queue.session("three")
    assert queue.session("one") is first and queue.session("two") is not second


def test_undo_waits_while_another_tab_has_the_image(queue_of: Open) -> None:
    queue = queue_of()
    one, other = opened(queue, "one"), opened(queue, "other")
    answer(one, "with_mask")
    other.narrow(Filters(show=JUDGED))
    one.undo(one.position)
    assert "nothing was taken back" in one.notice and judged(queue) == [0]
    other.narrow(Filters())
    one.undo(one.position)
    assert one.position == 0 and not judged(queue)


def test_filters_are_by_camera_day_and_what_was_said(queue_of: Open) -> None:
    queue = queue_of()
    assert queue.cameras == ["north/gate-1", "north/gate-2", "south/<b>dock"]
    assert queue.days == ["2026-10-01", "2026-10-02", "2026-10-03"]
    fits = list(queue.fitting(Filters(camera="north/gate-2", day="2026-10-02")))
    assert fits and all("north/gate-2/2026-10-02" in queue.rows[k]["uri"] for k in fits)
    tab = opened(queue)
    tab.narrow(Filters(camera="north/gate-2", day="2026-10-02"))
    assert [answer(tab, "with_mask") for _ in fits] == fits and tab.position is None
    assert list(queue.fitting(Filters(show=JUDGED))) == fits
    assert not list(queue.fitting(Filters(show=DISPUTED)))


def test_disputed_images_can_be_judged_again(queue_of: Open) -> None:
    queue = queue_of()
    tab = opened(queue)
    for by, label in (("anna", "with_mask"), ("bob", "no_face")):
        tab.narrow(Filters(show=TO_JUDGE if by == "anna" else JUDGED))
        answer(tab, label, by)
        answer(tab, "with_mask", by)
    assert [queue.judgements.stands(k) for k in (0, 1)] == [DISPUTED, JUDGED]
    random = len([row for row in queue.rows if row["stratum"] == queue_module.RANDOM])
    progress = queue.progress()
    assert progress == Progress(len(queue.rows), judged=2, skipped=0, disputed=1, targets=progress.targets)
    assert [(one["stratum"], one["num_queued"], one["num_judged"]) for one in progress.targets] == [
        (queue_module.RANDOM, random, 1),
        (queue_module.UNCERTAIN, len(queue.rows) - random, 1),
    ]
    tab.narrow(Filters(show=DISPUTED))
    assert answer(tab, "with_mask", "bob") == 0
    assert queue.progress().disputed == 0


@pytest.fixture
def moved(reviewed: Path, tmp_path: Path) -> Iterator[Path]:
    """The run, while its archive is somewhere else."""
    archive = reviewed.with_name("archive")
    archive.rename(tmp_path / "archive")
    yield archive
    if archive.exists():
        shutil.rmtree(archive)
    (tmp_path / "archive").rename(archive)


def test_an_image_that_cannot_be_seen_is_skipped_but_not_judged(queue_of: Open, moved: Path) -> None:
    tab = opened(queue := queue_of())
    lost = answer(tab, "with_mask")
    assert (
        tab.position == lost
        and "not judged" in tab.notice
        and tab.picture().error == "the file is not there any more"
    )
    answer(tab, None)
    assert tab.position != lost and queue.judgements.stands(lost) == SKIPPED


def test_a_picture_that_failed_is_read_again_and_never_another_one_shown(queue_of: Open, moved: Path) -> None:
    tab = opened(queue := queue_of())
    assert tab.picture().error
    path = Path(queue.rows[0]["uri"].removeprefix("file://"))
    path.parent.mkdir(parents=True)
    path.write_bytes(speckle(999))
    assert tab.picture().error == OTHER


def test_a_judgement_that_cannot_be_written_keeps_its_image_and_says_why(
    queue_of: Open, tmp_path: Path
) -> None:
    tab = opened(queue := queue_of())
    (tmp_path / "corrections").write_text("a file is in the way")
    answer(tab, "with_mask")
    assert tab.position == 0 and not judged(queue) and not tab.can_undo
    assert str(tmp_path / "corrections") in tab.notice and "--corrections DIR" in tab.notice
    (tmp_path / "corrections").unlink()
    answer(tab, "with_mask")
    assert judged(queue) == [0] and not tab.notice


def test_what_was_judged_elsewhere_is_picked_up_and_the_servers_part(
    queue_of: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = queue_of(), queue_of()
    monkeypatch.setattr(session.random, "randrange", lambda first, end: end - 1)
    tab, other = opened(here), opened(there)
    answer(tab, "with_mask", "anna")
    answer(other, "with_mask", "bob")  # the same image: nobody could know
    here.catch_up()
    assert here.judgements.said(0) == {"anna": "with_mask", "bob": "with_mask"}
    answer(tab, "with_mask", "anna")
    assert tab.position == 2 + session.APART - 1
    here.catch_up()
    there.catch_up()
    answer(tab, "with_mask", "anna")
    assert tab.position == 2  # what it left is not forgotten
    assert judged(there) == [0, 1]


def test_the_last_word_of_each_reviewer_counts_however_it_is_read(queue_of: Open) -> None:
    tab = opened(queue := queue_of())
    answer(tab, "with_mask")
    tab.narrow(Filters(show=JUDGED))
    answer(tab, "no_face")
    queue.catch_up()
    assert queue.judgements.said(0) == queue_of().judgements.said(0) == {"anna": "no_face"}
    assert len(queue.judgements.last_words()) == 1


def test_a_later_word_counts_wherever_it_lies_and_though_the_clock_was_set_back(
    queue_of: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_of()
    folders = [tmp_path / "corrections", tmp_path / "others"]
    ahead = Clock(datetime.now(UTC) + timedelta(hours=1))
    for module in (corrections, judgements):
        monkeypatch.setattr(module, "datetime", ahead)
    queue.judgements.add(0, "with_mask", "anna")
    queue.judgements.add(1, "with_mask", "anna")
    ahead.time -= timedelta(hours=1)
    queue.judgements.add(0, "no_face", "anna")
    queue.judgements.add(0, None, "anna")
    Judgements(queue.rows, folders[1]).add(1, "no_face", "anna")  # which knew nothing of the other one
    for order in (folders, folders[::-1]):
        read = Judgements(queue.rows, order[0], order[1:])
        read.refresh()
        assert (read.said(0), read.said(1)) == ({}, {"anna": "with_mask"})
    words = corrections.find_latest_judgements(corrections.read_judgements(folders[0]))
    assert words["label"].isna().tolist() == [False, True]


def test_a_damaged_correction_is_said_and_stops_nobody(queue_of: Open, tmp_path: Path) -> None:
    tab = opened(queue := queue_of())
    answer(tab, "with_mask")
    (tmp_path / "corrections" / "zero.parquet").write_bytes(b"")
    queue.catch_up()
    assert "zero.parquet" in queue.trouble
    assert answer(tab, "with_mask") == 1
    (tmp_path / "corrections" / "zero.parquet").unlink()
    queue.catch_up()
    assert not queue.trouble


def test_the_pictures_that_come_next_are_read_before_they_are_asked_for(queue_of: Open) -> None:
    tab = opened(queue_of())
    asked = list(tab._queue.pictures._found)
    assert tab.position == 0 and asked == [1, 2]
