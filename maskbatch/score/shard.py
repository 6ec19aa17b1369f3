"""The images of one shard, without Ray."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import pyarrow as pa

from maskbatch.decode.source import Encoded
from maskbatch.errors import RunFailedError
from maskbatch.plan.table import read_plan
from maskbatch.runs.work import Work
from maskbatch.score.read import READ_COLUMNS, read_images

Item = TypeVar("Item")


class Timed(Iterator[Item]):
    """Images as they come, and how many seconds the caller waited for them."""

    def __init__(self, images: Iterator[Item]) -> None:
        self._images = images
        self.seconds = 0.0

    def __next__(self) -> Item:
        began = perf_counter()
        try:
            return next(self._images)
        finally:
            self.seconds += perf_counter() - began


def read_shard(work: Work, shard: int) -> tuple[pa.Table, Timed[Encoded]]:
    """A shard's plan rows, and its images in the same order: the first is read, others are under way."""
    began = perf_counter()
    ids = work.ids(shard)
    planned = read_plan(work.run.plan, ids.start, ids.stop)
    images = read_images(planned.select(READ_COLUMNS).to_pylist(), work.access, work.config.max_bytes)
    encoded = Timed(chain([next(images)], images))
    encoded.seconds = perf_counter() - began
    return planned, encoded


def refuse_missing_archive(work: Work, statuses: Sequence[object]) -> None:
    """Raises RunFailedError where images are missing, and an archive is, like a share that is not mounted."""
    if "missing" not in statuses:
        return
    for root in (Path(archive) for archive in work.archives if not re.search(r"://|[*?\[{]", archive)):
        if not root.exists() or (root.is_dir() and next(root.iterdir(), None) is None):
            raise RunFailedError(f"archive {root} is gone; mount it again, then run the same command")
