"""Read the pictures of a queue ahead of time."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from maskbatch.errors import MaskbatchError
from maskbatch.review.pictures import Preview, read_pictures
from maskbatch.runs.committed import CommittedRun
from maskbatch.stores.files import explain, store_errors
from maskbatch.stores.options import StorageOptions

SIDE_PX = 1024
NUM_KEPT = 64
"""Some 10 MB of JPEG."""
PATIENCE_S = 15.0
LATE = f"it did not arrive within {PATIENCE_S:.0f} seconds"


class Pictures:
    """The picture of each row of a queue, by position; keeps the latest ones."""

    def __init__(self, run: CommittedRun, rows: Sequence[Mapping[str, Any]], options: StorageOptions) -> None:
        self._run, self._rows, self._options = run, rows, options
        self._futures: OrderedDict[int, Future[Preview]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="pictures")

    def prefetch(self, positions: Iterable[int]) -> None:
        """Start to read these."""
        for position in positions:
            self._submit(position)

    def get(self, position: int) -> Preview:
        """The picture, or why there is none; after a failure the next call tries again."""
        try:
            picture = self._submit(position).result(PATIENCE_S)
        except TimeoutError:
            return Preview(None, LATE)
        if picture.jpeg is None:
            with self._lock:
                self._futures.pop(position, None)
        return picture

    def _submit(self, position: int) -> Future[Preview]:
        with self._lock:
            if position not in self._futures:
                self._futures[position] = self._pool.submit(self._read, position)
            self._futures.move_to_end(position)
            while len(self._futures) > NUM_KEPT:
                self._futures.popitem(last=False)
            return self._futures[position]

    def _read(self, position: int) -> Preview:
        try:
            return next(read_pictures(self._run, [self._rows[position]], self._options, SIDE_PX))
        except MaskbatchError as error:
            return Preview(None, str(error))
        except store_errors() as error:
            return Preview(None, explain(error))
