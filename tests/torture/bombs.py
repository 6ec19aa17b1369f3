"""Small files that claim to be huge: each becomes a row, with at most 1 GB and 20 s of processor time."""

import io
import json
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from tests.maskbatch.samples import encode, speckle
from tests.torture.command import peak_mb
from tests.torture.mutations import judge
from tests.torture.table import Promise

SIDE = 9_459
"""Of a square just below the pixels allowed."""
MAX_GROWTH_MB = 1024
MAX_CPU_S = 20.0


def explode(folder: Path, chance: random.Random, _: int) -> Iterator[Promise]:
    """Decode each bomb in a process of its own."""
    outcomes = {name: _decode_apart(folder, make) for name, make in BOMBS.items()}
    for name, (status, growth_mb, cpu_s) in outcomes.items():
        print(f"    {name}: {status}, {growth_mb:,.0f} MB, {cpu_s:.1f} s", file=sys.stderr)
    most = max(outcomes, key=lambda name: outcomes[name][1])
    slow = max(outcomes, key=lambda name: outcomes[name][2])
    broke = sum(growth_mb > MAX_GROWTH_MB for _, growth_mb, _ in outcomes.values())
    found = f"most {outcomes[most][1]:,.0f} MB ({most})"
    yield Promise("A bomb adds less than 1 GB to its worker", len(BOMBS), broke, found)
    broke = sum(
        cpu_s > MAX_CPU_S or status in ("crashed", "raised") for status, _, cpu_s in outcomes.values()
    )
    found = f"longest {outcomes[slow][2]:.1f} s ({slow})"
    yield Promise("It becomes a row in less than 20 s of processor time", len(BOMBS), broke, found)


def _decode_apart(folder: Path, make: Callable[[], bytes]) -> tuple[str, float, float]:
    path = folder / "bomb"
    path.write_bytes(make())
    child = subprocess.run(
        [sys.executable, "-m", "tests.torture.bombs", str(path)], capture_output=True, text=True
    )
    if child.returncode:
        return "crashed", 0.0, 0.0
    status, growth_mb, cpu_s = json.loads(child.stdout.splitlines()[-1])
    return status, growth_mb, cpu_s


def _measure(path: Path) -> None:
    """Print status, growth in MB and processor seconds of decoding one file."""
    judge(speckle(1))
    data = path.read_bytes()
    before_mb, began_s = peak_mb(), time.process_time()
    status, _, _ = judge(data)
    cpu_s = time.process_time() - began_s
    print(json.dumps([status, peak_mb() - before_mb, cpu_s]))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(
    width: int, height: int, depth: int, colour: int, *, interlaced: bool = False, extra: bytes = b""
) -> bytes:
    """A PNG of zeros; `colour` is the standard's number of the kind of pixel."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    pixels = _deflate_zeros(height * (1 + -(-width * depth * samples // 8)))
    palette = _chunk(b"PLTE", bytes(768)) + _chunk(b"tRNS", bytes(256)) if colour == 3 else b""
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + palette
    return start + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _deflate_zeros(num_bytes: int) -> bytes:
    press, block = zlib.compressobj(9), bytes(2**20)
    whole = (press.compress(block) for _ in range(num_bytes // 2**20))
    return b"".join(whole) + press.compress(bytes(num_bytes % 2**20)) + press.flush()


def _text_bomb() -> bytes:
    return _png(8, 8, 8, 2, extra=_chunk(b"zTXt", b"Comment\0\0" + _deflate_zeros(2**30)))


def _many_chunks() -> bytes:
    return _png(8, 8, 8, 2, extra=_chunk(b"tEXt", b"a\0b") * 1_000_000)


def _webp(width: int, height: int) -> bytes:
    """A lossless WebP of one colour in 34 bytes."""
    size = (width - 1) | (height - 1) << 14
    body = b"\x2f" + struct.pack("<I", size) + bytes((0x88, 0x88, 0x08, 0, 0, 0, 0, 0, 0))
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body
    chunk += b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _gif(width: int, height: int) -> bytes:
    data = bytearray(encode(Image.new("P", (1, 1)), "GIF"))
    data[6:10] = struct.pack("<HH", width, height)
    at = data.index(b",", 13)
    data[at + 5 : at + 9] = struct.pack("<HH", width, height)
    return bytes(data)


def _bmp(width: int, height: int) -> bytes:
    """A run-length BMP that ends at once."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 2, 2835, 2835, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1080, 0, 0, 1078) + header + bytes(1024) + b"\0\1"


def _jpeg(mode: str, **options: Any) -> bytes:
    return encode(Image.new(mode, (SIDE, SIDE)), quality=50, **options)


def _claim_size(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    at = next(data.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data)
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


def _many_scans() -> bytes:
    """A progressive JPEG that repeats its last scan 5,000 times."""
    data = encode(Image.effect_noise((1920, 1080), 60), quality=50, progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2][:190] * 5_000 + b"\xff\xd9"


def _tiff(mode: str, **options: Any) -> bytes:
    return encode(Image.new(mode, (SIDE, SIDE)), "TIFF", **options)


def _many_entries() -> bytes:
    """A TIFF whose directory claims 65,535 tags of 400 MB each."""
    entry = struct.pack("<HHII", 700, 7, 400_000_000, 8)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 65_535) + entry * 65_535 + bytes(4)


def _tiff_of(body: bytes, *tags: tuple[int, int, int, int]) -> bytes:
    """A grey TIFF of 8 x 8; `tags` change or add some, `body` stands at 8."""
    usual = {256: (3, 1, 8), 257: (3, 1, 8), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8),
             277: (3, 1, 1), 278: (3, 1, 8), 279: (4, 1, 64)}  # fmt: skip
    entries = sorted((usual | {tag: rest for tag, *rest in tags}).items())
    packed = b"".join(struct.pack("<HHII", tag, *rest) for tag, rest in entries)
    head = b"II*\0" + struct.pack("<I", 8 + len(body))
    return head + body + struct.pack("<H", len(entries)) + packed + bytes(4)


def _shared_by_directories() -> bytes:
    """A TIFF of 16 chains of 16 directories, which all share one long tag."""
    num_values, size = 650_000, 18
    first = 8 + 64 + 4 * num_values + 64
    chain = b"".join(
        struct.pack("<HHHIII", 1, 273, 4, num_values, 72, first + size * k if k < 16 else 0)
        for k in range(1, 17)
    )
    body = bytes(64) + b"\7" * (4 * num_values) + struct.pack("<I", first) * 16 + chain
    return _tiff_of(body, (330, 4, 16, first - 64))


def _tag(tag: int, kind: int, num_values: int, num_bytes: int) -> bytes:
    return _tiff_of(b"\7" * num_bytes, (tag, kind, num_values, 8))


def _empty_strips() -> bytes:
    """A TIFF of 65,000 strips, each the same megabyte of deflate that holds nothing."""
    side, content = 65_000, b"\x78\1" + b"\0\0\0\xff\xff" * 200_000
    lists = struct.pack("<I", 8) * side + struct.pack("<I", len(content)) * side
    at = 8 + len(content)
    sides = (256, 3, 1, 1_300), (257, 3, 1, side), (259, 3, 1, 8), (278, 3, 1, 1)
    return _tiff_of(content + lists, *sides, (273, 4, side, at), (279, 4, side, at + 4 * side))


def _many_strips() -> bytes:
    """A TIFF of four planes, with a strip for each row."""
    num_strips, width = 4 * 65_535, 900
    body = bytes(width) + struct.pack("<HHHH", 8, 8, 8, 8)
    at = 8 + len(body)
    body += struct.pack("<I", 8) * num_strips + struct.pack("<H", width) * num_strips
    planes = (258, 3, 4, at - 8), (262, 3, 1, 5), (277, 3, 1, 4), (284, 3, 1, 2)
    lists = (273, 4, num_strips, at), (279, 3, num_strips, at + 4 * num_strips)
    return _tiff_of(
        body + bytes(60_000_000),
        (256, 3, 1, width),
        (257, 3, 1, 65_535),
        (278, 3, 1, 1),
        *planes,
        *lists,
    )


def _looped() -> bytes:
    """A TIFF whose directory names itself as the next."""
    data = bytearray(encode(Image.new("L", (8, 8)), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    return bytes(data)


def _animation(form: str) -> bytes:
    frames = [Image.new("RGB", (64, 64), (k % 256, k // 256, 0)) for k in range(2_000)]
    sink = io.BytesIO()
    frames[0].save(sink, form, save_all=True, append_images=frames[1:])
    return sink.getvalue()


BOMBS: dict[str, Callable[[], bytes]] = {
    "png of 1 x 89 M": lambda: _png(1, 89_000_000, 8, 2),
    "png of 89 M x 1": lambda: _png(89_000_000, 1, 8, 6),
    "png, alpha": lambda: _png(SIDE, SIDE, 8, 6),
    "png, 16 bit and alpha": lambda: _png(SIDE, SIDE, 16, 6),
    "png, 16 bit grey": lambda: _png(SIDE, SIDE, 16, 0),
    "png, palette with alpha": lambda: _png(SIDE, SIDE, 8, 3),
    "png, 1 bit": lambda: _png(SIDE, SIDE, 1, 0),
    "png, interlaced": lambda: _png(SIDE, SIDE, 8, 2, interlaced=True),
    "png of 65,535 x 65,535": lambda: _png(65_535, 65_535, 1, 0)[:2_000],
    "png, text of 1 GB": _text_bomb,
    "png, a million chunks": _many_chunks,
    "webp of 34 bytes, 16,383 x 16,383": lambda: _webp(16_383, 16_383),
    "webp of 34 bytes, 89 M pixels": lambda: _webp(SIDE, SIDE),
    "webp, lossy": lambda: encode(Image.new("RGB", (SIDE, SIDE)), "WEBP", quality=1),
    "webp, alpha": lambda: encode(Image.new("RGBA", (SIDE, SIDE)), "WEBP", quality=1),
    "webp, 2,000 frames": lambda: _animation("WEBP"),
    "gif of 65,535 x 65,535": lambda: _gif(65_535, 65_535),
    "gif of 89 M pixels": lambda: _gif(SIDE, SIDE),
    "gif, 2,000 frames": lambda: _animation("GIF"),
    "bmp, run length": lambda: _bmp(SIDE, SIDE),
    "jpeg": lambda: _jpeg("RGB"),
    "jpeg, grey": lambda: _jpeg("L"),
    "jpeg, cmyk": lambda: _jpeg("CMYK"),
    "jpeg, progressive": lambda: _jpeg("RGB", progressive=True),
    "jpeg that claims 89 M pixels": lambda: _claim_size(encode(Image.new("RGB", (8, 8))), SIDE, SIDE),
    "jpeg that claims 65,535 x 65,535": lambda: _claim_size(encode(Image.new("RGB", (8, 8))), 65_535, 65_535),
    "jpeg of 65,000 x 1,300": lambda: encode(Image.new("RGB", (65_000, 1_300))),
    "jpeg, 5,000 scans": _many_scans,
    "tiff, deflate": lambda: _tiff("RGB", compression="tiff_adobe_deflate"),
    "tiff, deflate, alpha": lambda: _tiff("RGBA", compression="tiff_adobe_deflate"),
    "tiff, 32 bit": lambda: _tiff("F", compression="tiff_adobe_deflate"),
    "tiff, cmyk": lambda: _tiff("CMYK", compression="tiff_adobe_deflate"),
    "tiff, fax": lambda: _tiff("1", compression="group4"),
    "tiff, 65,535 tags": _many_entries,
    "tiff, a loop": _looped,
    "tiff, 256 directories that share a tag": _shared_by_directories,
    "tiff, 16 M offsets": lambda: _tag(273, 4, 16_000_000, 64_000_000),
    "tiff, 600,000 fractions": lambda: _tag(282, 5, 600_000, 4_800_000),
    "tiff, 8 M fractions": lambda: _tag(282, 5, 8_000_000, 64_000_000),
    "tiff, strips that share a megabyte": _empty_strips,
    "tiff, 262,140 strips": _many_strips,
}  # fmt: skip

if __name__ == "__main__":
    _measure(Path(sys.argv[1]))
