"""Strips that are not whole, and directories that ask for too much."""

import random
import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from maskbatch.errors import ImageError
from maskbatch.model.checkpoint import Preset
from maskbatch.score.decode import decode_image
from tests.maskbatch.samples import draw, encode

SCENE = draw(3, (160, 120))
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("RGB", {}),
    "deflate": ("RGB", {"compression": "tiff_adobe_deflate"}),
    "LZW": ("RGB", {"compression": "tiff_lzw"}),
    "PackBits": ("L", {"compression": "packbits"}),
    "JPEG": ("RGB", {"compression": "jpeg"}),
    "grey JPEG": ("L", {"compression": "jpeg"}),
    "16 bits": ("I;16", {"compression": "tiff_adobe_deflate"}),
}
CLEAN = {
    name: encode(SCENE.convert("L").convert(mode), "TIFF", **options)
    for name, (mode, options) in KINDS.items()
}


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode_image(data, Preset((120, 160)), 10**6).image)


def outcome(data: bytes) -> str:
    try:
        pixels(data)
    except ImageError as error:
        return f"{error.status}: {error.message}"
    return "ok"


def entries(data: bytes) -> dict[int, int]:
    """Where the entry of each tag stands in a little-endian TIFF's first directory."""
    at = struct.unpack_from("<I", data, 4)[0]
    places = range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12)
    return {struct.unpack_from("<H", data, place)[0]: place for place in places}


@pytest.mark.parametrize("name", CLEAN)
def test_every_compression_gives_the_picture(name: str) -> None:
    mode = KINDS[name][0]
    expected = SCENE.convert("L").convert(mode)
    shown = Image.fromarray((np.asarray(expected) >> 8).astype(np.uint8)) if mode == "I;16" else expected
    assert np.abs(pixels(CLEAN[name]).astype(int) - np.asarray(shown.convert("RGB"), int)).mean() < 4


@pytest.mark.parametrize("name", CLEAN)
def test_a_file_that_ends_early_is_truncated(name: str) -> None:
    clean = CLEAN[name]
    for end in range(5, len(clean) - 40, max(1, len(clean) // 40)):
        assert outcome(clean[:end]).partition(":")[0] in ("truncated", "corrupt")
    assert outcome(clean[: len(clean) // 2]).startswith("truncated")


@pytest.mark.parametrize("name", [name for name in CLEAN if name != "16 bits"])
def test_a_strip_that_is_shorter_than_its_rows_is_not_ok(name: str) -> None:
    clean = CLEAN[name]
    place = entries(clean)[279]
    kind, count, value = struct.unpack_from("<HII", clean, place + 2)
    size = {3: 2, 4: 4}[kind]
    at = place + 8 if count * size <= 4 else value
    form = "<H" if size == 2 else "<I"
    length = struct.unpack_from(form, clean, at)[0]
    spoilt = bytearray(clean)
    struct.pack_into(form, spoilt, at, length // 2)
    if name == "none":  # the length says nothing that the sides do not say: the rows are all there
        assert np.array_equal(pixels(bytes(spoilt)), pixels(clean))
    else:
        assert outcome(bytes(spoilt)).partition(":")[0] in ("corrupt", "truncated")


@pytest.mark.parametrize("name", ["deflate", "16 bits"])
def test_a_flipped_bit_of_deflate_that_libtiff_never_sees_is_corrupt(name: str) -> None:
    rng, clean = random.Random(3), CLEAN[name]
    last = min(entries(clean).values()) - 40
    for _ in range(60):
        spoilt = bytearray(clean)
        spoilt[rng.randrange(8, last)] ^= 1 << rng.randrange(8)
        found = outcome(bytes(spoilt))  # a bit that fills a byte changes nothing
        assert found.startswith("corrupt") or np.array_equal(pixels(bytes(spoilt)), pixels(clean))


def test_fax_data_is_named() -> None:
    for compression in ("group3", "group4"):
        data = encode(SCENE.convert("1"), "TIFF", compression=compression)
        assert outcome(data).startswith("unsupported: TIFF of fax data")


def test_directories_are_bounded_before_anything_is_read() -> None:
    clean = CLEAN["none"]
    entry = struct.pack("<HHII", 40_000, 1, 2**20, 8)
    many = b"II*\0\x08\0\0\0" + struct.pack("<H", 2_000) + entry * 2_000 + b"\0" * 4
    assert outcome(many) == "too_large: TIFF of 2,000 directory entries, 1,000 allowed"
    shared = struct.pack("<HHII", 40_000, 1, len(clean), 0) * 500
    at = len(clean)
    data = clean[:4] + struct.pack("<I", at) + clean[8:] + struct.pack("<H", 500) + shared + b"\0" * 4
    assert outcome(data) == "too_large: TIFF of tags that hold more bytes than the file"


def test_a_huge_strip_or_tile_is_counted_before_it_is_read() -> None:
    tags = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
            (322, 4, 1, 2**30), (323, 4, 1, 2**10), (324, 4, 1, 8), (325, 4, 1, 8)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0" * 400
    assert outcome(data).startswith("too_large: decoding it takes")
