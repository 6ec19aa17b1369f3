"""What cameras do to a JPEG without touching a pixel, and damage that does: each against the clean file."""

import io
import random
import re
import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from maskbatch.errors import ImageError
from maskbatch.model.checkpoint import Preset
from maskbatch.score import jpeg
from maskbatch.score.decode import decode_image
from tests.maskbatch.samples import draw, encode

WHOLE = (10_000, 10_000)
SCENE = draw(3, (160, 120))
OPTIONS: dict[str, dict[str, Any]] = {
    "4:2:0": {},
    "4:4:4": {"subsampling": 0, "quality": 92},
    "4:2:2": {"subsampling": 1},
    "optimised": {"optimize": True, "quality": 60},
    "restarts by row": {"restart_marker_rows": 1},
    "restarts by 3 blocks": {"restart_marker_blocks": 3, "quality": 95},
    "grey": {},
    "grey, restarts": {"restart_marker_rows": 1},
    "CMYK": {"quality": 85},
    "progressive": {"progressive": True},
    "progressive grey": {"progressive": True},
}
MODES = {"grey": "L", "grey, restarts": "L", "CMYK": "CMYK", "progressive grey": "L"}
CLEAN = {name: encode(SCENE.convert(MODES.get(name, "RGB")), **options) for name, options in OPTIONS.items()}
BASELINE = [name for name in OPTIONS if "progressive" not in name]
RESTARTS = [name for name in OPTIONS if "restarts" in name]


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(jpeg.open_jpeg(data, 10**7).decode(WHOLE))


PIXELS = {name: pixels(data) for name, data in CLEAN.items()}


def status(data: bytes) -> str:
    try:
        decode_image(data, Preset((24, 40)), 10**7)
    except ImageError as error:
        return error.status
    return "ok"


def scan_at(data: bytes) -> int:
    """The first byte after the first scan's header."""
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def segment_starts(data: bytes) -> list[int]:
    starts, at = [], 2
    while data[at + 1] != 0xDA:
        starts.append(at)
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return [*starts, at]


harmless_bytes = st.binary(max_size=700).map(lambda raw: raw.replace(b"\xff", b"\xfe"))


@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=20, deadline=None)
@given(stray=harmless_bytes, where=st.integers(0, 20), marker=st.sampled_from([*range(0xE0, 0xF0), 0xFE]))
def test_a_header_segment_longer_than_its_length_says_costs_no_pixel(
    name: str, stray: bytes, where: int, marker: int
) -> None:
    clean = CLEAN[name]
    starts = segment_starts(clean)
    at = starts[where % len(starts)]
    segment = bytes([0xFF, marker, 0, 6]) + b"name"[: 4 - where % 3] + b"\0" * (where % 3) + stray
    assert np.array_equal(pixels(clean[:at] + segment + clean[at:]), PIXELS[name])


@pytest.mark.parametrize(
    "inside", [b"\xff\xd8\xff\xc0\0\x11", b"\xff\xd9\xff\xda\0\x08", b"\xff\xc4\0\x1f" * 9]
)
def test_what_looks_like_markers_inside_a_segment_is_content(inside: bytes) -> None:
    clean = CLEAN["4:2:0"]
    segment = b"\xff\xfe" + struct.pack(">H", len(inside) + 2) + inside
    for stray in (b"", b"\0\1\2"):
        assert np.array_equal(pixels(clean[:2] + segment + stray + clean[2:]), PIXELS["4:2:0"])


def test_a_length_of_nothing_is_that_of_the_length_itself() -> None:
    clean = CLEAN["4:2:0"]
    for length in (0, 1, 2):
        segment = b"\xff\xed" + struct.pack(">H", length)
        assert np.array_equal(pixels(clean[:2] + segment + clean[2:]), PIXELS["4:2:0"])


def test_a_comment_that_reaches_over_another_costs_no_pixel() -> None:
    clean = CLEAN["4:2:0"]
    inner = b"\xff\xfe\0\x40" + b"x" * 62
    for reach in (1, 2, 3, 20, 60):
        outer = b"\xff\xe5" + struct.pack(">H", 2 + 10 + reach) + b"y" * 10
        assert np.array_equal(pixels(clean[:2] + outer + inner + clean[2:]), PIXELS["4:2:0"])


@pytest.mark.parametrize("name", RESTARTS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), longest=st.integers(1, 6), share=st.sampled_from([0.05, 0.5, 1]))
def test_stray_bytes_before_restart_markers_cost_no_pixel(
    name: str, seed: int, longest: int, share: float
) -> None:
    rng = random.Random(seed)

    def add(match: re.Match[bytes]) -> bytes:
        stray = bytes(rng.randrange(255) for _ in range(rng.randint(1, longest)))
        return (stray if rng.random() < share else b"") + match[0]

    clean = CLEAN[name]
    at = scan_at(clean)
    stray = clean[:at] + re.sub(rb"\xff[\xd0-\xd7]", add, clean[at:])
    try:
        found = pixels(stray)
    except ImageError as error:  # rarely do more than four look like further blocks
        assert (error.status, longest > 4) == ("corrupt", True)
    else:
        assert np.array_equal(found, PIXELS[name])


@pytest.mark.parametrize("name", RESTARTS)
def test_restart_markers_out_of_order_stay_corrupt(name: str) -> None:
    clean = CLEAN[name]
    at = clean.index(b"\xff\xd3", scan_at(clean))
    for wrong in (0xD2, 0xD5, 0xD7):
        assert status(clean[: at + 1] + bytes([wrong]) + clean[at + 2 :]) == "corrupt"
    before = clean.rindex(b"\xff\xd2", 0, at)
    assert status(clean[:before] + clean[at:]) == "corrupt"  # a whole piece is missing


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("stray", [b"\1", b"\0\0", b"\x12\x34\x56\0" * 3, b"\0" * 500, b"\x20" * 2000])
def test_stray_bytes_before_the_end_marker_cost_no_pixel(name: str, stray: bytes) -> None:
    clean = CLEAN[name]
    for end in (b"\xff\xd9", b""):
        assert np.array_equal(pixels(clean[:-2] + stray + end), PIXELS[name])


@pytest.mark.parametrize("name", OPTIONS)
def test_only_the_end_marker_missing_costs_no_pixel(name: str) -> None:
    for end in (b"", b"\xff"):
        assert np.array_equal(pixels(CLEAN[name][:-2] + end), PIXELS[name])


@pytest.mark.parametrize("name", OPTIONS)
def test_what_follows_the_end_marker_costs_no_pixel(name: str) -> None:
    clean = CLEAN[name]
    meta = b"\xff\xe1\0\x10" + b"metadata" * 300
    odd = clean.replace(b"JFIF\0\1", b"JFIF\0\2", 1)
    for trailer in (
        b"\0",
        b"\n",
        meta,
        clean,
        clean[: len(clean) // 2],
        b"\xff" * 99,
        CLEAN["progressive"] + meta,
    ):
        for start in (clean, odd):
            assert np.array_equal(pixels(start + trailer), PIXELS[name])


@pytest.mark.parametrize("name", OPTIONS)
def test_a_file_that_ends_inside_the_scan_is_truncated_unless_every_pixel_is_there(name: str) -> None:
    clean = CLEAN[name]
    ends = [*range(scan_at(clean) + 1, len(clean) - 2, 13), *range(len(clean) - 40, len(clean) - 2)]
    for end in ends:
        for trailer in (b"", b"\xff\xd8\xff\xe0"):
            try:
                found = pixels(clean[:end] + trailer)
            except ImageError as error:
                assert error.status == "truncated"
            else:  # the last byte may hold nothing but fill bits, or half of a byte that is 0xff
                assert end > len(clean) - 6
                assert np.array_equal(found, PIXELS[name])


def test_a_progressive_file_that_ends_between_two_scans_is_truncated() -> None:
    clean = CLEAN["progressive"]
    scans = [match.start() for match in re.finditer(rb"\xff\xda", clean)][1:]
    for at in scans:
        assert status(clean[:at]) == "truncated"
    assert len(scans) > 5


def test_a_missing_colour_is_never_ok() -> None:
    clean = CLEAN["progressive"]
    first = clean.index(b"\xff\xda")
    second = clean.index(b"\xff\xda", first + 2)
    assert clean[first + 4] == 3  # all colours' means
    one = clean[: first + 4] + b"\1" + clean[first + 5 : first + 7] + clean[first + 11 : second]
    one = one.replace(clean[first : first + 4], b"\xff\xda\0\x08", 1)
    assert status(one + b"\xff\xd9") in ("corrupt", "truncated")


@pytest.mark.parametrize("name", BASELINE)
def test_missing_rows_are_never_ok(name: str) -> None:
    clean = CLEAN[name]
    at = scan_at(clean)
    taller = bytearray(clean)
    frame = clean.index(b"\xff\xc0")
    for rows in (16, 160, 2000):
        taller[frame + 5 : frame + 7] = struct.pack(">H", 120 + rows)
        assert status(bytes(taller)) == "corrupt"
        assert status(bytes(taller[:-2])) == "truncated"
    for start, end in pairwise(range(at + 100, len(clean) - 100, 400)):
        assert status(clean[:start] + clean[end:]) != "ok"


@pytest.mark.parametrize("name", RESTARTS)
def test_damage_passes_no_more_often_beside_stray_bytes(name: str) -> None:
    """Much damage is valid data, which no decoder can tell; beside stray bytes the blocks are counted."""
    clean = CLEAN[name]
    at = scan_at(clean)
    strays = clean[:at] + re.sub(rb"(?=\xff[\xd0-\xd7])", b"\x15\x16", clean[at:])
    passed = {}
    for data in (clean, strays):
        places = range(at + 40, len(data) - 60, 37)
        spoilt = [data[:place] + b"\0" * 40 + data[place + 40 :] for place in places]
        passed[data] = [status(each) for each in spoilt].count("ok") / len(spoilt)
    assert passed[strays] <= passed[clean] < 0.4


@pytest.mark.parametrize("adobe", [b"", b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x07"])
def test_an_odd_adobe_mark_is_read_as_the_usual_one(adobe: bytes) -> None:
    clean = CLEAN["4:2:0"]
    assert np.array_equal(pixels(clean[:2] + adobe + clean[20:]), PIXELS["4:2:0"])


def test_cmyk_is_what_pillow_makes_of_it() -> None:
    expected = np.asarray(Image.open(io.BytesIO(CLEAN["CMYK"])).convert("RGB"), np.int16)
    assert np.abs(PIXELS["CMYK"].astype(np.int16) - expected).max() <= 2


@pytest.mark.parametrize(
    ("marker", "precision", "error"),
    [(0xC0, 12, "JPEG of 12 bits"), (0xC1, 12, "JPEG of 12 bits"), (0xC3, 8, "lossless JPEG"),
     (0xC5, 8, "hierarchical JPEG"), (0xC7, 8, "lossless JPEG"), (0xCB, 16, "lossless JPEG")],
)  # fmt: skip
def test_a_kind_that_is_not_read_is_named(marker: int, precision: int, error: str) -> None:
    clean = CLEAN["4:2:0"]
    at = clean.index(b"\xff\xc0")
    odd = clean[: at + 1] + bytes([marker]) + clean[at + 2 : at + 4] + bytes([precision]) + clean[at + 5 :]
    with pytest.raises(ImageError, match=f"{error}.*; convert it") as caught:
        decode_image(odd, Preset((24, 40)), 10**7)
    assert caught.value.status == "unsupported"


def test_scans_and_segments_are_counted_before_anything_is_decoded() -> None:
    clean = CLEAN["progressive"]
    last = clean.rindex(b"\xff\xda")
    many = clean[:-2] + clean[last:-2] * 500 + b"\xff\xd9"
    with pytest.raises(ImageError, match="100 scans") as caught:
        decode_image(many, Preset((24, 40)), 10**7)
    assert caught.value.status == "too_large"
    hidden = clean[:last] + b"\xff\xfe\0\x04\xff\xd9" + clean[last:-2] * 500 + b"\xff\xd9"
    assert status(hidden) == "too_large"
    assert status(clean[:2] + b"\xff\xfe\0\2" * 20_000 + clean[2:]) == "too_large"


def test_coefficients_of_a_picture_in_many_scans_are_counted_before_they_are_kept() -> None:
    clean = bytearray(CLEAN["progressive"])
    at = clean.index(b"\xff\xc2")
    clean[at + 5 : at + 9] = struct.pack(">HH", 20_000, 20_000)
    with pytest.raises(ImageError, match="1,200 MB of memory") as caught:
        decode_image(bytes(clean), Preset((24, 40)), 10**9)
    assert caught.value.status == "too_large"


def flat(sampling: list[tuple[int, int]], size: tuple[int, int] = (160, 120)) -> bytes:
    """A grey JPEG of three colours with any sampling: each block is a mean of 0 and nothing else."""
    clean = encode(Image.new("RGB", (16, 16)))
    starts = segment_starts(clean)
    tables = b"".join(clean[a:b] for a, b in pairwise(starts) if clean[a + 1] != 0xC0)
    colours = [bytes([k + 1, h << 4 | v, min(k, 1)]) for k, (h, v) in enumerate(sampling)]
    frame = struct.pack(">BBHBHHB", 0xFF, 0xC0, 17, 8, *size[::-1], 3) + b"".join(colours)
    across, down = (8 * max(part) for part in zip(*sampling, strict=True))
    num_mcus = -(-size[0] // across) * -(-size[1] // down)
    bits = "".join(("0000" if k else "001010") * h * v for k, (h, v) in enumerate(sampling)) * num_mcus
    bits += "1" * (-len(bits) % 8)
    scan = clean[starts[-1] : scan_at(clean)] + int(bits, 2).to_bytes(len(bits) // 8, "big")
    return b"\xff\xd8" + tables + frame + scan + b"\xff\xd9"


@pytest.mark.parametrize(
    "sampling",
    [[(1, 1)] * 3, [(4, 1), (1, 1), (1, 1)], [(4, 2), (1, 1), (1, 1)], [(3, 1), (1, 1), (1, 1)],
     [(1, 1), (2, 2), (2, 2)], [(2, 2), (2, 1), (2, 1)]],
)  # fmt: skip
def test_any_sampling_of_colours_is_read_and_judged(sampling: list[tuple[int, int]]) -> None:
    clean = flat(sampling)
    assert pixels(clean).shape == (120, 160, 3)
    assert np.abs(pixels(clean).astype(int) - 128).max() <= 1
    assert np.array_equal(pixels(clean[:-2]), pixels(clean))
    assert status(clean[:-9]) == "truncated"
    assert status(clean[:-9] + b"\xff\xd9") == "corrupt"
