"""All judgements of the images of a queue, including those that other servers write meanwhile."""

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from maskbatch.review import corrections
from maskbatch.stores.files import Location

STATES = TO_JUDGE, SKIPPED, DISPUTED, JUDGED = ("to judge", "skipped", "disputed", "judged")
"""An image is disputed if its reviewers give it different labels."""


class Judgement(NamedTuple):
    """The last judgement of an image by one reviewer; label None: skipped, or undone."""

    label: str | None
    at: datetime


class Judgements:
    """The judgements of a queue's images, by position; new ones go to `folder`, `others` are only read."""

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], folder: Location, others: Sequence[Location] = ()
    ) -> None:
        self.folder, self._rows = folder, rows
        self._names: dict[Location, set[str]] = {place: set() for place in (*others, folder)}
        self._positions = {corrections.identify(row): position for position, row in enumerate(rows)}
        self._judgements: dict[int, dict[str, Judgement]] = defaultdict(dict)
        self._written: set[tuple[int, str]] = set()
        self._table = corrections.SCHEMA.empty_table()
        self._lock = threading.Lock()

    def add(self, position: int, label: str | None, by: str) -> None:
        """Write a judgement. Raises RunFailedError if that fails."""
        row, before = self._rows[position], self._judgements[position].get(by)
        values = {name: row[name] for name in ("uri", "sha256", "stratum", "probability")}
        values |= {"region": row.get("region", 0), "label": label, "was": row["label"], "by": by}
        at = corrections.write_judgement(self.folder, values, after=before.at if before else None)
        self._written.add((position, by))
        self._judgements[position][by] = Judgement(label, at)

    def read_new(self) -> bool:
        """Read new judgements; True if some come from reviewers on another server.

        Raises UsageError or one of `store_errors`.
        """
        elsewhere = False
        with self._lock:
            for folder, known in self._names.items():
                names = set(corrections.list_objects(folder)) - known
                rows = corrections.read_judgements(folder, names)
                known |= names
                self._table = pa.concat_tables([self._table, rows])
                for row in rows.to_pylist():
                    position, by = self._positions.get(corrections.identify(row)), row["by"]
                    if position is not None:
                        last = self._judgements[position].get(by)
                        if last is None or last.at < row["at"]:
                            self._judgements[position][by] = Judgement(row["label"], row["at"])
                        elsewhere |= (position, by) not in self._written
        return elsewhere

    def get_labels(self, position: int) -> dict[str, str]:
        """The label of an image by each reviewer."""
        judgements = dict(self._judgements.get(position, {}))
        return {by: last.label for by, last in sorted(judgements.items()) if last.label is not None}

    def get_state(self, position: int) -> str:
        """One of STATES."""
        labels = set(self.get_labels(position).values())
        if labels:
            return JUDGED if len(labels) == 1 else DISPUTED
        return SKIPPED if self._judgements.get(position) else TO_JUDGE

    def find_last(self) -> pd.DataFrame:
        """The latest judgement of each reviewer of each image, as read so far."""
        return corrections.find_latest_judgements(self._table)
