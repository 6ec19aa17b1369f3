"""Labelled pictures from anywhere as one table, and their pixels, decoded as scoring does.

A source is a folder with a folder for each class (or `train/CLASS/`, `val/CLASS/`), a CSV or Parquet
manifest of `uri,label[,split,cluster,source,suspect]`, or a folder that holds manifest.csv, on any fsspec
URL. `corrections` adds what people corrected in runs.
"""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskbatch.archives.entries import IMAGE_EXTENSIONS
from maskbatch.config import PILLOW_LIMIT_PIXELS
from maskbatch.decode.images import Picture, decode_batch, decode_image
from maskbatch.errors import UsageError
from maskbatch.model.card import Preset
from maskbatch.progress import say, step
from maskbatch.score.scene import Frame, cut_face, frame_shape
from training.reader import READ_ERRORS, open_reader

NAMES = ("uri", "label", "split", "cluster", "source", "suspect", "sha256", "run", "box", "detect_px")
COLUMNS = dict.fromkeys(NAMES, "") | {"suspect": "0"}
"""The columns of every table of pictures, with their defaults.

`box`: x0, y0, x1, y1 of a face in pixels of the upright picture, '' for all of it; `detect_px`: what the
picture was reduced to when that face was found.
"""
CORRECTIONS = "corrections"
"""The `source` of what --corrections adds."""
SPLITS = {
    "train": "train", "fit": "train", "slice": "slice", "extra": "extra", "train_extra": "extra",
    "val": "val", "valid": "val", "validation": "val", "test": "val",
}  # fmt: skip
Pictures = tuple[NDArray[np.uint8], pd.DataFrame]
"""Pixels (M, H, W, 3) uint8 RGB, and the rows whose `pixel` points into them."""
DECODED = ("status", "error", "width", "height", "brightness", "sharpness", "dhash")
THREADS = 16
CHUNK = 32


def load(sources: Sequence[str]) -> pd.DataFrame:
    """List the pictures of all sources: COLUMNS, all strings. Raises UsageError."""
    table = pd.concat([_load_source(source) for source in sources], ignore_index=True)
    if repeated := int(table[["uri", "box"]].duplicated().sum()):
        say(f"{repeated:,} pictures are listed twice: their last label counts, and their first split")
        pictures = table.replace("", None).groupby(["uri", "box"], sort=False, dropna=False)
        first = pictures.first()[["split", "cluster", "source"]]
        table = pictures.last().assign(**first).reset_index().fillna("")[list(COLUMNS)]
    return table


def _load_source(source: str) -> pd.DataFrame:
    try:
        files, path = fsspec.core.url_to_fs(source)
        if files.isfile(path):
            table = _read_manifest(source)
        elif files.isfile(f"{path}/run.json"):
            remedy = "give --corrections RUN to learn what people corrected in it"
            raise UsageError(f"training data {source}: a run is not training data; {remedy}")
        elif files.isfile(f"{path}/manifest.csv"):
            table = _read_manifest(f"{source.rstrip('/')}/manifest.csv")
        elif files.exists(path):
            table = _list_classes(source, files, path)
        else:
            raise UsageError(f"training data {source}: no such file or folder; check --data")
    except (*READ_ERRORS, pd.errors.ParserWarning) as error:
        raise UsageError(f"training data {source}: cannot be read ({error}); check --data") from error
    table = pd.DataFrame({name: table.get(name, default) for name, default in COLUMNS.items()}).astype(str)
    plain = table["uri"].str.removeprefix("file://")
    # The plan of a run knows an image by its whole uri.
    table["uri"] = plain.where(table["run"] == "", table["uri"])
    return table


def _list_classes(source: str, files: Any, path: str) -> pd.DataFrame:
    """List `CLASS/*` and `SPLIT/CLASS/*`, at any depth below the class."""
    rows = []
    for file in sorted(_find_files(files, path)):
        parts = PurePosixPath(file).relative_to(path).parts
        if PurePosixPath(file).suffix.lower() in IMAGE_EXTENSIONS and len(parts) > 1:
            split = SPLITS.get(parts[0].lower(), "") if len(parts) > 2 else ""
            label = parts[1] if split else parts[0]
            rows.append({"uri": files.unstrip_protocol(file), "label": label, "split": split})
    if not rows:
        message = "no picture in the folder of a class; give a folder with one for each class, or a manifest"
        raise UsageError(f"training data {source}: {message}")
    return pd.DataFrame(rows)


def _find_files(files: Any, path: str) -> list[str]:
    """List every file below `path`, following links to local folders."""
    if "file" not in files.protocol:
        return list(files.find(path))
    paths = [str(Path(folder, name)) for folder, _, names in _walk(path) for name in names]
    readable = [file for file in paths if not re.search("[\udc80-\udcff]", file)]
    if num := len(paths) - len(readable):
        say(f"{num:,} files are left out: their names are not UTF-8")
    return readable


def _walk(path: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk through links, each real folder once and none above `path`."""
    seen: set[str] = set()
    for folder, below, names in os.walk(path, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen or os.path.realpath(path).startswith(real + os.sep):
            below.clear()
        else:
            seen.add(real)
            yield folder, below, names


def _read_manifest(source: str) -> pd.DataFrame:
    """Read a CSV or Parquet table. Relative paths are relative to the folder of the table."""
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "index_col": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # of a row longer than the header
        table = pd.read_parquet(source) if source.endswith(".parquet") else pd.read_csv(source, **options)
    table = table.rename(columns={"file": "uri"} if "uri" not in table else {})
    table = table.astype(object).where(table.notna(), "").astype(str)
    if missing := sorted({"uri", "label"} - {*table}):
        message = f"no column {missing[0]!r}; it has {', '.join(map(str, table.columns))}"
        raise UsageError(f"training data {source}: {message}")
    if "split" not in table:
        table["split"] = [SPLITS.get(str(uri).partition("/")[0].lower(), "") for uri in table["uri"]]
    else:
        table["split"] = [SPLITS.get(str(split).lower(), str(split)) for split in table["split"]]
    base = (source if "://" in source else str(Path(source).resolve())).rpartition("/")[0]
    absolute = table["uri"].str.contains("://", regex=False) | table["uri"].str.startswith("/")
    table["uri"] = table["uri"].where(absolute, base + "/" + table["uri"])
    if "suspect" in table:
        table["suspect"] = table["suspect"].astype(str).str.lower().isin(("1", "1.0", "true")).astype(int)
    return table


def select(
    table: pd.DataFrame, classes: Sequence[str], drop: Sequence[str], leave_out: Sequence[str] = ()
) -> pd.DataFrame:
    """Select the rows whose label is one of `classes`; `target` is its index there. Raises UsageError."""
    unknown = table[~table["label"].isin([*classes, *drop])]
    if len(unknown):
        first = unknown.iloc[0]
        raise UsageError(
            f"{len(unknown):,} pictures have a label that is neither in classes ({', '.join(classes)}) nor "
            f"in drop, first {first['label']!r} of {first['uri']}; add it to one of them in the recipe"
        )
    table = table[table["label"].isin(classes) & ~table["source"].isin(leave_out)].reset_index(drop=True)
    present = [name for name in classes if (table["label"] == name).any()]
    if len(present) < 2:
        problem = f"all pictures are {present[0]!r}" if present else "no picture is left"
        raise UsageError(f"{problem}; give pictures of at least 2 of {', '.join(classes)}")
    if absent := [name for name in classes if name not in present]:
        say(f"no picture is labelled {', '.join(absent)}: the network cannot learn that")
    table["target"] = table["label"].map({name: k for k, name in enumerate(classes)}).astype(int)
    return table


def decode(table: pd.DataFrame, preset: Preset, name: str, cache: Path | None = None) -> Pictures:
    """Decode pictures as scoring does; returns their pixels and the rows of those that can be decoded.

    The rows gain width, height, brightness, sharpness and dhash. With `cache` the pixels lie in that file
    instead of memory. Raises UsageError where no picture can be read.
    """
    shape = (len(table), *preset.input_size, 3)
    pixels = np.memmap(cache, np.uint8, "w+", shape=shape) if cache else np.zeros(shape, np.uint8)
    if cache and hasattr(os, "posix_fallocate"):  # without it a full disk crashes the process later
        with cache.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, pixels.nbytes)
    rows = list(table[["uri", "sha256", "run"]].itertuples(index=False, name=None))
    places = list(table[["box", "detect_px"]].itertuples(index=False, name=None))
    read = open_reader(table)

    def decode_chunk(start: int) -> dict[str, list[object]]:
        part = rows[start : start + CHUNK]
        decoded = decode_batch(
            read(part),
            len(part),
            preset,
            PILLOW_LIMIT_PIXELS,
            lambda i, data, _, max_pixels: _decode_one(data, preset, max_pixels, *places[start + i]),
        )
        pixels[start : start + len(part)] = decoded.images_NHWC
        return decoded.columns

    columns: dict[str, list[object]] = {name: [] for name in DECODED}
    with step(name, len(rows)) as progress, ThreadPoolExecutor(THREADS) as pool:
        for chunk in pool.map(decode_chunk, range(0, len(rows), CHUNK)):
            for key, values in columns.items():
                values += chunk[key]
            progress.advance(len(chunk["status"]))
    table = table.reset_index(drop=True).assign(**columns, pixel=range(len(table)))
    bad = table[table["status"] != "ok"]
    if len(bad):
        first = bad.iloc[0]
        say(f"{len(bad):,} unreadable pictures are left out, first {first['uri']}: {first['error']}")
        if len(bad) == len(table):
            raise UsageError(f"none of {len(table):,} pictures can be read; the first: {first['error']}")
    return pixels, table.drop(index=bad.index, columns=["status", "error"]).reset_index(drop=True)


def _decode_one(data: bytes, preset: Preset, max_pixels: int, box: str, detect_px: str) -> Picture:
    """Decode a picture, or a face in it as scoring cuts it. Raises ImageError."""
    if not box:
        return decode_image(data, preset, max_pixels)
    picture = decode_image(data, frame_shape(int(detect_px)), max_pixels)
    frame = Frame(picture.image, (picture.width, picture.height))
    return replace(picture, image=cut_face(frame, [float(side) for side in box.split()], preset))
