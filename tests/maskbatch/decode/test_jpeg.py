"""What cameras do to a JPEG without touching a pixel, and damage that does: each against the clean file."""

import io
import itertools
import random
import re
import struct
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from maskbatch.decode import entropy, jpeg
from maskbatch.decode.images import decode_image
from maskbatch.errors import ImageError
from maskbatch.model.card import Preset
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


def add_strays(data: bytes, strays: bytes, every: int = 1) -> bytes:
    """`strays` before one in `every` restart markers."""
    number = itertools.count(1)
    at = scan_at(data)
    return data[:at] + re.sub(
        rb"\xff[\xd0-\xd7]", lambda mark: (b"" if next(number) % every else strays) + mark[0], data[at:]
    )


@pytest.mark.parametrize("name", RESTARTS)
@pytest.mark.parametrize(
    "strays", [b"\x12\x34\x56\x78\x9a\xbc\xde", b"cam 12, 2026-10-01", b"\0" * 9, b"\xff\0" * 9]
)
def test_the_same_bytes_before_every_restart_marker_cost_no_pixel(name: str, strays: bytes) -> None:
    for end in (b"", strays):
        data = add_strays(CLEAN[name], strays)[:-2] + end + b"\xff\xd9"
        assert np.array_equal(pixels(data), PIXELS[name])


@pytest.mark.parametrize("name", RESTARTS)
def test_many_stray_bytes_before_a_few_restart_markers_are_what_damage_leaves(name: str) -> None:
    assert status(add_strays(CLEAN[name], b"\x12\x34\x56\x78\x9a\xbc\xde", 3)) == "corrupt"
    assert np.array_equal(pixels(add_strays(CLEAN[name], b"\x20" * 12, 3)), PIXELS[name])


@pytest.mark.parametrize("name", ["4:2:0", "4:4:4", "grey", "restarts by 3 blocks"])
def test_zeros_before_the_end_marker_are_no_blocks_however_many(name: str) -> None:
    for count in range(1, 400):
        zeros = CLEAN[name][:-2] + b"\0" * count
        assert np.array_equal(pixels(zeros + b"\xff\xd9"), PIXELS[name])
        assert np.array_equal(pixels(zeros), PIXELS[name])


def spoil(clean: bytes, rng: random.Random) -> bytes:
    data, place = bytearray(clean), rng.randrange(scan_at(clean), len(clean) - 2)
    kind = rng.randrange(5)
    if kind == 0:
        data[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[place : place + rng.randint(1, 50)]
    elif kind == 2:
        data[place:place] = rng.randbytes(rng.randint(1, 50))
    else:
        data[place : place + 40] = b"\0" * 40 if kind == 3 else rng.randbytes(40)
    return bytes(data)


@pytest.mark.parametrize("interval", [1, 3, 7, 26])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_damage_that_the_decoder_notices_is_not_taken_for_stray_bytes(mode: str, interval: int) -> None:
    clean = encode(SCENE.convert(mode), restart_marker_blocks=interval, quality=88)
    expected, rng, wrong = pixels(clean), random.Random(interval), 0
    for _ in range(200):
        data = spoil(clean, rng)
        try:
            changed = not np.array_equal(pixels(data), expected)
        except ImageError:
            continue
        try:
            simplejpeg.decode_jpeg(data, strict=True)
        except ValueError:
            wrong += changed
    assert wrong <= 2


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


def without(data: bytes, marker: int) -> bytes:
    """`data` without the header segments of a kind."""
    starts = segment_starts(data)
    kept = [data[a:b] for a, b in pairwise(starts) if data[a + 1] != marker]
    return data[:2] + b"".join(kept) + data[starts[-1] :]


@pytest.mark.parametrize("name", ["4:2:0", "4:4:4", "4:2:2", "grey", "restarts by row"])
@pytest.mark.parametrize(
    "strays", [b"", b"\1", b"\x12\x34\x56\x78", b"\x12\x34\x56\x78\x9a\xbc\xde", b"\0" * 300]
)
def test_the_tables_that_video_leaves_out_are_the_standard_ones(name: str, strays: bytes) -> None:
    frame = without(CLEAN[name], 0xC4)
    assert len(frame) < len(CLEAN[name]) - 150
    for end in (b"\xff\xd9", b""):
        assert np.array_equal(pixels(frame[:-2] + strays + end), PIXELS[name])
    if name == "restarts by row":
        assert np.array_equal(pixels(add_strays(frame, strays)), PIXELS[name])


@pytest.mark.parametrize("strays", [b"\x12\x34\x56\x78\x9a\xbc\xde\xf0", b"\0" * 12])
def test_stray_bytes_after_five_megabytes_cost_no_pixel(strays: bytes) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1600, 1600, 3), np.uint8)
    clean = encode(Image.fromarray(noise), quality=92, subsampling=0)
    assert len(clean) > 5 * 10**6
    assert np.array_equal(pixels(clean[:-2] + strays + b"\xff\xd9"), pixels(clean))


def test_where_counting_blocks_would_take_long_only_what_fills_space_is_stray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(entropy, "MAX_BYTES", 100)
    clean = CLEAN["4:2:0"]
    for strays in (b"\1\2\3\4", b"\0" * 500, b"\x55\xaa" * 20):
        assert np.array_equal(pixels(clean[:-2] + strays + b"\xff\xd9"), PIXELS["4:2:0"])
    assert status(clean[:-2] + b"camera 12, 2026-10-01" + b"\xff\xd9") == "corrupt"
    assert pixels(flat([(4, 1), (1, 1), (1, 1)])).shape == (120, 160, 3)


def test_runs_of_fill_bytes_take_no_long_search() -> None:
    clean, began = CLEAN["restarts by row"], time.process_time()
    for end in (b"", b"\xff\xd9", b"\0\xff\xd9", b"\xd0\xff\xd9"):
        status(clean[:-2] + b"\xff" * 10**6 + end)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("marker", [0xC9, 0xCA])
def test_an_arithmetic_file_without_an_end_marker_is_truncated(marker: int) -> None:
    """Any bytes are valid in it, and after the last one zeros follow: it never ends early for its decoder."""
    clean = without(CLEAN["4:2:0"], 0xC4)
    frame = clean.index(b"\xff\xc0")
    data = bytearray(clean[: scan_at(clean)] + b"\x12\x34\x56\x78" + clean[-2:])
    data[frame + 1] = marker
    if marker == 0xCA:
        data[scan_at(clean) - 2] = 0  # the means' scan
    assert status(bytes(data)) == "ok"
    for cut in (2, 3, 5):
        assert status(bytes(data[:-cut])) == "truncated"


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


@pytest.mark.parametrize("transform", range(8))
@pytest.mark.parametrize("name", ["4:2:0", "4:4:4", "grey", "CMYK"])
def test_an_odd_adobe_mark_is_read_as_viewers_read_it(name: str, transform: int) -> None:
    clean = without(without(CLEAN[name], 0xE0), 0xEE)
    marked = clean[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform]) + clean[2:]
    viewed = Image.open(io.BytesIO(marked)).convert("RGB")
    assert np.abs(pixels(marked).astype(int) - np.asarray(viewed, int)).max() <= 2
    for end in (b"", b"\1\2\3\4\5\6\7\x08\x09\xff\xd9"):
        assert np.array_equal(pixels(marked[:-2] + end), pixels(marked))


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


def test_a_height_that_follows_its_scan_is_named() -> None:
    clean = CLEAN["4:2:0"]
    at = clean.index(b"\xff\xc0") + 5
    later = clean[:at] + b"\0\0" + clean[at + 2 : -2] + b"\xff\xdc\0\4" + clean[at : at + 2] + clean[-2:]
    with pytest.raises(ImageError, match=r"height is not in its header .*; convert it") as caught:
        decode_image(later, Preset((24, 40)), 10**7)
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
    assert np.array_equal(pixels(without(clean, 0xC4)), pixels(clean))
