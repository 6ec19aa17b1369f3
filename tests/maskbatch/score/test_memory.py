"""No image adds more than 1 GB to a worker, whatever its header asks for. Each is decoded in a process of its own."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

SIDE = 9_400
"""88 million pixels, just what is allowed."""
DECODE = """
import resource, sys
from maskbatch.errors import ImageError
from maskbatch.model.card import Preset
from maskbatch.decode.images import decode_image

data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_image(data, Preset((160, 160)), 89_478_485)
    status = "ok"
except ImageError as error:
    status = error.status
print(status, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(
    width: int, height: int, depth: int, kind: int, channels: int, interlaced: int = 0, extra: bytes = b""
) -> bytes:
    deflater = zlib.compressobj(1)
    row = b"\0" * (1 + width * depth * channels // 8)
    rows = [deflater.compress(row) for _ in range(height * (1 + interlaced))]
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    pixels = chunk(b"IDAT", b"".join(rows) + deflater.flush())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + pixels + chunk(b"IEND", b"")


def lossless_webp(side: int) -> bytes:
    """30 bytes: every symbol is the same."""
    body = b"\x2f" + struct.pack("<I", side - 1 | (side - 1) << 14) + b"\x88\x88\x08\0\0"
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body


def gif(screen: int, left: int, side: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", left, left, side, side, 0) + b"\2\2\x4c\1\0;"


def bmp(bits: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, bits, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def encode(mode: str, form: str, side: int = SIDE, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.new(mode, (side, side)).save(sink, form, **options)
    return sink.getvalue()


PALETTE = chunk(b"PLTE", bytes(range(256)) * 3)
BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "PNG of one column": ("too_large", lambda: png(1, 100_000, 8, 0, 1)),
    "RGBA PNG": ("ok", lambda: png(SIDE, SIDE, 8, 6, 4)),
    "RGBA PNG of 16 bits": ("ok", lambda: png(SIDE, SIDE, 16, 6, 4)),
    "interlaced PNG": ("ok", lambda: png(SIDE, SIDE, 8, 6, 4, 1)),
    "clear palette PNG": ("ok", lambda: png(SIDE, SIDE, 8, 3, 1, 0, PALETTE + chunk(b"tRNS", b"\0\x80" * 9))),
    "PNG of a strip": ("ok", lambda: png(1_365, 65_535, 8, 6, 4)),
    "lossless WebP": ("too_large", lambda: lossless_webp(SIDE)),
    "lossless WebP, smaller": ("ok", lambda: lossless_webp(7_400)),
    "GIF": ("ok", lambda: encode("P", "GIF")),
    "GIF of a huge frame": ("truncated", lambda: gif(1, 0, SIDE)),
    "GIF of a far frame": ("too_large", lambda: gif(1, 60_000, 5_000)),
    "BMP": ("truncated", lambda: bmp(32)),
    "RGBA TIFF": ("ok", lambda: encode("RGBA", "TIFF", compression="tiff_adobe_deflate")),
    "CMYK TIFF": ("ok", lambda: encode("CMYK", "TIFF", compression="tiff_lzw")),
    "progressive JPEG": ("ok", lambda: encode("CMYK", "JPEG", progressive=True)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_no_image_adds_more_than_a_gigabyte(name: str, tmp_path: Path) -> None:
    expected, make = BOMBS[name]
    (tmp_path / "image").write_bytes(make())
    command = [sys.executable, "-c", DECODE, str(tmp_path / "image")]
    status, megabytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert (status, int(megabytes) < 1_000) == (expected, True)
