"""Pictures of committed rows, read from the archive again, for --thumbnails and for review."""

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from maskbatch.config import JobConfig
from maskbatch.errors import ImageError
from maskbatch.model.card import Preset
from maskbatch.plan.table import FILE_ROWS, part_path, read_plan
from maskbatch.runs.committed import CommittedRun
from maskbatch.score.read import READ_COLUMNS, Encoded, PlanRow, read_images
from maskbatch.score.sandbox import open_sandbox
from maskbatch.stores.files import open_file
from maskbatch.stores.options import StorageOptions

SIDE_PX = 240
QUALITY = 85
OTHER = "the archive no longer holds the picture that was scored"


@dataclass(frozen=True, slots=True)
class Preview:
    """One picture as JPEG, or why there is none."""

    jpeg: bytes | None
    error: str | None = None


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
    """The picture of each row, upright and in its proportions, with sides of at most `side_px`."""
    planned = pa.concat_tables([read_plan(run.run.plan, row["id"], row["id"] + 1) for row in rows])
    plan_rows = planned.select(READ_COLUMNS).to_pylist()
    images = read_images(plan_rows, run.open_access(options), run.score.max_bytes)
    for row, encoded in zip(rows, images, strict=True):
        yield _preview(encoded, row["sha256"], side_px, run.score.max_pixels)


def _preview(encoded: Encoded, sha256: str, side_px: int, max_pixels: int) -> Preview:
    if encoded.data is None:
        return Preview(None, encoded.error)
    if hashlib.sha256(encoded.data).hexdigest() != sha256:
        return Preview(None, OTHER)
    try:
        return Preview(encode_jpeg(draw_upright(encoded.data, (side_px, side_px), max_pixels)))
    except ImageError as error:
        return Preview(None, error.message)


def draw_upright(data: bytes, box_px: tuple[int, int], max_pixels: int) -> Image.Image:
    """A picture in its proportions, as large as fits `box_px` (W, H). Raises ImageError."""
    side = max(box_px)
    square = open_sandbox(JobConfig().decode_timeout_s).decode(data, Preset((side, side)), max_pixels)
    scale = min(box_px[0] / square.width, box_px[1] / square.height)
    return square.image.resize((max(1, round(square.width * scale)), max(1, round(square.height * scale))))


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
