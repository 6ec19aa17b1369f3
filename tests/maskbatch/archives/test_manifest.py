import csv
import gzip
import io
import json
import os
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.archives.entries import Entry
from maskbatch.archives.manifest import is_manifest, list_manifest
from maskbatch.errors import UsageError
from maskbatch.stores.uris import is_allowed, local_path
from tests.maskbatch.containers import Files, manifest_at
from tests.maskbatch.samples import write_files

STORE = ["s3://b/", "https://cams.example.com/", "gs://g/month"]


def write(path: Path, content: str | bytes) -> Path:
    content = content if isinstance(content, bytes) else content.encode()
    return write_files(path.parent, {path.name: content}) / path.name


def listing(uri: str | Path, *args: Any, **options: Any) -> tuple[list[Entry], Counter[str], Counter[str]]:
    manifest = manifest_at(uri, *args, **options)
    return list(list_manifest(manifest)), manifest.skipped, manifest.notes


def of_rows(content: str, base: str = "s3://b/lists/l.csv", **options: Any) -> list[Entry]:
    return listing(base, files=Files({base: content.encode()}), **options)[0]


def uri_of(text: str, allow: Iterable[str] = STORE, base: str = "s3://b/lists/l.csv") -> str:
    return of_rows(f'uri\n"{text}"\n', base, allow=allow)[0].uri


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.csv", True), ("A.CSV.gz", True), ("x/a.jsonl", True), ("a.ndjson.gz", True), ("inv/manifest.json", True),
        ("a.json", False), ("a.parquet", False), ("a.tsv", True), ("a.txt", False), ("a.jpg", False), ("csv", False), ("a.csv.zip", False),
    ],
)  # fmt: skip
def test_a_manifest_is_known_by_its_name(name: str, expected: bool) -> None:
    assert is_manifest(name) is expected


def test_a_csv_says_where_an_image_is_and_what_is_known_of_it(tmp_path: Path) -> None:
    text = (
        "URI, Site ,camera,Captured_At,size,ETag,gate open\n"
        'cam07/0001.jpg,north,"07",2026-10-01T08:30:00+02:00,512,"""abc""",yes\n'
        "cam07/0002.snapshot,  ,,,,,\n"
    )
    path = write(tmp_path / "list.csv", text)
    (full, bare), skipped, notes = listing(path, keep="gate open")
    assert full == Entry(
        uri=f"file://{tmp_path}/cam07/0001.jpg",
        relative="cam07/0001.jpg",
        num_bytes=512,
        version="abc",
        site="north",
        camera="07",
        time=datetime.fromisoformat("2026-10-01T08:30:00+02:00"),
        kept="yes",
    )
    assert bare == Entry(uri=f"file://{tmp_path}/cam07/0002.snapshot", relative="cam07/0002.snapshot")
    assert not skipped and not notes


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_csv_may_be_zipped_have_a_bom_quoted_newlines_and_blank_lines(
    tmp_path: Path, zipped: bool, mark: str, line_end: str
) -> None:
    text = line_end.join([f"{mark}uri,note", '日本.jpg,"two', 'lines, ""quoted"""', "", "b.jpg,NA", ""])
    content = gzip.compress(text.encode()) if zipped else text.encode()
    entries, _, _ = listing(write(tmp_path / ("l.csv.gz" if zipped else "l.csv"), content), keep="note")
    expected = [("日本.jpg", f'two{line_end}lines, "quoted"'), ("b.jpg", "NA")]
    assert [(entry.relative, entry.kept) for entry in entries] == expected


def test_json_lines_may_leave_out_what_they_do_not_know(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"uri": "a.jpg", "num_bytes": 7, "camera": 12},
        {"uri": "b.jpg", "captured_at": "2026-10-01 06:00", "Kept": {"x": [1, None]}, "site": None},
        {"camera": "no uri"},
        {"uri": None},
    ]
    text = "\ufeff" + "\n\n".join(json.dumps(row) for row in rows)
    for name, content in (("l.jsonl", text.encode()), ("l.ndjson.gz", gzip.compress(text.encode()))):
        entries, skipped, _ = listing(write(tmp_path / name, content), keep="kept")
        assert [(e.relative, e.num_bytes, e.camera, e.kept) for e in entries] == [
            ("a.jpg", 7, "12", None),
            ("b.jpg", None, None, '{"x": [1, null]}'),
        ]
        assert entries[1].time == datetime(2026, 10, 1, 6)
        assert skipped == {"row without a uri": 2}


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo", "Nowhere/Land"])
def test_a_parquet_column_of_times_is_read_with_and_without_a_zone(
    tmp_path: Path, unit: str, zone: str | None
) -> None:
    count = int(datetime(2026, 10, 1, 8, 30, tzinfo=UTC).timestamp()) * 1000 ** ["s", "ms", "us", "ns"].index(
        unit
    )
    times = pa.array([count, None], pa.int64()).view(pa.timestamp(unit, zone))
    uris = pa.array(["a.jpg", "b.jpg"]).dictionary_encode()
    table = pa.table({"uri": uris, "captured_at": times, "size": [3.0, None], "ok": [True, None]})
    pq.write_table(table, tmp_path / "l.parquet", version="2.6")
    (first, second), _, notes = listing(tmp_path / "l.parquet", keep="OK")
    assert first.time == datetime(2026, 10, 1, 8, 30, tzinfo=UTC if zone else None)
    assert (first.num_bytes, first.kept, second.time, second.num_bytes, second.kept) == (
        3,
        "true",
        None,
        None,
        None,
    )
    assert not notes


def test_a_time_that_cannot_be_read_is_counted(tmp_path: Path) -> None:
    rows = 'uri,captured_at\na.jpg,2026-10-01\nb.jpg,noon\nc.jpg,""\nd.jpg,2026-13-01\n'
    entries, _, notes = listing(write(tmp_path / "l.csv", rows))
    assert [entry.time for entry in entries] == [datetime(2026, 10, 1), None, None, None]
    assert notes == {"captured_at not readable, such as 'noon'": 2}
    far = pa.array([1 << 62], pa.int64()).view(pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"uri": ["a.jpg"], "captured_at": far}), tmp_path / "l.parquet")
    assert listing(tmp_path / "l.parquet")[2].total() == 1


@pytest.mark.parametrize("size", ["-1", "x", "nan", "inf", "9" * 30, "9" * 5000, "1.5e400"])
def test_a_size_that_is_none_is_unknown(size: str) -> None:
    assert of_rows(f"uri,num_bytes\na.jpg,{size}\n")[0].num_bytes is None


def test_rows_that_list_no_image_are_counted() -> None:
    text = "bucket,key,is_latest,is_delete_marker\nb,a.jpg,true,false\nb,,,\n,a.jpg,,\nb,f/,,\nb,o.jpg,false,\nb,d.jpg,,TRUE\n"
    entries, skipped, _ = listing("s3://b/l.csv", files=Files({"s3://b/l.csv": text.encode()}))
    assert [entry.uri for entry in entries] == ["s3://b/a.jpg"]
    assert skipped == {
        "row without a uri": 2,
        "folder marker": 1,
        "not the latest version": 1,
        "delete marker": 1,
    }


def test_a_relative_path_goes_on_from_the_folder_of_the_manifest_and_others_from_their_bucket() -> None:
    rows = "uri\n./x//a.jpg\ns3://b/lists/y/b.jpg\ns3://b/other/c.jpg\n/data/d.jpg\nhttps://cams.example.com/e/f.jpg\n"
    entries = of_rows(rows, relative="deep/l.csv", allow=[*STORE, "/data"])
    assert [(entry.uri, entry.relative) for entry in entries] == [
        ("s3://b/lists/x//a.jpg", "deep/x//a.jpg"),
        ("s3://b/lists/y/b.jpg", "deep/y/b.jpg"),
        ("s3://b/other/c.jpg", "other/c.jpg"),
        ("file:///data/d.jpg", "data/d.jpg"),
        ("https://cams.example.com/e/f.jpg", "e/f.jpg"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b.jpg", "s3://b/lists/a b.jpg"),
        ("100%.jpg", "s3://b/lists/100%.jpg"),
        ("%41.jpg", "s3://b/lists/%2541.jpg"),
        ("cam:7.jpg", "s3://b/lists/cam:7.jpg"),
        ("2026-10-01T06:00.jpg", "s3://b/lists/2026-10-01T06:00.jpg"),
        ("../x/../a.jpg", "s3://b/a.jpg"),
        ("../../../../b2/a.jpg", "s3://b/b2/a.jpg"),
        (" S3A://b/a#1?.jpg ", "s3://b/a#1?.jpg"),
        ("s3n://b//a.jpg", "s3://b//a.jpg"),
        ("s3://b/%2e%2e/a.jpg", "s3://b/%252e%252e/a.jpg"),
        ("HTTPS://Cams.Example.COM:443/a/%2E%2e/./b%20c.jpg", "https://cams.example.com/b%20c.jpg"),
        ("https://cams.example.com", "https://cams.example.com/"),
        ("gs://g/month", "gs://g/month"),
    ],
)
def test_a_uri_is_planned_in_one_spelling(text: str, expected: str) -> None:
    assert uri_of(text) == expected


@pytest.mark.parametrize(
    "text",
    ["{}/c/%25.jpg", "file:{}/c/%2525.jpg", "FILE://{}/c/%.jpg", "file://LOCALHOST{}/c/../c/%25.jpg",
     "local://{}/c/%25.jpg", "c/./%25.jpg", "file:////{}/x/..//c/%2525.jpg"],
)  # fmt: skip
def test_a_local_uri_is_decoded_and_a_local_path_is_not(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "l.csv", f"uri\n{text.format(tmp_path)}\n")
    (entry,), _, _ = listing(path)
    assert local_path(entry.uri) in (
        os.fsencode(tmp_path) + b"/c/%.jpg",
        os.fsencode(tmp_path) + b"/c/%25.jpg",
    )


def test_a_name_that_is_not_utf8_or_has_two_colons_can_be_written_encoded(tmp_path: Path) -> None:
    path = write(tmp_path / "d::x" / "l.csv", f"uri\nfile://{tmp_path}/d%3A%3Ax/%FF.jpg\n")
    (entry,), _, _ = listing(path)
    assert entry.uri == f"file://{tmp_path}/d%3A%3Ax/%FF.jpg"
    assert entry.relative == "%FF.jpg"
    assert local_path(entry.uri) == os.fsencode(tmp_path) + b"/d::x/\xff.jpg"


def test_secrets_stay_out_of_the_uri_and_are_kept_for_the_reader() -> None:
    rows = "uri\nhttps://ann:pw@CAMS.example.com/x/../a.jpg?sig=1#top\nhttps://cams.example.com/b.jpg#x\n"
    assert [(entry.uri, entry.fetch) for entry in of_rows(rows, allow=STORE)] == [
        ("https://cams.example.com/a.jpg", "https://ann:pw@cams.example.com/a.jpg?sig=1"),
        ("https://cams.example.com/b.jpg", None),
    ]


def test_what_tells_two_images_apart_stays_in_the_uri_and_what_signs_them_does_not() -> None:
    signed = "X-Amz-Date=20261001&X-Amz-Signature=SECRET"
    rows = "".join(f"https://cams.example.com/{name}\n" for name in (
        "see.php?id=1&sig=SECRET&se=1", "see.php?id=2&sig=SECRET&se=1", "see.php?id=1&sig=OTHER&se=2",
        f"a.jpg?{signed}", "a.jpg?X-Amz-Signature=OTHER",
    ))  # fmt: skip
    uris = [entry.uri for entry in of_rows("uri\n" + rows, "https://cams.example.com/l.csv")]
    assert uris[0] == uris[2] != uris[1]
    assert uris[3] == uris[4] == "https://cams.example.com/a.jpg"
    assert "SECRET" not in "".join(uris)


def test_a_relative_row_of_a_web_manifest_is_a_reference_with_its_login() -> None:
    base = "https://ann:pw@cams.example.com:8443/x/l.csv?sig=1"
    (entry,) = of_rows("uri\n../x/a%20b.jpg?sig=2\n", base)
    assert entry.uri == "https://cams.example.com:8443/x/a%20b.jpg"
    assert entry.fetch == "https://ann:pw@cams.example.com:8443/x/a%20b.jpg?sig=2"
    with pytest.raises(UsageError) as refused:
        of_rows("uri\n/etc/passwd\n", base)
    assert "pw" not in str(refused.value) and "sig" not in str(refused.value)


HOSTILE = [
    "http://169.254.169.254/latest/meta-data/", "http://169.254.169.254/latest/meta-data/x.jpg", "http://[fd00:ec2:0:0:0:0:0:254]/x",
    "file:///etc/passwd", "file:/etc/passwd", "file://localhost/etc/passwd", "FILE:///ETC/x", "local:///etc/passwd", "File:etc", "file:",
    "file://etc/passwd", "file://host/etc/passwd", "/etc/passwd", "//etc/passwd", "../../etc/passwd", "../..", "a/../../../x.jpg", "~/../../x",
    "file:///srv/data/../../etc/passwd", "file:///srv/data/%2e%2e/x.jpg", "file:///srv/datax/a.jpg", "file:///srv/data/a%00.jpg",
    "file:///srv/data/..%2f..%2fetc/passwd",
    "s3://bucketx/a.jpg", "s3://bucket.evil/a.jpg", "s3://BUCKET/a.jpg", "s3://bucket@evil/a.jpg", "s3://bucket:x@evil/a.jpg",
    "s3://bucket/../evil/a.jpg", "s3://bucket/./a.jpg", "s3://bucket?x/a.jpg", "s3:///bucket/a.jpg", "s3:/bucket/a.jpg", "s3:bucket/a.jpg",
    "s3a://other/a.jpg", "s3n://other/a.jpg", "gs://bucket/a.jpg", "s3://bucket%2f/a.jpg", "s3:// bucket/a.jpg", "ftp://a:b?@bucket/x.jpg",
    "https://host.evil.com/a.jpg", "https://hos/a.jpg", "https://host@evil.com/a.jpg", "https://host:443@evil.com/a.jpg", "https://evil.com#@host/a.jpg",
    "https://evil.com?@host/a.jpg", "https://evil.com/@host/a.jpg", "https://host:8443/a.jpg", "http://host/a.jpg", "https://host./a.jpg",
    "https://host%2eevil.com/a.jpg", "https://\uff48ost/a.jpg", "https://host:99999/a.jpg", "https://host:x/a.jpg", "https:///host/a.jpg", "https:host/a.jpg",
    "https:/host/a.jpg", "https://", "https://[host/a.jpg", "https://exa mple/a.jpg", "https://evil.com\\@host/a.jpg", "https:\\\\host\\a.jpg",
    "https://dir/p/../x.jpg", "https://dir/p/%2e%2E/x.jpg", "https://dir/p/.%2e/x.jpg", "https://dir/p/..%2fx.jpg", "https://dir/p/%2e%2e%2fx.jpg",
    "https://dir/p/%252e%252e/x.jpg", "https://dir/p/..;a=1/x.jpg", "https://dir/p/..%5cx.jpg", "https://dir/px/a.jpg", "https://dir/p/a%00.jpg",
    "..\\..\\etc\\passwd", "C:\\x.jpg", "C:/x.jpg", "\\\\host\\share\\x.jpg", "\\etc\\passwd", "cam:7\\..\\x.jpg", "a\0.jpg", "a\x1b[2J.jpg", "a\x85.jpg",
    "simplecache::s3://bucket/a.jpg", "simplecache::file:///etc/passwd", "zip://x::file:///etc/x.zip", "zip://x.jpg::s3://bucket/a.zip", "a::b.jpg",
    "github://o:r@main/x.jpg", "git+ssh://host/x.jpg", "s3+http://bucket/x.jpg", "nope://bucket/x.jpg", "javascript://x", "data:image/png;base64,AAAA",
    "reference://x", "memory://x.jpg", "jar:file:///etc/x.zip", "://x.jpg",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_manifest_reads_nothing_that_was_not_allowed(text: str) -> None:
    allow = ["s3://bucket", "https://host", "https://dir/p", "/srv/data", "http://[fd00:ec2:0:0:0:0:0:25]"]
    base = "file:///srv/list/l.csv"
    content = io.StringIO()
    csv.writer(content).writerows([["uri", "n"], ["fine.jpg", 1], [text, 2]])
    manifest = manifest_at(base, allow, files=Files({base: content.getvalue().encode()}))
    found = list_manifest(manifest)
    assert next(found).uri == "file:///srv/list/fine.jpg"
    if text.endswith("/"):
        assert list(found) == [] and manifest.skipped == {"folder marker": 1}
        return
    with pytest.raises(UsageError) as refused:
        list(found)
    assert "list/l.csv line 3: " in str(refused.value)
    assert str(refused.value).isprintable()
    assert not is_allowed(text, allow)


def test_a_refusal_names_the_row_and_the_remedy_that_mends_it() -> None:
    for text, remedy in {
        "s3://other/x/a.jpg?k=secret": "s3://other/",
        "https://me:secret@cams.example.com:8443/x/a.jpg?t=secret": "https://cams.example.com:8443/",
        "/data/%41/a.jpg": "file:///data/%2541/",
        "file:///my%20data/a.jpg": "'file:///my data/'",
    }.items():
        with pytest.raises(UsageError) as refused:
            of_rows(f"uri\nfine.jpg\n{text}\n")
        message = str(refused.value)
        assert "manifest s3://b/lists/l.csv line 3: " in message and "secret" not in message
        assert message.endswith(f"add --allow-prefix {remedy}")
        assert of_rows(f"uri\n{text}\n", allow=[remedy.strip("'")])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", "", "has no column uri"),
        ("l.csv", "link;site\na.jpg;x\n", r"has no column uri \(or bucket and key\), but link, site$"),
        ("l.csv", "key,name\nx,y\n", "but key, name$"),
        ("l.csv", "uri,kep\na.jpg,1\n", "no column kept to keep, but uri, kep$"),
        ("l.csv", "uri,kept\na.jpg,1\na.jpg\n", "line 3: 1 values, 2 expected"),
        ("l.csv", 'uri,kept\na.jpg,1\n"a.jpg,1\n', "unexpected end of data"),
        ("l.csv", "uri,kept\n" + "a" * 200_000, "field larger than field limit"),
        ("l.csv", b"uri,kept\n\xe9.jpg,1\n", "it is not UTF-8; name its encoding, as --encoding cp1252$"),
        (
            "l.csv",
            "uri,kept\na,1\n".encode("utf-16-le"),
            "NULs in its header; if it is UTF-16, add --encoding utf-16-le",
        ),
        ("l.csv", "url,path,kept\na,b,1\n", "may have its uris in url or path; name the right one uri$"),
        (
            "l.csv.gz",
            gzip.compress(b"uri,kept\n" + os.urandom(9000).hex().encode())[:-2000],
            "cannot be read",
        ),
        ("l.csv.gz", b"\x1f\x8b nonsense", "cannot be read"),
        ("l.jsonl", '{"uri": "a.jpg", "kept": 1}\n{"uri": ', "line 2: no JSON"),
        ("l.jsonl", "[1]", "line 1: a JSON object expected"),
        ("l.jsonl", "[" * 100_000, "line 1: no JSON"),
        ("l.jsonl", '{"uri": "\\ud800.jpg", "kept": 1}', "line 1: no JSON"),
        ("l.jsonl", '{"link": "a.jpg", "kept": 1}', "has no column uri .* but link, kept"),
        ("l.jsonl", '{"uri": "a.jpg"}', "has no column kept to keep, but uri"),
        ("l.jsonl", '{"uri": "' + "a" * 1_100_000, "line 1: more than 1,048,576 characters"),
        ("l.parquet", b"PAR1 no PAR1", "cannot be read"),
        ("l.txt", "uri,kept\n", "is no manifest by its name"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        listing(write(tmp_path / name, content), keep="kept")
    assert str(refused.value).startswith(f"manifest file://{tmp_path}/{name} ")
    assert len(str(refused.value)) < 500


def test_a_manifest_that_is_not_there_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        listing(tmp_path / "l.csv")


def test_a_parquet_of_other_columns_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": [{"bytes": b"1"}]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [b"1"]}), tmp_path / "b.parquet")
    for name, message in {"a": "has no text in its column uri", "b": "has no column uri"}.items():
        with pytest.raises(UsageError, match=message):
            listing(tmp_path / f"{name}.parquet")


@pytest.mark.parametrize(
    ("name", "num_rows", "limit"),
    # a uri has 90 bytes, as an object 140; of Parquet, 8192 rows are read at a time
    [("l.csv.gz", 10_000, 500_000), ("l.jsonl", 10_000, 500_000), ("l.parquet", 100_000, 10_000_000)],
)
def test_a_long_manifest_is_never_whole_in_memory(
    tmp_path: Path, name: str, num_rows: int, limit: int
) -> None:
    path = tmp_path / name
    uris = [f"cam{i % 40:02}/2026-10-01/{i:09}-{'x' * 60}.jpg" for i in range(num_rows)]
    if name == "l.parquet":
        pq.write_table(pa.table({"uri": uris}), path)
    elif name == "l.jsonl":
        path.write_text("".join(f'{{"uri": "{uri}"}}\n' for uri in uris))
    else:
        with gzip.open(path, "wt", compresslevel=1) as file:
            file.write("\n".join(["uri", *uris]))
    del uris
    held = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        found = list_manifest(manifest_at(path))
        arrow = 0
        for number, _ in enumerate(found, 1):
            arrow = max(arrow, pa.total_allocated_bytes() - held) if number % 5_000 == 0 else arrow
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert number == num_rows
    assert peak + arrow < limit


SPELLINGS = {
    "uri": ["uri", "URI", " Uri ", "path", "File Name", "filePath", "image-url", "URL"],
    "camera": ["camera", "Camera ID", "CAMERA_NAME", "cam"],
    "captured_at": ["captured_at", "Captured At", "capturedAt", "CAPTURED-AT", "Timestamp"],
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "latin-1"]
WORDS = st.text(st.sampled_from("aüÉ ,;|\"'1"), min_size=1, max_size=9).filter(str.strip)


@given(st.data())
def test_a_manifest_lists_the_same_images_however_it_is_written(data: st.DataObject) -> None:
    draw = data.draw
    columns = draw(st.permutations(list(SPELLINGS)))
    header = [draw(st.sampled_from(SPELLINGS[column])) for column in columns]
    rows = draw(st.lists(st.tuples(WORDS, WORDS), max_size=5))
    separator, encoding = draw(st.sampled_from(",;\t|")), draw(st.sampled_from(ENCODINGS))
    text = io.StringIO()
    text.write(draw(st.sampled_from(["", "\r\n", f"sep={separator}\r\n", f"SEP={separator}\r\n"])))
    writer = csv.writer(text, delimiter=separator, lineterminator=draw(st.sampled_from(["\n", "\r\n"])))
    writer.writerow(header)
    for name, camera in rows:
        values = {"uri": f"{name}.jpg", "camera": camera, "captured_at": "2026/10/01 8:30"}
        writer.writerow([values[column] for column in columns])
    text.write(draw(st.sampled_from(["", "\n", f"{separator * 2}\n"])))
    content = text.getvalue().encode(encoding)
    base = draw(st.sampled_from(["s3://b/l.csv", "s3://b/l.tsv", "s3://b/l.csv.gz"]))
    files = Files({base: gzip.compress(content) if base.endswith("gz") else content})
    marked = encoding in ("utf-8-sig", "utf-16", "utf-32")
    given_encoding = draw(st.none() | st.just("cp1252")) if marked else encoding
    entries, _, notes = listing(base, files=files, encoding=given_encoding)
    assert [(entry.relative, entry.camera) for entry in entries] == [
        (f"{name}.jpg".strip(), camera.strip()) for name, camera in rows
    ]
    assert {entry.time for entry in entries} <= {datetime(2026, 10, 1, 8, 30)} and not notes


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_json_lines_may_have_another_encoding(encoding: str) -> None:
    content = "".join(json.dumps({"Uri": f"ü{i}.jpg"}, ensure_ascii=False) + "\n" for i in range(3))
    files = Files({"s3://b/l.jsonl": content.encode(encoding)})
    entries, _, _ = listing(
        "s3://b/l.jsonl", files=files, encoding="cp1252" if encoding == "cp1252" else None
    )
    assert [entry.relative for entry in entries] == ["ü0.jpg", "ü1.jpg", "ü2.jpg"]


def test_bytes_that_are_not_in_the_encoding_given_are_refused_by_its_name() -> None:
    with pytest.raises(
        UsageError, match="cannot be read: it is not cp1252; name its encoding, as --encoding"
    ):
        of_rows(
            "uri\n\N{LATIN CAPITAL LETTER A WITH MACRON}\N{LATIN CAPITAL LETTER A WITH ACUTE}.jpg\n",
            encoding="cp1252",
        )


def test_of_several_names_of_a_column_the_better_one_counts() -> None:
    (entry,) = of_rows("url,uri,timestamp,captured_at,size,num_bytes\na.jpg,b.jpg,1,2026-10-01,5,6\n")
    assert (entry.relative, entry.time, entry.num_bytes) == ("b.jpg", datetime(2026, 10, 1), 6)
    (entry,) = of_rows("file,bucket,key\na.jpg,b,lists/c.jpg\n")
    assert entry.uri == "s3://b/lists/c.jpg"


def test_rows_may_end_in_blank_values_and_a_manifest_may_have_no_rows() -> None:
    entries = of_rows("\n\nuri;camera\na.jpg;1;;\n;;\n \nb.jpg;2\n")
    assert [(entry.relative, entry.camera) for entry in entries] == [("a.jpg", "1"), ("b.jpg", "2")]
    assert listing("s3://b/l.csv", files=Files({"s3://b/l.csv": b"uri;camera"})) == (
        [],
        {"manifest without a row": 1},
        {},
    )
    with pytest.raises(UsageError, match="line 4: 3 values, 2 expected"):
        of_rows("sep=;\nuri;camera\na.jpg;1\nb.jpg;1;x\n")
    with pytest.raises(UsageError, match="begins with a comment; a header with a column uri"):
        of_rows("# of the north gate\nuri;camera\na.jpg;1\n")


def test_a_relative_path_of_windows_reads_as_one_and_a_drive_is_refused(tmp_path: Path) -> None:
    entries, _, _ = listing(write(tmp_path / "l.csv", "uri\nimgs\\a.jpg\n.\\imgs\\..\\b.jpg\n"))
    assert [entry.relative for entry in entries] == ["imgs/a.jpg", "b.jpg"]
    for text in ("C:\\imgs\\a.jpg", "d:/a.jpg", "\\\\nvr\\share\\a.jpg", "\\\\?\\C:\\a.jpg"):
        with pytest.raises(UsageError, match=r"line 2: .* is a path of a Windows machine"):
            listing(write(tmp_path / "l.csv", f"uri\n{text}\n"))


@pytest.mark.parametrize("header", ["uri,uri", "uri,URI", "uri,camera,Camera"])
def test_a_column_that_is_there_twice_is_refused(header: str) -> None:
    with pytest.raises(UsageError, match=r"has 2 columns .*; keep one"):
        of_rows(f"{header}\n{'a.jpg,' * header.count(',')}a.jpg\n")
