"""Progress of every long step, on stderr and in the lease: a bar on a terminal, else plain or JSON lines."""

import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from maskbatch.visible import PlainConsole, print_lines

LINE_EVERY_S = 10.0
_consoles = [PlainConsole(stderr=True)]
"""The last one is in use."""
_logs_json = False


class _Messages(io.TextIOWrapper):
    """A stderr for libraries and tracebacks: each line becomes one JSON message."""

    _begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(str.strip, lines):
            super().write(_json_line("message", {"message": line}))
        self.flush()
        return len(text)


def log_json() -> None:
    """From now on write JSON lines to stderr, and draw no bars."""
    global _logs_json
    if not _logs_json:
        _consoles[0] = PlainConsole(file=sys.stderr)
        sys.stderr = _Messages(sys.stderr.buffer, encoding="utf-8")
        _logs_json = True


def event(kind: str, **fields: Any) -> None:
    """Write one JSON line to stderr, after `log_json` only."""
    if _logs_json:
        file = _consoles[-1].file
        file.write(_json_line(kind, fields))
        file.flush()


def _json_line(kind: str, fields: Mapping[str, Any]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "event": kind, **fields}, default=str) + "\n"


@contextmanager
def quiet_output() -> Iterator[None]:
    """Let only `say` write: Ray's C++ core writes to the descriptors themselves, past Python's logging."""
    sys.stdout.flush()
    sys.stderr.flush()
    stdout = os.dup(1)
    with os.fdopen(os.dup(2), "w") as kept, open(os.devnull, "wb") as nowhere:
        _consoles.append(PlainConsole(file=kept))
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


def say(message: str, kind: str = "message", **fields: Any) -> None:
    """Write one line for a person to stderr, or a JSON event of this kind with these fields."""
    if _logs_json:
        event(kind, message=message, **fields)
    else:
        print_lines(_consoles[-1], [message])


class Step:
    """One step that counts up to `total`, or to an unknown end. `bar` draws it."""

    def __init__(self, name: str, total: int | None, unit: str, bar: Progress | None = None) -> None:
        self.name, self.total, self.unit, self._bar = name, total, unit, bar
        self.done = 0
        self.statuses: Counter[str] = Counter()
        """Images by status, if the step knows."""
        self._before = 0
        """Done before the rate starts to count."""
        self._rated: float | None = None
        self._spoke = time.monotonic()
        if bar:
            of = f"{total:,}" if total else "?"
            self._task = bar.add_task(name, total=total, of=of, unit=unit, rate="-")

    def start_at(self, done: int) -> None:
        """Show `done` as done before, and leave it out of the rate."""
        self.done = self._before = done
        if self._bar:
            self._bar.update(self._task, completed=done)

    def advance(self, count: int = 1) -> None:
        """`count` more are done. The rate leaves out the first ones, which waited for the start."""
        if self._rated is None:
            self._before, self._rated = self.done + count, time.monotonic()
        self.done += count
        if self._bar:
            self._bar.update(self._task, completed=self.done, rate=f"{self.rate():,.0f}")
        elif time.monotonic() - self._spoke >= LINE_EVERY_S:
            self._spoke = time.monotonic()
            say(describe_step(self.live()), "progress", **self.live())

    def rate(self) -> float:
        """Per second, since the first ones were done; 0 before."""
        if self._rated is None:
            return 0.0
        return (self.done - self._before) / max(time.monotonic() - self._rated, 1e-9)

    def live(self) -> dict[str, Any]:
        """Where the step stands: `rate` a second, `eta_s` None where there is no total or no rate yet."""
        rate = self.rate()
        left = max(0, (self.total or 0) - self.done)
        eta_s = round(min(left / rate, 1e8)) if self.total and rate else None
        counts = {"done": self.done, "total": self.total, "statuses": dict(self.statuses)}
        return {"phase": self.name, "unit": self.unit, **counts, "rate": round(rate, 3), "eta_s": eta_s}


def describe_step(step: Mapping[str, Any]) -> str:
    """One line from `Step.live`."""
    done, total, rate = step["done"], step["total"], step["rate"]
    if not total:
        return f"{step['phase']}: {done:,} {step['unit']}, {rate:,.0f}/s" if done else step["phase"]
    of = f"{step['phase']}: {done:,} of {total:,} {step['unit']} ({done / total:.0%})"
    return of if step["eta_s"] is None else f"{of}, {rate:,.0f}/s, {timedelta(seconds=step['eta_s'])} left"


_open: list[Step] = [Step("start", None, "images")]
"""Running steps, the innermost last. Before and between them, something starts."""


def live_step() -> dict[str, Any]:
    """`Step.live` of the innermost step of this process."""
    return _open[-1].live()


@contextmanager
def step(name: str, total: int | None = None, unit: str = "images") -> Iterator[Step]:
    """Show a step while the block runs, and at the end a line with its duration."""
    began = time.monotonic()
    texts = "{task.completed:,.0f} of {task.fields[of]} {task.fields[unit]}", "{task.fields[rate]}/s"
    columns = BarColumn(), TaskProgressColumn(), *map(TextColumn, texts), TimeRemainingColumn()
    bar = Progress(TextColumn("{task.description:<7}"), *columns, console=_consoles[-1], transient=True)
    drawn = _consoles[-1].is_terminal and not _logs_json
    shown = Step(name, total, unit, bar if drawn else None)
    _open.append(shown)
    try:
        with bar if drawn else nullcontext():
            yield shown
    finally:
        _open.remove(shown)
    took_s = time.monotonic() - began
    message = f"{name}: {shown.done:,} {unit} in {took_s:.1f} s"
    say(message, "step", phase=name, unit=unit, done=shown.done, took_s=round(took_s, 3))


@contextmanager
def quiet_step(name: str, total: int | None = None, unit: str = "images") -> Iterator[Step]:
    """As `step`, of what takes no time to speak of: nothing is shown."""
    yield Step(name, total, unit)


def add_up(counts: Mapping[str, int]) -> str:
    """` + 3 truncated + 1 missing`."""
    return "".join(f" + {name} {count:,}" for name, count in counts.items())
