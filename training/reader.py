"""Read the bytes of pictures: files at any fsspec URL, and images of a run through its plan and archive."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import groupby

import fsspec
import pandas as pd

from maskbatch.decode.source import Encoded
from maskbatch.review.pictures import find_plan_rows
from maskbatch.runs.committed import open_committed
from maskbatch.runs.directory import RunDir
from maskbatch.score.read import READ_COLUMNS, PlanRow, read_images
from maskbatch.stores.options import NO_OPTIONS

READ_ERRORS = (OSError, ImportError, ValueError, TypeError)
"""What fsspec raises where it cannot read."""
Row = tuple[str, str, str]
"""A uri, its sha256 or '', and the run whose archive holds it or ''."""


def open_reader(table: pd.DataFrame) -> Callable[[Sequence[Row]], Iterator[Encoded]]:
    """Open the runs that `table` names; returns a function that reads rows in order, from any thread.

    It refuses a picture with another sha256. Raises UsageError for a run that cannot be opened.
    """
    rows_of_runs = table[table["run"] != ""].groupby("run")["uri"]
    archives = {str(run): _open_archive(str(run), set(uris)) for run, uris in rows_of_runs}

    def read(rows: Sequence[Row]) -> Iterator[Encoded]:
        for run, group in groupby(rows, key=lambda row: row[2]):
            part = list(group)
            uris = [uri for uri, _, _ in part]
            images = archives[run](uris) if run else map(_read_file, uris)
            for encoded, (_, sha256, _) in zip(images, part, strict=True):
                if (
                    sha256
                    and (data := encoded.data) is not None
                    and hashlib.sha256(data).hexdigest() != sha256
                ):
                    encoded = Encoded(None, "read_error", "the picture has changed since it was corrected")
                yield encoded

    return read


def _open_archive(run: str, uris: Collection[str]) -> Callable[[Sequence[str]], Iterator[Encoded]]:
    one = open_committed(RunDir.at(run))
    gone = {"status": "missing", "error": f"it is not in the plan of {run}"}
    rows: dict[str, PlanRow] = {uri: dict.fromkeys(READ_COLUMNS) | {"uri": uri} | gone for uri in uris}
    rows |= find_plan_rows(one, uris)
    access, max_bytes = one.open_access(NO_OPTIONS), one.score.max_bytes
    return lambda wanted: read_images([rows[uri] for uri in wanted], access, max_bytes)


def _read_file(uri: str) -> Encoded:
    try:
        # A local name may hold `::`, which fsspec reads as a chain of file systems.
        with fsspec.open(uri, "rb") if "://" in uri else open(uri, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return Encoded(None, "missing", "no such file")
    except READ_ERRORS as error:
        return Encoded(None, "read_error", str(error))
    return Encoded(data, num_bytes=len(data))
