"""What the parts of scoring on a GPU reach alone, on the benchmark's files; each prints one line of JSON.

    python -m tests.benchmarks.gpu_ceilings cores FOLDER cpu 6    decode_batch, one process a core: the CPU decoder's limit
    python -m tests.benchmarks.gpu_ceilings jpeg FOLDER cuda 6    the device's JPEG decoder, from memory to memory
    python -m tests.benchmarks.gpu_ceilings probs FOLDER cuda 6   bytes in memory to probabilities, in 1 and in 2 threads

Each runs for so many seconds, over the same files again where they are few.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import cycle
from pathlib import Path
from threading import Barrier
from typing import Any

from tests.benchmarks.gpu_files import count_cores

Batch = Sequence[Any]
SHARD = 64
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
    batches = make_batches(folder, SHARD, slice(number, None, cores))

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


def hold_bytes(folder: Path, size: int) -> list[list[bytes]]:
    """Encoded images in memory, up to HELD_BYTES, in batches of `size`."""
    held, num_bytes = list[bytes](), 0
    for path in sorted(folder.rglob("*.jpg")):
        if num_bytes > HELD_BYTES:
            break
        held.append(path.read_bytes())
        num_bytes += len(held[-1])
    return [held[i : i + size] for i in range(0, len(held), size)]


def wait_for(device: str) -> None:
    """Wait until the device has done all that it was given."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def time_batches(
    batches: Sequence[Batch], work: Callable[[Batch], None], device: str, seconds: float, threads: int = 1
) -> float:
    """Images a second of `work` in so many threads, each with batches of its own; all begin together, warm."""
    barrier = Barrier(threads, timeout=60)

    def work_alone(first: int) -> float:
        own = batches[first::threads] or batches
        work(own[0])
        wait_for(device)
        barrier.wait()
        began, done = time.perf_counter(), 0
        for batch in cycle(own):
            work(batch)
            done += len(batch)
            if time.perf_counter() - began >= seconds:
                break
        wait_for(device)
        return done / (time.perf_counter() - began)

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work_alone, range(threads)))


def measure_jpeg(folder: Path, device: str, seconds: float) -> dict[str, float]:
    import numpy as np
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    from maskbatch.model.card import BATCH_SIZES

    def decode(batch: Sequence[torch.Tensor]) -> None:
        decode_jpeg(batch, mode=ImageReadMode.RGB, device=device)

    batches = [
        [torch.from_numpy(np.frombuffer(bytearray(data), np.uint8)) for data in batch]
        for batch in hold_bytes(folder, BATCH_SIZES[device])
    ]
    return {"jpeg": time_batches(batches, decode, device, seconds)}


def measure_probs(folder: Path, device: str, seconds: float) -> dict[str, float]:
    from maskbatch.config import ScoreConfig
    from maskbatch.decode.images import decode_image
    from maskbatch.decode.source import Encoded
    from maskbatch.decode.triage import Plain, Sorted, sort_images
    from maskbatch.model.card import BATCH_SIZES
    from maskbatch.model.checkpoint import open_checkpoint
    from maskbatch.score.networks import Networks

    config = ScoreConfig(decoder="gpu")
    networks = Networks(open_checkpoint(), None, config, device=device)
    preset = networks.card.preset

    def score(batch: Sequence[Plain]) -> None:
        images = Sorted([{}] * len(batch), list(batch))
        with networks.turns.take():
            _, images_NHWC = networks.decoder.decode_faces(images, lambda _, *image: decode_image(*image))
            networks.classifier.probs(images_NHWC)

    batches = [
        sort_images(map(Encoded, batch), preset, config.max_pixels).images
        for batch in hold_bytes(folder, BATCH_SIZES[device])
    ]
    if not all(isinstance(image, Plain) for batch in batches for image in batch):
        sys.exit(f"{folder} has files that are not left to the device")
    return {f"probs_{threads}": time_batches(batches, score, device, seconds, threads) for threads in (1, 2)}


MEASURES = {"cores": measure_cores, "jpeg": measure_jpeg, "probs": measure_probs}


def main() -> None:
    part, folder, device, seconds = sys.argv[1:]
    print(json.dumps(MEASURES[part](Path(folder), device, float(seconds))))


if __name__ == "__main__":
    main()
