import io
import os
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.archives import rowfiles
from maskbatch.archives.entries import Entry
from maskbatch.archives.members import Container
from maskbatch.archives.rowfiles import NO_BYTES, GroupReader, find_image_column, find_image_lists, list_rows
from maskbatch.errors import UsageError

URI = "s3://b/month/part-0.parquet"
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def read_rows(
    file: BinaryIO, group: int, rows: Sequence[int], max_bytes: int
) -> Iterator[tuple[int, bytes | None]]:
    return GroupReader(file, group).read(rows, max_bytes)


def parquet(columns: dict[str, Any], **options: Any) -> io.BytesIO:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    sink.seek(0)
    return sink


def entries(file: BinaryIO, keep: str | None = None) -> tuple[list[Entry], Counter[str]]:
    container = Container(
        file=file, size=0, uri=URI, relative="part-0.parquet", version="etag", keep_column=keep
    )
    found = list(list_rows(container))
    assert not container.skipped
    return found, container.notes


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"uri": pa.string(), "n": pa.int64()}, None),
        ({"thumb": pa.binary()}, "thumb"),
        ({"thumb": pa.large_binary(), "label": pa.string()}, "thumb"),
        ({"md5": pa.binary(), "Image": STRUCT}, "Image"),
        ({"jpg": pa.binary(), "bytes": pa.binary()}, "bytes"),
        ({"picture": STRUCT}, "picture"),
        ({"picture": pa.struct([("bytes", pa.string())]), "dhash": pa.binary(8)}, None),
        ({"picture": pa.struct([("path", pa.string())]), "list": pa.list_(pa.binary())}, None),
        ({"image": pa.string(), "blob": pa.binary()}, "blob"),
    ],
)
def test_the_column_of_images_is_found_by_type_and_then_by_name(
    columns: dict[str, pa.DataType], expected: str | None
) -> None:
    assert find_image_column(pa.schema(list(columns.items()))) == expected


def test_several_columns_that_may_hold_images_are_refused_by_name() -> None:
    schema = pa.schema([("left", pa.binary()), ("right", STRUCT)])
    with pytest.raises(UsageError, match=r"left, right may hold the images; name the right one image$"):
        find_image_column(schema)
    with pytest.raises(UsageError, match=f"^{URI}: any of the columns left, right"):
        entries(parquet({"left": [b""], "right": [b""]}))
    with pytest.raises(UsageError, match=f"^{URI}: no column of images among n, m; a binary one expected"):
        entries(parquet({"n": [1], "m": [2]}))


def test_every_row_is_planned_with_what_the_light_columns_say() -> None:
    columns = {
        "image": pa.array([{"bytes": b"1", "path": "north/a%41.jpg"}, None, {"bytes": b"3"}, {"bytes": b"4", "path": "/x::y.jpg"}], STRUCT),
        "file_name": ["unused.jpg", "b.jpg", None, "unused"],
        "Site": pa.array(["north", "north", None, " "]).dictionary_encode(),
        "camera": [7, 8, None, 9],
        "captured_at": pa.array([datetime(2026, 10, 1, 6, tzinfo=UTC), None, None, None], pa.timestamp("ms", "UTC")),
        "gate": [True, None, False, True],
    }  # fmt: skip
    found, notes = entries(parquet(columns, row_group_size=3), keep="GATE")
    same = {"container": URI, "encoding": "row", "version": "etag"}
    assert found[0] == Entry(
        uri=f"parquet://0::{URI}",
        relative="part-0.parquet/north/a%2541.jpg",
        inner="north/a%2541.jpg",
        offset=0,
        length=0,
        site="north",
        camera="7",
        time=datetime(2026, 10, 1, 6, tzinfo=UTC),
        kept="true",
        **same,
    )
    assert [(e.uri, e.offset, e.length, e.inner, e.site, e.camera, e.kept) for e in found[1:]] == [
        (f"parquet://1::{URI}", 0, 1, "b.jpg", "north", "8", None),
        (f"parquet://2::{URI}", 0, 2, "2", None, None, "false"),
        (f"parquet://3::{URI}", 1, 0, "x%3A%3Ay.jpg", None, "9", "true"),
    ]
    assert notes == {"row without bytes": 1}


def test_rows_without_bytes_are_refused_where_a_whole_row_group_has_none_and_else_counted() -> None:
    file = parquet({"jpg": [b"1", None, None, None, b"3", b"4"]}, row_group_size=2)
    found, notes = entries(file)
    assert [(e.status, e.error) for e in found] == [(None, None)] * 2 + [("missing", NO_BYTES)] * 2 + [
        (None, None)
    ] * 2
    assert notes == {"row without bytes": 1}
    assert list(read_rows(file, 1, [0, 1], 9)) == [(0, None), (1, None)]


@pytest.mark.parametrize(
    "columns",
    [
        {"image": pa.array([{"bytes": None, "path": "a.jpg"}] * 3, STRUCT), "camera": ["g"] * 3},
        {"jpg": pa.array([None] * 3, pa.binary()), "filename": ["a.jpg", "b.jpg", "c.jpg"]},
    ],
)
def test_a_file_that_has_only_the_paths_of_its_images_is_refused(columns: dict[str, Any]) -> None:
    with pytest.raises(
        UsageError, match=f"^{URI}: images are not embedded: its column .* list their files in a manifest"
    ):
        entries(parquet(columns, row_group_size=2))


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.binary()), pa.large_list(STRUCT), pa.list_(STRUCT, 2), pa.list_(pa.list_(pa.binary()))],
)
def test_a_column_of_lists_of_images_is_found(kind: pa.DataType) -> None:
    assert find_image_lists(pa.schema({"n": pa.list_(pa.int64()), "views": kind})) == "views"
    assert find_image_lists(pa.schema({"n": pa.list_(pa.string()), "image": STRUCT})) is None


def test_a_file_of_images_alone_is_planned_from_its_footer() -> None:
    found, _ = entries(parquet({"jpg": [b"1", b"2", None]}, row_group_size=2))
    assert [(e.offset, e.length, e.relative) for e in found] == [
        (0, 0, "part-0.parquet/0"),
        (0, 1, "part-0.parquet/1"),
        (1, 0, "part-0.parquet/2"),
    ]


def test_a_time_that_cannot_be_read_is_counted_and_a_column_to_keep_must_be_there() -> None:
    columns = {"jpg": [b"1", b"2"], "captured_at": ["noon", None]}
    assert entries(parquet(columns))[1] == {"captured_at not readable, such as 'noon'": 1}
    for keep in ("gate", "jpg"):
        with pytest.raises(UsageError, match=f"^{URI}: has no column {keep} to keep, but captured_at$"):
            entries(parquet(columns), keep)


def test_planning_never_reads_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    file = parquet(
        {"image": [{"bytes": os.urandom(200_000), "path": f"{i}.jpg"} for i in range(20)]}, compression="none"
    )
    read, size = 0, len(file.getvalue())

    class Counted(io.BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            nonlocal read
            data = super().read(count)
            read += len(data)
            return data

    assert len(entries(Counted(file.getvalue()))[0]) == 20
    assert read < size / 20


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 60 + b"PAR1", b"\x89PNG" * 99])
def test_what_is_no_parquet_is_one_corrupt_row(content: bytes) -> None:
    assert entries(io.BytesIO(content))[0] == [
        Entry(uri=URI, relative="part-0.parquet", version="etag", status="corrupt", error=rowfiles.NO_PARQUET)
    ]


def test_a_store_that_fails_is_not_called_damage() -> None:
    class Failing(io.BytesIO):
        def read(self, count: int | None = -1) -> bytes:
            raise PermissionError(13, "denied")

    with pytest.raises(PermissionError):
        entries(Failing(parquet({"jpg": [b"1"]}).getvalue()))


def test_rows_whose_light_columns_are_damaged_are_still_accounted_for() -> None:
    names = [f"{i:05}-{'n' * 40}.jpg" for i in range(3000)]
    file = parquet(
        {"name": names, "jpg": [b"1"] * 3000}, row_group_size=1000, compression="none", use_dictionary=False
    )
    content = bytearray(file.getvalue())
    column = pq.ParquetFile(file).metadata.row_group(1).column(0)
    content[column.data_page_offset : column.data_page_offset + 40] = b"\xff" * 40
    found, _ = entries(io.BytesIO(bytes(content)))
    assert [entry.uri for entry in found] == [f"parquet://{i}::{URI}" for i in range(3000)]
    assert {(e.status, e.error) for e in found[1000:2000]} == {("corrupt", rowfiles.DAMAGED)}
    assert {e.status for e in chain(found[:1000], found[2000:])} == {None}
    assert found[2000].inner == names[2000]


def test_a_row_group_of_too_many_bytes_or_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"image": [{"bytes": os.urandom(size), "path": "a.jpg"} for size in (10, 10, 5000, 10)]}
    file = parquet(columns, row_group_size=2)
    monkeypatch.setattr(rowfiles, "MAX_GROUP_BYTES", 4000)
    found, _ = entries(file)
    assert [entry.status for entry in found] == [None, None, "too_large", "too_large"]
    assert found[2].error == rowfiles.TOO_LARGE and found[2].inner == "a.jpg"
    monkeypatch.setattr(rowfiles, "MAX_GROUP_ROWS", 1)
    assert [(e.uri, e.status, e.error) for e in entries(file)[0]] == [
        (URI, "corrupt", rowfiles.TOO_MANY_ROWS)
    ]


@given(
    st.lists(st.none() | st.binary(max_size=30), min_size=1, max_size=120),
    st.integers(1, 60),
    st.booleans(),
    st.data(),
)
def test_a_planned_row_reads_its_own_image(
    images: list[bytes | None], group_rows: int, is_struct: bool, data: st.DataObject
) -> None:
    column = pa.array([{"bytes": image} for image in images]) if is_struct else pa.array(images, pa.binary())
    file = parquet({"n": range(len(images)), "image": column}, row_group_size=group_rows)
    if is_struct and all(image is None for image in images):
        return  # the type of a struct of nothing is null
    found, _ = entries(file)
    assert len(found) == len(images)
    for group in {entry.offset for entry in found}:
        rows = [(entry.length, images[i]) for i, entry in enumerate(found) if entry.offset == group]
        chosen = data.draw(st.lists(st.sampled_from(rows), unique_by=lambda pair: pair[0]).map(sorted_rows))
        assert list(read_rows(file, group or 0, [row or 0 for row, _ in chosen], 1000)) == chosen


def sorted_rows(rows: list[tuple[int, bytes | None]]) -> list[tuple[int, bytes | None]]:
    return sorted(rows, key=lambda pair: pair[0])


def test_an_image_over_the_limit_comes_cut_one_byte_past_it_and_an_absent_row_not_at_all() -> None:
    file = parquet({"jpg": [b"123", b"1234", b"12345"]})
    assert list(read_rows(file, 0, [0, 1, 2, 3, 99], 3)) == [(0, b"123"), (1, b"1234"), (2, b"1234")]
    assert list(read_rows(file, 0, [], 3)) == []


def test_what_parquet_raises_for_damage_reaches_the_caller() -> None:
    file = parquet({"jpg": [os.urandom(2000) for _ in range(50)]}, compression="none", use_dictionary=False)
    with pytest.raises(pa.ArrowException):
        list(read_rows(file, 7, [0], 1000))
    content = bytearray(file.getvalue())
    content[4:40] = b"\xff" * 36
    with pytest.raises((pa.ArrowException, OSError)):
        list(read_rows(io.BytesIO(bytes(content)), 0, [0], 1000))
    with pytest.raises(pa.ArrowException):
        list(read_rows(io.BytesIO(b"junk"), 0, [0], 1000))


def test_a_row_group_is_streamed_and_left_after_the_last_row(tmp_path: Path) -> None:
    path = tmp_path / "big.parquet"
    pq.write_table(
        pa.table({"image": [os.urandom(100_000) for _ in range(400)]}),
        path,
        compression="none",
        use_dictionary=False,
        data_page_size=1 << 20,
        write_batch_size=4,  # 1,024 rows else, whatever the page size
    )
    held, peak = pa.total_allocated_bytes(), 0
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            for _row, data in read_rows(file, 0, range(400), 1 << 20):
                assert data is not None and len(data) == 100_000
                peak = max(peak, pa.total_allocated_bytes() - held + tracemalloc.get_traced_memory()[0])
        with path.open("rb") as file:
            assert [row for row, _ in read_rows(file, 0, [3, 5], 1 << 20)] == [3, 5]
    finally:
        tracemalloc.stop()
    assert peak < 15_000_000  # of 40 MB


def test_a_reader_goes_on_where_it_stopped_and_reads_no_page_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    values = [bytes([k]) * 200 for k in range(200)]
    pq.write_table(pa.table({"image": values}), path, write_batch_size=16, data_page_size=1000)
    with path.open("rb") as file:
        reader = GroupReader(file, 0)
        assert list(reader.read(range(5, 40), 1000)) == [(k, values[k]) for k in range(5, 40)]
        assert reader.first <= 40
        assert list(reader.read([40, 41, 199, 200], 1000)) == [(k, values[k]) for k in (40, 41, 199)]
