"""Pictures of the review candidates, read from the archive again; only where --thumbnails asks for them."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from PIL import Image

from maskbatch.archive import access_of
from maskbatch.checkpoint import Preset
from maskbatch.committed import Committed
from maskbatch.config import PlanConfig, make
from maskbatch.decode import decode_batch
from maskbatch.plan import read_plan
from maskbatch.read import READ_COLUMNS, read_images
from maskbatch.stores import StorageOptions

SIDE_PX = 240


def thumbnails(
    candidates: Sequence[Mapping[str, Any]], runs: Sequence[Committed], options: StorageOptions
) -> dict[int, bytes]:
    """A JPEG of at most SIDE_PX by rank, of those of the candidates that can be read."""
    found = {}
    for one in runs:
        wanted = [row for row in candidates if row["run"] == str(one.run.path)]
        wanted.sort(key=lambda row: int(row["id"]))  # rows of a Parquet file are read forward only
        if not wanted:
            continue
        planned = pa.concat_tables([read_plan(one.run.plan, row["id"], row["id"] + 1) for row in wanted])
        access = access_of(make(PlanConfig, one.settings["plan"]), options)
        limits = one.settings["score"]
        encoded = read_images(planned.select(READ_COLUMNS).to_pylist(), access, limits["max_bytes"])
        decoded = decode_batch(encoded, len(wanted), Preset((SIDE_PX, SIDE_PX)), limits["max_pixels"])
        columns = [decoded.columns[name] for name in ("sha256", "width", "height")]
        for row, pixels, sha256, *size in zip(wanted, decoded.images_NHWC, *columns, strict=True):
            if sha256 == row["sha256"]:
                found[row["rank"]] = _jpeg(Image.fromarray(pixels), *size)
    return found


def _jpeg(image: Image.Image, width: int, height: int) -> bytes:
    """`image` in the proportions of its source, encoded."""
    shrink = SIDE_PX / max(width, height)
    sink = io.BytesIO()
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    image.resize(size).save(sink, "JPEG", quality=80)
    return sink.getvalue()
