"""Damage is told from what a pyarrow cannot read."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.runs.reading import advise_reading, is_damaged
from maskbatch.schema import BOX


def write(kind: pa.DataType) -> tuple[pa.Table, bytes]:
    box = pa.array([None, [1, 2, 3, 4.5]] * 32, kind)
    table = pa.table({"id": range(64), "name": [f"camera {k % 7}" for k in range(64)], "box": box})
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True)
    return table, sink.getvalue()


TABLE, SOUND = write(BOX)


@pytest.mark.parametrize("kind", [BOX, pa.list_(pa.float32(), 4)])
def test_sound_bytes_are_not_damaged_whatever_this_pyarrow_reads(kind: pa.DataType) -> None:
    assert not is_damaged(write(kind)[1])


@given(st.integers(0, len(SOUND) - 1))
def test_a_file_that_is_cut_off_is_damaged(size: int) -> None:
    assert is_damaged(SOUND[:size])


@given(st.integers(4, len(SOUND) // 3), st.integers(1, 200))
def test_pages_that_are_overwritten_with_zeros_never_read_as_other_rows(start: int, size: int) -> None:
    data = SOUND[:start] + bytes(size) + SOUND[start + size :]
    try:
        assert pq.read_table(pa.BufferReader(data), page_checksum_verification=True).equals(TABLE)
    except OSError:
        assert is_damaged(data)
    except pa.ArrowException:  # a byte of a header that no checksum covers: it stays, and is named
        return


def test_only_what_a_newer_pyarrow_mends_is_said_to_want_one() -> None:
    old = pa.ArrowInvalid("Expected all lists to be of size=4 but index 1 had size=0")
    assert advise_reading(old, "restore it").endswith("install pyarrow 26 or later")
    assert advise_reading(pa.ArrowInvalid("Parquet magic bytes not found"), "restore it") == "restore it"
