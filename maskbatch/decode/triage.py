"""Which images a GPU decodes: plain JPEGs go there as they are, and all others are decoded here.

nvJPEG says nothing of damage: it draws what it can, and some files end its process. So it gets only what a
walk over the file's segments finds sound: a baseline JPEG of a usual kind, whose one scan reaches the end
marker that ends the file. Damage inside of the scan passes unnoticed, but for holes and markers.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from maskbatch.decode import huffman, jpeg
from maskbatch.decode.exif import NOTHING, read_exif
from maskbatch.decode.images import Decode, Picture, Row, Shape, Whole, decode_image, open_each
from maskbatch.decode.jpeg import APP14, METADATA, SOS, Header
from maskbatch.decode.source import Encoded, check_size
from maskbatch.errors import ImageError

BASELINE, DHT, DQT, DRI = 0xC0, 0xC4, 0xDB, 0xDD
SEGMENTS = METADATA | {BASELINE, DHT, DQT, DRI, SOS}
SAMPLINGS = frozenset(((1, 1), (2, 1), (1, 2), (2, 2)))
"""(across, down) of the luma where each chroma has 1, 1: 4:4:4, 4:2:2, 4:4:0 and 4:2:0."""
MARKER = re.compile(rb"\xff([^\0])")
HOLE = bytes(16)
"""What a lost sector leaves; no camera's codes are all zeros for so long."""
KEPT_BYTES = 2**28
"""Of JPEGs that are kept for a GPU, of one shard. A plan may not know sizes, or only their mean."""
NAMES = ((1, 2, 3), (0, 1, 2))
"""Of components that every decoder takes for YCbCr."""


@dataclass(frozen=True, slots=True)
class Plain:
    """A JPEG that is left to a GPU."""

    data: bytes | memoryview
    width: int
    """Pixels, upright."""
    height: int
    orientation: int
    """EXIF's, 1 to 8."""
    exif_time: str | None

    @property
    def stored_size(self) -> tuple[int, int]:
        """(W, H) before it is turned upright."""
        return (self.height, self.width) if self.orientation > 4 else (self.width, self.height)


@dataclass(slots=True)
class Sorted:
    """Images in plan order."""

    rows: list[Row]
    """Each without what `describe` adds."""
    images: list[Plain | NDArray[np.uint8] | None]
    """A JPEG for a GPU, or what was decoded here, (H, W, 3); None where the image is not ok."""


def sort_images(
    encoded: Iterable[Encoded], shape: Shape, max_pixels: int, decode: Decode | None = None
) -> Sorted:
    """Sort images; `decode` takes the place of `decode_image`.

    What is not plain becomes `shape`. So does what comes after KEPT_BYTES, unless `shape` is that of frames,
    which are larger than their JPEGs.
    """
    kept_bytes = 0

    def open_one(i: int, data: bytes) -> Plain | Picture:
        nonlocal kept_bytes
        fits = kept_bytes + len(data) <= KEPT_BYTES or isinstance(shape, Whole)
        if fits and (plain := read_plain(data, max_pixels)):
            kept_bytes += len(data)
            return plain
        wanted = data, shape, max_pixels
        return decode(i, *wanted) if decode else decode_image(*wanted)

    out = Sorted([], [])
    for row, picture in open_each(encoded, open_one):
        out.rows.append(row)
        out.images.append(np.asarray(picture.image) if isinstance(picture, Picture) else picture)
    return out


def read_plain(data: bytes, max_pixels: int) -> Plain | None:
    """None where the image is not surely one that a GPU draws as `decode_image` does."""
    if not data.startswith(b"\xff\xd8\xff") or not data.endswith(b"\xff\xd9"):
        return None
    try:
        header = jpeg.read_header(data)
        check_size(header.width, header.height, max_pixels)
    except ImageError:
        return None
    if not (_is_usual(data, header) and _has_tables(data, header) and _is_scan_whole(data, header)):
        return None
    exif = read_exif(header.exif) if header.exif else NOTHING
    if exif.orientation not in range(1, 9):
        return None
    plain = Plain(data, header.width, header.height, exif.orientation, exif.time)
    return replace(plain, width=header.height, height=header.width) if exif.orientation > 4 else plain


def _is_usual(data: bytes, header: Header) -> bool:
    """Whether the segments follow each other without a gap, and describe 8 bits of grey or YCbCr."""
    markers = [marker for marker, _, _ in header.segments]
    starts, ends = ([section[k] for section in header.segments] for k in (1, 2))
    if starts != [2, *ends[:-1]] or not SEGMENTS.issuperset(markers) or markers.count(BASELINE) != 1:
        return False
    adobes = [data[start:end] for marker, start, end in header.segments if marker == APP14]
    if header.precision != 8 or not header.width or not header.height:
        return False
    luma, *chroma = header.components
    if not chroma:
        return (luma.across, luma.down) == (1, 1)
    return (
        tuple(part.name for part in header.components) in NAMES
        and (luma.across, luma.down) in SAMPLINGS
        and all((part.across, part.down) == (1, 1) for part in chroma)
        and all(adobe.startswith(b"Adobe", 4) and adobe[15:16] == b"\1" for adobe in adobes)
    )


def _has_tables(data: bytes, header: Header) -> bool:
    """Whether the scan is of all components, and the tables that it names are there and whole."""
    parts, frame = header.components, header.segments[[m for m, _, _ in header.segments].index(BASELINE)]
    *_, (_, start, end) = header.segments
    names, chosen = data[start + 5 : end - 3 : 2], data[start + 6 : end - 3 : 2]
    expected = bytes(part.name for part in parts)
    if names != expected or data[start + 4] != len(parts) or data[end - 3 : end] != b"\0\x3f\0":
        return False
    if frame[2] - frame[1] != 10 + 3 * len(parts) or end - start != 8 + 2 * len(parts):
        return False
    segments = [data[start:end] for marker, start, end in header.segments if marker not in METADATA]
    tables, quanta, _ = huffman.read_segments(segments)
    codes = [(table, number) for pair in chosen for table, number in ((pair >> 4, 0), (16 + (pair & 15), 1))]
    return all(quanta.get(part.quanta) for part in parts) and all(
        number in tables and huffman.is_prefix_code(tables[number], is_ac=bool(is_ac))
        for number, is_ac in codes
    )


def _is_scan_whole(data: bytes, header: Header) -> bool:
    """Whether the restarts that are due, no other marker and no hole stand between the header and the end."""
    start = header.segments[-1][2]
    _, _, interval = huffman.read_segments(
        data[start:end] for marker, start, end in header.segments if marker == DRI
    )
    num_mcus = huffman.count_mcus((header.width, header.height), header.components, header.components)
    due = (b"%c" % (0xD0 + k % 8) for k in range((num_mcus - 1) // interval if interval else 0))
    return MARKER.findall(data, start) == [*due, b"\xd9"] and data.find(HOLE, start) < 0
