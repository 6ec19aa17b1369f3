import hashlib
import io
import re
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import ExifTags, Image

from maskbatch.decode.images import COLUMNS, decode_batch, decode_image
from maskbatch.decode.source import Encoded
from maskbatch.model.card import Preset
from tests.maskbatch.samples import SIZE, draw, encode

LIMIT = 1_000_000
SHAPE = (24, 40)  # not square, so that height and width cannot be mistaken
PICTURE = draw(seed=4)
JPEG = encode(PICTURE, quality=90)
FORMS = {form: encode(draw(2, (48, 36)), form) for form in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")}
FORMS["progressive"] = encode(draw(2, (48, 36)), progressive=True)


def decoded(data: bytes, size: tuple[int, int] = SHAPE, limit: int = LIMIT) -> NDArray[np.int16]:
    return np.asarray(decode_image(data, Preset(size), limit).image, np.int16)


def outcome(data: bytes, limit: int = LIMIT) -> tuple[str, str | None]:
    row = decode_batch([Encoded(data, num_bytes=len(data))], 1, Preset(SIZE), limit).columns
    return row["status"][0], row["error"][0]  # type: ignore[return-value]


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def with_size(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def with_exif(image: Image.Image, tags: dict[int, Any], form: str = "JPEG", **options: Any) -> bytes:
    exif = Image.Exif()
    for tag, value in tags.items():
        top = tag in (ExifTags.Base.Orientation, ExifTags.Base.DateTime)
        (exif if top else exif.get_ifd(ExifTags.IFD.Exif))[tag] = value
    return encode(image, form, exif=exif, **options)


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        pytest.param(JPEG, 2, id="JPEG"),
        pytest.param(encode(PICTURE, quality=90, progressive=True), 2, id="progressive"),
        pytest.param(encode(PICTURE, quality=90, subsampling=0), 2, id="444"),
        pytest.param(encode(PICTURE.convert("CMYK"), quality=95), 4, id="CMYK"),
        pytest.param(
            encode(PICTURE, "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))]), 4, id="MPO"
        ),
        pytest.param(encode(PICTURE, "PNG"), 0, id="PNG"),
        pytest.param(encode(PICTURE.convert("RGBA"), "PNG"), 0, id="RGBA"),
        pytest.param(encode(PICTURE.quantize(256), "PNG"), 6, id="palette"),
        pytest.param(encode(PICTURE, "BMP"), 0, id="BMP"),
        pytest.param(encode(PICTURE, "TIFF"), 0, id="TIFF"),
        pytest.param(encode(PICTURE, "TIFF", compression="tiff_lzw"), 0, id="LZW TIFF"),
        pytest.param(encode(PICTURE, "WEBP", lossless=True), 0, id="lossless WebP"),
        pytest.param(encode(PICTURE, "WEBP", quality=90), 4, id="WebP"),
        pytest.param(encode(PICTURE, "GIF"), 8, id="GIF"),
    ],
)
def test_every_format_gives_the_picture(data: bytes, tolerance: float) -> None:
    expected = np.asarray(PICTURE.resize(SHAPE[::-1], Image.Resampling.BILINEAR, reducing_gap=2.0), np.int16)
    assert np.abs(decoded(data) - expected).mean() <= tolerance
    picture = decode_image(data, Preset(SHAPE), LIMIT)
    assert (picture.width, picture.height, picture.image.mode) == (160, 120, "RGB")


def palette_with_transparency(form: str) -> bytes:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 200, 0, 0])
    return encode(image, form, transparency=1)


GREY16 = Image.fromarray(np.full((8, 8), 0x80FF, np.uint16))
GIF_FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (8, 8), "blue")]}


@pytest.mark.parametrize(
    ("data", "rgb"),
    [
        pytest.param(encode(Image.new("L", (8, 8), 77)), (77, 77, 77), id="grey JPEG"),
        pytest.param(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0))), (255, 0, 0), id="CMYK red"),
        pytest.param(encode(Image.new("RGBA", (8, 8), (200, 0, 0, 0)), "PNG"), (255,) * 3, id="clear RGBA"),
        pytest.param(encode(Image.new("RGBA", (8, 8), (0, 0, 0, 51)), "PNG"), (204,) * 3, id="faint RGBA"),
        pytest.param(encode(Image.new("RGBA", (8, 8), (0, 0, 0, 51)), "WEBP"), (204,) * 3, id="faint WebP"),
        pytest.param(encode(Image.new("LA", (8, 8), (0, 51)), "PNG"), (204,) * 3, id="LA"),
        pytest.param(palette_with_transparency("PNG"), (255,) * 3, id="clear palette PNG"),
        pytest.param(palette_with_transparency("GIF"), (255,) * 3, id="clear GIF"),
        pytest.param(encode(GREY16, "PNG"), (128,) * 3, id="16-bit grey PNG"),
        pytest.param(encode(GREY16, "TIFF"), (128,) * 3, id="16-bit grey TIFF"),
        pytest.param(
            png(2, 2, 16, 2, (b"\0" + b"\x80\xff\x10\x00\xff\x00" * 2) * 2), (128, 16, 255), id="16-bit RGB"
        ),
        pytest.param(encode(Image.new("1", (8, 8), 1), "PNG"), (255,) * 3, id="one bit"),
        pytest.param(
            encode(Image.new("RGB", (8, 8), "red"), "GIF", **GIF_FRAMES), (255, 0, 0), id="GIF animation"
        ),
        pytest.param(encode(Image.new("RGB", (1, 1), (9, 99, 199)), "PNG"), (9, 99, 199), id="1x1 PNG"),
        pytest.param(encode(Image.new("RGB", (1, 1), (90, 90, 90))), (90, 90, 90), id="1x1 JPEG"),
        pytest.param(encode(Image.new("RGB", (3000, 1), (90, 90, 90))), (90, 90, 90), id="3000x1 JPEG"),
    ],
)
def test_colours_come_out_as_seen_on_white_paper(data: bytes, rgb: tuple[int, ...]) -> None:
    assert np.abs(decoded(data) - np.array(rgb)).max() <= 1


# How the sensor's rows lie for each orientation, CIPA DC-008: what undoes the camera's turn.
STORED = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip


@pytest.mark.parametrize(("form", "tolerance"), [("JPEG", 2.0), ("PNG", 0.0), ("TIFF", 0.0), ("WEBP", 6.0)])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_gives_the_upright_picture(orientation: int, form: str, tolerance: float) -> None:
    upright = PICTURE.resize(SHAPE[::-1])
    turn = STORED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    options = {"quality": 97, "subsampling": 0} if form == "JPEG" else {}
    picture = decode_image(
        with_exif(stored, {ExifTags.Base.Orientation: orientation}, form, **options), Preset(SHAPE), LIMIT
    )
    assert (picture.width, picture.height) == SHAPE[::-1]
    assert np.abs(np.asarray(picture.image, np.int16) - np.asarray(upright, np.int16)).mean() <= tolerance


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (1280, 720), (50, 50)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_crop_is_what_resize_and_center_crop_would_give(size: tuple[int, int], interpolation: str) -> None:
    picture = draw(4, size)
    shorter = int(32 / 0.8)
    width, height = (shorter * length // min(size) for length in size)
    small = picture.resize((width, height), Image.Resampling[interpolation.upper()])
    left, top = (width - 32) // 2, (height - 32) // 2
    expected = np.asarray(small.crop((left, top, left + 32, top + 32)), np.int16)
    preset = Preset((32, 32), "crop", 0.8, interpolation)
    for data in (encode(picture, "PNG"), encode(picture, quality=97, subsampling=0)):
        found = np.asarray(decode_image(data, preset, LIMIT).image, np.int16)
        assert np.abs(found - expected).mean() < 3


def test_an_endless_strip_is_cropped_in_little_memory() -> None:
    strip = Image.new("RGB", (20_000, 2), "red")
    image = decode_image(encode(strip, "PNG"), Preset((224, 224), "crop", 0.875), 10**6).image
    assert image.size == (224, 224) and image.getpixel((100, 100)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", [0, 9, 77, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    data = with_exif(PICTURE, {ExifTags.Base.Orientation: orientation}, quality=90)
    assert np.array_equal(decoded(data), decoded(JPEG))


def test_a_scaled_decode_is_the_whole_picture_but_for_rounding() -> None:
    data = encode(draw(7, (1920, 1080)), quality=90)
    full = Image.open(io.BytesIO(data)).resize((224, 224), Image.Resampling.BILINEAR)
    assert np.abs(decoded(data, (224, 224), 10**7) - np.asarray(full, np.int16)).mean() < 2


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        pytest.param(b"", "truncated", "empty", id="empty"),
        pytest.param(b"\0" * 4096, "unsupported", "only zeros (4,096 bytes)", id="zeros"),
        pytest.param(b"hello\n", "unsupported", "text", id="text"),
        pytest.param(b"\n<!DOCTYPE html><html>502</html>", "unsupported", "HTML", id="HTML"),
        pytest.param("Übergröße".encode(), "unsupported", "not an image of a known format", id="UTF-8 text"),
        pytest.param(b"%PDF-1.7\n\xe2\xe3", "unsupported", "not an image of a known format", id="PDF"),
        pytest.param(b"\xff\xd8\xff\xd9", "corrupt", "JPEG header", id="JPEG of nothing"),
        pytest.param(encode(Image.new("F", (4, 4)), "TIFF"), "unsupported", "32-bit grey", id="float TIFF"),
    ],
)
def test_what_is_no_picture_gets_a_status_and_a_sentence(data: bytes, status: str, error: str) -> None:
    found, sentence = outcome(data)
    assert (found, sentence is not None and error in sentence) == (status, True)


@pytest.mark.parametrize("form", ["baseline", "grey", "CMYK", "PNG", "GIF", "BMP", "WEBP"])
def test_a_file_that_ends_early_is_truncated_wherever_it_ends(form: str) -> None:
    modes = {"grey": "L", "CMYK": "CMYK"}
    image = PICTURE.convert(modes.get(form, "RGB"))
    data = encode(image, form if form in FORMS else "JPEG")
    for k in range(1, 21):
        assert outcome(data[: len(data) * k // 21])[0] == "truncated", f"after {k} of 21 parts"


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_truncated_wherever_it_ends(progressive: bool) -> None:
    data = encode(draw(2, (48, 36)), progressive=progressive)
    wrong = {k: outcome(data[:k]) for k in range(2, len(data) - 2) if outcome(data[:k])[0] != "truncated"}
    assert not wrong


def test_damaged_huffman_data_is_corrupt() -> None:
    middle = len(JPEG) // 2
    for spoilt in (b"\0" * 600, b"\xff\xff" * 40, bytes(range(1, 251)) * 2):
        assert outcome(JPEG[:middle] + spoilt + JPEG[middle + len(spoilt) :])[0] == "corrupt"


def sos_of_a_progressive_scan(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xda")
    end = at + 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
    return jpeg[: end - 3] + b"\0\0\0" + jpeg[end:]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(JPEG[:-2] + b"\1\2\3" + JPEG[-2:], id="stray bytes before the end"),
        pytest.param(JPEG + b"\0" * 1000, id="padded"),
        pytest.param(JPEG + JPEG, id="followed by another"),
        pytest.param(JPEG.replace(b"JFIF\0\1", b"JFIF\0\3", 1), id="JFIF 3"),
        pytest.param(sos_of_a_progressive_scan(JPEG), id="odd SOS"),
    ],
)
def test_what_a_decoder_only_warns_of_keeps_the_picture(data: bytes) -> None:
    assert outcome(data) == ("ok", None)
    assert np.abs(decoded(data) - decoded(JPEG)).mean() < 1


@pytest.mark.parametrize("odd", [JPEG.replace(b"JFIF\0\1", b"JFIF\0\3", 1), sos_of_a_progressive_scan(JPEG)])
def test_a_harmless_warning_does_not_hide_an_early_end(odd: bytes) -> None:
    assert outcome(odd[: len(odd) // 2])[0] == "truncated"


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
@pytest.mark.parametrize("side", [1001, 10_000, 30_000])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(name: str, side: int) -> None:
    data = with_size(JPEG, side, side) if name == "JPEG" else png(side, side, 8, 2, b"")
    began = time.process_time()
    status, sentence = outcome(data)
    assert (status, sentence is not None and "1,000,000" in sentence) == ("too_large", True)
    assert time.process_time() - began < 0.5


def test_a_picture_of_just_the_allowed_pixels_is_decoded() -> None:
    assert outcome(JPEG, 160 * 120)[0] == "ok"
    assert outcome(JPEG, 160 * 120 - 1)[0] == "too_large"


TAKEN, OFFSET, SAVED = (
    ExifTags.Base.DateTimeOriginal,
    ExifTags.Base.OffsetTimeOriginal,
    ExifTags.Base.DateTime,
)
WHEN, ISO = "2026:10:03 17:20:05", "2026-10-03T17:20:05"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, None),
        ({TAKEN: WHEN}, ISO),
        ({TAKEN: WHEN, SAVED: "2027:01:01 00:00:00"}, ISO),
        ({SAVED: WHEN}, ISO),
        ({SAVED: WHEN, OFFSET: "+02:00"}, ISO),
        ({TAKEN: WHEN, OFFSET: "+02:00"}, f"{ISO}+02:00"),
        ({TAKEN: WHEN, OFFSET: "-09:30"}, f"{ISO}-09:30"),
        ({TAKEN: WHEN, OFFSET: ""}, ISO),
        ({TAKEN: WHEN, OFFSET: "   :  "}, ISO),
        ({TAKEN: "    :  :     :  :  "}, None),
        ({TAKEN: "0000:00:00 00:00:00"}, None),
        ({TAKEN: "2026:02:30 10:00:00"}, None),
        ({TAKEN: "yesterday"}, None),
        ({TAKEN: 7}, None),
    ],
)
def test_the_exif_time_is_the_original_one_with_its_offset(
    tags: dict[int, Any], expected: str | None
) -> None:
    assert decode_image(with_exif(PICTURE, tags), Preset(SIZE), LIMIT).exif_time == expected


@pytest.mark.parametrize(
    "block",
    [
        b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x05",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"x" * 30,
    ],
)  # fmt: skip
def test_a_broken_exif_block_does_not_spoil_the_picture(block: bytes) -> None:
    data = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + JPEG[2:]
    assert outcome(data) == ("ok", None)


@pytest.mark.parametrize("offset", [5, b"\xff\xfe", (1, 2)])
def test_an_exif_offset_that_is_no_text_does_not_spoil_the_picture(offset: Any) -> None:
    assert outcome(with_exif(PICTURE, {TAKEN: WHEN, OFFSET: offset})) == ("ok", None)


def test_a_batch_keeps_order_and_zeroes_what_is_not_ok() -> None:
    items = [
        Encoded(JPEG, num_bytes=len(JPEG)),
        Encoded(None, "missing", "gone"),
        Encoded(b"<html>", num_bytes=6),
        Encoded(encode(PICTURE, "PNG"), num_bytes=5),  # whatever its name says
    ]
    out = decode_batch(iter(items), 4, Preset(SHAPE), LIMIT)
    assert out.images_NHWC.shape == (4, *SHAPE, 3)
    assert [bool(image.any()) for image in out.images_NHWC] == [True, False, False, True]
    assert np.array_equal(out.images_NHWC[0], decoded(JPEG))
    assert out.columns["status"] == ["ok", "missing", "unsupported", "ok"]
    assert out.columns["num_bytes"] == [len(JPEG), None, 6, 5]
    assert out.columns["sha256"][:2] == [hashlib.sha256(JPEG).hexdigest(), None]
    assert out.columns["sha256"][2] == hashlib.sha256(b"<html>").hexdigest()
    for name in ("width", "height", "brightness", "contrast", "sharpness", "dhash"):
        assert [value is not None for value in out.columns[name]] == [True, False, False, True]


def check_hostile(data: bytes) -> None:
    """Whatever the bytes, a row comes out, and comes out the same again."""
    rows = [decode_batch([Encoded(data)], 1, Preset(SIZE), LIMIT).columns for _ in range(2)]
    assert rows[0] == rows[1]
    assert set(rows[0]) == set(COLUMNS)
    status, error = rows[0]["status"][0], rows[0]["error"][0]
    assert status in ("ok", "unsupported", "truncated", "corrupt", "too_large")
    assert (error is None) == (status == "ok") == (rows[0]["width"][0] is not None)
    if error is not None:
        assert not re.search("0x[0-9a-f]{6}", str(error))
        assert 0 < len(str(error).encode()) < 400
        assert "\n" not in str(error)


@settings(max_examples=60)
@given(st.sampled_from([b"", *(data[:24] for data in FORMS.values())]), st.binary(max_size=300))
def test_random_bytes_never_raise(start: bytes, rest: bytes) -> None:
    check_hostile(start + rest)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 9000),
)
def test_a_mutated_picture_never_raises(form: str, changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(FORMS[form])
    for place, byte in changes:
        data[place % len(data)] = byte
    check_hostile(bytes(data[:end] if end < len(data) else data))


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(st.integers(0, 120), st.binary(min_size=1, max_size=4))
def test_a_mutated_header_never_raises(form: str, place: int, spoilt: bytes) -> None:
    data = FORMS[form]
    check_hostile(data[:place] + spoilt + data[place + len(spoilt) :])
