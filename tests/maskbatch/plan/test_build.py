"""Planning: what becomes a row, what is left out, and how each is counted."""

import json
import os
import tarfile
import zipfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from maskbatch import schema
from maskbatch.archives.arguments import find_sources, make_access
from maskbatch.clock import Clock
from maskbatch.config import PlanConfig
from maskbatch.errors import UsageError
from maskbatch.plan.build import plan_rows
from maskbatch.plan.listing import Listing
from maskbatch.stores.options import NO_OPTIONS
from tests.maskbatch import containers
from tests.maskbatch.samples import NOW, write_files

DAILY = "{camera}/{captured_at:%Y%m%d_%H%M}.jpg"


def listed(*archives: Path | str, **settings: Any) -> tuple[list[dict[str, Any]], Listing]:
    config = PlanConfig(archives=tuple(map(str, archives)), **settings)
    listing, access = Listing(), make_access(config, NO_OPTIONS)
    sources = find_sources(config, access)
    clock = Clock.parse(config.timezone, NOW, config.names_in)
    return list(plan_rows(sources, config, clock, listing, access)), listing


def names(rows: list[dict[str, Any]], root: Path) -> list[str]:
    return [row["uri"].removeprefix(f"file://{root}/") for row in rows]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    paths = [
        "a/20261001_0000.jpg",
        "a/20261001_0600.jpg",
        "a/20261002_0000.jpg",
        "b/20261001_0600.jpg",
        "b/late.jpg",
    ]
    return write_files(tmp_path / "archive", dict.fromkeys(paths, b"12") | {"b/notes.txt": b""})


def test_ids_count_from_zero_and_rows_say_what_the_path_says(archive: Path) -> None:
    rows, listing = listed(archive, layout=DAILY)
    assert [row["id"] for row in rows] == [0, 1, 2, 3, 4]
    assert names(rows, archive)[1] == "a/20261001_0600.jpg"
    assert (rows[1]["camera"], rows[1]["captured_at"]) == ("a", datetime(2026, 10, 1, 6, tzinfo=UTC))
    assert {row["encoding"] for row in rows} == {"raw"}
    assert (listing.num_images, listing.num_bytes, listing.cameras) == (5, 10, {"a": 3, "b": 1, "unknown": 1})
    assert (listing.first_time, listing.last_time) == (datetime(2026, 10, 1), datetime(2026, 10, 2))
    assert listing.skipped == {".txt": 1}
    assert listing.notes == {"path unlike --layout": 1, "camera unknown": 1, "time unknown until decoded": 1}


@pytest.mark.parametrize(
    ("filters", "kept", "left_out"),
    [
        ({"since": "2026-10-01T06:00"}, [1, 2, 3, 4], {"--since": 1}),
        ({"until": "2026-10-01T06:00"}, [0, 4], {"--until": 3}),
        ({"since": "2026-10-01", "until": "2026-10-02"}, [0, 1, 3, 4], {"--until": 1}),
        ({"camera": ("b",)}, [3], {"--camera": 4}),
        ({"camera": ("a", "b"), "since": "2026-10-02"}, [2], {"--camera": 1, "--since": 3}),
        ({"limit": 2}, [0, 1], {"--limit (the listing stops there)": 1}),
        ({"limit": 5}, [0, 1, 2, 3, 4], {}),
        ({"limit": 1, "since": "2026-10-02"}, [2], {"--since": 3, "--limit (the listing stops there)": 1}),
    ],
)
def test_filters_are_half_open_keep_unknown_times_and_are_counted(
    archive: Path, filters: dict[str, Any], kept: list[int], left_out: dict[str, int]
) -> None:
    everything, _ = listed(archive, layout=DAILY)
    rows, listing = listed(archive, layout=DAILY, **filters)
    assert [row["uri"] for row in rows] == [everything[k]["uri"] for k in kept]
    assert [row["id"] for row in rows] == list(range(len(kept)))
    assert listing.filtered == left_out


def test_bounds_are_local_and_a_site_has_its_own_zone(tmp_path: Path) -> None:
    paths = [f"{site}/20261001_{hour}.jpg" for site in ("paris", "tokyo") for hour in ("0030", "2330")]
    root = write_files(tmp_path / "archive", dict.fromkeys(paths, b""))
    settings = {"layout": DAILY.replace("camera", "site"), "timezone": ("Europe/Paris", "tokyo=Asia/Tokyo")}
    rows, _ = listed(root, since="2026-10-01T00:30", until="2026-10-01T23:30", **settings)
    assert names(rows, root) == ["paris/20261001_0030.jpg", "tokyo/20261001_0030.jpg"]
    assert [f"{row['captured_at']:%d %H:%M}" for row in rows] == ["30 22:30", "30 15:30"]


def test_ambiguous_and_skipped_hours_have_one_utc(tmp_path: Path) -> None:
    root = write_files(tmp_path / "a", {"c/20260329_0230.jpg": b"", "c/20261025_0230.jpg": b""})
    rows, _ = listed(root, layout=DAILY, timezone=("Europe/Paris",))
    assert [f"{row['captured_at']:%m-%d %H:%M}" for row in rows] == ["03-29 01:30", "10-25 00:30"]


def test_times_before_1990_or_after_tomorrow_are_unknown_and_noted(tmp_path: Path) -> None:
    files = ["c/19691231_2359.jpg", "c/20261115_1200.jpg", "c/20261117_1200.jpg", "c/20260230_1200.jpg"]
    root = write_files(tmp_path / "a", dict.fromkeys(files, b""))
    rows, listing = listed(root, layout=DAILY, since="2026-01-01")
    assert [row["captured_at"] is None for row in rows] == [True, True, False, True]
    assert listing.notes == {"time out of bounds (1990 to tomorrow) of c": 2, "time unknown until decoded": 1}


@pytest.mark.parametrize(
    ("day", "since", "kept"),
    [
        ("19700101", "2026-10-01", True),  # unknown
        ("19991231", "2026-10-01", True),
        ("20000101", "2026-10-01", True),
        ("20000131", "2026-10-01", True),
        ("20000101", "2005-01-01", True),
        ("20000101", "2004-12-01", False),  # an archive of that time
        ("20000101", "2000-01-15", False),
        ("20010101", "2026-10-01", False),
    ],
)
def test_an_image_of_a_clock_that_fell_back_passes_the_filters_of_time(
    tmp_path: Path, day: str, since: str, kept: bool
) -> None:
    files = [f"c/{day}_1200.jpg", f"d/{since.replace('-', '')}_1200.jpg"]
    root = write_files(tmp_path / "a", dict.fromkeys(files, b""))
    rows, listing = listed(root, layout=DAILY, since=since)
    assert names(rows, root) == (files if kept else files[1:])
    assert listing.filtered == ({} if kept else {"--since": 1})
    assert listing.notes.total() == kept
    assert listing.first_time == datetime.fromisoformat(since).replace(hour=12)
    rows, _ = listed(root, layout=DAILY, until=since)
    assert names(rows, root) == files[:1]


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize("day", ["2026-10-01", "20261001", "1 Oct 2026", "2026-274"])
def test_a_date_without_a_time_of_a_list_or_a_folder_stays_that_day(
    tmp_path: Path, zone: str, day: str
) -> None:
    files = {"m.csv": f"uri,camera,captured_at\nx.jpg,c,{day}\n".encode(), f"a/dt={day}/x.jpg": b""}
    root, sidecar = write_files(tmp_path, files), json.dumps({"captured_at": day}).encode()
    (root / "t.tar").write_bytes(containers.make_tar(("x.jpg", b"1"), ("x.json", sidecar)))
    for archive in ("m.csv", "a", "t.tar"):
        _, listing = listed(root / archive, timezone=zone, names_in="UTC", since="2026-10-01")
        assert listing.first_time == datetime(2026, 10, 1)
        assert listing.notes["date without a time of day (stands at 00:00)"] == 1
        assert not listing.filtered


def test_hive_style_paths_need_no_layout(tmp_path: Path) -> None:
    root = write_files(
        tmp_path / "a", {"site=n/camera=07/date=2026-10-01/x.jpg": b"", "camera=08/hour=3/y.jpg": b""}
    )
    rows, listing = listed(root)
    assert [(row["site"], row["camera"]) for row in rows] == [(None, "08"), ("n", "07")]
    assert rows[1]["captured_at"] == datetime(2026, 10, 1, tzinfo=UTC)
    assert listing.notes["date without a time of day (stands at 00:00)"] == 1
    assert listing.cameras == {"n/07": 1, "08": 1}


def test_a_camera_is_named_as_its_folder_is_with_and_without_a_layout(tmp_path: Path) -> None:
    for folder, layout in (("camera=gate::1", None), ("gate::1", "{camera}/*")):
        rows, _ = listed(write_files(tmp_path / folder, {f"{folder}/x.jpg": b""}), layout=layout)
        assert [row["camera"] for row in rows] == ["gate::1"]


def test_a_layout_that_matches_nothing_says_what_the_first_path_gave(archive: Path) -> None:
    with pytest.raises(UsageError) as refused:
        listed(archive, layout="{camera}/{captured_at:%Y-%m-%d}.jpg")
    for part in ("'a/20261001_0000.jpg'", "camera=a", "stops at '20261001_0000.jpg'", str(archive)):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("files", "settings", "expected"),
    [
        ({}, {}, "no file at all"),
        ({"x.txt": b"", "y.txt": b"", "z.mp4": b""}, {}, "2 .txt, 1 .mp4"),
        ({"camera=1/x.jpg": b""}, {"camera": ("2",)}, "every image was left out (1 by --camera)"),
    ],
)
def test_nothing_to_plan_is_a_usage_error_that_says_what_was_found(
    tmp_path: Path, files: dict[str, bytes], settings: dict[str, Any], expected: str
) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError) as refused:
        listed(write_files(tmp_path / "a", files), **settings)
    assert expected in str(refused.value)


@pytest.mark.parametrize("order", [["", "b"], ["b", ""], ["b", "a", ""], ["", ""]])
def test_an_image_below_two_archive_arguments_is_planned_once(archive: Path, order: list[str]) -> None:
    rows, listing = listed(*(archive / name for name in order))
    found = names(rows, archive)
    assert len(found) == len(set(found)) == 5
    assert found[0].startswith(order[0] or "a")
    assert listing.skipped["listed twice (planned once)"] > 0


def test_a_column_to_keep_that_no_image_has_is_refused(archive: Path) -> None:
    with pytest.raises(UsageError, match="--keep-column zone: no image has it"):
        listed(archive, keep_column="zone")


def test_a_camera_may_be_named_with_its_site(tmp_path: Path) -> None:
    files = {f"{site}/gate/x.jpg": b"" for site in ("north", "south")}
    rows, _ = listed(write_files(tmp_path, files), layout="{site}/{camera}/*", camera=("north/gate",))
    assert [row["site"] for row in rows] == ["north"]


def test_a_named_pipe_is_planned_as_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    (row,), _ = listed(tmp_path)
    assert (row["status"], row["error"]) == ("unsupported", "not a regular file")


def make_tar(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return path


@pytest.mark.parametrize(
    ("layout", "camera", "hour"),
    [
        ("{captured_at:%Y-%m-%d}.tar/{camera}/*.jpg", "07", 0),
        ("{camera}/*", "07", None),
        ("{camera}/{captured_at:%Y%m%d%H}.jpg", "07", 13),
    ],
)
def test_a_layout_reads_a_members_path_or_its_containers_too(
    tmp_path: Path, layout: str, camera: str, hour: int | None
) -> None:
    for day in (1, 2, 4):
        make_tar(tmp_path / f"2026-10-{day:02d}.tar", f"07/202610{day:02d}13.jpg")
    template = f"{tmp_path}/{{date:%Y-%m-%d}}.tar"
    rows, listing = listed(template, layout=layout, since="2026-10-02", until="2026-10-05")
    times = [None if hour is None else datetime(2026, 10, day, hour, tzinfo=UTC) for day in (2, 4)]
    assert [(row["camera"], row["captured_at"]) for row in rows] == [(camera, time) for time in times]
    assert listing.notes.pop("day or hour of {date:...} without a file") == 1
    assert listing.notes == ({"time unknown until decoded": 2} if hour is None else
                             {"date without a time of day (stands at 00:00)": 2} if hour == 0 else {})  # fmt: skip


def test_members_have_the_place_of_their_bytes(tmp_path: Path) -> None:
    (row,), _ = listed(make_tar(tmp_path / "x.tar", "camera=07/date=2026-10-01/x.jpg"))
    uri = f"file://{tmp_path}/x.tar"
    assert row["uri"] == f"tar://camera=07/date=2026-10-01/x.jpg::{uri}"
    assert (row["container"], row["offset"], row["length"], row["encoding"]) == (uri, 512, 0, "raw")
    assert (row["camera"], row["captured_at"]) == ("07", datetime(2026, 10, 1, tzinfo=UTC))
    assert row["version"] == str((tmp_path / "x.tar").stat().st_mtime_ns)


def test_what_a_manifest_says_goes_before_what_the_path_says(tmp_path: Path) -> None:
    lines = [
        "uri,camera,captured_at,shift",
        "site=n/camera=1/x.jpg,7,2026-10-01T06:30,early",
        "site=n/camera=1/y.jpg,,,",
    ]
    write_files(tmp_path, {"list.csv": "\n".join(lines).encode()})
    rows, listing = listed(tmp_path / "list.csv", timezone=("Europe/Paris",), keep_column="shift")
    assert [(row["site"], row["camera"], row["kept"]) for row in rows] == [
        ("n", "7", "early"),
        ("n", "1", None),
    ]
    assert [row["captured_at"] for row in rows] == [datetime(2026, 10, 1, 4, 30, tzinfo=UTC), None]
    assert [row["time_source"] for row in rows] == ["manifest", None]
    assert listing.notes == {"time unknown until decoded": 1}


def test_presigned_urls_are_planned_without_their_query_and_fetched_with_it(tmp_path: Path) -> None:
    urls = [
        "https://h/cam/x.jpg?X-Amz-Signature=SECRET",
        "https://ann:SECRET@h/cam/y.jpg",
        "https://h/cam/z.jpg",
    ]
    write_files(tmp_path, {"list.csv": "\n".join(["uri", *urls]).encode()})
    rows, listing = listed(tmp_path / "list.csv", allow_prefix=("https://h/cam",), layout="cam/*{camera}.jpg")
    assert [row["uri"] for row in rows] == [f"https://h/cam/{name}.jpg" for name in "xyz"]
    assert [row["fetch"] for row in rows] == [urls[0], urls[1], None]
    shown = str([{**row, "fetch": None} for row in rows]) + str(listing.as_dict())
    assert "SECRET" not in shown


def test_every_planned_row_fits_the_schema(tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", "a.jpg", "../b.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    rows, _ = listed(f"{tmp_path}/*")
    table = pa.Table.from_pylist(rows, schema.PLAN)
    assert table.to_pylist() == rows
    assert set(rows[0]) == set(schema.PLAN.names)
    assert table["status"].to_pylist() == ["unsupported", None, "unsupported"]


@pytest.mark.parametrize(
    ("num_bad", "num_good", "is_planned"), [(19, 1, True), (20, 1, True), (19, 0, True), (20, 0, False)]
)
def test_times_of_a_manifest_that_cannot_be_read_are_refused_if_there_are_no_others(
    tmp_path: Path, num_bad: int, num_good: int, is_planned: bool
) -> None:
    times = ["01.10.2026 08:30"] * num_bad + ["2026-10-01 08:30"] * num_good + [""]
    rows = "".join(f"{k}.jpg,{time}\n" for k, time in enumerate(times))
    manifest = write_files(tmp_path, {"m.csv": f"uri,captured_at\n{rows}".encode()}) / "m.csv"
    assert len(listed(manifest, allow_unknown_times=True)[0]) == len(times)
    if is_planned:
        assert listed(manifest)[1].notes["captured_at not readable, such as '01.10.2026 08:30'"] == num_bad
        return
    with pytest.raises(UsageError) as refused:
        listed(manifest)
    for part in (
        str(manifest),
        f"all {num_bad} rows",
        "'01.10.2026 08:30'",
        "2026-10-01 08",
    ):
        assert part in str(refused.value)


def test_an_image_with_a_site_alone_is_of_an_unknown_camera_there(tmp_path: Path) -> None:
    root = write_files(tmp_path / "a", {"north/x.jpg": b"", "north/1/x.jpg": b""})
    assert listed(root, layout=("{site}/{camera}/*", "{site}/*"))[1].cameras == {
        "north/1": 1, "north/unknown": 1,
    }  # fmt: skip


def test_files_that_are_not_opened_are_named_with_what_would_open_them(tmp_path: Path) -> None:
    make_tar(tmp_path / "x.tar", "a.jpg")
    with pytest.raises(UsageError, match=rf"no image found \(1 .tar\).*by a pattern: '{tmp_path}/\*.tar'"):
        listed(tmp_path)


def test_what_can_never_be_read_is_said_by_reason_and_count(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.jpg", "../b.jpg", "../c.jpg"):
            archive.writestr(name, b"1")
        archive.writestr("d.jpg", b"1" * 99, zipfile.ZIP_BZIP2)
    rows, listing = listed(tmp_path / "a.zip")
    assert [row["status"] for row in rows] == [None, "unsupported", "unsupported", "unsupported"]
    assert listing.refused == Counter(row["error"] for row in rows if row["error"])
    assert sorted(listing.refused.values()) == [1, 2]
    assert listing.as_dict()["refused"] == listing.refused
