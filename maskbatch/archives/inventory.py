"""S3 Inventories: a manifest.json names data files, which list everything in a bucket.

Source: docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
"""

import json
import os
import posixpath
import shlex
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import unquote_plus

from maskbatch.archives.entries import Entry, is_image
from maskbatch.archives.manifest import Manifest, explain_damage, object_place
from maskbatch.archives.rows import Rows, read_rows
from maskbatch.stores.uris import Place, encode_name, locate, redact

MAX_INVENTORY_BYTES = 1 << 24
"""Of manifest.json itself: 200 bytes for each data file."""


def list_inventory(manifest: Manifest) -> Iterator[Entry]:
    """Every image of an inventory, in its order. Raises UsageError naming the row that may not be read."""
    with explain_damage(manifest.uri), manifest.open_file(manifest.uri) as opened:
        kind, destination, header, keys = _parse(opened.read(MAX_INVENTORY_BYTES + 1))
        for key in keys:
            uri, file = _open_data(manifest, object_place(destination, key))
            with explain_damage(uri), file:
                rows = read_rows(file, f".{kind}", manifest.keep_column, header=header)
                yield from manifest.entries(_image_rows(rows, kind, manifest))


def _parse(text: bytes) -> tuple[str, str, list[str], list[str]]:
    """From manifest.json: the kind of the data files, their bucket, the header that they lack, their keys."""
    try:
        values = json.loads(text)
        kind = str(values["fileFormat"]).lower()
        bucket = str(values["destinationBucket"]).rpartition(":")[2]  # arn:aws:s3:::name, or the name
        header = [name.strip() for name in str(values["fileSchema"]).split(",")]
        keys = [str(file["key"]) for file in values["files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = "is no S3 Inventory; destinationBucket, fileFormat, fileSchema and files expected in it"
        raise ValueError(message) from error
    if kind not in ("csv", "parquet"):
        raise ValueError(f"lists {redact(kind.upper())} files; configure the inventory as CSV or Parquet")
    return kind, bucket, header, keys


def _open_data(manifest: Manifest, stored: Place) -> tuple[str, BinaryIO]:
    """A data file: in its bucket, or near a manifest that was copied with its data."""
    name, folder = posixpath.basename(stored.path), manifest.place.folder
    places = [locate(f"{way}{name}", folder) for way in ("data/", "../data/", "./")]
    if folder.root == stored.root:
        places.insert(0, stored)
    elif any(bound.covers(stored) for bound in manifest.bounds):
        places.append(stored)
    for place in places:
        try:
            return place.uri, manifest.open_file(place.fetch or place.uri)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
    message = f"its data file {redact(stored.uri)} is not there; copy data/ beside the manifest"
    raise ValueError(f"{message}, or add --allow-prefix {shlex.quote(stored.root)}/")


def _image_rows(rows: Rows, kind: str, manifest: Manifest) -> Rows:
    """Rows of images, and of no object at all. CSV, unlike Parquet, has URL-encoded keys, a space as `+`."""
    for where, row in rows:
        key = row["key"] = unquote_plus(row["key"] or "") if kind == "csv" else row["key"] or ""
        hidden = manifest.rules.find_hidden(encode_name(key))
        if hidden and not key.endswith("/"):
            manifest.hidden[hidden] += 1
        elif key and not key.endswith("/") and not is_image(key):
            manifest.skipped[os.path.splitext(key)[1].lower() or "no extension"] += 1
        else:
            yield where, row
