"""Which reviewer judges which image, without a browser: a `Queue` a server, a `Session` a browser tab.

A judgement is one new object in the folder of corrections, written before the next image is shown. One tab at
a time holds an image, until it judges the image, sets other filters, or is silent for HOLD_S, so a closed
browser holds nothing for long. Servers do not share holds; they only read each other's judgements.
"""

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from maskbatch.errors import MaskbatchError
from maskbatch.report.cells import group_name
from maskbatch.review.pictures import Preview
from maskbatch.review.rate import count_targets
from maskbatch.schema import UNKNOWN_DATE
from maskbatch.stores.files import explain, known_errors
from maskbatch.ui.judgements import DISPUTED, JUDGED, SKIPPED, TO_JUDGE, Judgements
from maskbatch.ui.prefetch import Pictures

HOLD_S = 100.0
"""A silent tab loses its image after so long. A page reports every 20 s, in the background every 60 s."""
NUM_TABS = 300
"""The latest tabs are remembered."""
READ_EVERY_S = 5.0
"""How often to read what reviewers on other servers judged."""
NUM_AHEAD = 2
"""Pictures to read ahead for each tab."""
MAX_OFFSET = 12
"""While two servers judge the same queue, one skips ahead by less than so many images."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which images of the queue a tab shows; '' is any camera, any day."""

    show: str = TO_JUDGE
    camera: str = ""
    day: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Images of the queue by state; `judged` includes the disputed ones."""

    total: int
    judged: int
    skipped: int
    disputed: int
    targets: list[dict[str, Any]]
    """What each stratum needs for a rate, from `count_targets`."""


def name_camera(row: Mapping[str, Any]) -> str:
    """A row's camera as people call it."""
    return group_name(row, ("site", "camera"))


def name_day(row: Mapping[str, Any]) -> str:
    """A row's local day, or UNKNOWN_DATE."""
    captured = row["captured_local"]
    return str(captured.date()) if captured else UNKNOWN_DATE


class Queue:
    """The queue of one run, its judgements, and which tab holds which image."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], judgements: Judgements, pictures: Pictures) -> None:
        self.rows, self.judgements, self.pictures = rows, judgements, pictures
        self.cameras = sorted({name_camera(row) for row in rows})
        self.days = sorted({name_day(row) for row in rows})
        self.trouble = ""
        """Why judgements from other servers cannot be read."""
        self._sessions: dict[str, Session] = {}
        self._holders: dict[int, Session] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="corrections")
        self._read_at = time.monotonic()
        self._others_judge = False

    def find_session(self, tab: str) -> "Session":
        """The session of a browser tab, which also outlives a reload; marks it as seen now."""
        with self._lock:
            session = self._sessions.pop(tab) if tab in self._sessions else Session(self)
            self._sessions[tab] = session
            session.seen_at = time.monotonic()
            if len(self._sessions) > NUM_TABS:
                del self._sessions[next(iter(self._sessions))]
            return session

    def count_progress(self) -> Progress:
        states = [self.judgements.get_state(position) for position in range(len(self.rows))]
        given = {TO_JUDGE: None, SKIPPED: False, DISPUTED: True, JUDGED: True}
        targets = count_targets([row["stratum"] for row in self.rows], [given[state] for state in states])
        skipped, disputed, agreed = (states.count(state) for state in (SKIPPED, DISPUTED, JUDGED))
        return Progress(len(states), agreed + disputed, skipped, disputed, targets)

    def find_images(self, filters: Filters) -> Iterator[int]:
        """Positions of the images that pass `filters`, in the queue's order."""
        states = (JUDGED, DISPUTED) if filters.show == JUDGED else (filters.show,)
        for position, row in enumerate(self.rows):
            fits = filters.camera in ("", name_camera(row)) and filters.day in ("", name_day(row))
            if fits and self.judgements.get_state(position) in states:
                yield position

    def is_free(self, position: int, session: "Session") -> bool:
        """Whether no other tab holds this image."""
        holder = self._holders.get(position, session)
        return holder is session or holder.seen_at + HOLD_S <= time.monotonic()

    def hold(self, position: int, session: "Session") -> bool:
        """Hold an image for a tab; False if another tab holds it."""
        with self._lock:
            if free := self.is_free(position, session):
                self._holders[position] = session
            return free

    def release(self, position: int | None, session: "Session") -> None:
        """Release an image if this tab holds it."""
        with self._lock:
            if position is not None and self._holders.get(position) is session:
                del self._holders[position]

    def read_others(self) -> None:
        """Read new judgements from other servers; if that fails, `trouble` says why."""
        self._read_at = time.monotonic()
        try:
            self._others_judge |= self.judgements.read_new()
            self.trouble = ""
        except known_errors() as error:
            self.trouble = f"Judgements by others cannot be read: {explain(error)}"

    def read_others_soon(self) -> None:
        """`read_others` in the background, at most every READ_EVERY_S."""
        if time.monotonic() - self._read_at >= READ_EVERY_S:
            self._read_at = time.monotonic()
            self._pool.submit(self.read_others)

    def pick_offset(self) -> int:
        """How many images to leave to another server that judges too, mostly 0."""
        with self._lock:
            others_judge, self._others_judge = self._others_judge, False
        return random.randrange(1, MAX_OFFSET) if others_judge else 0  # noqa: S311


class _Answer(NamedTuple):
    position: int
    by: str
    before: str | None
    """The previous label by the same person."""


class Session:
    """One tab: the image on its screen, its filters, and its answers, which it can undo."""

    def __init__(self, queue: Queue) -> None:
        self.lock = threading.RLock()
        """Hold it from an answer until the next page is made."""
        self.filters = Filters()
        self.position: int | None = None
        """Of the image on the screen; None if no image is left."""
        self.num_held = 0
        """Images left that other tabs hold, if none is on the screen."""
        self.seen_at = time.monotonic()
        self.notice = ""
        self._queue = queue
        self._passed = set[int]()
        """Answered since the filters were set; these images do not come again, even if they still fit."""
        self._answers: list[_Answer] = []

    @property
    def can_undo(self) -> bool:
        return bool(self._answers)

    def get_picture(self) -> Preview:
        """The picture on the screen."""
        return self._queue.pictures.get(self.position) if self.position is not None else Preview(None)

    def show_image(self) -> None:
        """Keep the image on the screen, or show the next if another tab has taken it."""
        self.notice = ""
        if self.position is None or not self._queue.hold(self.position, self):
            self._show_next()

    def set_filters(self, filters: Filters) -> None:
        self.notice, self.filters = "", filters
        self._passed.clear()
        self._show_next()

    def answer(self, position: int | None, label: str | None, by: str) -> None:
        """Judge the image on the screen, or skip it (None). Answers to other images are ignored."""
        self.notice = ""
        if position is None or position != self.position:  # pressed twice, or the server has restarted
            self.show_image()
            return
        if not self._queue.hold(position, self):
            self.notice = "Another tab has taken that image. Nothing was saved; this is the next image."
            self._show_next()
            return
        if label is not None and self.get_picture().jpeg is None:
            self.notice = "You cannot judge an image that cannot be shown; skip it."
            return
        judgements = self._queue.judgements
        before = judgements.get_labels(position).get(by)
        is_new = label is not None or judgements.get_state(position) == TO_JUDGE
        if is_new and not self._save(position, label, by):
            return
        self._answers.append(_Answer(position, by, before))
        self._passed.add(position)
        self._show_next()

    def undo(self, position: int | None) -> None:
        """Undo this tab's last answer and show its image again; `position` as in `answer`."""
        self.notice = ""
        if position != self.position or not self._answers:
            self.show_image()
            return
        last = self._answers[-1]
        if not self._queue.hold(last.position, self):
            self.notice = "Another tab shows that image. Nothing was undone."
            return
        label = self._queue.judgements.get_labels(last.position).get(last.by)
        undone = label == last.before or self._save(last.position, last.before, last.by)
        if last.position != self.position:
            self._queue.release(self.position if undone else last.position, self)
        if undone:
            self._answers.pop()
            self._passed.discard(last.position)
            self.position = last.position

    def _save(self, position: int, label: str | None, by: str) -> bool:
        try:
            self._queue.judgements.add(position, label, by)
        except MaskbatchError as error:
            self.notice = (
                f"Not saved in {self._queue.judgements.folder}: {explain(error.__cause__ or error)}. Free "
                "space or give write access, then answer again; or start again with --corrections DIR."
            )
            return False
        return True

    def _show_next(self) -> None:
        """Show the first image that passes the filters, is not answered yet, and that no other tab holds."""
        queue = self._queue
        queue.release(self.position, self)
        images = [position for position in queue.find_images(self.filters) if position not in self._passed]
        offset = queue.pick_offset()
        images = images[offset:] + images[:offset]
        self.position = next((position for position in images if queue.hold(position, self)), None)
        self.num_held = len(images) if self.position is None else 0
        after = images[images.index(self.position) + 1 :] if self.position is not None else []
        queue.pictures.prefetch([position for position in after if queue.is_free(position, self)][:NUM_AHEAD])
        queue.read_others_soon()
