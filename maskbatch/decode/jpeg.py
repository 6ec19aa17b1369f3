"""JPEG: what the header says, pixels from a decoder that forgives nothing, and what damage is harmless.

A sound file goes to the strict decoder as it is. Where that complains, a copy is made without what cannot
touch a pixel (metadata, bytes between segments, an odd JFIF version, a missing end marker), and what the
decoder says of the copy decides.
Source: ITU-T T.81, annex B; how libjpeg's `next_marker` finds its way over stray bytes.
"""

import io
import re
from dataclasses import dataclass
from math import ceil

import numpy as np
import simplejpeg
from PIL import Image, JpegImagePlugin  # noqa: F401  the plugin registers its format

from maskbatch.decode import entropy
from maskbatch.decode.exif import NOTHING, read_exif
from maskbatch.decode.huffman import Component
from maskbatch.decode.kinds import CONVERT
from maskbatch.decode.source import Source, check_memory, check_size, stable_message
from maskbatch.errors import ImageError

SOI, EOI, SOS, APP0, APP1, APP14, COM = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xFE
ALONE = frozenset((0x01, *range(0xD0, 0xD8)))
METADATA = frozenset((*range(APP0, 0xF0), COM))
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
READABLE_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
SEQUENTIAL = frozenset((0xC0, 0xC1))
PROGRESSIVE = frozenset((0xC2, 0xCA))
ARITHMETIC = frozenset((0xC9, 0xCA))
LOSSLESS = frozenset((0xC3, 0xC7, 0xCB, 0xCF))
MAX_SEGMENTS = 10_000
MAX_SCANS = 100
"""libjpeg takes 7 ms a scan at 1920x1080, however little it holds; encoders write 10 scans, tuned ones 30."""
SCAN_END = re.compile(rb"\xff[^\0\xd0-\xd7\xff]")
STRAYS = re.compile("([0-9]+) extraneous bytes before marker 0x([0-9a-f]{2})")
"""The decoder counts all but up to 7 of them at the end, which it had read ahead."""
Section = tuple[int, int, int]
"""(marker, start, end) in the file; marker 0 is a scan's entropy-coded data."""


@dataclass(slots=True)
class Header:
    """The segments up to the first scan, and what they say."""

    kind: int
    """Marker of the frame: 0xC0 baseline, 0xC2 progressive, and so on."""
    precision: int
    width: int
    height: int
    components: list[Component]
    segments: list[Section]
    """Without what lies between; the last is the first scan's header."""
    exif: bytes | None


@dataclass(frozen=True, slots=True)
class Body:
    """Scans from the first to the last, and how they end."""

    sections: list[Section]
    end: int | None
    """Marker that follows the last scan, or None at the end of the file."""


def read_header(data: bytes) -> Header:
    """Walk the segments as libjpeg does. Raises ImageError where no picture follows."""
    segments: list[Section] = []
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
    if not header.height:
        raise ImageError("unsupported", f"JPEG whose height is not in its header (DNL); {CONVERT}")


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
    sections: list[Section] = []
    between = [header.segments[-1]]
    for _ in range(MAX_SCANS):
        start = between[-1][2]
        found = SCAN_END.search(data, start)
        end = found.start() if found else len(data)
        sections += [*between, (0, start, end)]
        if not has_many_scans(data, header):
            return Body(sections, _next_segment(data, end)[0])
        between, marker = _read_to_scan(data, end)
        if marker != SOS:
            return Body(sections, marker)
    raise ImageError("too_large", f"JPEG of more than the {MAX_SCANS} scans allowed")


def _read_to_scan(data: bytes, at: int) -> tuple[list[Section], int | None]:
    """The segments up to the next scan's header, and SOS; or what is found in its place."""
    sections: list[Section] = []
    while len(sections) < MAX_SEGMENTS:
        marker, start, _, at = _next_segment(data, at)
        if marker is None or marker in (SOI, EOI):
            return sections, marker
        sections.append((marker, start, at))
        if marker == SOS:
            return sections, SOS if at <= len(data) else None
    return sections, None


def _check_scans(data: bytes, header: Header, body: Body) -> None:
    """Raises ImageError where a component, or in a file without end marker any coefficient, never came."""
    missing = {(part.name, k) for part in header.components for k in range(64)}
    for marker, start, _ in body.sections:
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
    sections = [
        _clean_section(data[start:end], marker, header)
        for marker, start, end in header.segments[:-1] + body.sections
    ]
    try:
        if header.kind in ARITHMETIC and body.end != EOI:
            raise ValueError("no end marker")  # past the end of the data, that decoder reads zeros
        return _decode_sections(sections, header, needed)
    except ValueError as error:
        if body.end in (None, SOI):
            raise ImageError("truncated", "JPEG data ends early") from None
        raise ImageError("corrupt", f"JPEG data is corrupt: {stable_message(error)}") from None


def _decode_sections(sections: list[bytes], header: Header, needed: tuple[float, float]) -> Image.Image:
    """Decode segments and scans, the last scan without stray bytes. Raises ValueError."""
    try:
        return _decode_strictly(_join(sections), header, needed)
    except ValueError as error:
        strays, is_odd = STRAYS.search(str(error)), "subsampling level" in str(error)
        if not strays and not is_odd:
            raise
        trimmed = _trim(sections, header, int(strays[1]) if strays and strays[2] == "d9" else 0)
        if trimmed is None:
            raise ValueError("its blocks are not whole") if is_odd else error from None
    whole = _join([*sections[:-1], trimmed])
    if not is_odd:
        return _decode_strictly(whole, header, needed)
    # 4:1:0 and the like: the strict decoder does not know them, and Pillow notices no damage.
    image = Image.open(io.BytesIO(whole), formats=("JPEG",))
    image.draft(None, (ceil(needed[0]), ceil(needed[1])))
    return image.convert("RGB")


def _trim(sections: list[bytes], header: Header, num_strays: int) -> bytes | None:
    """The last scan's data without stray bytes before markers; None where they may be lost blocks."""
    if header.kind not in SEQUENTIAL or len(sections) > len(header.segments) + 1:
        return entropy.cut_strays(sections[-1], num_strays)
    size = header.width, header.height
    return entropy.trim_scan(sections[:-1], sections[-1], size, header.components, num_strays)


def _clean_section(section: bytes, marker: int, header: Header) -> bytes:
    """A segment as any decoder takes it: no metadata but JFIF and Adobe marks, which tell colours."""
    if marker == APP0 and section.startswith(b"JFIF\0", 4) and len(section) >= 16:
        return b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    if marker == APP14 and section.startswith(b"Adobe", 4) and len(section) >= 16:
        usual = 2 if len(header.components) == 4 else 1  # libjpeg takes any but 0 for it
        return b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([usual if section[15] else 0])
    if marker in METADATA:
        return b""
    if marker == SOS and header.kind not in PROGRESSIVE:
        return section[:-3] + b"\0\x3f\0"  # which says nothing there
    return section


def _join(sections: list[bytes]) -> bytes:
    return b"".join((b"\xff\xd8", *sections, b"\xff\xd9"))
