"""What was said of the images of a queue, by anybody: read once, then kept up with other servers."""

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from maskbatch.review import corrections
from maskbatch.stores.files import Location

TO_JUDGE, SKIPPED, DISPUTED, JUDGED = "to judge", "skipped", "disputed", "judged"


class Word(NamedTuple):
    """The last thing that one person said of an image; label None: skipped, or taken back."""

    label: str | None
    at: datetime


class Judgements:
    """The last words on the images of a queue, by position; new ones go to `folder`, `others` are read."""

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], folder: Location, others: Sequence[Location] = ()
    ) -> None:
        self.folder, self._rows = folder, rows
        self._known: dict[Location, set[str]] = {place: set() for place in (*others, folder)}
        self._positions = {(row["uri"], row["sha256"]): position for position, row in enumerate(rows)}
        self._words: dict[int, dict[str, Word]] = defaultdict(dict)
        self._own: dict[int, set[str]] = defaultdict(set)
        self._all = corrections.SCHEMA.empty_table()
        self._reading = threading.Lock()

    def add(self, position: int, label: str | None, by: str) -> None:
        """Write what `by` says now. Raises RunFailedError where it cannot be written."""
        row, before = self._rows[position], self._words[position].get(by)
        known = {name: row[name] for name in ("uri", "sha256", "stratum", "probability")}
        said = {**known, "region": 0, "label": label, "was": row["label"], "by": by}
        at = corrections.write_judgement(self.folder, said, after=before.at if before else None)
        self._own[position].add(by)
        self._words[position][by] = Word(label, at)

    def refresh(self) -> bool:
        """Read what is new; True where another server's reviewers said something.

        Raises UsageError or one of `store_errors`.
        """
        elsewhere = False
        with self._reading:
            for folder, known in self._known.items():
                names = set(corrections.list_objects(folder)) - known
                rows = corrections.read_judgements(folder, names)
                known |= names
                self._all = pa.concat_tables([self._all, rows])
                for row in rows.to_pylist():
                    position = self._positions.get((row["uri"], row["sha256"]))
                    elsewhere |= position is not None and self._hear(position, row)
        return elsewhere

    def _hear(self, position: int, row: Mapping[str, Any]) -> bool:
        """Take in one row that was read; True where it came from another server."""
        words, by = self._words[position], row["by"]
        if by not in words or words[by].at < row["at"]:
            words[by] = Word(row["label"], row["at"])
        return by not in self._own.get(position, ())

    def said(self, position: int) -> dict[str, str]:
        """The judgement of each reviewer of an image."""
        words = dict(self._words.get(position, {}))
        return {by: word.label for by, word in sorted(words.items()) if word.label is not None}

    def stands(self, position: int) -> str:
        """TO_JUDGE, SKIPPED, JUDGED or DISPUTED."""
        labels = set(self.said(position).values())
        if labels:
            return JUDGED if len(labels) == 1 else DISPUTED
        return SKIPPED if self._words.get(position) else TO_JUDGE

    def last_words(self) -> pd.DataFrame:
        """What `corrections.last_words` makes of everything read so far."""
        return corrections.find_latest_judgements(self._all)
