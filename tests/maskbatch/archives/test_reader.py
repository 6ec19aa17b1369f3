"""What an ARCHIVE argument names; its parts have tests of their own: listing, tars, zips, row files, manifests."""

import csv
import gzip
import io
import os
import pickle
import tarfile
import uuid
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskbatch.archives import arguments as arguments_module
from maskbatch.archives import reader
from maskbatch.archives.entries import Entry
from maskbatch.archives.tally import Tally
from maskbatch.archives.tree import Tree
from maskbatch.archives.unique import REPLACED
from maskbatch.config import PlanConfig
from maskbatch.errors import UsageError
from maskbatch.runs.begin import Request
from maskbatch.stores.access import Access
from maskbatch.stores.fetch import fetch_info
from maskbatch.stores.options import NO_OPTIONS
from tests.maskbatch.samples import make_tar, make_zip, write_files
from tests.serving import serving

TWICE = "listed twice (planned once)"


def entries(*arguments: object, **settings: Any) -> tuple[list[Entry], Counter[str], Counter[str]]:
    config = PlanConfig(archives=tuple(map(str, arguments)), **settings)
    tally = Tally()
    access = arguments_module.make_access(config, NO_OPTIONS)
    sources = arguments_module.find_sources(config, access)
    return list(reader.list_entries(sources, config, access, tally)), tally.skipped, tally.notes


def uris(*arguments: object, **settings: Any) -> list[str]:
    return [entry.uri for entry in entries(*arguments, **settings)[0]]


def below(root: Path, *arguments: str, **settings: Any) -> list[str]:
    """The uris of what the arguments, paths below `root`, name; the root left out."""
    return [
        uri.replace(f"file://{root}/", "") for uri in uris(*(root / name for name in arguments), **settings)
    ]


def make_parquet(**columns: list[Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def make_csv(*names: str) -> bytes:
    sink = io.StringIO()
    csv.writer(sink).writerows([["uri"], *([name] for name in names)])
    return sink.getvalue().encode()


@pytest.fixture
def kinds(tmp_path: Path) -> Path:
    """A folder with everything in it that an archive may be."""
    return write_files(
        tmp_path / "all",
        {
            "a.tar": make_tar({"t1.jpg": b"1", "t2.txt": b"2"}),
            "b.zip": make_zip({"z1.jpg": b"1"}),
            "c.parquet": make_parquet(image=[b"1", b"2"]),
            "d.csv": make_csv("day/x.jpg", "day/absent.jpg"),
            "e.jsonl": b'{"uri": "e.jpg"}\n',
            "f.parquet": make_parquet(uri=["f.jpg"]),
            "g.jpg": b"1",
            "h.txt": b"1",
            "day/x.jpg": b"1",
            "day/y.tar": make_tar({"t3.jpg": b"1"}),
        },
    )


INSIDE = {
    "a.tar": ["tar://t1.jpg::a.tar"],
    "b.zip": ["zip://z1.jpg::b.zip"],
    "c.parquet": ["parquet://0::c.parquet", "parquet://1::c.parquet"],
    "d.csv": ["day/x.jpg", "day/absent.jpg"],
    "e.jsonl": ["e.jpg"],
    "f.parquet": ["f.jpg"],
    "g.jpg": ["g.jpg"],
    "day": ["day/x.jpg"],
}


@pytest.mark.parametrize("name", INSIDE)
def test_each_kind_gives_the_images_inside(kinds: Path, name: str) -> None:
    assert below(kinds, name) == INSIDE[name]


def test_a_pattern_opens_what_it_names_and_a_folder_does_not(kinds: Path) -> None:
    found, skipped, _ = entries(f"{kinds}/*")
    names = [entry.uri.replace(f"file://{kinds}/", "") for entry in found]
    assert names == [*INSIDE["a.tar"], *INSIDE["b.zip"], *INSIDE["c.parquet"], *INSIDE["d.csv"], "e.jpg", "f.jpg", "g.jpg"]  # fmt: skip
    assert skipped == {".txt": 2, ".tar": 1, TWICE: 1}
    found, skipped, _ = entries(kinds)
    assert [entry.relative for entry in found] == ["day/x.jpg", "g.jpg"]
    assert skipped == {".tar": 2, ".zip": 1, ".parquet": 2, ".csv": 1, ".jsonl": 1, ".txt": 1}
    assert below(kinds, "**/*.tar") == ["tar://t1.jpg::a.tar", "tar://t3.jpg::day/y.tar"]


def test_relative_paths_begin_below_what_no_pattern_stands_in(kinds: Path) -> None:
    for argument, relative in {
        "a.tar": "a.tar/t1.jpg", "[a].tar": "a.tar/t1.jpg", "day/*.tar": "y.tar/t3.jpg", "*/y.tar": "day/y.tar/t3.jpg",
        "b.zip": "b.zip/z1.jpg", "d.csv": "day/x.jpg", "day": "x.jpg", "d*y": "day/x.jpg", "g.jpg": "g.jpg",
    }.items():  # fmt: skip
        assert entries(kinds / argument)[0][0].relative == relative


def test_arguments_keep_their_order(kinds: Path) -> None:
    assert below(kinds, "g.jpg", "b.zip", "day", "a.tar") == ["g.jpg", *INSIDE["b.zip"], *INSIDE["day"], *INSIDE["a.tar"]]  # fmt: skip


@pytest.mark.parametrize(
    "order", [["", "day"], ["day", ""], ["day", "day/x.jpg", ""], ["", ""], ["g.jpg", "*.jpg", "day", "d?y"]]
)
def test_an_image_that_several_arguments_name_is_planned_once_where_it_comes_first(
    kinds: Path, order: list[str]
) -> None:
    alone = [uri for name in order for uri in below(kinds, name)]
    found, skipped, _ = entries(*(kinds / name for name in order))
    assert [entry.uri.replace(f"file://{kinds}/", "") for entry in found] == list(dict.fromkeys(alone))
    assert skipped[TWICE] == len(alone) - len(set(alone)) > 0


def test_folders_with_names_that_begin_alike_do_not_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_files(tmp_path, {"day/x.jpg": b"", "day2/x.jpg": b""})
    monkeypatch.setattr(reader, "keep_unique", lambda *_: pytest.fail("nothing can come twice"))
    assert below(root, "day2", "day") == ["day2/x.jpg", "day/x.jpg"]


def test_a_manifest_of_what_a_folder_holds_adds_nothing(kinds: Path) -> None:
    found, skipped, _ = entries(kinds / "day", kinds / "d.csv")
    assert [entry.relative for entry in found] == ["x.jpg", "day/absent.jpg"]
    assert skipped == {".tar": 1, TWICE: 1}


def test_a_manifest_that_repeats_itself_gives_each_image_once_in_its_order(tmp_path: Path) -> None:
    names = ["b.jpg", "a.jpg", "./b.jpg", "x/../a.jpg", "c.jpg", "b.jpg"]
    write_files(tmp_path, {"list.csv": make_csv(*names)})
    found, skipped, _ = entries(tmp_path / "list.csv")
    assert [entry.relative for entry in found] == ["b.jpg", "a.jpg", "c.jpg"]
    assert skipped == {TWICE: 3}


def test_a_template_may_stand_behind_a_pattern_and_its_empty_days_are_counted(tmp_path: Path) -> None:
    write_files(tmp_path, {f"{camera}/{day}/x.jpg": b"" for camera in "ab" for day in ("0102", "0104")})
    found, _, notes = entries(f"{tmp_path}/*/{{date:%m%d}}", since="2026-01-01", until="2026-01-05")
    assert [entry.relative for entry in found] == [
        "a/0102/x.jpg",
        "b/0102/x.jpg",
        "a/0104/x.jpg",
        "b/0104/x.jpg",
    ]
    assert notes == {"day or hour of {date:...} without a file": 2}


def test_a_template_may_reach_into_the_days_around(days: str) -> None:
    around = {"since": "2026-10-03", "until": "2026-10-04", "margin_days": 1}
    found, _, _ = entries(f"{days}/{{date:%Y/%m/%d}}", **around)
    assert [entry.relative.removeprefix("2026/10/")[:5] for entry in found] == [
        "02/00",
        "02/13",
        "04/00",
        "04/13",
    ]


@pytest.mark.parametrize(
    ("name", "expected"), [("x/*.tar", "no pattern can be matched"), ("folder/", "has no folders to list")]
)
def test_a_web_server_has_nothing_to_list(name: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        entries(f"http://127.0.0.1:9/{name}")


def test_of_members_with_one_name_the_last_is_kept_as_by_who_unpacks_them(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in (("a.jpg", b"1"), ("b.jpg", b"2"), ("a.jpg", b"33")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    found, skipped, _ = entries(tmp_path / "x.tar", tmp_path / "x.tar")
    assert [(entry.inner, entry.num_bytes) for entry in found] == [("b.jpg", 1), ("a.jpg", 2)]
    assert skipped.total() == 4 and skipped[REPLACED] >= 1


def test_a_pattern_passes_over_the_tables_of_a_run(tmp_path: Path) -> None:
    table = {"id": [0], "uri": ["s3://elsewhere/a.jpg"], "status": ["ok"], "error": [None]}
    for name, columns in (("plan", table), ("report", {"site": ["x"]})):
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    write_files(tmp_path, {"a.jpg": b""})
    found, skipped, _ = entries(tmp_path / "**")
    assert [entry.relative for entry in found] == ["a.jpg"]
    assert skipped == {".parquet of no images": 2}


def test_an_entry_survives_the_way_over_the_disk(kinds: Path) -> None:
    found, _, _ = entries(kinds / "a.tar", kinds / "c.parquet", kinds / "g.jpg")
    assert pickle.loads(pickle.dumps(found)) == found
    assert all(entry.version for entry in found)


# Days of a template.
DAYS = {f"2026/10/{day:02d}/{hour:02d}.jpg": b"" for day in (1, 2, 4) for hour in (0, 13)}


@pytest.fixture(params=["file", "memory"])
def days(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Folders by day of which the third is missing, on two kinds of store."""
    if request.param == "file":
        return str(write_files(tmp_path / "days", DAYS))
    root = f"memory://{uuid.uuid4().hex}"
    for name, data in DAYS.items():
        fsspec.filesystem("memory").pipe(f"{root}/{name}", data)
    return root


@pytest.mark.parametrize(
    ("template", "since", "until", "expected"),
    [
        ("{date:%Y/%m/%d}", "2026-10-02", "2026-10-05", ["02/00", "02/13", "04/00", "04/13"]),
        ("{date:%Y/%m/%d}", "2026-10-02T12:00", "2026-10-02T13:00", ["02/00", "02/13"]),
        ("{date:%Y}/{date:%m/%d}", "2026-10-02", "2026-10-03", ["02/00", "02/13"]),
        ("{date:%Y/%m}", "2026-10-02", "2026-11-03", ["01/00", "01/13", "02/00", "02/13", "04/00", "04/13"]),
        ("{date:%Y/%m/%d/%H}.jpg", "2026-10-01T13:00", "2026-10-04", ["01/13", "02/00", "02/13"]),
        ("{date:%Y/%m/%d}/*3.jpg", "2026-10-01", "2026-10-03", ["01/13", "02/13"]),
        ("{date:%Y/%m/%d}", "2026-09-01", "2026-10-01", []),
    ],
)
def test_a_template_names_one_folder_or_file_a_day_or_hour(
    days: str, template: str, since: str, until: str, expected: list[str]
) -> None:
    found, _, _ = entries(f"{days}/{template}", since=since, until=until)
    assert [entry.relative for entry in found] == [f"2026/10/{name}.jpg" for name in expected]
    root = days if "://" in days else f"file://{days}"
    assert [entry.uri for entry in found] == [f"{root}/{entry.relative}" for entry in found]


@pytest.mark.parametrize(
    ("template", "bounds", "expected"),
    [
        ("{date:%Y}", {}, r"\{date:...\} needs --since and --until"),
        ("{date:%Y}", {"since": "2026-10-01"}, "needs --since and --until"),
        ("{date:%Y}", {"until": "2026-10-01"}, "needs --since and --until"),
        (
            "{date:%Y-%A}",
            {"since": "2026-10-01", "until": "2026-10-02"},
            "knows %Y %y %m %b %B %d %j %H %F, and %-d",
        ),
        ("{date:}", {"since": "2026-10-01", "until": "2026-10-02"}, "knows %Y"),
        ("{date:day}", {"since": "2026-10-01", "until": "2026-10-02"}, "knows %Y"),
    ],
)
def test_a_template_that_cannot_be_expanded_is_refused(
    tmp_path: Path, template: str, bounds: dict[str, str], expected: str
) -> None:
    with pytest.raises(UsageError, match=expected):
        entries(f"{tmp_path}/{template}", **bounds)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere", "no such folder or file"),
        ("nowhere.tar", "no such folder or file"),
        ("h.txt", "its kind is not known; a folder, an image, .tar"),
        ("h.tar.gz", "compressed with gzip"),
        ("*.gz", "compressed with gzip"),
        ("h.tgz", "h.tgz > "),
        ("false.tar", "compressed with gzip"),
    ],
)
def test_an_archive_that_cannot_be_used_is_refused_in_a_sentence(
    kinds: Path, name: str, expected: str
) -> None:
    packed = gzip.compress(make_tar({"x.jpg": b"1"}))
    write_files(kinds, {"h.tar.gz": packed, "h.tgz": packed, "false.tar": packed})
    with pytest.raises(UsageError) as refused:
        entries(kinds / name)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_empty_archives_give_nothing_and_damaged_ones_a_row(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {
            "a.tar": make_tar({}), "b.zip": make_zip({}), "c.csv": b"uri\n", "e.tar": b"no tar" * 200,
            "d.parquet": make_parquet(image=pa.array([], pa.binary())), "f.parquet": b"PAR1", "g.zip": b"PK",
        },
    )  # fmt: skip
    (tmp_path / "folder").mkdir()
    assert uris(*(tmp_path / name for name in ("a.tar", "b.zip", "c.csv", "d.parquet", "folder"))) == []
    damaged, _, _ = entries(f"{tmp_path}/[efg].*")
    assert [(e.status, e.relative) for e in damaged] == [
        ("corrupt", n) for n in ("e.tar", "f.parquet", "g.zip")
    ]


def test_a_path_that_is_there_is_itself_and_no_pattern(tmp_path: Path) -> None:
    root = write_files(tmp_path, {"cam[1]/x.jpg": b"", "cam1/y.jpg": b"", "what?.jpg": b"", "whatx.jpg": b""})
    assert below(root, "cam[1]") == ["cam[1]/x.jpg"]
    assert below(root, "what?.jpg") == ["what?.jpg"]
    assert below(root, "cam[0-9]") == ["cam1/y.jpg"]


def test_a_name_that_must_be_encoded_is_found_inside_and_outside(tmp_path: Path) -> None:
    names = ["a::b", "100%41", "sp ace", "日"]
    files = {f"{name}/{name}.jpg": b"" for name in names} | {
        f"{name}.tar": make_tar({"x.jpg": b""}) for name in names
    }
    write_files(tmp_path, files)
    for name in names:
        assert len(uris(tmp_path / name)) == len(uris(tmp_path / name / f"{name}.jpg")) == 1
        (entry,) = entries(tmp_path / f"{name}.tar")[0]
        assert entry.uri == f"tar://x.jpg::{entry.container}"
        assert entry.uri.count("::") == 1


def test_what_is_no_file_in_an_archive_is_a_row(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    os.mkfifo(tmp_path / "y.tar")
    found, skipped, _ = entries(f"{tmp_path}/*")
    assert [(e.status, e.error) for e in found] == [("unsupported", "not a regular file")]
    assert skipped == {".tar": 1}


# Web servers.
class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and no ranges, as Python's own server does."""

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Any:
    write_files(
        tmp_path / "site",
        {
            "a b.csv": make_csv("x.jpg?sig=SECRET", "sub/y.jpg"), "x.jpg": b"1", "x.tar": make_tar({"x.jpg": b"1"}),
            "x.parquet": make_parquet(image=[b"1"]), "list.parquet": make_parquet(uri=["x.jpg"]),
        },
    )  # fmt: skip
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Quiet(*a, directory=str(tmp_path / "site")))
    with serving(server):
        yield f"http://127.0.0.1:{server.server_port}"


def test_a_manifest_of_presigned_urls_shows_no_query_and_fetches_with_it(site: str) -> None:
    found, _, _ = entries(f"{site}/a%20b.csv")
    assert [entry.uri for entry in found] == [f"{site}/x.jpg", f"{site}/sub/y.jpg"]
    assert [entry.fetch for entry in found] == [f"{site}/x.jpg?sig=SECRET", None]
    assert "SECRET" not in "".join(f"{entry.uri}{entry.relative}{entry.error}" for entry in found)


def test_an_image_and_a_manifest_need_no_ranges_and_a_container_does(site: str) -> None:
    assert [(e.uri, e.num_bytes) for e in entries(f"{site}/x.jpg")[0]] == [(f"{site}/x.jpg", None)]
    assert uris(f"{site}/list.parquet") == [f"{site}/x.jpg"]
    for name in ("x.tar", "x.parquet"):
        with pytest.raises(UsageError, match="does not serve ranges; copy it to a folder or a bucket"):
            entries(f"{site}/{name}")


@pytest.mark.parametrize("name", ["gone.csv", "gone.tar", "gone.jpg", "folder"])
def test_what_a_server_does_not_have_is_one_sentence(site: str, name: str) -> None:
    with pytest.raises(UsageError) as refused:
        entries(f"{site}/{name}")
    assert f"{site}/{name}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_server_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskbatch.stores.retry.backoff_s", lambda attempt: 0)
    for name in ("x.csv", "x.tar", "x.jpg", "x.parquet"):
        with pytest.raises(UsageError, match="the server cannot be reached"):
            entries(f"http://127.0.0.1:1/{name}")


def test_a_single_file_of_any_store_is_told_from_a_folder(tmp_path: Path) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    memory = fsspec.filesystem("memory")
    for name, data in {
        "x.tar": make_tar({"a.jpg": b"1"}),
        "odd.tar/y.jpg": b"1",
        "deep/er/z.jpg": b"1",
    }.items():
        memory.pipe(f"{root}/{name}", data)
    assert uris(f"{root}/x.tar") == [f"tar://a.jpg::{root}/x.tar"]
    assert uris(f"{root}/odd.tar") == [f"{root}/odd.tar/y.jpg"]
    assert uris(f"{root}/deep") == [f"{root}/deep/er/z.jpg"]
    assert uris(f"{root}/deep/er/z.jpg") == [f"{root}/deep/er/z.jpg"]
    config = PlanConfig(archives=(f"{root}/x.tar",))
    (source,) = arguments_module.find_sources(config, Access())
    assert source.tree == Tree(f"{root}/", ("x.tar",))
    assert (source.file.uri, source.file.num_bytes) == (f"{root}/x.tar", len(make_tar({"a.jpg": b"1"})))


def test_a_link_to_a_container_that_is_not_there_is_named(tmp_path: Path) -> None:
    os.symlink("nowhere", tmp_path / "x.tar")
    with pytest.raises(UsageError, match=f"archive {tmp_path}/x.tar: nothing is there"):
        entries(f"{tmp_path}/*.tar")


@pytest.mark.parametrize(("name", "num_asked"), [("x.tar", 1), ("x.csv", 1), ("x.jpg", 1), ("day", 0)])
def test_the_store_is_asked_once_for_a_file_from_the_first_look_at_it_to_its_last_image(
    name: str, num_asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"memory://{uuid.uuid4().hex}"
    files = {"x.tar": make_tar({"a.jpg": b"1"}), "x.csv": make_csv("a.jpg"), "x.jpg": b"1", "day/z.jpg": b"1"}
    for path, data in files.items():
        fsspec.filesystem("memory").pipe(f"{root}/{path}", data)
    asked = Mock(side_effect=fetch_info)
    monkeypatch.setattr(arguments_module, "fetch_info", asked)
    monkeypatch.setattr(reader, "fetch_info", asked)
    request = Request(plan=PlanConfig(archives=(f"{root}/{name}",)), access=Access())
    for _ in range(2):  # to refuse a wrong path, and to plan
        assert request.sources[0].is_remote
    assert len(list(reader.list_entries(request.sources, request.plan, Access(), Tally()))) == 1
    assert asked.call_count == num_asked
