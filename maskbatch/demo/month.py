"""A month of four drawn cameras with a known truth."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import cos, pi
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path

import numpy as np

from maskbatch.drawing.gate import LABELS, Gate, draw_snapshot
from maskbatch.progress import step

FIRST_DAY = datetime(2026, 10, 1)
NUM_DAYS = 30
SEED = 20261001
SPOILT = ("truncated", "corrupt", "unsupported")
"""Every 80th file is spoilt, in turn in these ways."""


@dataclass(frozen=True, slots=True)
class Camera:
    """A drawn camera; `mix` holds the share of each of LABELS in its snapshots."""

    path: str
    seed: int
    mix: tuple[float, float, float, float]


CAMERAS = (
    Camera("north/gate-1", 1, (0.74, 0.06, 0.05, 0.15)),
    Camera("north/gate-2", 2, (0.62, 0.14, 0.09, 0.15)),
    Camera("south/dock", 3, (0.48, 0.22, 0.15, 0.15)),
    Camera("south/lobby", 4, (0.70, 0.05, 0.05, 0.20)),
)

FROZEN = ("north/gate-2", 11)
"""The camera that repeats one frame for a day, and that day of the month, from 0."""
DARK = ("south/lobby", 19)
"""The camera that is dark for a day, and that day."""
OFF = ("south/dock", (16, 17))
"""The camera that takes no snapshots for some days, and those days."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file to draw, and its truth.

    path: below the archive. spoilt: the status that the file must get; None for a sound file.
    """

    path: str
    label: str
    spoilt: str | None
    seed: tuple[int, ...]
    camera_seed: int
    time: datetime
    dark: bool


def plan_month(num_images: int) -> Iterator[Snapshot]:
    """The same month for the same number: about `num_images` snapshots, evenly over cameras and days."""
    number = 0
    each_day = max(2, round(num_images / len(CAMERAS) / NUM_DAYS))
    for camera in CAMERAS:
        rng = np.random.default_rng((SEED, camera.seed))
        for day in range(NUM_DAYS):
            frozen, dark = (camera.path, day) == FROZEN, (camera.path, day) == DARK
            seconds = 6 * 3600 + np.arange(each_day) * 16 * 3600 // each_day + rng.integers(0, 60, each_day)
            frozen_label = str(rng.choice(LABELS[:3]))
            for k, second in enumerate(seconds):
                time = FIRST_DAY + timedelta(days=day, seconds=int(second))
                label = frozen_label if frozen else str(rng.choice(LABELS, p=camera.mix))
                if camera.path == OFF[0] and day in OFF[1]:
                    continue
                number += 1
                spoilt = SPOILT[number // 80 % len(SPOILT)] if number % 80 == 40 and not frozen else None
                yield Snapshot(
                    path=f"{camera.path}/{time:%Y/%m/%d/%H%M%S}.jpg",
                    label="no_face" if dark else label,
                    spoilt=spoilt,
                    seed=(SEED, camera.seed, day, 0 if frozen else k),
                    camera_seed=camera.seed,
                    time=time.replace(hour=12) if frozen else time,
                    dark=dark,
                )


def draw_archive(archive: Path, snapshots: list[Snapshot]) -> None:
    """Draw `snapshots` below `archive`, using every core."""
    archive.mkdir(parents=True, exist_ok=True)
    (archive.parent / ".drawing").touch()
    (archive / "README.txt").write_text("Drawn by maskbatch demo; no real people.\n")
    pool = ProcessPoolExecutor(cpu_count(), get_context("spawn"))
    with pool, step("draw", len(snapshots)) as progress:
        for _ in pool.map(_draw_file, [archive] * len(snapshots), snapshots, chunksize=16):
            progress.advance()


def _draw_file(archive: Path, snapshot: Snapshot) -> None:
    rng = np.random.default_rng(snapshot.seed)
    gate = Gate.draw_lots(np.random.default_rng((SEED, snapshot.camera_seed, 7)))
    hour = snapshot.time.hour + snapshot.time.minute / 60
    light = float(np.clip(0.62 - 0.55 * cos(2 * pi * (hour - 1.5) / 24), 0.1, 1))
    clock = f"{snapshot.time:%Y-%m-%d %H:%M:%S}"
    picture = draw_snapshot(snapshot.label, gate, rng, light=light, clock=clock)
    if snapshot.dark:
        picture = picture.point(lambda value: value // 20)
    path = archive / snapshot.path
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=88)
    if snapshot.spoilt:
        path.write_bytes(_spoil(path.read_bytes(), snapshot.spoilt))


def _spoil(data: bytes, how: str) -> bytes:
    """Spoil a file as a full disk, a bad cable or a failed download does."""
    middle = len(data) // 2
    return {
        "truncated": data[:middle],
        "corrupt": data[:middle] + b"\0" * 2000 + data[middle + 2000 :],
        "unsupported": b"<html><body>502 Bad Gateway</body></html>",
    }[how]
