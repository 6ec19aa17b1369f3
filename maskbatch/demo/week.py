"""A working week of four drawn lobbies, in which every face is known."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from maskbatch.demo.archive import choose_spoilt, daylight, save_picture
from maskbatch.drawing.gate import LABELS
from maskbatch.drawing.scene import Face, Lobby, draw_scene

FIRST_DAY = datetime(2026, 10, 5)
NUM_DAYS = 5
SEED = 20261005
SPOIL_EVERY = 40
NIGHT = (22, 6)
"""The hours between which nobody is there."""
FACE_COLUMNS = [field.name for field in fields(Face)]


@dataclass(frozen=True, slots=True)
class Camera:
    """A drawn camera. seed: of its lobby. size: of its pictures. often: how many it takes, beside others.

    mix: the share of each of LABELS among its people. poster: a face on a banner stands there all week.
    """

    path: str
    seed: int
    size: tuple[int, int]
    often: int
    mix: tuple[float, float, float, float]
    poster: bool = False


CAMERAS = (
    Camera("north/lobby", 3, (1280, 720), 2, (0.58, 0.16, 0.11, 0.15), poster=True),
    Camera("north/lift", 10, (720, 1280), 1, (0.48, 0.24, 0.13, 0.15)),
    Camera("south/entrance", 19, (1280, 720), 1, (0.66, 0.12, 0.07, 0.15)),
    Camera("south/hall", 27, (1920, 1080), 1, (0.60, 0.16, 0.09, 0.15)),
)
FROZEN = ("north/lift", 1)
"""The camera that repeats one frame for a day, and that day, from 0."""
DARK = ("south/hall", 2)
"""The camera that is dark for a day, and that day."""
OFF = ("south/entrance", (2, 3))
"""The camera that takes no snapshots for some days, and those days."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file to draw.

    path: below the archive. spoilt: the status that the file must get; None for a sound file. time: what it
    shows; a frozen camera shows noon.
    """

    path: str
    camera: Camera
    spoilt: str | None
    seed: tuple[int, ...]
    time: datetime
    dark: bool


def plan_week(num_images: int) -> Iterator[Snapshot]:
    """The same week for the same number: about `num_images` snapshots, evenly over days, a fifth at night."""
    number = 0
    each_day = max(10, round(num_images / NUM_DAYS / sum(camera.often for camera in CAMERAS)))
    for camera in CAMERAS:
        rng = np.random.default_rng((SEED, camera.seed))
        for day in range(NUM_DAYS):
            if camera.path == OFF[0] and day in OFF[1]:
                continue
            frozen, dark = (camera.path, day) == FROZEN, (camera.path, day) == DARK
            for k, hour in enumerate(_hours(each_day * camera.often)):
                time = FIRST_DAY + timedelta(days=day, seconds=int(3600 * hour + rng.integers(300)))
                number += 1
                yield Snapshot(
                    path=f"{camera.path}/{time:%Y/%m/%d/%H%M%S}.jpg",
                    camera=camera,
                    spoilt=None if frozen else choose_spoilt(number, SPOIL_EVERY),
                    seed=(SEED, camera.seed, day, 0 if frozen else k),
                    time=time.replace(hour=12) if frozen else time,
                    dark=dark,
                )


def _hours(num: int) -> list[float]:
    """`num` hours of a day, a fifth of them at night."""
    return [*np.linspace(0.5, NIGHT[1] - 0.5, num // 5), *np.linspace(7, NIGHT[0] - 1, num - num // 5)]


def draw_file(archive: Path, snapshot: Snapshot) -> list[dict[str, Any]]:
    """Draw a snapshot below `archive`; its truth: a row for the picture, and one for each face in it."""
    camera, hour = snapshot.camera, snapshot.time.hour + snapshot.time.minute / 60
    rng = np.random.default_rng(snapshot.seed)
    lobby = Lobby.draw_lots(camera.size, np.random.default_rng(camera.seed), poster=camera.poster)
    is_open = NIGHT[1] <= hour < NIGHT[0]
    num_people = 1 + rng.poisson(1.6) if is_open and not snapshot.dark else 0
    labels = [str(label) for label in rng.choice(LABELS, num_people, p=camera.mix)]
    light = min(1, max(0.6, daylight(hour))) if is_open else 0.15
    clock = f"{snapshot.time:%Y-%m-%d %H:%M:%S}"
    picture, faces = draw_scene(lobby.gather(labels, rng), lobby, rng, light=light, clock=clock)
    save_picture(archive, snapshot.path, picture, dark=snapshot.dark, spoilt=snapshot.spoilt)
    row = {"path": snapshot.path, "status": snapshot.spoilt or "ok"}
    known = [] if snapshot.spoilt else faces
    return [row | dict.fromkeys(FACE_COLUMNS), *(row | asdict(face) for face in known)]
