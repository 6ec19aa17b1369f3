"""One shard's work as functions without Ray: plan rows to pixels, pixels and probabilities to scores rows."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from maskbatch import schema
from maskbatch.archives.manifest import is_manifest
from maskbatch.checkpoint import Card
from maskbatch.clock import Clock
from maskbatch.config import ScoreConfig
from maskbatch.decode import Decoded, decode_batch
from maskbatch.errors import RunFailedError
from maskbatch.plan.table import read_plan
from maskbatch.read import READ_COLUMNS, Encoded, read_images
from maskbatch.runs.directory import RunDir
from maskbatch.stores.access import Access
from maskbatch.stores.files import locate_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What every worker of a run must know; small, and sent once to each."""

    run_id: str
    """Of this run alone: what another one left in staging is not taken for its own."""
    out: str
    archives: tuple[str, ...]
    checkpoint: str
    digest: str
    """sha256 of the checkpoint that the run began with."""
    config: ScoreConfig
    clock: Clock
    num_images: int
    """Images to score; those carried over from earlier runs come after them in the plan."""
    shard_size: int
    access: Access = field(default_factory=Access)
    keep_column: str | None = None
    num_carried: int = 0

    @property
    def run(self) -> RunDir:
        return RunDir(locate_folder(self.out, self.access.options))

    @property
    def remote(self) -> bool:
        """Whether reading waits for a network."""
        return any("://" in archive or is_manifest(archive) for archive in self.archives)

    @property
    def num_planned(self) -> int:
        """Images of the run: those to score, then those carried over."""
        return self.num_images + self.num_carried

    @property
    def num_shards(self) -> int:
        return -(-self.num_images // self.shard_size)

    def ids(self, shard: int) -> range:
        """The ids of a shard, consecutive."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_images))


def shard_size(num_images: int, input_size: tuple[int, int]) -> int:
    """Rows of a shard: about 10,000 shards of 64 to 1,024 rows, fewer where pixels would pass 96 MB.

    A multiple of 32, the default batch, where it is that large.
    """
    rows = min(max(64, num_images // 10_000), 1024)
    rows = max(1, min(rows, 96 * 2**20 // (input_size[0] * input_size[1] * 3)))
    return rows // 32 * 32 or rows


class Waited(Iterator[Encoded]):
    """Images as they come, and how long was waited for them."""

    def __init__(self, images: Iterator[Encoded]) -> None:
        self._images = images
        self.seconds = 0.0

    def __next__(self) -> Encoded:
        began = perf_counter()
        try:
            return next(self._images)
        finally:
            self.seconds += perf_counter() - began


def read_shard(work: Work, shard: int) -> tuple[pa.Table, Waited]:
    """A shard's plan rows, and its images in the same order, the first of them read and others under way."""
    began = perf_counter()
    ids = work.ids(shard)
    planned = read_plan(work.run.plan, ids.start, ids.stop)
    images = read_images(planned.select(READ_COLUMNS).to_pylist(), work.access, work.config.max_bytes)
    encoded = Waited(chain([next(images)], images))
    encoded.seconds = perf_counter() - began
    return planned, encoded


def decode_shard(work: Work, card: Card, encoded: Iterator[Encoded], num_images: int) -> Decoded:
    """Decode the images of a shard, in their order."""
    decoded = decode_batch(encoded, num_images, card.preset, work.config.max_pixels)
    if "missing" in decoded.columns["status"]:
        _refuse_a_vanished_archive(work)
    return decoded


def _refuse_a_vanished_archive(work: Work) -> None:
    """An unmounted share is not an archive of missing images. Raises RunFailedError."""
    for root in (Path(archive) for archive in work.archives if not re.search(r"://|[*?\[{]", archive)):
        if not root.exists() or (root.is_dir() and next(root.iterdir(), None) is None):
            raise RunFailedError(f"archive {root} is gone; mount it again, then run the same command")


def scores_rows(
    planned: pa.Table,
    decoded: Decoded,
    probs_NK: NDArray[np.float32],
    card: Card,
    clock: Clock,
    keep_column: str | None = None,
) -> pa.Table:
    """The scores rows of a shard, in the order of its plan rows.

    probs_NK: probabilities (N, K) of every image, whatever its status; those of images that are
    not ok are dropped here. Values that are not finite make the row a `score_error`.
    """
    columns: dict[str, Any] = {name: list(values) for name, values in decoded.columns.items()}
    ok = np.array([status == "ok" for status in columns["status"]], bool)
    broken = ok & ~np.isfinite(probs_NK).all(axis=1)
    for i in np.flatnonzero(broken):
        columns["status"][i] = "score_error"
        columns["error"][i] = "the model's output is not a finite number"
    ok &= ~broken
    best = probs_NK.argmax(axis=1)
    confidence = probs_NK.max(axis=1, initial=0)
    labels = np.array(card.classes, object)[best]
    values = {
        **planned_columns(planned, columns.pop("exif_time"), clock, keep_column),
        **columns,
        "num_bytes": [
            read if read is not None else listed
            for read, listed in zip(columns["num_bytes"], planned["num_bytes"].to_pylist(), strict=True)
        ],
        "region": np.zeros(planned.num_rows, np.int16),
        "box": pa.nulls(planned.num_rows, pa.list_(pa.float32(), 4)),
        "label": pa.array(labels, pa.string(), mask=~ok),
        **{f"prob_{n}": pa.array(probs_NK[:, k], mask=~ok) for k, n in enumerate(card.classes)},
        "confidence": pa.array(confidence, pa.float32(), mask=~ok),
        "needs_review": ok & (confidence < card.review_threshold),
    }
    target = schema.scores(card.classes, keep_column)
    return pa.table({field.name: _column(values[field.name], field.type) for field in target}, target)


def planned_columns(
    planned: pa.Table, exif_times: list[object], clock: Clock, keep_column: str | None
) -> dict[str, Any]:
    """What scores rows say by the plan: all but a time that only EXIF tells, and what was measured."""
    return {
        **{name: planned[name] for name in ("id", "uri", "site", "camera")},
        **_times(planned, exif_times, clock),
        **({keep_column: planned["kept"]} if keep_column else {}),
    }


def _column(value: Any, kind: pa.DataType) -> Any:
    return value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.array(value, kind)


def _times(planned: pa.Table, exif_times: list[object], clock: Clock) -> dict[str, list[Any]]:
    """captured_at, captured_local and time_source: the plan's time, else what EXIF said."""
    out: dict[str, list[Any]] = {"captured_at": [], "captured_local": [], "time_source": []}
    known = (planned[name].to_pylist() for name in ("captured_at", "time_source", "site"))
    for time, source, site, exif in zip(*known, exif_times, strict=True):
        if time is None and exif is not None:
            time = clock.to_utc(datetime.fromisoformat(str(exif)), site)
            source = "exif" if time else None
        out["captured_at"].append(time)
        out["captured_local"].append(clock.to_local(time, site))
        out["time_source"].append(source)
    return out
