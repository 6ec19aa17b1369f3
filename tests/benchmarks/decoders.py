"""How much a GPU's way to decode changes: pixels, probabilities, labels, and what becomes of damage.

    python -m tests.benchmarks.decoders ../shared/data/faces/val           two minutes
    python -m tests.benchmarks.decoders PICTURES... --tries 4

Without a GPU: libjpeg-turbo stands in for nvJPEG, with its fast transform, chroma that is not smoothed, and no
word on damage. Each picture of the folders PICTURES is decoded both ways, and spoilt inside of its pixel data.
"""

import argparse
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maskbatch.config import ScoreConfig
from maskbatch.decode.images import decode_image, describe
from maskbatch.decode.triage import read_plain
from maskbatch.errors import ImageError
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.score.networks import Networks
from tests.benchmarks.damage import DAMAGE, MARGIN
from tests.maskbatch.samples import decode_roughly

MAX_PIXELS = ScoreConfig().max_pixels
CHECKPOINT = open_checkpoint()
SHARES = (0.5, 0.9, 0.99, 0.999, 1.0)


def decode_both(files: Sequence[bytes]) -> Iterator[tuple[Any, Any]]:
    """The model's input of each picture, by the CPU and by the stand-in."""
    for data in files:
        wanted = data, CHECKPOINT.card.preset, MAX_PIXELS
        yield decode_image(*wanted).image, decode_roughly(0, *wanted).image


def compare_pixels(files: Sequence[bytes]) -> None:
    networks = Networks(CHECKPOINT, None, ScoreConfig(dtype="float32"), device="cpu")
    ours, theirs = (list(images) for images in zip(*decode_both(files), strict=True))
    ours_NHWC, theirs_NHWC = (np.stack([np.asarray(image) for image in images]) for images in (ours, theirs))
    probs_NK, again_NK = (networks.classifier.probs(images) for images in (ours_NHWC, theirs_NHWC))
    levels_N = np.abs(ours_NHWC.astype(np.int16) - theirs_NHWC).mean(axis=(1, 2, 3))
    same = float((probs_NK.argmax(axis=1) == again_NK.argmax(axis=1)).mean())
    print(f"{len(files):,} pictures; grey levels apart: mean {levels_N.mean():.2f}; same label {same:.2%}")
    print("|".join(["", " apart ", *(f" {share:.1%} " for share in SHARES), ""]))
    print("|".join(["", *[" --- "] * (1 + len(SHARES)), ""]))
    rows, more = ([describe(image) for image in images] for images in (ours, theirs))
    apart = {"probabilities": np.abs(probs_NK - again_NK).max(axis=1)}
    for name, unit in (("brightness", 255), ("contrast", 255), ("sharpness", None)):
        first_N, second_N = (np.array([row[name] for row in side], float) for side in (rows, more))
        apart[name] = np.abs(first_N - second_N) * (unit or 1 / np.maximum(first_N, second_N).clip(1e-9))
    bits = [[np.frombuffer(row["dhash"], np.uint8) for row in side] for side in (rows, more)]
    apart["dhash, bits"] = np.unpackbits(np.bitwise_xor(*map(np.stack, bits)), axis=1).sum(axis=1)
    for name, values_N in apart.items():
        print("|".join(["", f" {name} ", *(f" {np.quantile(values_N, share):.3g} " for share in SHARES), ""]))


def status_of(data: bytes) -> str:
    try:
        decode_image(data, CHECKPOINT.card.preset, MAX_PIXELS)
    except ImageError as error:
        return error.status
    return "ok"


def is_drawn(data: bytes) -> bool:
    """Whether the stand-in makes pixels of a JPEG that goes to a GPU."""
    try:
        decode_roughly(0, data, CHECKPOINT.card.preset, MAX_PIXELS)
    except (ImageError, ValueError):
        return False
    return True


def compare_damage(files: Sequence[bytes], tries: int) -> None:
    """Of pictures spoilt inside: how many go to a GPU, and are `ok` by either decoder."""
    print("|".join(["", " damage ", " tries ", " go to the GPU ", " ok, CPU ", " ok, GPU ", ""]))
    print("|".join(["", *[" --- "] * 5, ""]))
    for name, spoil in DAMAGE.items():
        rng, counts, num = random.Random(1), np.zeros(3), 0
        for data in files:
            first = data.rfind(b"\xff\xda") + 14
            for _ in range(tries if first < len(data) - MARGIN else 0):
                spoilt = bytearray(data)
                spoil(spoilt, rng.randrange(first, len(spoilt) - MARGIN), rng)
                goes = read_plain(bytes(spoilt), MAX_PIXELS) is not None
                sound = status_of(bytes(spoilt)) == "ok"
                counts += goes, sound, sound or (goes and is_drawn(bytes(spoilt)))
                num += 1
        print("|".join(["", f" {name} ", f" {num:,} ", *(f" {count / num:.1%} " for count in counts), ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="+", type=Path, help="folders of JPEGs")
    parser.add_argument("--tries", type=int, default=2, help="of each picture and damage")
    given = parser.parse_args()
    paths = sorted(path for folder in given.pictures for path in folder.rglob("*.jpg"))
    files = [data for path in paths if read_plain(data := path.read_bytes(), MAX_PIXELS)]
    print(f"{len(files):,} of {len(paths):,} are JPEGs that go to a GPU")
    compare_pixels(files)
    compare_damage(files, given.tries)


if __name__ == "__main__":
    main()
