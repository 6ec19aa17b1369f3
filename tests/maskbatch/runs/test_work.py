"""How an archive is cut into shards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.runs.work import shard_size


@given(st.integers(1, 10**9), st.integers(8, 1024), st.integers(8, 1024))
def test_a_shard_is_a_multiple_of_32_of_bounded_rows_and_bytes(
    num_images: int, height: int, width: int
) -> None:
    rows = shard_size(num_images, (height, width))
    assert rows % 32 == 0
    assert 32 <= rows <= 1024
    assert rows * height * width * 3 <= 96 * 2**20


@pytest.mark.parametrize(("num_images", "rows"), [(1, 64), (640_000, 64), (2_000_000, 192), (10**8, 1024)])
def test_an_archive_is_about_ten_thousand_shards(num_images: int, rows: int) -> None:
    assert shard_size(num_images, (128, 128)) == rows
