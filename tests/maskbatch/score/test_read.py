import io
import os
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskbatch.archives import rowfiles
from maskbatch.archives.arguments import find_sources, make_access
from maskbatch.archives.reader import list_entries
from maskbatch.archives.tally import Tally
from maskbatch.config import PlanConfig
from maskbatch.decode.source import Encoded
from maskbatch.errors import RunFailedError
from maskbatch.score import read
from maskbatch.score.read import READ_COLUMNS, PlanRow, read_images
from maskbatch.stores import retry
from maskbatch.stores.access import Access
from maskbatch.stores.base import Info, RefusedError, TooLargeError, TransientError
from maskbatch.stores.local import Local
from maskbatch.stores.options import NO_OPTIONS
from maskbatch.stores.uris import SCHEME, encode_name
from tests.maskbatch.samples import write_files


def row(place: Path | str, **changes: Any) -> dict[str, Any]:
    """A plan row of a whole file."""
    uri = place if isinstance(place, str) else SCHEME + encode_name(str(place))
    return {**dict.fromkeys(READ_COLUMNS), "uri": uri, "encoding": "raw", **changes}


def rows_of(*archives: object) -> list[PlanRow]:
    config = PlanConfig(archives=tuple(map(str, archives)))
    access = make_access(config, NO_OPTIONS)
    found = list_entries(find_sources(config, access), config, access, Tally())
    return [{name: getattr(entry, name) for name in READ_COLUMNS} for entry in found]


def images(rows: list[PlanRow], max_bytes: int = 10**6, access: Access | None = None) -> list[Encoded]:
    return list(read_images(rows, access or Access(), max_bytes))


@pytest.mark.parametrize(
    "name", ["x.jpg", "a b.jpg", "100%41.jpg", "x::y.jpg", "new\nline.jpg", "é日.jpg", "\udcff.jpg"]
)
def test_a_file_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"bytes")
    assert images([row(tmp_path / name)]) == [Encoded(b"bytes", num_bytes=5)]


def test_a_missing_file_and_a_dangling_link_are_missing(tmp_path: Path) -> None:
    os.symlink("nowhere", tmp_path / "link.jpg")
    for name in ("gone.jpg", "link.jpg", "no/folder.jpg"):
        (found,) = images([row(tmp_path / name)])
        assert found == Encoded(None, "missing", "the file is not there any more")


def test_a_folder_and_a_link_to_itself_are_read_errors_with_the_systems_reason(tmp_path: Path) -> None:
    os.symlink("loop.jpg", tmp_path / "loop.jpg")
    for path, reason in (
        (tmp_path, "Is a directory"),
        (tmp_path / "loop.jpg", "Too many levels of symbolic links"),
    ):
        assert images([row(path)]) == [Encoded(None, "read_error", reason)]


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    ("size", "status"), [(0, "ok"), (100, "ok"), (101, "too_large"), (5000, "too_large")]
)
def test_a_file_of_more_than_max_bytes_is_too_large(
    tmp_path: Path, size: int, status: str, listed: bool
) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x" * size)
    (found,) = images([row(tmp_path / "x.jpg", num_bytes=size if listed else None)], 100)
    assert (found.status, found.data is None) == (status, status != "ok")


@pytest.mark.parametrize("count", [0, 1, read.LOCAL_THREADS, 100])
def test_images_come_in_the_order_asked_for(tmp_path: Path, count: int) -> None:
    paths = [tmp_path / f"{k}.jpg" for k in range(count)]
    for path in paths[::2]:
        path.write_bytes(path.name.encode())
    found = images([row(path) for path in paths])
    assert [item.data for item in found] == [
        path.name.encode() if k % 2 == 0 else None for k, path in enumerate(paths)
    ]


def test_an_image_refused_at_planning_is_never_read(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"bytes")
    refused = row(tmp_path / "x.jpg", status="unsupported", error="encrypted")
    assert images([refused]) == [Encoded(None, "unsupported", "encrypted")]


DATA = {f"{k:02d}.jpg": bytes([k]) * (1000 + k) for k in range(20)}


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for name, data in DATA.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return tmp_path / "x.tar"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int] | None]:
    """What is asked of the disk."""
    asked: list[tuple[int, int] | None] = []
    local = Local.read

    def counted(self: Local, uri: str, span: tuple[int, int] | None, version: str | None, most: int) -> bytes:
        asked.append(span)
        return local(self, uri, span, version, most)

    monkeypatch.setattr(Local, "read", counted)
    return asked


def test_neighbouring_members_are_read_by_one_request(
    tar: Path, spans: list[tuple[int, int] | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(tar)
    assert [found.data for found in images(rows)] == list(DATA.values())
    assert len(spans) == 1
    spans.clear()
    assert [found.data for found in images(rows[::-1])] == list(DATA.values())[::-1]
    assert len(spans) == 20  # never backwards
    spans.clear()
    monkeypatch.setattr(read, "MERGED_BYTES", 8000)
    assert [found.data for found in images(rows)] == list(DATA.values())
    assert all(stop - start <= 8000 for start, stop in filter(None, spans))
    assert 4 <= len(spans) < 10
    spans.clear()
    monkeypatch.setattr(read, "GAP_BYTES", 100)
    assert [found.data for found in images(rows[::2])] == list(DATA.values())[::2]
    assert len(spans) == 10


def test_members_of_several_containers_and_whole_files_keep_their_order(tar: Path, tmp_path: Path) -> None:
    other = tmp_path / "y.tar"
    other.write_bytes(tar.read_bytes())
    write_files(tmp_path, {"z.jpg": b"whole"})
    one, two, (file,) = rows_of(tar), rows_of(other), rows_of(tmp_path / "z.jpg")
    mixed = [*one[:3], file, *two[:2], one[3], two[2], two[2], file]
    data = list(DATA.values())
    expected = [*data[:3], b"whole", *data[:2], data[3], data[2], data[2], b"whole"]
    assert [found.data for found in images(mixed)] == expected


def test_a_member_that_is_too_large_costs_only_itself(tar: Path, spans: list[tuple[int, int] | None]) -> None:
    found = images(rows_of(tar), 1009)
    assert [item.status for item in found] == ["ok"] * 10 + ["too_large"] * 10
    assert [item.data for item in found[:10]] == list(DATA.values())[:10]
    spans.clear()
    found = images([{**found_row, "num_bytes": 10, "length": 10**13} for found_row in rows_of(tar)[:2]], 1009)
    assert {item.status for item in found} == {"too_large"}  # a hostile directory claims any length
    assert spans == []


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_container_that_changed_since_it_was_planned_is_not_read(
    tar: Path, tmp_path: Path, kind: str
) -> None:
    path = tar if kind == "tar" else tmp_path / "x.parquet"
    if kind == "parquet":
        pq.write_table(pa.table({"image": list(DATA.values())}), path)
    rows = rows_of(path)
    assert {found.status for found in images(rows)} == {"ok"}
    os.utime(path, ns=(7, 7))
    why = "the file that holds it changed since it was planned"
    assert images(rows) == [Encoded(None, "read_error", why)] * 20
    path.unlink()
    assert {found.status for found in images(rows)} == {"missing"}


def test_rows_of_a_parquet_file_are_read_by_the_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [*list(DATA.values())[:18], None, b"x" * 2000]
    pq.write_table(pa.table({"image": values}), tmp_path / "x.parquet", row_group_size=8)
    rows = rows_of(tmp_path / "x.parquet")
    opened = []
    real = rowfiles.GroupReader
    monkeypatch.setattr(read, "GroupReader", lambda file, group: opened.append(group) or real(file, group))
    found = images(rows, 1900)
    assert sorted(opened) == [0, 1, 2]
    assert [item.data for item in found[:18]] == values[:18]
    assert (found[18].status, found[18].error) == ("missing", "the row has no bytes")
    assert (found[19].status, found[19].data) == ("too_large", None)
    (tmp_path / "x.parquet").write_bytes((tmp_path / "x.parquet").read_bytes()[:4] + b"\0" * 9000)
    broken = [{**item, "version": None} for item in rows]
    assert {(item.status, item.error) for item in images(broken)} == {
        ("read_error", "the Parquet file is damaged here")
    }


class Failing:
    """A store that knows a file's size and fails to read it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def info(self, uri: str) -> Info:
        return Info(10**6, "v1")

    def read(self, *args: object) -> bytes:
        raise self.error


FAILURES = [
    (FileNotFoundError(), "missing", "the file is not there any more"),
    (PermissionError(), "read_error", "Permission denied"),
    (RefusedError("the server answered 418"), "read_error", "the server answered 418"),
    (TimeoutError("at 12:03 on host-7"), "timeout", "the store did not answer in time"),
    (TransientError("3 of 12 at 12:03"), "read_error", "the store kept failing"),
]


@pytest.mark.parametrize(("error", "status", "sentence"), [*FAILURES, (TooLargeError(), "too_large", "more than the 100 bytes allowed")])  # fmt: skip
def test_a_failure_is_a_status_and_a_sentence_that_is_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: str, sentence: str
) -> None:
    monkeypatch.setattr(Access, "store", lambda self, uri: Failing(error))
    monkeypatch.setattr(retry, "backoff_s", lambda attempt: 0)
    place = {"container": "s3://b/x.tar", "version": "v1", "num_bytes": 9, "length": 9}
    rows = [row("s3://b/x.jpg"), *(row(f"tar://{k}::s3://b/x.tar", offset=k * 9, **place) for k in range(2))]
    assert images(rows, 100) == [Encoded(None, status, sentence)] * 3


@pytest.mark.parametrize(("error", "status", "sentence"), FAILURES)
def test_a_parquet_file_that_the_store_fails_to_give_is_not_called_damaged(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: str, sentence: str
) -> None:
    monkeypatch.setattr(Access, "store", lambda self, uri: Failing(error))
    monkeypatch.setattr(retry, "backoff_s", lambda attempt: 0)
    place = {"container": "s3://b/x.parquet", "encoding": "row", "offset": 0, "version": "v1"}
    rows = [row(f"parquet://{k}::s3://b/x.parquet", length=k, **place) for k in range(3)]
    assert images(rows, 100) == [Encoded(None, status, sentence)] * 3


def test_credentials_that_are_refused_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Access, "store", lambda self, uri: Failing(RunFailedError("renew them")))
    with pytest.raises(RunFailedError, match="renew them"):
        images([row("s3://b/x.jpg")])


def test_what_a_uri_lost_of_its_url_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Web(Failing):
        def read(self, uri: Any, *args: object) -> bytes:
            asked.append(uri)
            return b"x"

    monkeypatch.setattr(Access, "store", lambda self, uri: Web(ValueError()))
    assert images([row("https://h/x.jpg", fetch="https://h/x.jpg?sig=1")]) == [Encoded(b"x", num_bytes=1)]
    assert asked == ["https://h/x.jpg?sig=1"]


def test_little_is_read_ahead_of_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    started, lock = 0, threading.Lock()

    class Counting(Failing):
        def read(self, *args: object) -> bytes:
            nonlocal started
            with lock:
                started += 1
            return b"x" * 100

    monkeypatch.setattr(Access, "store", lambda self, uri: Counting(ValueError()))
    monkeypatch.setattr(read, "AHEAD_BYTES", 1000)
    rows = [row(f"s3://b/{k}.jpg", num_bytes=100) for k in range(200)]
    found = read_images(rows, Access(max_requests=16), 1000)
    for taken in range(1, 30):
        next(found)
        time.sleep(0.002)
        assert started <= taken + 11
    assert len(list(found)) == 200 - 29
    found = read_images(rows, Access(max_requests=5), 1000)
    started = 0
    next(found)
    time.sleep(0.05)
    assert started <= 7
    found.close()  # type: ignore[attr-defined]
