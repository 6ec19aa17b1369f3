"""Decoded images on their way from a CPU to a GPU: one row, with the pixels of a shard in one piece."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from maskbatch.decode.images import COLUMNS, Columns, Decoded, Row, gather_columns
from maskbatch.score.networks import Pixels
from maskbatch.score.scene import DecodedFrame, Frame

NOTHING = np.zeros((0, 0, 3), np.uint8)
Pack = dict[str, Any]


def pack(planned: pa.Table, pixels: Pixels) -> tuple[Pack, list[object]]:
    """A row of `rows`, tables as Arrow IPC, and `pixels`; and the images' statuses."""
    if isinstance(pixels, Decoded):
        columns, arrays = pixels.columns, [pixels.images_NHWC]
    else:
        rows, arrays = list[Row](), []
        for row, frame in pixels:
            rows.append(row)
            arrays.append(np.asarray(frame.image) if frame else NOTHING)
        columns = gather_columns(rows)
    sink = io.BytesIO()
    for table in (planned, pa.table(columns), pa.table({"shape": [array.shape for array in arrays]})):
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    data = b"".join(np.ascontiguousarray(array).data for array in arrays)
    return {"rows": [sink.getvalue()], "pixels": [data]}, columns["status"]


def unpack(packed: Mapping[str, Any]) -> tuple[pa.Table, Pixels]:
    """The plan rows and the images that were packed."""
    source = io.BytesIO(packed["rows"][0])
    planned, table, shapes = (pa.ipc.open_stream(source).read_all() for _ in range(3))
    columns = {name: table[name].to_pylist() for name in table.column_names}
    arrays = list(_split(bytearray(packed["pixels"][0]), shapes["shape"].to_pylist()))
    if arrays[0].ndim == 4:
        return planned, Decoded(arrays[0], columns)
    return planned, _unpack_frames(columns, arrays)


def _split(data: bytearray, shapes: Sequence[Sequence[int]]) -> Iterator[NDArray[np.uint8]]:
    at = 0
    for shape in shapes:
        num_bytes = int(np.prod(shape))
        yield np.frombuffer(data, np.uint8, num_bytes, at).reshape(shape)
        at += num_bytes


def _unpack_frames(columns: Columns, arrays: Sequence[NDArray[np.uint8]]) -> Iterator[DecodedFrame]:
    for i, image in enumerate(arrays):
        row = {name: columns[name][i] for name in COLUMNS}
        size = columns["width"][i], columns["height"][i]
        yield row, Frame(Image.fromarray(image), size) if image.size else None  # type: ignore[arg-type]
