"""Labelled pictures from anywhere, as one table, and their pixels by scoring's own decode.

A source is a folder with a folder for each class (or `train/CLASS/`, `val/CLASS/`), a CSV or Parquet
manifest of `uri,label[,split,cluster,source,suspect]`, or a folder that holds a manifest.csv, each on any
fsspec URL. What people corrected in runs comes by `corrected`.
"""

import math
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskbatch.archives.entries import IMAGE_EXTENSIONS
from maskbatch.config import PILLOW_LIMIT_PIXELS
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Preset
from maskbatch.progress import say, step
from maskbatch.score.decode import decode_batch
from training.reading import READING, reader

COLUMNS = {
    "uri": "", "label": "", "split": "", "cluster": "", "source": "", "suspect": "0", "sha256": "", "run": "",
}  # fmt: skip
"""Of every table of pictures, with what stands where a source says nothing."""
CORRECTIONS = "corrections"
"""The source of what --corrections gives."""
SPLITS = {
    "train": "train", "fit": "train", "slice": "slice", "extra": "extra", "train_extra": "extra",
    "val": "val", "valid": "val", "validation": "val", "test": "val",
}  # fmt: skip
Pictures = tuple[NDArray[np.uint8], pd.DataFrame]
"""Pixels (M, H, W, 3) uint8 RGB, and the rows whose `pixel` points into them."""
THREADS = 16
CHUNK = 32


def load(sources: Sequence[str]) -> pd.DataFrame:
    """The pictures of all sources: COLUMNS, every one a string. Raises UsageError."""
    tables = [_load(source) for source in sources]
    table = pd.concat(tables, ignore_index=True)
    repeated = int(table["uri"].duplicated().sum())
    if repeated:
        say(
            f"{repeated:,} pictures are listed twice: the last label counts, with the split that either names"
        )
        told = table.replace("", None).groupby("uri", sort=False)
        last, first = told.last(), told.first()
        keep = ["split", "cluster", "source"]
        table = last.assign(**first[keep]).reset_index().fillna("")[list(COLUMNS)]
    return table


def _load(source: str) -> pd.DataFrame:
    try:
        files, path = fsspec.core.url_to_fs(source)
        if files.isfile(path):
            table = _manifest(source)
        elif files.isfile(f"{path}/run.json"):
            message = "a run is no training data; what people corrected in it is taken by --corrections"
            raise UsageError(f"training data {source}: {message}")
        elif files.isfile(f"{path}/manifest.csv"):
            table = _manifest(f"{source.rstrip('/')}/manifest.csv")
        elif files.exists(path):
            table = _folder(source, files, path)
        else:
            raise UsageError(f"training data {source}: no such file or folder; check --data")
    except (*READING, pd.errors.ParserWarning) as error:
        raise UsageError(f"training data {source}: cannot be read ({error}); check --data") from error
    for name, default in COLUMNS.items():
        if name not in table:
            table[name] = default
    table = table[list(COLUMNS)].astype(str)
    plain = table["uri"].str.removeprefix("file://")
    table["uri"] = plain.where(
        table["run"] == "", table["uri"]
    )  # a run's plan knows an image by its whole uri
    return table


def _folder(source: str, files: Any, path: str) -> pd.DataFrame:
    """`CLASS/*` or `SPLIT/CLASS/*`, at any depth below the class."""
    rows = []
    for file in sorted(_find(files, path)):
        parts = PurePosixPath(file).relative_to(path).parts
        if PurePosixPath(file).suffix.lower() in IMAGE_EXTENSIONS and len(parts) > 1:
            split = SPLITS.get(parts[0].lower(), "") if len(parts) > 2 else ""
            label = parts[1] if split else parts[0]
            rows.append({"uri": files.unstrip_protocol(file), "label": label, "split": split})
    if not rows:
        message = "no picture in a class's folder; give a folder with one for each class, or a manifest"
        raise UsageError(f"training data {source}: {message}")
    return pd.DataFrame(rows)


def _find(files: Any, path: str) -> list[str]:
    """Every file below `path`; a local folder may be a link."""
    if "file" in files.protocol:
        walked = _walk(path)
        found = [str(Path(folder, name)) for folder, _, names in walked for name in names]
        told = [file for file in found if file.isascii() or not re.search("[\udc80-\udcff]", file)]
        if len(told) < len(found):
            say(f"{len(found) - len(told):,} files are left out: their names are not UTF-8")
        return told
    return list(files.find(path))


def _walk(path: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """os.walk through links, each real folder once."""
    seen: set[str] = set()
    for folder, below, names in os.walk(path, followlinks=True):
        if os.path.realpath(folder) in seen or os.path.realpath(path).startswith(
            os.path.realpath(folder) + os.sep
        ):
            below.clear()
            continue
        seen.add(os.path.realpath(folder))
        yield folder, below, names


def _manifest(source: str) -> pd.DataFrame:
    """A CSV or Parquet table; a uri that is no URL and not absolute is relative to the table's folder."""
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "index_col": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
        table = pd.read_parquet(source) if source.endswith(".parquet") else pd.read_csv(source, **options)
    table = table.rename(columns={"file": "uri"} if "uri" not in table else {})
    table = table.astype(object).where(table.notna(), "").astype(str)
    _require(table, {"uri", "label"}, source)
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


def _require(table: pd.DataFrame, names: set[str], source: str) -> None:
    if missing := sorted(names - set(table.columns)):
        message = f"no column {missing[0]!r}; it has {', '.join(map(str, table.columns))}"
        raise UsageError(f"training data {source}: {message}")


def select(
    table: pd.DataFrame, classes: Sequence[str], drop: Sequence[str], leave_out: Sequence[str] = ()
) -> pd.DataFrame:
    """The rows whose label is one of `classes`, with their index in `target`. Raises UsageError."""
    unknown = table[~table["label"].isin([*classes, *drop])]
    if len(unknown):
        first = unknown.iloc[0]
        message = (
            f"{len(unknown):,} pictures have a label that is neither in classes ({', '.join(classes)}) nor "
            f"in drop, first {first['label']!r} of {first['uri']}; add it to one of them in the recipe"
        )
        raise UsageError(message)
    table = table[table["label"].isin(classes) & ~table["source"].isin(leave_out)].reset_index(drop=True)
    present = [name for name in classes if (table["label"] == name).any()]
    if len(present) < 2:
        held = f"all pictures are {present[0]!r}" if present else "no picture is left"
        raise UsageError(f"{held}; pictures of at least 2 of {', '.join(classes)} are needed")
    if absent := [name for name in classes if name not in present]:
        say(f"no picture is labelled {', '.join(absent)}: nothing is learned or measured of it")
    table["target"] = table["label"].map({name: k for k, name in enumerate(classes)}).astype(int)
    return table


def decode(table: pd.DataFrame, preset: Preset, name: str, cache: Path | None = None) -> Pictures:
    """The pictures as scoring would see them, and the rows of those that can be decoded.

    The table gains width, height, brightness
    and dhash. What cannot be decoded is said and left out. With `cache` the pixels lie in that file
    and not in memory.
    """
    shape = (len(table), *preset.input_size, 3)
    pixels: NDArray[np.uint8]
    if cache:
        with cache.open("wb") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk shows now, and not as a crash later
                os.posix_fallocate(file.fileno(), 0, math.prod(shape))
            file.truncate(math.prod(shape))
        pixels = np.memmap(cache, np.uint8, "r+", shape=shape)
    else:
        pixels = np.zeros(shape, np.uint8)
    rows = list(table[["uri", "sha256", "run"]].itertuples(index=False, name=None))
    read, chunks = reader(table), range(0, len(rows), CHUNK)

    def work(start: int) -> dict[str, list[object]]:
        part = rows[start : start + CHUNK]
        decoded = decode_batch(read(part), len(part), preset, PILLOW_LIMIT_PIXELS)
        pixels[start : start + len(part)] = decoded.images_NHWC
        return decoded.columns

    columns: dict[str, list[object]] = {
        key: [] for key in ("status", "error", "width", "height", "brightness", "sharpness", "dhash")
    }
    with step(name, len(rows)) as progress, ThreadPoolExecutor(THREADS) as pool:
        for start, found in zip(chunks, pool.map(work, chunks), strict=True):
            for key, values in columns.items():
                values += found[key]
            progress.advance(len(rows[start : start + CHUNK]))
    whole = table.reset_index(drop=True).assign(**columns, pixel=range(len(table)))
    bad = whole[whole["status"] != "ok"]
    if len(bad):
        first = bad.iloc[0]
        say(
            f"{len(bad):,} pictures cannot be used, first {first['uri']}: {first['error']}; they are left out"
        )
    if len(bad) == len(whole):
        raise UsageError(f"none of {len(whole):,} pictures can be read; the first: {bad.iloc[0]['error']}")
    good = whole[whole["status"] == "ok"].reset_index(drop=True)
    return pixels, good.drop(columns=["status", "error"])
