"""The one pass over committed rows, a local day at a time: cells, stretches, and what people should judge.

Whatever needs rows in the order of time is done here; every figure comes from the result. Memory is that of
the largest local day, however many days there are.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch import schema
from maskbatch.buckets import Hashes, find_repeated, hash_digests, hash_texts
from maskbatch.errors import UsageError
from maskbatch.progress import step
from maskbatch.report import cells as cells_module
from maskbatch.report.conditions import find_conditions, find_stretches
from maskbatch.review.queue import Collector, Selection
from maskbatch.runs.committed import CommittedRun, File, file_date, order_files, read_files

Hash = Callable[[pa.ChunkedArray], Hashes]
Numbers = NDArray[np.int64]
COLUMNS = ("id", *cells_module.COLUMNS, "captured_at", "contrast", "dhash", "sha256")


@dataclass(frozen=True, slots=True)
class Survey:
    """What the rows of some runs hold together."""

    cells: pa.Table
    stretches: list[dict[str, Any]]
    selection: Selection
    """The images that people should judge."""
    times: dict[str, tuple[datetime, datetime]]
    """The first and the last local time of each day."""

    @property
    def first(self) -> datetime | None:
        """The earliest local time, None where no time is known."""
        return min((first for first, _ in self.times.values()), default=None)

    @property
    def last(self) -> datetime | None:
        return max((last for _, last in self.times.values()), default=None)


def survey_runs(runs: Sequence[CommittedRun]) -> Survey:
    """Read every committed row of `runs`. Raises UsageError where two of them hold the same uri."""
    if len(runs) > 1:
        _refuse_overlap(runs)
    keep_column, assessed = runs[0].keep_column, runs[0].meaning.assessed
    files = order_files(runs)
    repeats = _Repeats(_repeated(files, "sha256", hash_digests, "duplicates"))
    cells: dict[str, list[pa.Table]] = defaultdict(list)
    stretches, collector = [], Collector()
    times: dict[str, tuple[datetime, datetime]] = {}
    with step("report", _num_rows(files)) as progress:
        for date, day, camera in _days(files, keep_column):
            places = repeats.places(day)
            condition = find_conditions(day, camera, repeats.flag(places), assessed)
            cells[date].append(cells_module.count_cells(day, date, keep_column, condition))
            stretches += find_stretches(day, camera, condition)
            bounds = pc.min_max(day["captured_local"]).as_py()
            if bounds["min"] is not None:
                times[date] = bounds["min"], bounds["max"]
            collector.add(day, condition, places >= 0)
            progress.advance(len(day))
    # Only cells of the same day can be equal, so only these are merged.
    merged = [parts[0] if len(parts) == 1 else cells_module.merge_cells(parts) for parts in cells.values()]
    return Survey(
        cells=pa.concat_tables([cells_module.SCHEMA.empty_table(), *merged]),
        stretches=stretches,
        selection=collector.select(files, runs),
        times=times,
    )


def _repeated(files: Sequence[File], column: str, hash_column: Hash, name: str) -> Hashes:
    """The hashes that more than one whole-image row of `files` has in `column`."""
    with step(name, _num_rows(files)) as progress:

        def parts() -> Iterator[Hashes]:
            for values in _column(files, column):
                yield hash_column(values)
                progress.advance(len(values))

        return find_repeated(parts())


def _column(files: Sequence[File], column: str) -> Iterator[pa.ChunkedArray]:
    for part in read_files(files, [column, "region"]):
        yield part.filter(pc.equal(part["region"], 0))[column]


def _num_rows(files: Sequence[File]) -> int:
    return sum(file.rows or 0 for _, file in files)


def _refuse_overlap(runs: Sequence[CommittedRun]) -> None:
    shared = _repeated(order_files(runs), "uri", hash_texts, "overlap")
    for run in reversed(runs) if len(shared) else ():
        uris = _column(order_files([run]), "uri")
        num = sum(int(np.isin(hash_texts(part), shared).sum()) for part in uris)
        if num:
            overlap = f"{num:,} of its images are in another run too"
            raise UsageError(f"{run.run.path}: {overlap}; report them apart")


def _days(files: Sequence[File], keep_column: str | None) -> Iterator[tuple[str, pa.Table, Numbers]]:
    """(date, whole-image rows by camera and time, each row's camera) of each local day.

    Rows without a date come file by file.
    """
    columns = [*COLUMNS, *([keep_column] if keep_column else [])]
    parts: list[pa.Table] = []
    dates = [file_date(file) for _, file in files]
    for number, part in enumerate(read_files(files, columns)):
        parts.append(_compact(part, number))
        if dates[number] == schema.UNKNOWN_DATE or dates[number] != (*dates, None)[number + 1]:
            yield dates[number], *_sort_day(pa.concat_tables(parts).unify_dictionaries())
            parts = []


def _compact(part: pa.Table, number: int) -> pa.Table:
    """The whole-image rows of file `number`, with their places and with dictionaries and hashes for texts."""
    columns = {
        name: part[name].dictionary_encode() if part[name].type == pa.string() else part[name]
        for name in part.column_names
        if name != "sha256"
    }
    columns |= {
        "digest": pa.array(hash_digests(part["sha256"])),
        "file": pa.repeat(pa.scalar(number, pa.int32()), len(part)),
        "row": pa.array(np.arange(len(part), dtype=np.int32)),
    }
    return pa.table(columns).filter(pc.equal(part["region"], 0))


def _sort_day(day: pa.Table) -> tuple[pa.Table, Numbers]:
    """Rows by camera, time and bytes, whatever the order of files; and each row's camera (N,)."""
    camera = cells_module.number_groups(day, ("site", "camera"))[1]
    time = pc.fill_null(day["captured_at"].cast(pa.int64()), 0).to_numpy()
    order = np.lexsort((day["digest"].to_numpy(), time, camera))
    return day.take(pa.array(order)), camera[order]


class _Repeats:
    """Which images have the bytes of an earlier one."""

    def __init__(self, hashes: Hashes) -> None:
        """`hashes`: ascending, of all bytes that come more than once."""
        self._hashes, self._came = hashes, np.zeros(len(hashes), bool)

    def places(self, day: pa.Table) -> Numbers:
        """The place (N,) of each row's hash among the repeated ones, -1 for none."""
        if not len(self._hashes):
            return np.full(len(day), -1)
        digest = day["digest"].to_numpy()
        place = np.minimum(np.searchsorted(self._hashes, digest), len(self._hashes) - 1)
        return np.where(self._hashes[place] == digest, place, -1)

    def flag(self, places: Numbers) -> NDArray[np.bool_]:
        """Whether each row (N,) repeats an earlier one of this call or of calls before."""
        flags = places >= 0
        rows = np.flatnonzero(flags)
        different, first = np.unique(places[rows], return_index=True)
        flags[rows[first]] = self._came[different]
        self._came[different] = True
        return flags
