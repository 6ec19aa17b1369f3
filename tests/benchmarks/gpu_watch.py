"""One command of the GPU benchmark, watched while it runs: what it prints, its processor time, how busy the GPU is."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks.score import family

LOOK_EVERY_S = 0.5
TICKS = os.sysconf("SC_CLK_TCK")
SMI = ("nvidia-smi", "-i", "0", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-l", "1")
TORCH = "import time, torch\nwhile True: print(torch.cuda.utilization(0), flush=True); time.sleep(1)"
FILL, DRAIN = 0.1, 0.9
"""Shares of the images between which a run is steady: before, workers fill; after, they run out."""
Samples = list[tuple[float, float]]
"""Unix time and value."""


class PartFailedError(Exception):
    """A command did not give its figures; the sentence says why."""


class Window(NamedTuple):
    """The steady part of a run."""

    began: float
    ended: float
    images: float

    @property
    def rate(self) -> float:
        return self.images / (self.ended - self.began)


@dataclass
class Watched:
    """A command that ended well."""

    began: float
    whole_s: float
    answer: dict[str, Any]
    """The last line of its stdout."""
    events: list[dict[str, Any]]
    """The lines of JSON on its stderr."""
    cpu: Samples = field(default_factory=list)
    """Processor seconds of its whole tree so far."""
    busy: Samples = field(default_factory=list)
    """Percent, once a second; empty where nothing tells."""

    def find_marks(self) -> Samples:
        """Images scored so far, at the end of each shard."""
        marks, done = Samples(), 0
        for event in self.events:
            if event["event"] == "shard":
                done += event["images"]
                marks.append((datetime.fromisoformat(event["time"]).timestamp(), done))
        return marks

    def cpu_seconds(self, window: Window) -> float:
        """Processor seconds spent within the window."""
        return interpolate(self.cpu, window.ended) - interpolate(self.cpu, window.began)

    def mean_busy(self, window: Window) -> float | None:
        """Percent of the window in which the GPU worked."""
        values = [value for at, value in self.busy if window.began <= at <= window.ended + 1]
        return sum(values) / len(values) if values else None


def interpolate(samples: Samples, at: float) -> float:
    """The value at that time, on straight lines between samples."""
    (before, low), (after, high) = samples[0], samples[-1]
    for time_s, value in samples:
        if time_s <= at:
            before, low = time_s, value
        else:
            after, high = time_s, value
            break
    return (
        low
        if after <= before or at <= before
        else low + (high - low) * min(1, (at - before) / (after - before))
    )


def find_window(marks: Samples) -> Window | None:
    """From FILL to DRAIN of the images; None where all came at once."""
    if not marks:
        return None
    total = marks[-1][1]
    began = next(mark for mark in marks if mark[1] >= FILL * total)
    ended = next(mark for mark in marks if mark[1] >= DRAIN * total)
    if ended[0] <= began[0]:
        began, ended = marks[0], marks[-1]
    return Window(began[0], ended[0], ended[1] - began[1]) if ended[0] > began[0] else None


def watch(
    command: Sequence[str],
    log: Path,
    limit_s: float,
    environment: Mapping[str, str],
    *,
    sees_gpu: bool = False,
) -> Watched:
    """Run the command to its end, at most `limit_s`, with stderr in `log`. Raises PartFailedError."""
    log.parent.mkdir(parents=True, exist_ok=True)
    cpu: Samples = []
    output = log.with_suffix(".out")
    with output.open("wb") as stdout, log.open("wb") as stderr, _sample_gpu(sees_gpu) as busy:
        began, clock = time.time(), time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env={**os.environ, **environment}
        )
        try:
            _follow(process, cpu, clock + limit_s)
        finally:
            code = _end(process)
        whole_s = time.monotonic() - clock
    if code:
        what = f"ended after {limit_s:.0f} s, its time" if whole_s >= limit_s else f"ended with {code}"
        raise PartFailedError(f"{what}: {_read_last_words(log)}")
    try:
        answer = json.loads(output.read_text().splitlines()[-1])
    except (IndexError, ValueError) as error:
        raise PartFailedError(f"printed no JSON: {error}") from error
    return Watched(began, whole_s, answer, list(_read_events(log)), cpu, busy)


def _follow(process: "subprocess.Popen[bytes]", cpu: Samples, end: float) -> None:
    """Add up the processor time of the process and its descendants until it ends, or must."""
    seconds: dict[int, float] = {}
    while process.poll() is None and time.monotonic() < end:
        for pid in family(process.pid):
            with suppress(OSError, IndexError):
                fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                seconds[pid] = (int(fields[11]) + int(fields[12])) / TICKS
        cpu.append((time.time(), sum(seconds.values())))
        with suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_EVERY_S)


def _end(process: "subprocess.Popen[bytes]") -> int:
    """The exit code; a process that still runs is killed with all its descendants."""
    if process.poll() is None:
        for pid in family(process.pid):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
    return process.wait()


@contextmanager
def _sample_gpu(wanted: bool) -> Iterator[Samples]:
    """Fill the list with how busy the first GPU is, as nvidia-smi tells, or torch where that is missing."""
    samples: Samples = []
    if not wanted:
        yield samples
        return
    command = SMI if shutil.which(SMI[0]) else (sys.executable, "-c", TORCH)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as teller:
        listener = threading.Thread(target=_listen, args=(teller.stdout, samples), daemon=True)
        listener.start()
        try:
            yield samples
        finally:
            teller.kill()
            listener.join()


def _listen(lines: Iterable[str], samples: Samples) -> None:
    for line in lines:
        with suppress(ValueError):  # [N/A]
            samples.append((time.time(), float(line)))


def _read_events(log: Path) -> Iterator[dict[str, Any]]:
    for line in log.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and "event" in event:
                yield event


def _read_last_words(log: Path) -> str:
    """The last line of a log, or the last event's message."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if not lines:
        return f"it said nothing; see {log}"
    with suppress(ValueError):
        return str(json.loads(lines[-1])["message"])
    return lines[-1].strip()[:300]
