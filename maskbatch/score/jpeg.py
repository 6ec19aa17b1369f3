"""JPEG: what the header says, pixels from a decoder that forgives nothing, and what damage is harmless.

A sound file goes to the strict decoder as it is. Where that complains, a copy is made without what cannot
touch a pixel (metadata, bytes between segments, an odd JFIF version, a missing end marker), and what the
decoder says of the copy decides.
Source: ITU-T T.81, annex B; how libjpeg's `next_marker` finds its way over stray bytes.
"""

import io
import re
from dataclasses import dataclass, field
from itertools import takewhile
from math import ceil

import numpy as np
import simplejpeg
from PIL import Image, JpegImagePlugin  # noqa: F401  the plugin registers its format

from maskbatch.errors import ImageError
from maskbatch.score import entropy
from maskbatch.score.entropy import Component
from maskbatch.score.exif import NOTHING, read_exif
from maskbatch.score.source import Source, check_memory, check_size

SOI, EOI, SOS, APP0, APP1, APP14, COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xFE
ALONE = frozenset((0x01, *range(0xD0, 0xD8)))
METADATA = frozenset((*range(APP0, 0xF0), COM))
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
READABLE_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
SEQUENTIAL = frozenset((0xC0, 0xC1))
PROGRESSIVE = frozenset((0xC2, 0xCA))
LOSSLESS = frozenset((0xC3, 0xC7, 0xCB, 0xCF))
MAX_SEGMENTS = 10_000
MAX_SCANS = 100
"""libjpeg takes 7 ms a scan at 1920x1080, however little it holds; encoders write 10 scans, tuned ones 30."""
FEW_STRAYS = 4
"""Stray bytes to cut where blocks cannot be counted: damaged data leaves tens of them."""
MAX_STRAYS = 1 << 20
SCAN_END = re.compile(rb"\xff+[^\0\xd0-\xd7\xff]")
CONVERT = "convert it to a usual JPEG or PNG"


@dataclass(slots=True)
class Header:
    """The segments up to the first scan, and what they say."""

    kind: int
    """Marker of the frame: 0xC0 baseline, 0xC2 progressive, and so on."""
    precision: int
    width: int
    height: int
    components: list[Component]
    segments: list[tuple[int, int, int]]
    """(marker, start, end) in the file, without what lies between; the last is the first scan's header."""
    exif: bytes | None


@dataclass(slots=True)
class Body:
    """Scans from the first to the last, and how they end."""

    parts: list[tuple[int, int, int]] = field(default_factory=list)
    """(marker, start, end) in the file; marker 0 is a scan's entropy-coded data."""
    end: int | None = None
    """Marker that follows the last scan, or None at the end of the file."""


def read_header(data: bytes) -> Header:
    """Walk the segments as libjpeg does. Raises ImageError where no picture follows."""
    segments: list[tuple[int, int, int]] = []
    frame, exif = None, None
    marker, start, body, end = _next_segment(data, 2)
    while marker is not None and marker not in (SOI, EOI):
        segments.append((marker, start, end))
        if marker in FRAMES and frame is None:
            frame = data[body:end]
            kind = marker
        elif marker == APP1 and exif is None and data.startswith(b"Exif\0\0", body):
            exif = data[body + 6 : end]
        if marker == SOS or len(segments) > MAX_SEGMENTS:
            break
        marker, start, body, end = _next_segment(data, end)
    if len(segments) > MAX_SEGMENTS:
        raise ImageError("too_large", f"JPEG of more than the {MAX_SEGMENTS:,} header segments allowed")
    if marker is None or end > len(data):
        raise ImageError("truncated", "JPEG header cannot be read")
    if marker != SOS or frame is None or len(frame) < 9 or len(frame) < 6 + 3 * frame[5]:
        raise ImageError("corrupt", "JPEG header cannot be read")
    components = [
        Component(frame[k], frame[k + 1] >> 4, frame[k + 1] & 15, frame[k + 2])
        for k in range(6, 6 + 3 * frame[5], 3)
    ]
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    return Header(kind, frame[0], width, height, components, segments, exif)


def _next_segment(data: bytes, at: int) -> tuple[int | None, int, int, int]:
    """The next marker at or after `at`, where its segment starts, where its content starts, and its end."""
    while True:
        start = data.find(b"\xff", at)
        if start < 0 or start + 1 >= len(data):
            return None, len(data), len(data), len(data)
        marker = data[start + 1]
        if marker == 0xFF:
            at = start + 1
        elif marker == 0 or marker in ALONE:
            at = start + 2
        elif marker in (SOI, EOI):
            return marker, start, start + 2, start + 2
        else:
            length = max(2, int.from_bytes(data[start + 2 : start + 4], "big"))
            return marker, start, start + 4, start + 2 + length


def check_readable(header: Header) -> None:
    """Raises ImageError for a kind of JPEG that the decoder does not know."""
    if header.kind in LOSSLESS:
        raise ImageError("unsupported", f"lossless JPEG, which is not read; {CONVERT}")
    if header.kind not in READABLE_FRAMES:
        raise ImageError("unsupported", f"hierarchical JPEG, which is not read; {CONVERT}")
    if header.precision != 8:
        raise ImageError("unsupported", f"JPEG of {header.precision} bits a sample, 8 expected; {CONVERT}")
    if len(header.components) not in (1, 3, 4):
        count = len(header.components)
        raise ImageError("unsupported", f"JPEG of {count} components, 1, 3 or 4 expected; {CONVERT}")


def has_many_scans(data: bytes, header: Header) -> bool:
    """Whether the whole picture's coefficients are kept until the last scan."""
    _, start, _ = header.segments[-1]
    return header.kind in PROGRESSIVE or data[start + 4] < len(header.components)


def num_coefficient_bytes(header: Header) -> int:
    """What the decoder keeps of a picture that comes in many scans."""
    widest = max(part.across for part in header.components) or 1
    highest = max(part.down for part in header.components) or 1
    samples = sum(part.across * part.down for part in header.components)
    return 2 * header.width * header.height * samples // (widest * highest)


def open_jpeg(data: bytes, max_pixels: int) -> Source:
    """Raises ImageError for what is damaged, too large, or of a kind that the decoder does not know."""
    header = read_header(data)
    check_readable(header)
    check_size(header.width, header.height, max_pixels)
    if has_many_scans(data, header):
        check_memory(num_coefficient_bytes(header))
    exif = read_exif(header.exif) if header.exif else NOTHING
    return Source(header.width, header.height, lambda needed: decode(data, header, needed), exif)


def decode(data: bytes, header: Header, needed: tuple[float, float]) -> Image.Image:
    """RGB at the smallest DCT scale of at least `needed` (W, H) pixels, or whole if it has less.

    Raises ImageError for data that ends early or is damaged.
    """
    if has_many_scans(data, header):
        body = _read_body(data, header)
        _check_scans(data, header, body)
    try:
        return _decode_strictly(data, header, needed)
    except ValueError:
        return _decode_cleaned(data, header, needed)


def _decode_strictly(data: bytes, header: Header, needed: tuple[float, float]) -> Image.Image:
    """Raises ValueError at the decoder's first complaint."""
    least = {"min_width": needed[0], "min_height": needed[1]}
    if len(header.components) < 4:
        return Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", strict=True, **least))
    # Inverted, as Adobe writes it and every viewer takes it.
    inverted_HWC = simplejpeg.decode_jpeg(data, "CMYK", strict=True, **least)
    return Image.fromarray(np.invert(inverted_HWC), "CMYK").convert("RGB")


def _read_body(data: bytes, header: Header) -> Body:
    """The scans, each header and each piece of data, up to the end marker or what is no scan any more."""
    _, start, end = header.segments[-1]
    whole = Body()
    pending = [(SOS, start, end)]
    num_scans = 0
    one_scan = not has_many_scans(data, header)
    while True:
        found = SCAN_END.search(data, end)
        stop = found.start() if found else len(data)
        whole.parts += [*pending, (0, end, stop)]
        num_scans += 1
        if num_scans > MAX_SCANS:
            raise ImageError("too_large", f"JPEG of more than the {MAX_SCANS} scans allowed")
        pending = []
        marker, start, _, end = _next_segment(data, stop)
        whole.end = marker
        while marker not in (None, SOI, EOI, SOS) and not one_scan and len(pending) < MAX_SEGMENTS:
            pending.append((marker or 0, start, end))
            marker, start, _, end = _next_segment(data, end)
        if marker != SOS or one_scan or end > len(data):
            whole.end = marker if not pending or marker in (SOI, EOI) else whole.end
            return whole
        pending.append((SOS, start, end))


def _check_scans(data: bytes, header: Header, body: Body) -> None:
    """Raises ImageError where a component, or in a file without end marker any coefficient, never came."""
    missing = {(part.name, k) for part in header.components for k in range(64)}
    for marker, start, _ in body.parts:
        if marker == SOS:
            count = data[start + 4]
            first, last, approximation = data[start + 5 + 2 * count : start + 8 + 2 * count]
            if header.kind not in PROGRESSIVE:
                first, last, approximation = 0, 63, 0
            exact = body.end == EOI or not approximation & 15
            names = data[start + 5 : start + 5 + 2 * count : 2]
            missing -= {(name, k) for name in names for k in range(first, last + 1) if exact}
    if body.end == EOI:
        missing = {(name, k) for name, k in missing if k == 0}
    if missing:
        raise ImageError("truncated" if body.end != EOI else "corrupt", "JPEG data ends early")


def _decode_cleaned(data: bytes, header: Header, needed: tuple[float, float]) -> Image.Image:
    """Decode a copy without what touches no pixel. Raises ImageError for what the decoder says of it then."""
    body = _read_body(data, header)
    head = b"".join(_clean_segment(data[start:end], marker) for marker, start, end in header.segments[:-1])
    parts = [_clean_segment(data[start:end], marker) for marker, start, end in body.parts]
    if header.kind not in PROGRESSIVE:  # these say nothing there
        parts = [part[:-3] + b"\0\x3f\0" if part.startswith(b"\xff\xda") else part for part in parts]
    try:
        return _decode_strictly(_join(head, parts), header, needed)
    except ValueError as error:
        message = _one_line(error)
    image = None
    if "extraneous bytes before marker" in message:
        image = _decode_trimmed(head, parts, header, needed)
    elif "subsampling level" in message:
        image = _decode_odd_sampling(head, parts, header, needed)
    if image is not None:
        return image
    if body.end in (None, SOI):
        raise ImageError("truncated", "JPEG data ends early")
    raise ImageError("corrupt", f"JPEG data is corrupt: {message}")


def _decode_odd_sampling(
    head: bytes, parts: list[bytes], header: Header, needed: tuple[float, float]
) -> Image.Image | None:
    """A sampling that the strict decoder does not know, such as 4:1:0; None where blocks are missing."""
    if header.kind in SEQUENTIAL:
        trimmed = len(parts) == 2 and _trim(head, parts, header)
        if not trimmed:
            return None
        parts = [parts[0], trimmed]
    image = Image.open(io.BytesIO(_join(head, parts)), formats=("JPEG",))
    image.draft(None, (ceil(needed[0]), ceil(needed[1])))
    return image.convert("RGB")


def _trim(head: bytes, parts: list[bytes], header: Header) -> bytes | None:
    return entropy.trim_scan(head + parts[0], parts[1], (header.width, header.height), header.components)


def _clean_segment(segment: bytes, marker: int) -> bytes:
    """A segment as any decoder takes it: no metadata but JFIF and Adobe marks, which tell colours."""
    if marker == APP0 and segment.startswith(b"JFIF\0", 4) and len(segment) >= 16:
        return b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    if marker == APP14 and segment.startswith(b"Adobe", 4) and len(segment) >= 16:
        transform = segment[15] if segment[15] < 3 else 1
        return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([transform])
    if marker in METADATA:
        return b""
    return segment


def _join(head: bytes, parts: list[bytes]) -> bytes:
    return b"".join((b"\xff\xd8", head, *parts, b"\xff\xd9"))


def _decode_trimmed(
    head: bytes, parts: list[bytes], header: Header, needed: tuple[float, float]
) -> Image.Image | None:
    """Decode without the stray bytes before restart and end markers; None if they are none."""
    if header.kind in SEQUENTIAL and len(parts) == 2:
        trimmed = _trim(head, parts, header)
        attempts = [] if trimmed is None else [trimmed]
    else:
        attempts = [parts[-1][:-cut] for cut in _guess_strays(parts[-1])]
    for data in attempts:
        try:
            return _decode_strictly(_join(head, [*parts[:-1], data]), header, needed)
        except ValueError:
            continue
    return None


def _guess_strays(data: bytes) -> list[int]:
    """How many bytes to cut off a scan: a few, or as many as repeat, which damaged data does not."""
    counts, data = list(range(1, FEW_STRAYS + 1)), data[-MAX_STRAYS:]
    for period in range(1, FEW_STRAYS + 1):
        shifted = zip(reversed(data[:-period]), reversed(data), strict=False)
        run = period + sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], shifted))
        counts += [run - k for k in range(period) if run - k > max(FEW_STRAYS, 2 * period)]
    return counts


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
