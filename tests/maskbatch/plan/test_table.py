"""The plan's Parquet files: rows of any range come back."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch import schema
from maskbatch.plan import table as table_module
from maskbatch.plan.table import read_plan, write_plan
from maskbatch.progress import Step
from maskbatch.stores.files import Location


def small_plan(folder: Location, num_rows: int, tag: str = "") -> None:
    rows = ({"id": i, "uri": f"file:///{tag}{i}.jpg", "encoding": "raw"} for i in range(num_rows))
    write_plan(folder, rows, Step("plan", None, "images"))


@pytest.fixture(scope="module")
def plan_of_several_files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "GROUP_ROWS", 5)
        patch.setattr(table_module, "FILE_ROWS", 15)
        folder = tmp_path_factory.mktemp("plan")
        small_plan(folder, 38)
        yield folder


@given(start=st.integers(0, 38), length=st.integers(0, 38))
def test_a_slice_of_the_plan_is_the_rows_of_its_ids(
    plan_of_several_files: Path, start: int, length: int
) -> None:
    stop = min(start + length, 38)
    table = read_plan(plan_of_several_files, start, stop)
    assert table["id"].to_pylist() == list(range(start, stop))
    assert table.schema == schema.PLAN


def test_a_plan_is_cut_into_files_named_by_their_first_id(plan_of_several_files: Path) -> None:
    assert sorted(path.name for path in plan_of_several_files.iterdir()) == [
        "part-000000000000.parquet", "part-000000000015.parquet", "part-000000000030.parquet",
    ]  # fmt: skip


def test_a_plan_written_anew_is_read_anew(root: Location) -> None:
    for tag in ("first", "second"):
        small_plan(root, 3, tag)
        assert read_plan(root, 0, 1)["uri"].to_pylist() == [f"file:///{tag}0.jpg"]
