"""Strips that are not whole, and directories that ask for too much."""

import random
import struct
import zlib
from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from maskbatch.decode.images import decode_image
from maskbatch.decode.kinds import CONVERT
from maskbatch.decode.pillow import open_tiff
from maskbatch.errors import ImageError
from maskbatch.model.card import Preset
from tests.maskbatch.samples import describe_decoding, draw, encode

SCENE = draw(3, (160, 120))
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("RGB", {}),
    "deflate": ("RGB", {"compression": "tiff_adobe_deflate"}),
    "LZW": ("RGB", {"compression": "tiff_lzw"}),
    "PackBits": ("L", {"compression": "packbits"}),
    "JPEG": ("RGB", {"compression": "jpeg"}),
    "grey JPEG": ("L", {"compression": "jpeg"}),
    "fax of group 3": ("1", {"compression": "group3"}),
    "fax of group 4": ("1", {"compression": "group4"}),
    "16 bits": ("I;16", {"compression": "tiff_adobe_deflate"}),
}
CLEAN = {
    name: encode(SCENE.convert("L").convert(mode), "TIFF", **options)
    for name, (mode, options) in KINDS.items()
}


PRESET = Preset((120, 160))
outcome = partial(describe_decoding, preset=PRESET)


def pixels(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(decode_image(data, PRESET, 10**6).image)


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


@pytest.mark.parametrize("name", [name for name in CLEAN if name != "16 bits" and "fax" not in name])
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


def test_directories_are_bounded_before_anything_is_read() -> None:
    clean = CLEAN["none"]
    entry = struct.pack("<HHII", 40_000, 1, 2**20, 8)
    many = b"II*\0\x08\0\0\0" + struct.pack("<H", 2_000) + entry * 2_000 + b"\0" * 4
    assert outcome(many) == "too_large: TIFF of 2,000 directory entries, 1,000 allowed"
    shared = struct.pack("<HHII", 40_000, 1, len(clean), 0) * 500
    at = len(clean)
    data = clean[:4] + struct.pack("<I", at) + clean[8:] + struct.pack("<H", 500) + shared + b"\0" * 4
    assert outcome(data) == "too_large: TIFF of tags that hold more bytes than the file"


def build(*tags: tuple[int, int, int, int], body: bytes = b"") -> bytes:
    """A TIFF of a grey picture of 8 x 8, of which `tags` change or add some; `body` stands at 8."""
    usual = {256: (3, 1, 8), 257: (3, 1, 8), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8),
             277: (3, 1, 1), 278: (3, 1, 8), 279: (4, 1, 64)}  # fmt: skip
    entries = sorted((usual | {tag: rest for tag, *rest in tags}).items())
    body = body.ljust(64, b"\0")
    packed = b"".join(struct.pack("<HHII", tag, *rest) for tag, rest in entries)
    directory = struct.pack("<H", len(entries)) + packed + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory


def test_a_picture_of_subsampled_colour_is_read_by_the_size_it_has() -> None:
    size = (204, 150)
    for wide, high in ((1, 1), (2, 1), (2, 2), (4, 2)):
        blocks = -(-size[0] // wide) * -(-size[1] // high)
        data = zlib.compress((bytes([180]) * (wide * high) + bytes([110, 150])) * blocks)
        at = 8 + len(data)
        tags = [(256, 3, 1, size[0]), (257, 3, 1, size[1]), (258, 3, 3, at), (259, 3, 1, 8), (262, 3, 1, 6),
                (277, 3, 1, 3), (278, 3, 1, size[1]), (279, 4, 1, len(data))]  # fmt: skip
        body = data + struct.pack("<HHH", 8, 8, 8)
        shown = pixels(build(*tags, (530, 3, 2, wide | high << 16), body=body))
        assert np.abs(shown.astype(int) - (211, 170, 148)).max() < 4
        assert outcome(build(*tags, (530, 3, 2, 1 | 4 << 16), body=body)) != "ok" or (wide, high) == (1, 1)
        if (wide, high) == (2, 2):  # what is meant where nothing is said
            assert np.array_equal(pixels(build(*tags, body=body)), shown)


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [
        ([(259, 3, 1, 34887)], "TIFF compressed by LERC, which is not read"),
        ([(259, 3, 1, 50001)], "TIFF compressed by WebP, which is not read"),
        ([(259, 3, 1, 777)], "TIFF compressed by method 777, which is not read"),
        ([(262, 3, 1, 6)], "TIFF of YCbCr without compression, which is not read"),
        ([(258, 3, 1, 13)], "TIFF of a kind of pixels that is not read"),
    ],
)
def test_a_sound_tiff_of_a_kind_that_is_not_read_is_named(
    tags: list[tuple[int, int, int, int]], sentence: str
) -> None:
    assert outcome(build()) == "ok"
    assert outcome(build(*tags)) == f"unsupported: {sentence}; {CONVERT}"


def test_a_big_endian_bigtiff_is_named() -> None:
    entries = b"".join(struct.pack(">HHQQ", tag, 16, 1, 8) for tag in (256, 257))
    data = b"MM\0+" + struct.pack(">HHQQ", 8, 0, 16, 2) + entries + bytes(64)
    assert outcome(data).startswith("unsupported: big-endian BigTIFF, which is not read")


def test_a_raw_file_is_found_in_any_directory_and_none_is_read_twice() -> None:
    raw = struct.pack("<HHHII", 1, 262, 3, 1, 32803) + bytes(4)
    for tags in ([(330, 4, 1, 72)], [(330, 4, 2, 90)]):
        body = bytes(64) + raw + struct.pack("<II", 72, 72)
        assert outcome(build(*tags, body=body)).startswith("unsupported: the file holds a raw camera file")
    loop = struct.pack("<HHHIII", 1, 262, 3, 1, 1, 72)
    assert outcome(build((330, 4, 1, 72), body=bytes(64) + loop)) == "ok"


def test_tags_that_would_take_memory_or_time_are_counted_before_they_are_read() -> None:
    body = bytes(12_000_000)
    many = len(body) // 8
    assert outcome(build((273, 4, many, 8), body=body)).startswith("too_large: TIFF of 6,000,0")
    for kind in (5, 10, 12, 4, 3):  # fractions take longest
        found = outcome(build((40_000, kind, many, 8), body=body))
        assert found == "ok" if kind == 3 else found.startswith("too_large: TIFF of ")
    assert outcome(build((40_000, 7, many, 8), body=body)) == "ok", "bytes stay bytes"
    inner = struct.pack("<HHHIII", 1, 40_000, 5, many, 8, 0)
    spoilt = build((34665, 4, 1, 8 + len(body)), body=body + inner)
    assert outcome(spoilt).startswith("too_large: TIFF of 12,000,"), "Pillow reads all of EXIF too"


def test_strips_that_share_their_bytes_are_bounded() -> None:
    side, content = 60_000, zlib.compress(b"") + bytes(100_000)
    places = struct.pack("<I", 8) * side + struct.pack("<I", len(content)) * side
    at = 8 + len(content)
    tags = [(256, 3, 1, 1), (257, 3, 1, side), (259, 3, 1, 8), (278, 3, 1, 1)]
    shared = build(*tags, (273, 4, side, at), (279, 4, side, at + 4 * side), body=content + places)
    assert outcome(shared) == "too_large: TIFF of strips that hold more bytes than the file"
    tiny = [(256, 3, 1, 900), (257, 3, 1, 900), *((tag, 3, 1, 1) for tag in (322, 323)), (324, 4, 1, 8)]
    assert outcome(build(*tiny)) == "too_large: TIFF of 810,000 strips or tiles, 262,140 allowed"


def test_a_tag_of_two_values_is_corrupt() -> None:
    clean = build()
    at = clean.index(struct.pack("<HHII", 262, 3, 1, 1))
    twice = clean[:at] + struct.pack("<HHII", 257, 3, 1, 9) + clean[at + 12 :]
    assert outcome(twice) == "corrupt: TIFF data is corrupt: tag 257 has two values"


def test_jpeg_data_larger_than_its_strip_is_not_decoded() -> None:
    inner = encode(SCENE.convert("L"))
    data = build((259, 3, 1, 7), (279, 4, 1, len(inner)), body=inner)
    assert outcome(data) == "corrupt: TIFF data is corrupt: JPEG data is larger than its strip"


def test_opening_a_file_decodes_none_of_it() -> None:
    clean = CLEAN["JPEG"]
    spoilt = bytearray(clean)
    at = struct.unpack_from("<I", clean, entries(clean)[273] + 8)[0]
    spoilt[at : at + 200] = bytes(200)
    source = open_tiff(bytes(spoilt), 10**6)
    assert (source.width, source.height) == SCENE.size
    with pytest.raises(ImageError):
        source.decode((10, 10))


def test_a_huge_strip_or_tile_is_counted_before_it_is_read() -> None:
    tags = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
            (322, 4, 1, 2**30), (323, 4, 1, 2**10), (324, 4, 1, 8), (325, 4, 1, 8)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0" * 400
    assert outcome(data).startswith("too_large: decoding it takes")
