"""Whether the pictures of a run fit its view: a process of its own looks at some while Ray starts.

It has a low priority, ends with the run and leaves nothing. All that comes of it is a sentence.
"""

import json
import os
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Self

from maskbatch.progress import say
from maskbatch.runs.work import Work

MIN_PICTURES = 10
"""With fewer that show a face nothing is said: of gates at night, of an empty hall."""
MANY, NEARLY_ALL = 1 / 3, 0.9
"""Shares of the pictures that show a face; `glance` says what was measured."""
LAST_S = 5.0
"""Only on a machine that is busy with other work is there anything left to wait for."""
YIELD = """
import contextlib, os
os.nice(19)
with contextlib.suppress(AttributeError, OSError):
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
"""
"""Before anything else, importing torch above all. Workers of Ray are nice by 15: by 19 is not enough."""
START = "import sys; sys.path[:] = sys.argv[1:]; from maskbatch.score.glance import serve; serve()"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """How many pictures of a sample show what, as far as it is looked at."""

    pictures: int
    """Those with a face, of which some are none of the following."""
    several: int
    """People side by side."""
    far: int
    """One person, far away."""
    filled: int
    """One face that fills the picture."""

    def advise(self, view: str) -> str | None:
        """One sentence where the other view suits these pictures better."""
        if self.pictures < MIN_PICTURES:
            return None
        sampled = f"of {self.pictures} sampled pictures with a face"
        if view == "face" and self.several + self.far > MANY * self.pictures:
            several, far = f"{self.several} show people side by side", f"{self.far} someone far away"
            shown = f"{several} and {far}" if self.far else several
            return f"{sampled}, {shown}, but each gets one label; --view scene finds and scores every face"
        if view == "scene" and self.filled >= NEARLY_ALL * self.pictures:
            shown = f"{self.filled} show one face that fills it"
            return f"{sampled}, {shown}; --view face scores such pictures faster"
        return None


class Guard:
    """Has a sample of the pictures of `work` looked at, and says what that finds; or does nothing."""

    def __init__(self, work: Work, *, is_wanted: bool = True) -> None:
        self.work, self.is_wanted = work, is_wanted
        self.advice: str | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self.is_wanted:
            with suppress(OSError):
                self._process = subprocess.Popen(  # noqa: S603
                    [sys.executable, "-c", YIELD + START, *sys.path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                assert self._process.stdin  # noqa: S101  a pipe
                pickle.dump(replace(self.work, archives=()), self._process.stdin)
                self._process.stdin.flush()
        return self

    def __exit__(self, *_: object) -> None:
        if process := self._process:
            process.kill()
            for pipe in filter(None, (process.stdin, process.stdout)):
                with suppress(OSError):  # what it did not read is written again at `close`
                    pipe.close()
            threading.Thread(target=process.wait, daemon=True).start()  # on a busy machine, dying takes long

    def check(self, *, is_last: bool = False) -> None:
        """Say the sentence once the sample is looked at; at the last, after LAST_S, from what there is."""
        process = self._process
        if process and is_last:
            with suppress(subprocess.TimeoutExpired):
                process.wait(LAST_S)
        if process is None or self.advice or (process.poll() is None and not is_last):
            return
        assert process.stdout  # noqa: S101  a pipe
        os.set_blocking(process.stdout.fileno(), False)
        with suppress(IndexError, ValueError, TypeError):  # no answer
            found = json.loads((process.stdout.read() or b"").splitlines()[-1])
            self.advice = Found(**found).advise(self.work.config.view)
        if self.advice:
            say(f"view: {self.advice}", "view", **found)
