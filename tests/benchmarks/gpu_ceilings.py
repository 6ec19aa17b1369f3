"""What the parts of scoring on a GPU reach alone, on the benchmark's files; each prints one line of JSON.

    python -m tests.benchmarks.gpu_ceilings cores FOLDER cpu 6    decode_batch, one process a core: the CPU decoder's limit
    python -m tests.benchmarks.gpu_ceilings jpeg FOLDER cuda 6    the device's JPEG decoder, from memory to memory
    python -m tests.benchmarks.gpu_ceilings probs FOLDER cuda 6   bytes in memory to probabilities, in 1 and in 2 threads

Each runs for so many seconds, over the same files again where they are few.
"""

import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.gpu_files import count_cores

if TYPE_CHECKING:
    import torch

BATCH = 64
DEVICE_BATCH = 256
HELD_BYTES = 10**9
"""Encoded bytes that one process holds."""
START_S = 3.0
"""In which every process has opened its checkpoint and decoded a batch."""


def make_batches(folder: Path, size: int, share: slice = slice(None)) -> list[list[Path]]:
    paths = sorted(folder.rglob("*.jpg"))[share]
    return [paths[i : i + size] for i in range(0, len(paths), size)]


def decode_share(number: int, folder: Path, cores: int, begin_at: float, seconds: float) -> float:
    """Images a second of one core, reading included."""
    from maskbatch.config import ScoreConfig
    from maskbatch.decode.images import decode_batch
    from maskbatch.decode.source import Encoded
    from maskbatch.model.checkpoint import open_checkpoint

    preset, max_pixels = open_checkpoint().card.preset, ScoreConfig().max_pixels
    batches = make_batches(folder, BATCH, slice(number, None, cores))

    def work(paths: list[Path]) -> int:
        decode_batch((Encoded(path.read_bytes()) for path in paths), len(paths), preset, max_pixels)
        return len(paths)

    work(batches[0][:8])
    time.sleep(max(0.0, begin_at - time.time()))
    began, done = time.perf_counter(), 0
    for batch in cycle(batches):
        done += work(batch)
        if (took_s := time.perf_counter() - began) >= seconds:
            break
    return done / took_s


def measure_cores(folder: Path, device: str, seconds: float) -> dict[str, float]:
    cores = min(count_cores(), len(list(folder.rglob("*.jpg"))))
    work = partial(decode_share, folder=folder, cores=cores, begin_at=time.time() + START_S, seconds=seconds)
    with ProcessPoolExecutor(cores) as pool:
        return {"cores": sum(pool.map(work, range(cores)))}


def hold_bytes(folder: Path) -> list["torch.Tensor"]:
    """Encoded images in memory, up to HELD_BYTES."""
    import numpy as np
    import torch

    held, num_bytes = [], 0
    for path in sorted(folder.rglob("*.jpg")):
        held.append(torch.from_numpy(np.fromfile(path, np.uint8)))
        num_bytes += len(held[-1])
        if num_bytes > HELD_BYTES:
            break
    return held


def wait_for(device: str) -> None:
    """Wait until the device has done all that it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def measure_jpeg(folder: Path, device: str, seconds: float) -> dict[str, float]:
    from torchvision.io import ImageReadMode, decode_jpeg

    held = hold_bytes(folder)
    batches = [held[i : i + DEVICE_BATCH] for i in range(0, len(held), DEVICE_BATCH)]
    decode_jpeg(batches[0], mode=ImageReadMode.RGB, device=device)
    wait_for(device)
    began, done = time.perf_counter(), 0
    for batch in cycle(batches):
        decode_jpeg(batch, mode=ImageReadMode.RGB, device=device)
        done += len(batch)
        if time.perf_counter() - began >= seconds:
            break
    wait_for(device)
    return {"jpeg": done / (time.perf_counter() - began)}


MEASURES = {"cores": measure_cores, "jpeg": measure_jpeg}


def main() -> None:
    part, folder, device, seconds = sys.argv[1:]
    print(json.dumps(MEASURES[part](Path(folder), device, float(seconds))))


if __name__ == "__main__":
    main()
