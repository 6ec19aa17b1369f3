"""Sound pictures of every format, damaged at random: each becomes a row, in bounded time and memory."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from maskbatch.config import ScoreConfig
from maskbatch.decode.images import decode_image
from maskbatch.errors import ImageError
from maskbatch.model.card import Preset
from maskbatch.schema import STATUSES
from tests.maskbatch.samples import draw, encode
from tests.torture.command import peak_mb
from tests.torture.table import Promise

BATCH = 500
MAX_CPU_S = 20.0
MAX_GROWTH_MB = 1024
SIZE = (160, 160)
VISIBLE = 8
"""Grey levels: damage that changes no pixel of the model's input by more cannot be seen."""


class Outcome(NamedTuple):
    """What one damaged picture came to."""

    form: str
    status: str
    """A status, or `raised`."""
    stable: bool
    """The same twice."""
    changed: bool
    cpu_s: float
    growth_mb: float


def mutate(folder: Path, chance: random.Random, num_mutations: int) -> Iterator[Promise]:
    """Decode `num_mutations` damaged pictures in two processes."""
    outcomes, num_crashes = _decode_all(chance.randrange(2**32), num_mutations)
    statuses = Counter(outcome.status for outcome in outcomes)
    known = ", ".join(f"{name} {statuses[name]:,}" for name in STATUSES if statuses[name])
    broke = num_crashes + sum(not outcome.stable or outcome.status == "raised" for outcome in outcomes)
    yield Promise("A damaged picture becomes a row, twice the same", num_mutations, broke, known)
    slow = max(outcome.cpu_s for outcome in outcomes)
    broke = sum(outcome.cpu_s > MAX_CPU_S for outcome in outcomes)
    yield Promise("It takes less than 20 s", num_mutations, broke, f"longest {slow:.1f} s of processor time")
    most = max(outcome.growth_mb for outcome in outcomes)
    broke = sum(outcome.growth_mb > MAX_GROWTH_MB for outcome in outcomes)
    yield Promise("It adds less than 1 GB to its worker", num_mutations, broke, f"most {most:,.0f} MB")
    yield Promise("Nothing is promised of damage that no decoder notices", num_mutations, 0, _share(outcomes))


def _share(outcomes: list[Outcome]) -> str:
    """By format, how many of the pictures that the damage changed were `ok` all the same."""
    changed = [outcome for outcome in outcomes if outcome.changed]
    bad = Counter(outcome.form for outcome in changed)
    ok = Counter(outcome.form for outcome in changed if outcome.status == "ok")
    return "changed, and ok: " + ", ".join(f"{form} {ok[form] / bad[form]:.0%}" for form in sorted(bad))


def _decode_all(seed: int, num_mutations: int) -> tuple[list[Outcome], int]:
    """All outcomes, and how many batches ended their process."""
    outcomes: list[Outcome] = []
    num_crashes = 0
    for seeds in np.array_split(np.arange(seed, seed + num_mutations), max(1, num_mutations // (20 * BATCH))):
        batches = np.array_split(seeds, max(1, len(seeds) // BATCH))
        with ProcessPoolExecutor(2) as pool:
            for done in [pool.submit(_decode_some, [int(k) for k in batch]) for batch in batches]:
                try:
                    outcomes += done.result()
                except BrokenProcessPool:
                    num_crashes += 1
    return outcomes, num_crashes


def _decode_some(seeds: list[int]) -> list[Outcome]:
    return [_decode_one(seed) for seed in seeds]


def _decode_one(seed: int) -> Outcome:
    chance = random.Random(seed)
    form = chance.choice(list(make_pictures()))
    sound = make_pictures()[form]
    data = damage(sound, chance)
    before_mb, began_s = peak_mb(), time.process_time()
    first = judge(data)
    cpu_s = time.process_time() - began_s
    growth_mb = peak_mb() - before_mb
    changed = first[0] != "ok" or _differs(first[2], judge(sound)[2])
    return Outcome(form, first[0], first == judge(data), changed, cpu_s, growth_mb)


def _differs(pixels: bytes, sound: bytes) -> bool:
    gap = np.frombuffer(pixels, np.uint8).astype(np.int16) - np.frombuffer(sound, np.uint8)
    return bool(np.abs(gap).max() > VISIBLE)


def judge(data: bytes) -> tuple[str, str, bytes]:
    """Status, sentence and pixels (H, W, 3) uint8 of one picture."""
    try:
        picture = decode_image(data, Preset(SIZE), ScoreConfig().max_pixels)
    except ImageError as error:
        return error.status, error.message, b""
    except Exception as error:
        return "raised", repr(error), b""
    return "ok", "", picture.image.tobytes()


def damage(data: bytes, chance: random.Random) -> bytes:
    """One of the ways in which disks, networks and recorders damage a file."""
    spoilt = bytearray(data)
    at = chance.randrange(len(spoilt)) if chance.random() < 0.7 else chance.randrange(min(len(spoilt), 700))
    size = min(len(spoilt) - at, chance.choice((1, 2, 4, 16, 512, 4096)))
    match chance.randrange(7):
        case 0:
            spoilt[at] ^= 1 << chance.randrange(8)
        case 1:
            spoilt[at : at + size] = chance.randbytes(size)
        case 2:
            spoilt[at : at + size] = bytes(size)
        case 3:
            del spoilt[at:]
        case 4:
            del spoilt[at : at + size]
        case 5:
            spoilt[at:at] = chance.randbytes(size)
        case 6:
            spoilt[at:at] = spoilt[at : at + size]
    return bytes(spoilt)


@cache
def make_pictures() -> dict[str, bytes]:
    """One sound picture of each format and coding, by name."""
    picture = draw(5, (400, 300))
    alpha = picture.copy()
    alpha.putalpha(picture.convert("L"))
    deep = Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257)
    return {
        "jpeg": encode(picture, quality=85),
        "jpeg, restarts": encode(picture, quality=85, restart_marker_blocks=8),
        "jpeg, progressive": encode(picture, quality=85, progressive=True),
        "jpeg, grey": encode(picture.convert("L"), quality=85),
        "jpeg, cmyk": encode(picture.convert("CMYK"), quality=85),
        "png": encode(picture, "PNG"),
        "png, alpha": encode(alpha, "PNG"),
        "png, palette": encode(picture.quantize(64), "PNG"),
        "png, 16 bit": encode(deep, "PNG"),
        "webp": encode(picture, "WEBP", quality=80),
        "webp, lossless": encode(picture, "WEBP", lossless=True),
        "gif": encode(picture, "GIF"),
        "bmp": encode(picture, "BMP"),
        "tiff": encode(picture, "TIFF"),
        "tiff, deflate": encode(picture, "TIFF", compression="tiff_adobe_deflate"),
        "tiff, lzw": encode(picture, "TIFF", compression="tiff_lzw"),
        "tiff, jpeg": encode(picture, "TIFF", compression="jpeg"),
    }
