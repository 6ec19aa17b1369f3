"""Files that are no picture, or one of another kind: each is named, with what to do."""

import struct

import pytest
from PIL import Image, features

from maskbatch.archives.entries import is_image
from maskbatch.decode.images import decode_image
from maskbatch.errors import ImageError
from maskbatch.model.card import Preset
from tests.maskbatch.samples import draw, encode


def brand(major: bytes, *others: bytes) -> bytes:
    content = major + b"\0\0\0\0" + b"".join(others)
    return struct.pack(">I", len(content) + 8) + b"ftyp" + content + b"\0\0\0\x08mdat" + b"\0" * 400


def directory(*tags: tuple[int, int, int, int], start: bytes = b"II*\0\x08\0\0\0") -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return start + struct.pack("<H", len(tags)) + entries + b"\0" * 400


@pytest.mark.parametrize(
    ("data", "name", "remedy"),
    [
        pytest.param(brand(b"jxl ", b"jxl "), "JPEG XL", "convert", id="JXL"),
        pytest.param(b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0" * 99, "JPEG XL", "convert", id="JXL in a box"),
        pytest.param(b"\xff\x0a\x7a\x11", "JPEG XL", "convert", id="bare JXL"),
        pytest.param(b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 99, "JPEG 2000", "convert", id="JP2"),
        pytest.param(b"\xff\x4f\xff\x51\0\x29", "JPEG 2000", "convert", id="bare JPEG 2000"),
        pytest.param(brand(b"isom", b"mp42"), "an MP4 video", "frames", id="MP4"),
        pytest.param(brand(b"qt  "), "a QuickTime video", "frames", id="MOV"),
        pytest.param(b"RIFF\0\1\0\0AVI LIST", "an AVI video", "", id="AVI"),
        pytest.param(b"\x1aE\xdf\xa3\x93B\x82\x88", "WebM video", "", id="WebM"),
        pytest.param(b"\0\0\0\1\x67\x64\0\x1f", "an H.264 video", "", id="H.264"),
        pytest.param(brand(b"crx "), "a raw camera file (CR3)", "convert", id="CR3"),
        pytest.param(b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 400, "a raw camera file", "convert", id="CR2"),
        pytest.param(directory((50706, 1, 4, 0x0401)), "a raw camera file", "convert", id="DNG"),
        pytest.param(
            directory((259, 3, 1, 6), (330, 4, 1, 38)) [:38] + directory((262, 3, 1, 32803))[8:],
            "a raw camera file", "convert", id="NEF: raw data in a sub-directory",
        ),
        pytest.param(directory((256, 3, 1, 9), (259, 3, 1, 32767)), "a raw camera file", "convert", id="ARW"),
        pytest.param(b"FUJIFILMCCD-RAW 0201", "a raw camera file (RAF)", "convert", id="RAF"),
        pytest.param(b"IIRO\x08\0\0\0", "a raw camera file (ORF)", "convert", id="ORF"),
        pytest.param(b"IIU\0\x18\0\0\0", "a raw camera file (RW2)", "convert", id="RW2"),
        pytest.param(b"\0" * 20_000, "only zeros (20,000 bytes)", "", id="zeros"),
        pytest.param(b"\0", "only zeros (1 bytes)", "", id="one zero"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named_with_what_to_do(data: bytes, name: str, remedy: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(data, Preset((24, 40)), 10**6)
    assert caught.value.status == "unsupported"
    assert name in caught.value.message and remedy in caught.value.message


@pytest.mark.parametrize("major", [b"heic", b"heix", b"hevc", b"mif1", b"msf1"])
def test_heic_is_named_where_the_package_that_reads_it_is_missing(major: bytes) -> None:
    try:
        import pillow_heif  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("pillow-heif is installed")
    with pytest.raises(ImageError, match=r"a HEIC image.*pip install pillow-heif.*or convert it") as caught:
        decode_image(brand(major, b"mif1", b"heic"), Preset((24, 40)), 10**6)
    assert caught.value.status == "unsupported"


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read_where_pillow_reads_it() -> None:
    data = encode(draw(2, (48, 36)), "AVIF")
    picture = decode_image(data, Preset((24, 40)), 10**6)
    assert (picture.width, picture.height) == (48, 36)
    with pytest.raises(ImageError, match="AVIF"):
        decode_image(data[: len(data) // 2], Preset((24, 40)), 10**6)


def test_pictures_of_kinds_that_are_not_read_everywhere_are_planned_and_videos_are_not() -> None:
    assert all(map(is_image, ("a.heic", "a.HEIF", "a.avif", "a.jxl", "a.jp2", "a.hif")))
    assert not any(map(is_image, ("a.mp4", "a.mov", "a.cr2", "a.nef", "a.txt")))


def test_a_name_says_nothing() -> None:
    assert decode_image(encode(Image.new("RGB", (8, 8), "red"), "WEBP"), Preset((24, 40)), 100).width == 8
