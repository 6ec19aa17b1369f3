"""Kill the driver at random moments of every phase, call it again, and compare with an undisturbed run."""

import json
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import save_untrained, table_of
from tests.maskbatch.samples import draw, encode, write_files
from tests.torture.command import COMMAND, call
from tests.torture.table import Promise

NUM_IMAGES = 1500
KILLS_A_RUN = 3
LAYOUT = "{site}/{camera}/{captured_at:%Y-%m-%d/%H%M%S}.jpg"
PHASES = ("plan", "start", "score", "commit", "report")
"""Each begins where the one before it ends."""
ENDS = {"plan": "start", "score": "commit", "commit": "report"}
"""The phase that begins at the line that ends a step."""


@dataclass
class Call:
    """One call of `maskbatch score --json-logs`, which may be killed."""

    process: "subprocess.Popen[str]"
    began_s: dict[str, float] = field(default_factory=dict)
    """When each phase began, of the monotonic clock."""
    log: list[str] = field(default_factory=list)

    def follow(self) -> None:
        """Read its log to the end, and note when phases begin."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            entry = json.loads(line) if line.startswith("{") else {}
            phase = "score" if entry.get("event") == "shard" else ENDS.get(entry.get("phase", ""))
            if phase and entry["event"] in ("step", "shard"):
                self.began_s.setdefault(phase, time.monotonic())

    def reaches(self, phase: str) -> bool:
        """Wait for a phase; False if the call ended before."""
        while phase not in self.began_s and self.process.poll() is None:
            time.sleep(0.002)
        return phase in self.began_s


def kill(folder: Path, chance: random.Random, num_kills: int) -> Iterator[Promise]:
    """Three kills a run, then a call that ends, until there were `num_kills`."""
    command = _make_command(folder)
    undisturbed = folder / "undisturbed"
    lasts_s = _measure_phases(command, undisturbed)
    hit: Counter[str] = Counter()
    num_runs = num_different = num_unverified = 0
    while hit.total() < num_kills:
        out = folder / f"run-{num_runs}"
        for phase in chance.sample(PHASES, KILLS_A_RUN):
            hit[phase] += _kill_once([*command, "--out", str(out)], phase, chance.uniform(0, lasts_s[phase]))
        ended = call(*command[len(COMMAND) :], "--out", out)
        num_runs += 1
        num_different += ended.returncode != 0 or not _equal(out, undisturbed)
        num_unverified += call("verify", out, "--sample", 20).returncode != 0
    spread = ", ".join(f"{name} {hit[name]}" for name in PHASES)
    text = "A run whose driver is killed, called again, ends in the undisturbed table and counts"
    yield Promise(text, hit.total(), num_different, f"{num_runs} runs; killed in {spread}")
    yield Promise("Such a run passes `verify`", num_runs, num_unverified)


def _make_command(folder: Path) -> list[str]:
    names = (
        f"site/c{k % 5}/2026-10-{k % 28 + 1:02d}/{k // 60:02d}{k % 60:02d}00.jpg" for k in range(NUM_IMAGES)
    )
    pictures = [encode(draw(k, (320, 240)), quality=85) for k in range(60)]
    archive = write_files(folder / "archive", {name: pictures[k % 60] for k, name in enumerate(names)})
    checkpoint = save_untrained(folder, (160, 160))
    flags = ["--checkpoint", str(checkpoint), "--layout", LAYOUT, "--json-logs"]
    return [*COMMAND, "score", str(archive), *flags]


def _start(command: list[str]) -> tuple[Call, threading.Thread]:
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace"
    )
    begun = Call(process, {"plan": time.monotonic()})
    follower = threading.Thread(target=begun.follow)
    follower.start()
    return begun, follower


def _measure_phases(command: list[str], out: Path) -> dict[str, float]:
    """Seconds that each phase takes in a run that nobody disturbs."""
    whole, follower = _start([*command, "--out", str(out)])
    follower.join()
    if whole.process.wait() != 0:
        raise RuntimeError("".join(whole.log))
    ends_s = [*(whole.began_s[phase] for phase in PHASES[1:]), time.monotonic()]
    return {phase: end_s - whole.began_s[phase] for phase, end_s in zip(PHASES, ends_s, strict=True)}


def _kill_once(command: list[str], phase: str, delay_s: float) -> bool:
    """Kill a call `delay_s` after it reaches `phase`; False if it ended before."""
    begun, follower = _start(command)
    if begun.reaches(phase):
        time.sleep(max(0.0, begun.began_s[phase] + delay_s - time.monotonic()))
    begun.process.kill()
    follower.join()
    return begun.process.wait() == -signal.SIGKILL


def _equal(run: Path, undisturbed: Path) -> bool:
    same_rows = table_of(run).equals(table_of(undisturbed))
    cells = (folder / "report" / "cells.parquet" for folder in (run, undisturbed))
    return same_rows and len({path.read_bytes() for path in cells}) == 1
