"""What a decoder hands to a scorer, on its way."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from maskbatch.cluster.packing import pack, unpack
from maskbatch.config import ScoreConfig
from maskbatch.decode.images import Decoded, decode_batch
from maskbatch.decode.source import Encoded
from maskbatch.decode.triage import Plain, Sorted, sort_images
from maskbatch.model.card import Preset
from maskbatch.score.scene import Frame, decode_frames
from tests.maskbatch.samples import draw, encode, with_exif_time

PRESET, LIMIT = Preset((24, 40)), 10**6
FILES = [
    encode(draw(1)), b"no picture", encode(draw(2), "PNG"), with_exif_time("2026:10:01 08:00:00", "+02:00"), b"",
]  # fmt: skip
ENCODED = [Encoded(data, num_bytes=len(data)) for data in FILES]
PLANNED = pa.table({"id": range(len(FILES))})


def travel(pixels: Any) -> Any:
    """As Ray carries it: the row is a block in shared memory, which may only be read."""
    packed, statuses = pack(PLANNED, pixels)
    assert statuses == ["ok", "unsupported", "ok", "ok", "truncated"]
    sink = pa.BufferOutputStream()
    table = pa.table(packed)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    planned, unpacked = unpack(pa.ipc.open_stream(sink.getvalue()).read_all())
    assert planned == PLANNED
    return unpacked


def test_images_of_the_models_size_arrive_whole() -> None:
    decoded = decode_batch(ENCODED, len(ENCODED), PRESET, LIMIT)
    arrived = travel(decoded)
    assert isinstance(arrived, Decoded) and arrived.columns == decoded.columns
    assert np.array_equal(arrived.images_NHWC, decoded.images_NHWC)


def test_frames_arrive_one_by_one_in_their_own_sizes() -> None:
    config = ScoreConfig(view="scene")
    arrived = travel(decode_frames(ENCODED, config))
    for (row, frame), (expected, own) in zip(arrived, decode_frames(ENCODED, config), strict=True):
        assert row == expected
        assert (frame is None) == (own is None)
        if own:
            assert isinstance(frame, Frame) and frame.size == own.size
            assert np.array_equal(frame.pixels, own.pixels)


@pytest.mark.parametrize(
    "files", [ENCODED, [item for item in ENCODED if not item.data or b"JFIF" not in item.data]]
)
def test_sorted_images_arrive_as_bytes_or_pixels(files: list[Encoded]) -> None:
    images = sort_images(files, PRESET, LIMIT)
    packed, _ = pack(PLANNED[: len(files)], images)
    _, arrived = unpack(pa.table(packed))
    assert isinstance(arrived, Sorted) and arrived.rows == images.rows
    for image, expected in zip(arrived.images, images.images, strict=True):
        if isinstance(image, Plain) and isinstance(expected, Plain):
            assert (bytes(image.data), image.orientation) == (expected.data, expected.orientation)
            assert (image.width, image.height, image.exif_time) == (
                expected.width, expected.height, expected.exif_time,
            )  # fmt: skip
        else:
            assert np.array_equal(image, expected)  # type: ignore[arg-type]


def test_bytes_stay_where_they_arrived() -> None:
    packed, _ = pack(PLANNED, sort_images(ENCODED, PRESET, LIMIT))
    table = pa.table(packed)
    _, arrived = unpack(table)
    assert isinstance(arrived, Sorted)
    _, _, data = table["pixels"].chunk(0).buffers()
    first = arrived.images[0]
    assert isinstance(first, Plain)
    assert np.frombuffer(first.data, np.uint8).ctypes.data == data.address
