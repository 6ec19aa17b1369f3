"""S3 Inventories, as a bucket holds them and copied with their data."""

import csv
import gzip
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskbatch.archives.entries import Entry
from maskbatch.archives.inventory import list_inventory
from maskbatch.errors import UsageError
from tests.maskbatch.containers import Files, manifest_at
from tests.maskbatch.samples import write_files

KEYS = [
    "cam 07/a+b.jpg",
    "cam/日本.JPG",
    "cam/100%41.jpg",
    "x::y/c.png",
    "cam/",
    "notes.txt",
    "none",
    "a\nb.jpg",
    " .jpg",
]
PLANNED = ["s3://src/cam 07/a+b.jpg", "s3://src/cam/日本.JPG", "s3://src/cam/100%2541.jpg", "s3://src/x%3A%3Ay/c.png",
           "s3://src/a\nb.jpg", "s3://src/ .jpg", "s3://src/old/../n.jpg"]  # fmt: skip
HEAD = "inv/src/daily"


def inventory(kind: str, destination: str = "arn:aws:s3:::dest") -> Files:
    """A real inventory's files, in `dest`, as S3 writes them."""
    rows = [(key, "true", "false") for key in [*KEYS, "old/../n.jpg"]]
    rows += [("old.jpg", "false", "false"), ("gone.jpg", "true", "true")]
    schema = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"
    sink = io.BytesIO()
    if kind == "CSV":
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
        for key, latest, deleted in rows:
            size = ["123", "2026-10-01T00:00:00.000Z", "abc", "STANDARD"]
            writer.writerow(["src", quote_plus(key, safe="/"), "v", latest, deleted, *size])
        sink.write(gzip.compress(text.getvalue().encode()))
    else:
        schema = "message s3.inventory { required binary bucket (UTF8); required binary key (UTF8); }"
        columns = {
            "bucket": ["src"] * len(rows),
            "key": [key for key, _, _ in rows],
            "is_latest": [latest == "true" for _, latest, _ in rows],
            "is_delete_marker": [deleted == "true" for _, _, deleted in rows],
            "size": [123] * len(rows),
            "e_tag": ["abc"] * len(rows),
            "storage_class": ["STANDARD"] * len(rows),
        }
        pq.write_table(pa.table(columns), sink)
    name = "1.csv.gz" if kind == "CSV" else "1.parquet"
    manifest = {
        "sourceBucket": "src", "destinationBucket": destination, "version": "2016-11-30", "creationTimestamp": "1514944800000",
        "fileFormat": kind, "fileSchema": schema, "files": [{"key": f"{HEAD}/data/{name}", "size": 1, "MD5checksum": "x"}],
    }  # fmt: skip
    top = f"s3://dest/{HEAD}"
    return Files(
        {
            f"{top}/2026-10-01T01-00Z/manifest.json": json.dumps(manifest).encode(),
            f"{top}/data/{name}": sink.getvalue(),
        }
    )


def listing(uri: str | Path, *args: Any, **options: Any) -> tuple[list[Entry], Counter[str], Counter[str]]:
    manifest = manifest_at(uri, *args, **options)
    return list(list_inventory(manifest)), manifest.skipped, manifest.notes


@pytest.mark.parametrize("destination", ["arn:aws:s3:::dest", "arn:aws-cn:s3:::dest", "dest"])
@pytest.mark.parametrize("kind", ["CSV", "Parquet"])
def test_an_s3_inventory_lists_the_images_of_its_bucket(kind: str, destination: str) -> None:
    uri = f"s3://dest/{HEAD}/2026-10-01T01-00Z/manifest.json"
    keep = "StorageClass" if kind == "CSV" else "storage_class"
    entries, skipped, _ = listing(uri, ["s3://src"], keep, inventory(kind, destination))
    assert [entry.uri for entry in entries] == PLANNED
    assert {(e.num_bytes, e.version, e.kept) for e in entries} == {(123, "abc", "STANDARD")}
    assert [entry.relative for entry in entries] == [uri.removeprefix("s3://src/") for uri in PLANNED]
    assert [entry.uri for entry in entries if entry.status == "unsupported"] == PLANNED[-1:]
    assert skipped == {
        "folder marker": 1,
        ".txt": 1,
        "no extension": 1,
        "not the latest version": 1,
        "delete marker": 1,
    }
    with pytest.raises(UsageError, match=r"data/1.* (line|row) 1: s3://src/.* --allow-prefix s3://src/$"):
        listing(uri, files=inventory(kind))


@pytest.mark.parametrize("where", ["data", "../data", "."])
def test_an_inventory_may_have_been_copied_with_its_data(tmp_path: Path, where: str) -> None:
    for uri, content in inventory("CSV").items():
        name = uri.rsplit("/", 1)[-1]
        write_files(tmp_path / "day" / ("" if name == "manifest.json" else where), {name: content})
    entries, _, _ = listing(tmp_path / "day" / "manifest.json", ["s3://src"])
    assert [entry.uri for entry in entries] == PLANNED


def test_a_copied_inventory_reads_its_bucket_only_where_that_is_allowed(tmp_path: Path) -> None:
    files = inventory("CSV")
    copied = files.pop(f"s3://dest/{HEAD}/2026-10-01T01-00Z/manifest.json")
    path = write_files(tmp_path, {"manifest.json": copied}) / "manifest.json"
    with pytest.raises(
        UsageError, match=r"copy data/ beside the manifest, or add --allow-prefix s3://dest/$"
    ):
        listing(path, ["s3://src"], files=files)
    assert len(listing(path, ["s3://src", "s3://dest/inv"], files=files)[0]) == len(PLANNED)


def test_an_orc_inventory_is_refused_with_what_to_do(tmp_path: Path) -> None:
    said = {"fileFormat": "ORC", "destinationBucket": "d", "fileSchema": "struct<>", "files": []}
    with pytest.raises(UsageError, match="ORC files; configure the inventory as CSV or Parquet"):
        listing(write_files(tmp_path, {"manifest.json": json.dumps(said).encode()}) / "manifest.json")


@pytest.mark.parametrize("content", ["{}", "[" * 100_000])
def test_what_is_no_inventory_is_refused_in_a_sentence(tmp_path: Path, content: str) -> None:
    with pytest.raises(UsageError, match=f"^manifest file://{tmp_path}/manifest.json is no S3 Inventory"):
        listing(write_files(tmp_path, {"manifest.json": content.encode()}) / "manifest.json")
