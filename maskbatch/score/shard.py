"""The work on one shard, without Ray: plan rows to encoded images, and these to pixels."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from time import perf_counter

import pyarrow as pa

from maskbatch.errors import RunFailedError
from maskbatch.model.card import Card
from maskbatch.plan.table import read_plan
from maskbatch.runs.work import Work
from maskbatch.score.decode import Decoded, decode_batch
from maskbatch.score.read import READ_COLUMNS, Encoded, read_images
from maskbatch.score.watch import Watch


class TimedReader(Iterator[Encoded]):
    """Images as they come, and how many seconds the caller waited for them."""

    def __init__(self, images: Iterator[Encoded]) -> None:
        self._images = images
        self.seconds = 0.0

    def __next__(self) -> Encoded:
        began = perf_counter()
        try:
            return next(self._images)
        finally:
            self.seconds += perf_counter() - began


def read_shard(work: Work, shard: int) -> tuple[pa.Table, TimedReader]:
    """A shard's plan rows, and its images in the same order: the first is read, others are under way."""
    began = perf_counter()
    ids = work.ids(shard)
    planned = read_plan(work.run.plan, ids.start, ids.stop)
    images = read_images(planned.select(READ_COLUMNS).to_pylist(), work.access, work.config.max_bytes)
    encoded = TimedReader(chain([next(images)], images))
    encoded.seconds = perf_counter() - began
    return planned, encoded


def decode_shard(
    work: Work, card: Card, encoded: Iterator[Encoded], num_images: int, watch: Watch | None = None
) -> Decoded:
    """Decode the images of a shard, in order. Raises RunFailedError where the whole archive is gone."""
    decode = watch.decode if watch else None
    decoded = decode_batch(encoded, num_images, card.preset, work.config.max_pixels, decode)
    if "missing" in decoded.columns["status"]:
        _refuse_missing_archive(work)
    return decoded


def _refuse_missing_archive(work: Work) -> None:
    """Raises RunFailedError where an archive is not there at all, like a share that is not mounted."""
    for root in (Path(archive) for archive in work.archives if not re.search(r"://|[*?\[{]", archive)):
        if not root.exists() or (root.is_dir() and next(root.iterdir(), None) is None):
            raise RunFailedError(f"archive {root} is gone; mount it again, then run the same command")
