"""Who judges what next, without a browser: one `Queue` a server, one `Session` a browser's tab.

A judgement is one new object in the folder of corrections, there before the next image is shown. An image is
in the hands of one tab at a time: until that tab judges it, asks for others, or is not heard of for HOLD_S,
so that a closed browser holds nothing for long. Of another server only what was judged there can be seen.
"""

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

from maskbatch.errors import MaskbatchError
from maskbatch.report.cells import group_name
from maskbatch.review.pictures import Preview
from maskbatch.review.rate import count_targets
from maskbatch.schema import UNKNOWN_DATE
from maskbatch.stores.files import explain, store_errors
from maskbatch.ui.judgements import DISPUTED, JUDGED, SKIPPED, TO_JUDGE, Judgements
from maskbatch.ui.prefetch import Pictures

SHOWS = (TO_JUDGE, SKIPPED, DISPUTED, JUDGED)
HOLD_S = 100.0
"""An open page says every 20 s that it is there, or every minute from the background."""
NUM_TABS = 300
"""Kept, the latest ones."""
READ_EVERY_S = 5.0
"""How often it is looked for what other servers' reviewers said."""
NUM_AHEAD = 2
"""Pictures read before they are asked for, for each tab."""
APART = 12
"""Images that two servers go on apart, at most, while both are judged on."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which images of the queue a tab asks for; '' is any camera, any day."""

    show: str = TO_JUDGE
    camera: str = ""
    day: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """Images of the queue by where they stand; a disputed one is judged too."""

    total: int
    judged: int
    skipped: int
    disputed: int
    targets: list[dict[str, Any]]
    """What of each stratum makes a rate, as `judged.targets` has it."""


def camera_of(row: Mapping[str, Any]) -> str:
    """A row's camera as a person names it."""
    return group_name(row, ("site", "camera"))


def day_of(row: Mapping[str, Any]) -> str:
    """A row's local day, or UNKNOWN_DATE."""
    time = row["captured_local"]
    return str(time.date()) if time else UNKNOWN_DATE


class Queue:
    """The queue of one run, what was said of its images, and which of them are in whose hands."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], judgements: Judgements, pictures: Pictures) -> None:
        self.rows, self.judgements, self.pictures = rows, judgements, pictures
        self.cameras = sorted({camera_of(row) for row in rows})
        self.days = sorted({day_of(row) for row in rows})
        self.trouble = ""
        """Why other servers' judgements cannot be read."""
        self._sessions: dict[str, Session] = {}
        self._holds: dict[int, Session] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="corrections")
        self._read_at = time.monotonic()
        self._met = False

    def session(self, tab: str) -> "Session":
        """The session of a browser's tab that is there now, the same one after the page was loaded again."""
        with self._lock:
            known = self._sessions.pop(tab, None)
            session = self._sessions[tab] = known or Session(self)
            session.seen_at = time.monotonic()
            if len(self._sessions) > NUM_TABS:
                del self._sessions[next(iter(self._sessions))]
            return session

    def progress(self) -> Progress:
        stands = [self.judgements.stands(position) for position in range(len(self.rows))]
        given = {TO_JUDGE: None, SKIPPED: False, DISPUTED: True, JUDGED: True}
        return Progress(
            total=len(stands),
            judged=stands.count(JUDGED) + stands.count(DISPUTED),
            skipped=stands.count(SKIPPED),
            disputed=stands.count(DISPUTED),
            targets=count_targets([row["stratum"] for row in self.rows], [given[stand] for stand in stands]),
        )

    def fitting(self, filters: Filters) -> Iterator[int]:
        """Positions of the images that `filters` let through, in the queue's order."""
        stands = (JUDGED, DISPUTED) if filters.show == JUDGED else (filters.show,)
        for position, row in enumerate(self.rows):
            if (
                filters.camera in ("", camera_of(row))
                and filters.day in ("", day_of(row))
                and self.judgements.stands(position) in stands
            ):
                yield position

    def is_free(self, position: int, session: "Session") -> bool:
        """Whether no other tab has this image."""
        holder = self._holds.get(position, session)
        return holder is session or holder.seen_at + HOLD_S <= time.monotonic()

    def take(self, position: int, session: "Session") -> bool:
        """Put an image into the hands of a tab; False where another has it."""
        with self._lock:
            if free := self.is_free(position, session):
                self._holds[position] = session
            return free

    def drop(self, position: int | None, session: "Session") -> None:
        """Take an image out of the hands of a tab, if it is there."""
        with self._lock:
            if position is not None and self._holds.get(position) is session:
                del self._holds[position]

    def catch_up(self) -> None:
        """Take in what other servers' reviewers said since; where that fails, `trouble` says why."""
        self._read_at = time.monotonic()
        failures: tuple[type[Exception], ...] = (MaskbatchError, *store_errors())
        try:
            self._met |= self.judgements.refresh()
        except failures as error:
            self.trouble = f"What others judged cannot be read: {explain(error)}"
            return
        self.trouble = ""

    def catch_up_soon(self) -> Future[None] | None:
        """`catch_up` in the background, unless that was done just now."""
        if time.monotonic() - self._read_at < READ_EVERY_S:
            return None
        self._read_at = time.monotonic()
        return self._pool.submit(self.catch_up)

    def step_aside(self) -> int:
        """How many images to leave to another server where somebody judges too, most often 0."""
        with self._lock:
            met, self._met = self._met, False
        return random.randrange(1, APART) if met else 0  # noqa: S311


class _Past(NamedTuple):
    position: int
    by: str
    before: str | None
    """What `by` said before."""


class Session:
    """One tab: the image on its screen, its filters, and what it can take back."""

    def __init__(self, queue: Queue) -> None:
        self.lock = threading.RLock()
        """To be held from an answer to the page that follows it."""
        self.filters = Filters()
        self.position: int | None = None
        """Of the image on the screen; None where the filters leave none."""
        self.num_held = 0
        """Images that fit and are all in other tabs' hands, where none is on the screen."""
        self.seen_at = time.monotonic()
        self.notice = ""
        self._queue = queue
        self._passed = set[int]()
        """Answered since the filters were set; an image that still fits them does not come again."""
        self._history: list[_Past] = []

    @property
    def can_undo(self) -> bool:
        return bool(self._history)

    def picture(self) -> Preview:
        """The picture on the screen."""
        return self._queue.pictures.get(self.position) if self.position is not None else Preview(None)

    def show(self) -> None:
        """Keep the image on the screen, or take the next where it has gone to another tab."""
        self.notice = ""
        if self.position is None or not self._queue.take(self.position, self):
            self._next()

    def narrow(self, filters: Filters) -> None:
        """Ask for other images."""
        self.notice, self.filters = "", filters
        self._passed.clear()
        self._next()

    def answer(self, position: int | None, label: str | None, by: str) -> None:
        """Judge the image on the screen, or skip it (None). An answer to any other image is ignored."""
        self.notice = ""
        if position is None or position != self.position:  # pressed twice, or the server has started again
            self.show()
            return
        if not self._queue.take(position, self):
            self.notice = "Another tab has that image by now: nothing was saved. This is the next one."
            self._next()
            return
        if label is not None and self.picture().jpeg is None:
            self.notice = "An image that cannot be seen is not judged; skip it."
            return
        before = self._queue.judgements.said(position).get(by)
        new = label is not None or self._queue.judgements.stands(position) == TO_JUDGE
        if new and not self._write(position, label, by):
            return
        self._history.append(_Past(position, by, before))
        self._passed.add(position)
        self._next()

    def undo(self, position: int | None) -> None:
        """Take back this tab's last answer, and show its image again; `position` as in `answer`."""
        self.notice = ""
        if position != self.position or not self._history:
            self.show()
            return
        last = self._history[-1]
        if not self._queue.take(last.position, self):
            self.notice = "Another tab shows that image just now: nothing was taken back."
            return
        changed = self._queue.judgements.said(last.position).get(last.by) != last.before
        if changed and not self._write(last.position, last.before, last.by):
            if last.position != self.position:
                self._queue.drop(last.position, self)
            return
        self._history.pop()
        self._passed.discard(last.position)
        if last.position != self.position:
            self._queue.drop(self.position, self)
        self.position = last.position

    def _write(self, position: int, label: str | None, by: str) -> bool:
        try:
            self._queue.judgements.add(position, label, by)
        except MaskbatchError as error:
            said = explain(error.__cause__ or error)
            folder = self._queue.judgements.folder
            self.notice = (
                f"Not saved in {folder}: {said}. Make room or give access, then answer again; "
                "or start again with --corrections DIR."
            )
            return False
        return True

    def _next(self) -> None:
        """The first image that fits, was not answered in this pass, and is in nobody's hands."""
        self._queue.drop(self.position, self)
        fitting = [position for position in self._queue.fitting(self.filters) if position not in self._passed]
        aside = self._queue.step_aside()
        order = fitting[aside:] + fitting[:aside]
        self.position = next((position for position in order if self._queue.take(position, self)), None)
        self.num_held = len(order) if self.position is None else 0
        after = order[order.index(self.position) + 1 :] if self.position is not None else []
        free = [position for position in after if self._queue.is_free(position, self)]
        self._queue.pictures.ahead(free[:NUM_AHEAD])
        self._queue.catch_up_soon()
