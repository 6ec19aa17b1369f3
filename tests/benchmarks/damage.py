"""How much damage passes as `ok` with other pixels: what no decoder can notice, by format and kind of damage.

    python -m tests.benchmarks.damage                 a minute
    python -m tests.benchmarks.damage --tries 2000

Each try spoils one drawn snapshot at one random place of its pixel data: a flipped bit, 40 bytes of zeros,
1 to 50 bytes lost, or everything from there on lost.
"""

import argparse
import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskbatch.decode.images import decode_image
from maskbatch.errors import ImageError
from maskbatch.model.card import Preset
from tests.maskbatch.samples import draw, encode

SIZE = (640, 480)
MARGIN = 64
"""Bytes before the end of the file that are not spoilt."""


def flip(data: bytearray, place: int, rng: random.Random) -> None:
    data[place] ^= 1 << rng.randrange(8)


def blank(data: bytearray, place: int, rng: random.Random) -> None:
    data[place : place + 40] = b"\0" * 40


def lose(data: bytearray, place: int, rng: random.Random) -> None:
    del data[place : place + rng.randint(1, 50)]


def end(data: bytearray, place: int, rng: random.Random) -> None:
    del data[place:]


DAMAGE: dict[str, Callable[[bytearray, int, random.Random], None]] = {
    "bit flipped": flip, "40 zeros": blank, "bytes lost": lose, "end lost": end,
}  # fmt: skip


def make_files(picture: Image.Image) -> dict[str, bytes]:
    return {
        "JPEG": encode(picture, quality=90),
        "JPEG, restart every 40 blocks": encode(picture, quality=90, restart_marker_rows=1),
        "JPEG, restart every 3 blocks": encode(picture, quality=90, restart_marker_blocks=3),
        "progressive JPEG": encode(picture, quality=90, progressive=True),
        "grey JPEG": encode(picture.convert("L"), quality=90),
        "CMYK JPEG": encode(picture.convert("CMYK"), quality=90),
        "PNG": encode(picture, "PNG"),
        "TIFF, deflate": encode(picture, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF, LZW": encode(picture, "TIFF", compression="tiff_lzw"),
        "TIFF, fax": encode(picture.convert("1"), "TIFF", compression="group4"),
        "WebP": encode(picture, "WEBP"),
        "GIF": encode(picture, "GIF"),
        "BMP, TIFF without compression": encode(picture, "BMP"),
    }


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode_image(data, Preset(SIZE[::-1]), 10**7).image)


def count_unnoticed(clean: bytes, spoil: Callable[..., None], tries: int) -> int:
    """How many of the tries are `ok` with other pixels."""
    rng, expected, unnoticed = random.Random(1), pixels(clean), 0
    for _ in range(tries):
        data = bytearray(clean)
        spoil(data, rng.randrange(1024, len(data) - MARGIN), rng)
        try:
            unnoticed += not np.array_equal(pixels(bytes(data)), expected)
        except ImageError:
            continue
    return unnoticed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=150, help="of each format and damage")
    tries = parser.parse_args().tries
    print("|".join(["", " unnoticed ", *(f" {name} " for name in DAMAGE), ""]))
    print("|".join(["", *[" --- "] * (1 + len(DAMAGE)), ""]))
    for name, data in make_files(draw(5, SIZE)).items():
        shares = [f" {count_unnoticed(data, spoil, tries) / tries:.0%} " for spoil in DAMAGE.values()]
        print("|".join(["", f" {name} ", *shares, ""]), flush=True)


if __name__ == "__main__":
    main()
