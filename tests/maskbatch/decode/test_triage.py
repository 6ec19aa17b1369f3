"""What goes to a GPU, and what is decoded and judged on the CPU."""

import random
import time
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import ExifTags, Image

from maskbatch.decode import triage
from maskbatch.decode.images import Picture, Shape, Whole, decode_each, decode_image
from maskbatch.decode.source import Encoded
from maskbatch.decode.triage import Plain, read_plain, sort_images
from maskbatch.errors import ImageError
from maskbatch.model.card import Preset
from tests.maskbatch.samples import draw, encode

LIMIT = 10**6
PRESET = Preset((24, 40))
SCENE = draw(3, (160, 120))
SOUND = encode(SCENE)


def turned(orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2026:10:01 08:30:00"
    return encode(SCENE, exif=exif, **options)


def with_segment(marker: int, content: bytes) -> bytes:
    return SOUND[:2] + bytes((0xFF, marker)) + (len(content) + 2).to_bytes(2, "big") + content + SOUND[2:]


def replace_once(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    return data.replace(old, new)


def sample(sampling: str) -> bytes:
    pixels = np.ascontiguousarray(np.asarray(SCENE))
    return bytes(simplejpeg.encode_jpeg(pixels, colorsubsampling=sampling))


PLAIN = {
    "4:2:0": SOUND,
    "4:4:4": encode(SCENE, subsampling=0),
    "4:2:2": encode(SCENE, subsampling=1),
    "4:4:0": sample("440"),
    "grey": encode(SCENE.convert("L")),
    "tables of its own": encode(SCENE, optimize=True),
    "restarts by row": encode(SCENE, restart_marker_rows=1),
    "restarts by 3 blocks": encode(SCENE, restart_marker_blocks=3),
    "a comment": with_segment(0xFE, b"gate 7"),
    "Adobe's mark of YCbCr": with_segment(0xEE, b"Adobe\0d\0\0\0\0\1"),
    "one pixel": encode(SCENE.resize((1, 1))),
}
ODD = {
    "nothing": b"",
    "text": b"no image",
    "PNG": encode(SCENE, "PNG"),
    "progressive": encode(SCENE, progressive=True),
    "CMYK": encode(SCENE.convert("CMYK")),
    "4:1:1": sample("411"),
    "Adobe's mark of RGB": with_segment(0xEE, b"Adobe\0d\0\0\0\0\0"),
    "components named R, G, B": replace_once(
        replace_once(encode(SCENE, subsampling=0), b"\1\x11\0\2\x11\1\3\x11\1", b"R\x11\0G\x11\1B\x11\1"),
        b"\1\0\2\x11\3\x11",
        b"R\0G\x11B\x11",
    ),
    "12 bits": replace_once(SOUND, b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    "extended": replace_once(SOUND, b"\xff\xc0\0\x11", b"\xff\xc1\0\x11"),
    "no height": replace_once(SOUND, b"\x11\x08\0\x78\0\xa0", b"\x11\x08\0\0\0\xa0"),
    "more pixels than allowed": replace_once(SOUND, b"\x11\x08\0\x78\0\xa0", b"\x11\x08\x78\0\xa0\0"),
    "an odd orientation": turned(9),
    "bytes after the end": SOUND + b"\0",
    "bytes between segments": SOUND[:2] + b"\0" + SOUND[2:],
    "fill before a marker": SOUND[:2] + b"\xff" + SOUND[2:],
    "end lost": SOUND[:-2],
    "an end within": SOUND[:-40] + b"\xff\xd9" + SOUND[-38:],
    "a hole": SOUND[:-140] + bytes(16) + SOUND[-124:],
    "a restart that is not due": SOUND[:-40] + b"\xff\xd0" + SOUND[-38:],
    "a restart lost": PLAIN["restarts by row"].replace(b"\xff\xd3", b""),
    "restarts swapped": PLAIN["restarts by row"].replace(b"\xff\xd3", b"\xff\xd5"),
    "a second picture's start": SOUND[:-40] + b"\xff\xd8" + SOUND[-38:],
    "no quanta": SOUND.replace(b"\xff\xdb", b"\xff\xfe"),
    "no codes": SOUND.replace(b"\xff\xc4", b"\xff\xfe"),
    "a code that is none": replace_once(SOUND, b"\0\0\1\5\1\1\1\1\1\1", b"\0\3\1\5\1\1\1\1\1\1"),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_a_usual_jpeg_goes_to_the_device_as_it_is(kind: str) -> None:
    plain = read_plain(PLAIN[kind], LIMIT)
    size = (1, 1) if kind == "one pixel" else (160, 120)
    assert plain == Plain(PLAIN[kind], *size, orientation=1, exif_time=None)
    assert decode_image(PLAIN[kind], PRESET, LIMIT)


@pytest.mark.parametrize("kind", ODD)
def test_anything_else_is_decoded_and_judged_as_ever(kind: str) -> None:
    assert read_plain(ODD[kind], LIMIT) is None


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_says_its_upright_size_its_turn_and_its_time(orientation: int) -> None:
    plain = read_plain(turned(orientation), LIMIT)
    assert plain
    picture = decode_image(turned(orientation), PRESET, LIMIT)
    assert (plain.width, plain.height, plain.exif_time) == (
        picture.width, picture.height, "2026-10-01T08:30:00",
    )  # fmt: skip
    assert plain.orientation == orientation
    assert plain.stored_size == (160, 120)


def test_sorted_images_have_the_rows_of_decoded_ones() -> None:
    data = [*PLAIN.values(), *ODD.values(), *map(turned, range(1, 9))]
    encoded = [Encoded(item, num_bytes=len(item)) for item in data] + [Encoded(None, "missing", "gone")]
    decoded = list(decode_each(encoded, PRESET, LIMIT))
    seen = []

    def decode(number: int, item: bytes, shape: Shape, max_pixels: int) -> Picture:
        seen.append((number, item))
        return decode_image(item, shape, max_pixels)

    images = sort_images(encoded, PRESET, LIMIT, decode)
    assert images.rows == [row for row, _ in decoded]
    assert all(number < len(data) and data[number] == item for number, item in seen)
    for image, (row, picture) in zip(images.images, decoded, strict=True):
        assert (image is not None) == (row["status"] == "ok")
        if isinstance(image, np.ndarray):
            assert picture and np.array_equal(image, picture.image)
    assert sum(isinstance(image, Plain) for image in images.images) == len(PLAIN) + 8


def test_a_shard_keeps_so_many_bytes_for_the_device_and_decodes_what_comes_after(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = with_segment(0xFE, bytes(5_000))
    monkeypatch.setattr(triage, "KEPT_BYTES", 2 * len(SOUND) + 100)
    encoded = [Encoded(item, num_bytes=len(item)) for item in (SOUND, large, SOUND, SOUND)]
    images = sort_images(encoded, PRESET, LIMIT)
    assert [isinstance(image, Plain) for image in images.images] == [True, False, True, False]
    assert [row["status"] for row in images.rows] == ["ok"] * 4
    frames = sort_images(encoded, Whole(80), LIMIT)
    assert all(isinstance(image, Plain) for image in frames.images)


def test_a_header_that_a_decoder_refuses_never_goes_to_the_device() -> None:
    """Of spoilt headers the device gets those whose damage only shows in the pixels."""
    rng, refused = random.Random(2), 0
    shows_in_pixels = ("premature end", "extraneous bytes", "bad Huffman code", "not whole", "broken data")
    for data in (SOUND, PLAIN["restarts by row"], PLAIN["grey"], PLAIN["tables of its own"]):
        end = data.index(b"\xff\xda") + 12
        for _ in range(700):
            spoilt = bytearray(data)
            spoilt[rng.randrange(2, end)] = rng.randrange(256)
            try:
                decode_image(bytes(spoilt), PRESET, LIMIT)
            except ImageError as error:
                refused += 1
                is_plain = read_plain(bytes(spoilt), LIMIT) is not None
                assert not is_plain or any(text in error.message for text in shows_in_pixels), error.message
    assert refused > 300


def test_to_sort_a_large_jpeg_takes_a_fraction_of_decoding_it() -> None:
    noise = np.random.default_rng(0).integers(-12, 12, (1080, 1920, 3))
    large = encode(Image.fromarray((np.asarray(draw(3, (1920, 1080))) + noise).clip(0, 255).astype(np.uint8)))
    assert len(large) > 200_000

    def least_s(read: Any) -> float:
        times = []
        for _ in range(7):
            began = time.perf_counter()
            assert read(large)
            times.append(time.perf_counter() - began)
        return min(times)

    decoding_s = least_s(lambda data: decode_image(data, Preset((160, 160)), 10**8))
    assert least_s(lambda data: read_plain(data, 10**8)) < decoding_s / 4  # a twentieth was measured
