"""Pictures of committed rows, read from the archive again, for --thumbnails and for review.

Of whole scenes they show one face large, and no other face sharp.
"""

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from maskbatch.config import JobConfig
from maskbatch.decode.images import Picture, Whole
from maskbatch.decode.sandbox import open_sandbox
from maskbatch.decode.source import Encoded
from maskbatch.errors import ImageError
from maskbatch.plan.table import FILE_ROWS, part_path, read_plan
from maskbatch.review.blur import blur_others
from maskbatch.runs.committed import CommittedRun
from maskbatch.score.read import READ_COLUMNS, PlanRow, read_images
from maskbatch.score.scene import frame_crop
from maskbatch.stores.files import open_file
from maskbatch.stores.options import StorageOptions

SIDE_PX = 240
QUALITY = 85
FACE_SCALE = 2.5
"""The side of the part that shows a face, in longer sides of its box."""
BOX_COLOURS = "#ffffff", "#d6336c"
"""Of the box around a face, and the line outside of it: seen on any ground."""
OTHER = "the archive no longer holds the picture that was scored"


@dataclass(frozen=True, slots=True)
class Preview:
    """One picture as JPEG, or why there is none."""

    jpeg: bytes | None
    """The picture, or of a face what is close to it."""
    error: str | None = None
    whole: bytes | None = None
    """Of a face, the whole picture with its box."""


def find_plan_rows(run: CommittedRun, uris: Collection[str]) -> dict[str, PlanRow]:
    """The plan's rows of `uris`, ready for `read_images`; this searches the whole plan."""
    wanted, plan_rows = pa.array(sorted(uris), pa.string()), dict[str, PlanRow]()
    for first in range(0, run.success.planned, FILE_ROWS):
        with open_file(part_path(run.run.plan, first)) as file:
            parquet = pq.ParquetFile(file, pre_buffer=True)
            for group in range(parquet.num_row_groups):
                is_wanted = pc.is_in(parquet.read_row_group(group, ["uri"])["uri"], wanted)
                if pc.any(is_wanted).as_py():
                    rows = parquet.read_row_group(group).select(READ_COLUMNS).filter(is_wanted)
                    plan_rows |= {row["uri"]: row for row in rows.to_pylist()}
    return plan_rows


def read_pictures(
    run: CommittedRun, rows: Sequence[Mapping[str, Any]], options: StorageOptions, side_px: int
) -> Iterator[Preview]:
    """The picture of each row of a queue, upright and in its proportions, with sides of at most `side_px`."""
    planned = pa.concat_tables([read_plan(run.run.plan, row["id"], row["id"] + 1) for row in rows])
    plan_rows = planned.select(READ_COLUMNS).to_pylist()
    images = read_images(plan_rows, run.open_access(options), run.score.max_bytes)
    for row, encoded in zip(rows, images, strict=True):
        yield _preview(encoded, row, side_px, run.score.max_pixels)


def _preview(encoded: Encoded, row: Mapping[str, Any], side_px: int, max_pixels: int) -> Preview:
    if encoded.data is None:
        return Preview(None, encoded.error)
    if hashlib.sha256(encoded.data).hexdigest() != row["sha256"]:
        return Preview(None, OTHER)
    try:
        if row.get("region"):
            return _show_face(encoded.data, row, side_px, max_pixels)
        return Preview(encode_jpeg(draw_upright(encoded.data, (side_px, side_px), max_pixels)))
    except ImageError as error:
        return Preview(None, error.message)


def _show_face(data: bytes, row: Mapping[str, Any], side_px: int, max_pixels: int) -> Preview:
    """A face from near and in its picture, all others blurred. Raises ImageError."""
    size, own = (row["width"], row["height"]), row["region"] - 1
    left, top, right, bottom = frame_crop(row["box"], size, FACE_SCALE)
    enlarged = max(size) * side_px / max(right - left, bottom - top)
    picture = _decode_whole(data, max(side_px, round(enlarged)), max_pixels)
    scale = picture.image.width / size[0], picture.image.height / size[1]
    boxes = [[length * scale[i % 2] for i, length in enumerate(box)] for box in row["faces"]]
    image = blur_others(picture.image, boxes, own)
    near = image.crop(frame_crop(boxes[own], image.size, FACE_SCALE))
    whole = fit(image, (side_px, side_px))
    _draw_box(whole, [length * whole.width / image.width for length in boxes[own]])
    return Preview(encode_jpeg(fit(near, (side_px, side_px))), whole=encode_jpeg(whole))


def _draw_box(image: Image.Image, box: Sequence[float]) -> None:
    """Draw a box around a face, two lines wide, that covers none of it."""
    draw, width = ImageDraw.Draw(image), max(1, max(image.size) // 400)
    x0, y0, x1, y1 = box
    for i, colour in enumerate(BOX_COLOURS, 1):
        out = i * width
        draw.rectangle((x0 - out, y0 - out, x1 + out, y1 + out), outline=colour, width=width)


def draw_upright(data: bytes, box_px: tuple[int, int], max_pixels: int) -> Image.Image:
    """A picture in its proportions, as large as fits `box_px` (W, H). Raises ImageError."""
    return fit(_decode_whole(data, max(box_px), max_pixels).image, box_px)


def _decode_whole(data: bytes, longest_px: int, max_pixels: int) -> Picture:
    return open_sandbox(JobConfig().decode_timeout_s).decode(data, Whole(longest_px), max_pixels)


def fit(image: Image.Image, box_px: tuple[int, int]) -> Image.Image:
    """`image` as large as fits `box_px` (W, H)."""
    scale = min(box_px[0] / image.width, box_px[1] / image.height)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def encode_jpeg(image: Image.Image) -> bytes:
    """A picture as JPEG of QUALITY."""
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=QUALITY)
    return sink.getvalue()


def make_thumbnails(
    candidates: Sequence[Mapping[str, Any]], runs: Sequence[CommittedRun], options: StorageOptions
) -> dict[int, bytes]:
    """By rank, JPEGs with sides of at most SIDE_PX of the candidates that can be read."""
    thumbnails = {}
    for run in runs:
        wanted = [row for row in candidates if row["run"] == str(run.run.path)]
        wanted.sort(key=lambda row: int(row["id"]))  # rows of a Parquet file are read forward only
        previews = read_pictures(run, wanted, options, SIDE_PX) if wanted else ()
        for row, preview in zip(wanted, previews, strict=True):
            if preview.jpeg is not None:
                thumbnails[row["rank"]] = preview.jpeg
    return thumbnails
