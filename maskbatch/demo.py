"""`maskbatch demo`: a month of four drawn cameras with a known truth, scored by the ordinary job.

The archive is what a real one is: day and night light, people and empty gates, a few spoilt files,
a file that is no image, one camera frozen for a day, one without light, one switched off for two.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from math import cos, pi
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from maskbatch import runner
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig
from maskbatch.drawing import LABELS, Gate, draw_snapshot
from maskbatch.errors import UsageError
from maskbatch.progress import say, step
from maskbatch.runs.directory import RunDir
from maskbatch.stores.files import write_whole
from maskbatch.stores.uris import local_path

LAYOUT = "{site}/{camera}/{captured_at:%Y/%m/%d/%H%M%S}.jpg"
TIMEZONE = "Europe/Paris"
FIRST_DAY = datetime(2026, 10, 1)
NUM_DAYS = 30
SEED = 20261001
SPOILT = ("truncated", "corrupt", "unsupported")
"""What every 80th file becomes, in turn."""


@dataclass(frozen=True, slots=True)
class Camera:
    """One drawn camera; `mix` is the share of each of LABELS among its snapshots."""

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
"""The camera, and the day of the month from 0, that repeats one frame."""
DARK = ("south/lobby", 19)
"""The camera and the day without light."""
OFF = ("south/dock", (16, 17))
"""The camera and the days without snapshots."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One file to draw, and its truth."""

    path: str
    """Below the archive."""
    label: str
    spoilt: str | None
    """Status that the file must get, or None for a sound one."""
    seed: tuple[int, ...]
    camera_seed: int
    time: datetime
    dark: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What was found beside what was drawn."""

    drawn: dict[str, int]
    """Sound images by drawn label."""
    found: dict[str, int]
    """Those images by the label they got."""
    right: dict[str, int]
    """Those whose label is the drawn one."""
    spoilt: int
    """Files drawn spoilt."""
    spoilt_right: int
    """Of them, those with the status they were drawn for."""
    true_compliance: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def print(self, console: Console, overall: dict[str, Any]) -> None:
        """The truth beside the report's overall row."""
        table = Table(
            title="Drawn and found",
            title_justify="left",
            title_style="bold",
            header_style="",
            box=SIMPLE_HEAD,
        )
        for name in ("label", "drawn", "found", "right"):
            table.add_column(name, justify="left" if name == "label" else "right")
        for name in LABELS:
            share = self.right[name] / self.drawn[name] if self.drawn[name] else 1
            table.add_row(name, f"{self.drawn[name]:,}", f"{self.found[name]:,}", f"{share:.1%}")
        console.print(table)
        console.print(f"Spoilt files: {self.spoilt} drawn, {self.spoilt_right} found with the right reason.")
        held = overall["compliance_low"] <= self.true_compliance <= overall["compliance_high"]
        holds = "holds" if held else "does not hold"
        console.print(f"Compliance drawn: {self.true_compliance:.1%}; the report's interval {holds} it.")
        frozen, dark, off = (FIRST_DAY + timedelta(days=n) for n in (FROZEN[1], DARK[1], OFF[1][0]))
        console.print(
            f"Drawn to be found too: {FROZEN[0]} repeats one frame all {frozen:%Y-%m-%d}, {DARK[0]} is dark "
            f"all {dark:%Y-%m-%d}, {OFF[0]} is off for {len(OFF[1])} days from {off:%Y-%m-%d}."
        )


def run(out: Path, num_images: int, *, verbose: bool = False) -> tuple[runner.Result, Comparison]:
    """Draw the archive at `out`/archive unless it is there, score it to `out`/run, compare."""
    archive, truth_path = out.absolute() / "archive", out.absolute() / "truth.parquet"
    snapshots = list(plan_month(num_images))
    if len(snapshots) != num_images:
        say(f"{len(snapshots):,} snapshots: as many every day of each camera, none while {OFF[0]} is off.")
    if truth_path.exists():
        truth = pq.read_table(truth_path)
        if truth["path"].to_pylist() != [snapshot.path for snapshot in snapshots]:
            raise UsageError(f"{out} holds a demo of {truth.num_rows} images; name another --out")
    elif archive.exists() and any(archive.iterdir()) and not (out / ".drawing").exists():
        raise UsageError(f"{archive} is not empty and holds no demo; name another --out")
    else:
        draw_archive(archive, snapshots)
        with write_whole(truth_path) as partial:
            pq.write_table(pa.Table.from_pylist([_truth(snapshot) for snapshot in snapshots]), partial)
        (out / ".drawing").unlink()
    result = runner.score(
        str(out / "run"),
        PlanConfig(archives=(str(archive),), layout=LAYOUT, timezone=(TIMEZONE,)),
        ScoreConfig(),
        JobConfig(),
        verbose=verbose,
    )
    say(f"Archive: {archive}   Truth: {truth_path}")
    return result, compare(result.run, archive, snapshots)


def plan_month(num_images: int) -> Iterator[Snapshot]:
    """The snapshots of the month, about `num_images`, evenly over cameras and days; always the same."""
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
    """Draw `snapshots` below `archive`, on every core."""
    archive.mkdir(parents=True, exist_ok=True)
    (archive.parent / ".drawing").touch()
    (archive / "README.txt").write_text("Drawn by maskbatch demo; nobody is shown.\n")
    with (
        ProcessPoolExecutor(cpu_count(), get_context("spawn")) as pool,
        step("draw", len(snapshots)) as shown,
    ):
        for _ in pool.map(_draw, [archive] * len(snapshots), snapshots, chunksize=16):
            shown.advance()


def _draw(archive: Path, snapshot: Snapshot) -> None:
    rng = np.random.default_rng(snapshot.seed)
    gate = Gate.draw_lots(np.random.default_rng((SEED, snapshot.camera_seed, 7)))
    hour = snapshot.time.hour + snapshot.time.minute / 60
    light = float(np.clip(0.62 - 0.55 * cos(2 * pi * (hour - 1.5) / 24), 0.1, 1))
    picture = draw_snapshot(
        snapshot.label, gate, rng, light=light, clock=f"{snapshot.time:%Y-%m-%d %H:%M:%S}"
    )
    if snapshot.dark:
        picture = picture.point(lambda value: value // 20)
    path = archive / snapshot.path
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=88)
    if snapshot.spoilt:
        path.write_bytes(_spoil(path.read_bytes(), snapshot.spoilt))


def _spoil(data: bytes, how: str) -> bytes:
    """A file as a full disk, a bad cable or a failed download leaves it."""
    if how == "truncated":
        return data[: len(data) // 2]
    if how == "corrupt":
        middle = len(data) // 2
        return data[:middle] + b"\0" * 2000 + data[middle + 2000 :]
    return b"<html><body>502 Bad Gateway</body></html>"


def _truth(snapshot: Snapshot) -> dict[str, Any]:
    return {"path": snapshot.path, "label": snapshot.label, "status": snapshot.spoilt or "ok"}


def compare(committed: RunDir, archive: Path, snapshots: list[Snapshot]) -> Comparison:
    """Join the committed rows to the truth by path."""
    rows = ds.dataset(committed.scores, partitioning="hive").to_table(columns=["uri", "status", "label"])
    scored = {local_path(row["uri"]).decode(): row for row in rows.to_pylist()}
    drawn, found, right = (Counter(dict.fromkeys(LABELS, 0)) for _ in range(3))
    spoilt = spoilt_right = 0
    for snapshot in snapshots:
        row = scored[str(archive / snapshot.path)]
        if snapshot.spoilt:
            spoilt += 1
            spoilt_right += row["status"] == snapshot.spoilt
        else:
            drawn[snapshot.label] += 1
            found[row["label"]] += 1
            right[snapshot.label] += row["label"] == snapshot.label
    return Comparison(
        drawn=drawn,
        found=found,
        right=right,
        spoilt=spoilt,
        spoilt_right=spoilt_right,
        true_compliance=drawn["with_mask"] / (drawn.total() - drawn["no_face"]),
    )
