"""Pictures of a queue's images, read before they are asked for."""

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
LATE = f"it has not come within {PATIENCE_S:.0f} seconds"


class Pictures:
    """The picture of each row of a queue, by position; the latest ones are kept."""

    def __init__(self, one: CommittedRun, rows: Sequence[Mapping[str, Any]], options: StorageOptions) -> None:
        self._one, self._rows, self._options = one, rows, options
        self._found: OrderedDict[int, Future[Preview]] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="pictures")

    def ahead(self, positions: Iterable[int]) -> None:
        """Begin to read these."""
        for position in positions:
            self._ask(position)

    def get(self, position: int) -> Preview:
        """The picture, or why there is none; that is looked for again when it is asked for again."""
        asked = self._ask(position)
        try:
            shown = asked.result(PATIENCE_S)
        except TimeoutError:
            return Preview(None, LATE)
        if shown.jpeg is None:
            with self._lock:
                self._found.pop(position, None)
        return shown

    def _ask(self, position: int) -> Future[Preview]:
        with self._lock:
            if position not in self._found:
                self._found[position] = self._pool.submit(self._read, position)
            self._found.move_to_end(position)
            while len(self._found) > NUM_KEPT:
                self._found.popitem(last=False)
            return self._found[position]

    def _read(self, position: int) -> Preview:
        try:
            return next(read_pictures(self._one, [self._rows[position]], self._options, SIDE_PX))
        except MaskbatchError as error:
            return Preview(None, str(error))
        except store_errors() as error:
            return Preview(None, explain(error))
