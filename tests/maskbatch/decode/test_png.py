"""Checksums of PNG chunks, and pixels that never came."""

import struct
import zlib
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from maskbatch.decode.images import decode_image
from maskbatch.decode.png import SIGNATURE
from maskbatch.model.card import Preset
from tests.maskbatch.samples import describe_decoding, draw, encode

SCENE = draw(3, (80, 60))


def text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "gate 2")
    info.add_text("Long", "gate 2 " * 50, zip=True)
    info.add_itxt("Title", "Tor", "de")
    info.add(b"gAMA", struct.pack(">I", 45455))
    return info


CLEAN = {
    "RGB": encode(SCENE, "PNG", pnginfo=text()),
    "palette": encode(SCENE.quantize(64), "PNG", pnginfo=text()),
    "clear palette": encode(SCENE.quantize(64), "PNG", pnginfo=text(), transparency=3),
    "RGBA": encode(SCENE.convert("RGBA"), "PNG", pnginfo=text()),
}


PRESET = Preset((60, 80))
outcome = partial(describe_decoding, preset=PRESET)


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode_image(data, PRESET, 10**6).image)


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of each."""
    at = len(SIGNATURE)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at, end
        at = end


@pytest.mark.parametrize("name", CLEAN)
def test_a_wrong_checksum_decides_by_what_the_chunk_is_for(name: str) -> None:
    clean = CLEAN[name]
    for kind, _, end in chunks(clean):
        spoilt = clean[: end - 1] + bytes([clean[end - 1] ^ 1]) + clean[end:]
        if kind in (b"IHDR", b"PLTE", b"IDAT"):
            assert (
                outcome(spoilt) == f"corrupt: PNG data is corrupt: the checksum of {kind.decode()} is wrong"
            )
        elif kind != b"tRNS":
            assert np.array_equal(pixels(spoilt), pixels(clean))


@pytest.mark.parametrize("name", CLEAN)
@settings(max_examples=60, deadline=None)
@given(where=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_no_flipped_bit_changes_a_pixel(name: str, where: int, bit: int) -> None:
    clean = CLEAN[name]
    spoilt = bytearray(clean)
    spoilt[len(SIGNATURE) + where % (len(clean) - len(SIGNATURE))] ^= 1 << bit
    if outcome(bytes(spoilt)) == "ok":
        transparent = name == "clear palette"  # a spoilt tRNS is left out, as browsers do
        assert transparent or np.array_equal(pixels(bytes(spoilt)), pixels(clean))


@pytest.mark.parametrize("name", CLEAN)
def test_a_file_that_ends_early_is_ok_only_where_every_pixel_is_there(name: str) -> None:
    clean = CLEAN[name]
    last = max(end for kind, _, end in chunks(clean) if kind == b"IDAT")
    for end in (last, last - 1, last - 4, len(clean) - 1, len(clean) - 5):  # pieces of a checksum, or of IEND
        assert np.array_equal(pixels(clean[:end]), pixels(clean))
    for end in range(len(SIGNATURE) + 1, last - 40, 61):
        assert outcome(clean[:end]).startswith("truncated")


def test_garbage_after_the_pixels_costs_none() -> None:
    clean = CLEAN["RGB"]
    for trailer in (b"\0" * 99, b"garbage" * 9, clean, b"\xff\xd8\xff"):
        for end in (len(clean), len(clean) - 12):
            assert np.array_equal(pixels(clean[:end] + trailer), pixels(clean))


PASSES = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
ROWS = {
    0: [b"\0" + b"\x50" * 8] * 8,
    1: [b"\0" + b"\x50" * width for width, height in PASSES for _ in range(height)],
}
"""Of a grey picture of 8 x 8, plain and interlaced."""


@pytest.mark.parametrize("interlaced", ROWS)
def test_rows_that_never_came_are_truncated_even_where_the_data_ends_in_good_order(interlaced: int) -> None:
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, interlaced)
    rows = ROWS[interlaced]
    for num_rows in range(1, len(rows) + 1):
        data = zlib.compress(b"".join(rows[:num_rows]))
        found = outcome(SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
        assert found.partition(":")[0] == ("ok" if num_rows == len(rows) else "truncated")


def test_a_black_picture_is_whole() -> None:
    for mode in ("L", "RGB", "1"):
        assert outcome(encode(Image.new(mode, (70, 50)), "PNG")) == "ok"


def test_chunks_and_sides_are_counted_before_anything_is_decoded() -> None:
    clean = CLEAN["RGB"]
    many = clean[:33] + chunk(b"tEXt", b"") * 120_000 + clean[33:]
    assert outcome(many) == "too_large: PNG of more than the 100,000 chunks allowed"
    header = struct.pack(">IIBBBBB", 1, 100_000, 8, 0, 0, 0, 0)
    tall = SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert outcome(tall) == "too_large: 1 x 100000 pixels, a side of 65,535 allowed"


def test_what_is_no_png_after_its_first_bytes_is_named() -> None:
    clean = CLEAN["RGB"]
    apple = SIGNATURE + chunk(b"CgBI", b"\x50\0\x20\6") + clean[8:]
    assert outcome(apple).startswith("unsupported: PNG in the form of Apple's phones")
    assert outcome(clean[:20]) == "truncated: PNG header cannot be read"
    assert outcome(clean[:8] + b"\0" * 90) == "corrupt: PNG header cannot be read"


def test_what_is_wrong_with_a_whole_file_is_said_in_words() -> None:
    clean = CLEAN["palette"]
    places = {kind: (start, end) for kind, start, end in chunks(clean)}
    start, end = places[b"PLTE"]
    assert outcome(clean[:start] + clean[end:]) == "corrupt: PNG data is corrupt: it has no palette"
    for kind in (b"gAMA", b"PLTE"):
        at = places[kind][0]
        for length in (len(clean), 2**31):
            spoilt = clean[:at] + struct.pack(">I", length) + clean[at + 4 :]
            sentence = f"corrupt: PNG data is corrupt: the length of {kind.decode()} is wrong"
            assert outcome(spoilt) == sentence
    assert outcome(clean[:start]) == "truncated: PNG data is truncated: rows are missing"
