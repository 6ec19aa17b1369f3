"""Progress of every long step, on stderr: a bar on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0

_consoles = [Console(stderr=True, highlight=False)]
"""The one to write to is the last."""


@contextmanager
def quiet_output() -> Iterator[None]:
    """Keep what others write to stdout and stderr away while the block runs; `say` still comes through.

    Ray's C++ core writes to the file descriptors themselves, past every setting of Python's logging.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    stdout = os.dup(1)
    with os.fdopen(os.dup(2), "w") as kept, open(os.devnull, "wb") as nowhere:
        _consoles.append(Console(file=kept, highlight=False))
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(stdout, 1)
            os.close(stdout)
            os.dup2(kept.fileno(), 2)
            _consoles.pop()


def say(message: str) -> None:
    """One line for a person, on stderr."""
    _consoles[-1].print(message, markup=False, soft_wrap=True)


class Step:
    """One step that counts up to `total`, or to an end not known yet."""

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self._before = 0
        """Done before the rate is counted from."""
        self._rated: float | None = None
        self._began = self._spoke = time.monotonic()

    def start_at(self, done: int) -> None:
        """Count `done` as there already: shown, and left out of the rate."""
        self.done = self._before = done

    def advance(self, count: int = 1) -> None:
        """`count` more are done; the first ones, which waited for the start, are left out of the rate."""
        if self._rated is None:
            self._before, self._rated = self.done + count, time.monotonic()
        self.done += count
        self._show()

    def _show(self) -> None:
        if time.monotonic() - self._spoke >= LINE_EVERY_S:
            self._spoke = time.monotonic()
            say(self.line())

    def rate(self) -> float:
        """Per second, since the first ones were done; 0 before there are any."""
        if self._rated is None:
            return 0.0
        return (self.done - self._before) / max(time.monotonic() - self._rated, 1e-9)

    def line(self) -> str:
        """Where the step stands, in one line."""
        if not self.total:
            return f"{self.name}: {self.done:,} {self.unit}, {self.rate():,.0f}/s"
        of = f"{self.name}: {self.done:,} of {self.total:,} {self.unit} ({self.done / self.total:.0%})"
        rate = self.rate()
        if not rate:
            return of
        left_s = min((self.total - self.done) / rate, 1e8)
        return f"{of}, {rate:,.0f}/s, {timedelta(seconds=round(left_s))} left"

    def finish(self) -> None:
        say(f"{self.name}: {self.done:,} {self.unit} in {time.monotonic() - self._began:.1f} s")


class BarStep(Step):
    """A step drawn as a bar with total, rate and time left."""

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        super().__init__(name, total, unit)
        self._bar = Progress(
            TextColumn("{task.description:<7}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.completed:,.0f} of {task.fields[of]} {task.fields[unit]}"),
            TextColumn("{task.fields[rate]}/s"),
            TimeRemainingColumn(),
            console=_consoles[-1],
            transient=True,
        )
        of = f"{total:,}" if total else "?"
        self._task = self._bar.add_task(name, total=total, of=of, unit=unit, rate="-")
        self._bar.start()

    def start_at(self, done: int) -> None:
        super().start_at(done)
        self._bar.update(self._task, completed=done)

    def _show(self) -> None:
        self._bar.update(self._task, completed=self.done, rate=f"{self.rate():,.0f}")

    def close(self) -> None:
        self._bar.stop()


@contextmanager
def step(name: str, total: int | None = None, unit: str = "images") -> Iterator[Step]:
    """Show a step while the block runs; it ends with a line that says how long it took."""
    if _consoles[-1].is_terminal:
        bar = BarStep(name, total, unit)
        try:
            yield bar
        finally:
            bar.close()
        bar.finish()
    else:
        plain = Step(name, total, unit)
        yield plain
        plain.finish()
