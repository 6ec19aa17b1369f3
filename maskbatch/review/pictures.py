"""Pictures of committed rows, read from the archive again: for --thumbnails, and to be judged."""

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from maskbatch.errors import ImageError
from maskbatch.model.checkpoint import Preset
from maskbatch.plan.table import FILE_ROWS, part_path, read_plan
from maskbatch.runs.committed import CommittedRun
from maskbatch.score.decode import decode_image
from maskbatch.score.read import READ_COLUMNS, Encoded, PlanRow, read_images
from maskbatch.stores.files import open_file
from maskbatch.stores.options import StorageOptions

SIDE_PX = 240


QUALITY = 85


OTHER = "it is not the picture that was scored any more"


@dataclass(frozen=True, slots=True)
class Preview:
    """One picture as JPEG, or why there is none."""

    jpeg: bytes | None
    error: str | None = None


def find_plan_rows(one: CommittedRun, uris: Collection[str]) -> dict[str, PlanRow]:
    """The rows of the plan for these uris, ready for `read_images`; the plan is searched for them."""
    wanted, found = pa.array(sorted(uris), pa.string()), dict[str, PlanRow]()
    for first in range(0, one.success.planned, FILE_ROWS):
        with open_file(part_path(one.run.plan, first)) as file:
            parquet = pq.ParquetFile(file, pre_buffer=True)
            for group in range(parquet.num_row_groups):
                here = pc.is_in(parquet.read_row_group(group, ["uri"])["uri"], wanted)
                if pc.any(here).as_py():
                    rows = parquet.read_row_group(group).select(READ_COLUMNS).filter(here)
                    found |= {row["uri"]: row for row in rows.to_pylist()}
    return found


def read_pictures(
    one: CommittedRun, rows: Sequence[Mapping[str, Any]], options: StorageOptions, side_px: int
) -> Iterator[Preview]:
    """The pictures of some rows of a run: upright, in their proportions, at most `side_px` a side."""
    planned = pa.concat_tables([read_plan(one.run.plan, row["id"], row["id"] + 1) for row in rows])
    found = read_images(
        planned.select(READ_COLUMNS).to_pylist(), one.open_access(options), one.score.max_bytes
    )
    for row, encoded in zip(rows, found, strict=True):
        yield _shown(encoded, row["sha256"], side_px, one.score.max_pixels)


def _shown(encoded: Encoded, sha256: str, side_px: int, max_pixels: int) -> Preview:
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
    square = decode_image(data, Preset((side, side)), max_pixels)
    scale = min(box_px[0] / square.width, box_px[1] / square.height)
    return square.image.resize((max(1, round(square.width * scale)), max(1, round(square.height * scale))))


def encode_jpeg(image: Image.Image) -> bytes:
    """A picture encoded, for people to look at."""
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=QUALITY)
    return sink.getvalue()


def make_thumbnails(
    candidates: Sequence[Mapping[str, Any]], runs: Sequence[CommittedRun], options: StorageOptions
) -> dict[int, bytes]:
    """A JPEG of at most SIDE_PX by rank, of those of the candidates that can be read."""
    found = {}
    for one in runs:
        wanted = [row for row in candidates if row["run"] == str(one.run.path)]
        wanted.sort(key=lambda row: int(row["id"]))  # rows of a Parquet file are read forward only
        for row, shown in zip(
            wanted, read_pictures(one, wanted, options, SIDE_PX) if wanted else (), strict=True
        ):
            if shown.jpeg is not None:
                found[row["rank"]] = shown.jpeg
    return found
