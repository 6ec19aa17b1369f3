"""The pictures that the GPU benchmark reads: drawn on every core, kept for the next call.

    python -m tests.benchmarks.gpu_files snapshots FOLDER 1920x1080 16000
    python -m tests.benchmarks.gpu_files damaged FOLDER 2000 [PHOTOGRAPHS]

Each prints one line of JSON.
"""

import io
import json
import math
import os
import random
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.score import mark

NUM_DRAWN = 96
NOISE = 11
"""Grey levels. With it a file has 430 KB at 1920x1080 and 69 KB at 640x480, as from a camera."""
QUALITY = 85
SHARE_OF_DISK, SHARE_OF_MEMORY = 0.5, 0.25
"""What the files of one size may take at most: beside them lie runs, and Ray's object store."""


def count_cores() -> int:
    """Cores that this process may use; a container often has fewer than its machine."""
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def read_free_memory() -> int:
    """Bytes of memory that new files may stay in."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    with suppress(OSError, ValueError):
        free = min(free, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return free


def parse_size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def draw_picture(size: tuple[int, int], seed: int) -> bytes:
    """A snapshot as JPEG, with the noise of a sensor."""
    from maskbatch.drawing.gate import LABELS, Gate, draw_snapshot

    rng = np.random.default_rng(seed)
    clock = "2026-10-01 12:00:00"
    picture = draw_snapshot(LABELS[seed % 4], Gate.draw_lots(rng), rng, size=size, clock=clock)
    noise = rng.integers(-NOISE, NOISE, (*size[::-1], 1), np.int16)
    sink = io.BytesIO()
    noisy = np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(sink, "JPEG", quality=QUALITY)
    return sink.getvalue()


def write_share(numbers: range, folder: Path, drawn: list[bytes]) -> None:
    for k in numbers:
        path = folder / f"cam-{k % 4}" / f"{k:06d}.jpg"
        if not path.exists():
            path.write_bytes(mark(drawn[k % len(drawn)], k))


def write_snapshots(folder: Path, size: tuple[int, int], asked: int) -> dict[str, float]:
    """Draw NUM_DRAWN pictures and write `asked` files of them, or as many as there is room for."""
    cores = count_cores()
    for camera in range(4):
        (folder / f"cam-{camera}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(cores) as pool:
        drawn = list(pool.map(partial(draw_picture, size), range(min(asked, NUM_DRAWN))))
        file_bytes = sum(map(len, drawn)) / len(drawn)
        kept = sum(path.stat().st_size for path in folder.rglob("*.jpg"))
        room = (shutil.disk_usage(folder).free + kept) * SHARE_OF_DISK, read_free_memory() * SHARE_OF_MEMORY
        count = max(1, min(asked, int(min(room) / file_bytes)))
        shares = [range(k, count, cores) for k in range(cores)]
        list(pool.map(partial(write_share, folder=folder, drawn=drawn), shares))
    for path in sorted(folder.rglob("*.jpg"), key=lambda path: path.stem)[count:]:
        path.unlink()
    return {"files": count, "file_kb": file_bytes / 1024}


def link_some(folder: Path, count: int) -> Path:
    """A folder beside it of the first `count` of its files."""
    few = folder.with_name(f"{folder.name}-few")
    shutil.rmtree(few, ignore_errors=True)
    few.mkdir()
    for path in sorted(folder.rglob("*.jpg"), key=lambda path: path.stem)[:count]:
        os.link(path, few / path.name)
    return few


def write_damaged(folder: Path, count: int, photographs: Path | None) -> dict[str, float]:
    """JPEGs with one damage each, of every kind and place, and the photographs beside them."""
    from tests.benchmarks.damage import DAMAGE, SIZE, make_files
    from tests.maskbatch.samples import draw

    shutil.rmtree(folder, ignore_errors=True)
    (folder / "damaged").mkdir(parents=True)
    sound = [
        data for seed in range(8) for name, data in make_files(draw(seed, SIZE)).items() if "JPEG" in name
    ]
    spoils, rng = list(DAMAGE.values()), random.Random(1)
    for k in range(count):
        data = bytearray(sound[k // len(spoils) % len(sound)])
        spoils[k % len(spoils)](data, rng.randrange(2, len(data)), rng)
        (folder / "damaged" / f"{k:06d}.jpg").write_bytes(data)
    paths = sorted(photographs.rglob("*.jpg")) if photographs else []
    held_out = [path for path in paths if "val" in path.parts] or paths
    for k, path in enumerate(held_out):
        (folder / "photographs").mkdir(exist_ok=True)
        shutil.copyfile(path, folder / "photographs" / f"{k:06d}.jpg")
    return {"damaged": count, "photographs": len(held_out)}


def main() -> None:
    kind, folder, *rest = sys.argv[1:]
    if kind == "snapshots":
        made = write_snapshots(Path(folder), parse_size(rest[0]), int(rest[1]))
    else:
        made = write_damaged(Path(folder), int(rest[0]), Path(rest[1]) if len(rest) > 1 else None)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
