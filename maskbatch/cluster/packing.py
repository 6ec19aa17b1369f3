"""Images on their way from a CPU to a GPU: one row, with the pixels or bytes of a shard in one piece."""

import io
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from maskbatch.decode.images import COLUMNS, Columns, Decoded, Row, gather_columns
from maskbatch.decode.triage import Plain, Sorted
from maskbatch.score.networks import Pixels
from maskbatch.score.scene import DecodedFrame, Frame

NOTHING = np.zeros((0, 0, 3), np.uint8)
ORIENTATION = "orientation"
"""Only sorted images have this column; it is null for what is no encoded JPEG."""
Pack = dict[str, Any]


def pack(planned: pa.Table, pixels: Pixels) -> tuple[Pack, list[object]]:
    """A row of `rows`, tables as Arrow IPC, and `pixels`; and the images' statuses."""
    columns, arrays, kinds = _take_apart(pixels)
    items = pa.table({"shape": [array.shape for array in arrays], **kinds})
    sink = io.BytesIO()
    for table in (planned, pa.table(columns), items):
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    data = b"".join(np.ascontiguousarray(array).data for array in arrays)
    return {"rows": [sink.getvalue()], "pixels": [data]}, columns["status"]


def _take_apart(pixels: Pixels) -> tuple[Columns, list[NDArray[np.uint8]], dict[str, pa.Array]]:
    """The columns, the images as arrays of 4, 3 or 1 dimensions, and what else must be known of each."""
    if isinstance(pixels, Decoded):
        return pixels.columns, [pixels.images_NHWC], {}
    if isinstance(pixels, Sorted):
        arrays = [_as_array(image) for image in pixels.images]
        turns = [image.orientation if isinstance(image, Plain) else None for image in pixels.images]
        return gather_columns(pixels.rows), arrays, {ORIENTATION: pa.array(turns, pa.int8())}
    rows, arrays = list[Row](), []
    for row, frame in pixels:
        rows.append(row)
        arrays.append(np.asarray(frame.pixels) if frame else NOTHING)
    return gather_columns(rows), arrays, {}


def _as_array(image: Plain | NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    if isinstance(image, Plain):
        return np.frombuffer(image.data, np.uint8)
    return NOTHING if image is None else image


def unpack(packed: pa.Table) -> tuple[pa.Table, Pixels]:
    """The plan rows and the images that were packed, which stay where they are and are only to be read."""
    source = pa.BufferReader(_view(packed["rows"]))
    planned, table, items = (pa.ipc.open_stream(source).read_all() for _ in range(3))
    columns = {name: table[name].to_pylist() for name in table.column_names}
    arrays = list(_split(_view(packed["pixels"]), items["shape"].to_pylist()))
    if ORIENTATION in items.column_names:
        rows, turns = list(_split_rows(columns)), items[ORIENTATION].to_pylist()
        return planned, Sorted(rows, list(map(_as_image, rows, arrays, turns)))
    if arrays[0].ndim == 4:
        return planned, Decoded(arrays[0], columns)
    return planned, _unpack_frames(columns, arrays)


def _view(column: pa.ChunkedArray) -> pa.Buffer:
    """The bytes of a column's only row where they lie; as a scalar, pyarrow copies them."""
    (chunk,) = column.chunks
    _, offsets, data = chunk.buffers()
    width = np.int64 if pa.types.is_large_binary(chunk.type) else np.int32
    start, stop = np.frombuffer(offsets, width)[chunk.offset : chunk.offset + 2].tolist()
    return data.slice(start, stop - start)


def _split(data: pa.Buffer, shapes: Sequence[Sequence[int]]) -> Iterator[NDArray[np.uint8]]:
    at = 0
    for shape in shapes:
        num_bytes = prod(shape)
        yield np.frombuffer(data, np.uint8, num_bytes, at).reshape(shape)
        at += num_bytes


def _split_rows(columns: Columns) -> Iterator[Row]:
    for values in zip(*(columns[name] for name in COLUMNS), strict=True):
        yield dict(zip(COLUMNS, values, strict=True))


def _as_image(
    row: Row, array: NDArray[np.uint8], orientation: int | None
) -> Plain | NDArray[np.uint8] | None:
    if orientation is None:
        return array if array.size else None
    about: Any = {name: row[name] for name in ("width", "height", "exif_time")}
    return Plain(array.data, orientation=orientation, **about)


def _unpack_frames(columns: Columns, arrays: Sequence[NDArray[np.uint8]]) -> Iterator[DecodedFrame]:
    for row, image in zip(_split_rows(columns), arrays, strict=True):
        size: Any = row["width"], row["height"]
        yield row, Frame(Image.fromarray(image), size) if image.size else None
