"""The bytes of pictures: files at any fsspec URL, and images of a run through its plan and archive."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import fsspec
import pandas as pd

from maskbatch.review.pictures import find_plan_rows
from maskbatch.runs.committed import open_committed
from maskbatch.runs.directory import RunDir
from maskbatch.score.read import READ_COLUMNS, Encoded, PlanRow, read_images
from maskbatch.stores.access import Access
from maskbatch.stores.options import NO_OPTIONS

READING = (OSError, ImportError, ValueError, TypeError)
"""What fsspec raises for what cannot be read."""
Row = tuple[str, str, str]
"""uri, sha256 or '', and the run through whose archive it is read, or ''."""


@dataclass(frozen=True, slots=True)
class _Archive:
    rows: dict[str, PlanRow]
    access: Access
    max_bytes: int

    @classmethod
    def of(cls, run: str, uris: Collection[str]) -> "_Archive":
        one = open_committed(RunDir.at(run))
        gone = {"status": "missing", "error": f"it is not in the plan of {run}"}
        rows: dict[str, PlanRow] = {uri: dict.fromkeys(READ_COLUMNS) | {"uri": uri} | gone for uri in uris}
        return cls(rows | find_plan_rows(one, uris), one.open_access(NO_OPTIONS), one.score.max_bytes)

    def read(self, uris: Sequence[str]) -> Iterator[Encoded]:
        return read_images([self.rows[uri] for uri in uris], self.access, self.max_bytes)


def reader(table: pd.DataFrame) -> Callable[[Sequence[Row]], Iterator[Encoded]]:
    """What reads rows of `table`, in order and from any thread; a picture of another sha256 is refused.

    Raises UsageError for a run that cannot be opened.
    """
    named = table[table["run"] != ""]
    archives = {str(run): _Archive.of(str(run), set(uris)) for run, uris in named.groupby("run")["uri"]}

    def read(rows: Sequence[Row]) -> Iterator[Encoded]:
        for run, together in groupby(rows, key=lambda row: row[2]):
            part = list(together)
            uris = [uri for uri, _, _ in part]
            found = archives[run].read(uris) if run else map(_file, uris)
            for encoded, (_, sha256, _) in zip(found, part, strict=True):
                yield _same(encoded, sha256)

    return read


def _file(uri: str) -> Encoded:
    try:
        # A local name may hold `::`, which fsspec takes for a chain of file systems.
        with fsspec.open(uri, "rb") if "://" in uri else open(uri, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return Encoded(None, "missing", "no such file")
    except READING as error:
        return Encoded(None, "read_error", str(error))
    return Encoded(data, num_bytes=len(data))


def _same(encoded: Encoded, sha256: str) -> Encoded:
    """`encoded`, unless it is not the picture of that sha256."""
    if encoded.data is None or not sha256 or hashlib.sha256(encoded.data).hexdigest() == sha256:
        return encoded
    return Encoded(None, "read_error", "it is not the picture that was corrected any more")
