"""A month of four drawn cameras with a known truth."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from maskbatch.demo.archive import choose_spoilt, daylight, save_picture
from maskbatch.drawing.gate import LABELS, Gate, draw_snapshot

FIRST_DAY = datetime(2026, 10, 1)
NUM_DAYS = 30
SEED = 20261001
SPOIL_EVERY = 80


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
                spoilt = None if frozen else choose_spoilt(number, SPOIL_EVERY)
                yield Snapshot(
                    path=f"{camera.path}/{time:%Y/%m/%d/%H%M%S}.jpg",
                    label="no_face" if dark else label,
                    spoilt=spoilt,
                    seed=(SEED, camera.seed, day, 0 if frozen else k),
                    camera_seed=camera.seed,
                    time=time.replace(hour=12) if frozen else time,
                    dark=dark,
                )


def draw_file(archive: Path, snapshot: Snapshot) -> list[dict[str, Any]]:
    """Draw a snapshot below `archive`; its truth is one row."""
    rng = np.random.default_rng(snapshot.seed)
    gate = Gate.draw_lots(np.random.default_rng((SEED, snapshot.camera_seed, 7)))
    hour = snapshot.time.hour + snapshot.time.minute / 60
    light = float(np.clip(daylight(hour), 0.1, 1))
    clock = f"{snapshot.time:%Y-%m-%d %H:%M:%S}"
    picture = draw_snapshot(snapshot.label, gate, rng, light=light, clock=clock)
    save_picture(archive, snapshot.path, picture, dark=snapshot.dark, spoilt=snapshot.spoilt)
    return [{"path": snapshot.path, "label": snapshot.label, "status": snapshot.spoilt or "ok"}]
