"""The one pass over committed rows, a local day at a time: cells, stretches, and what is worth a second look.

All that needs rows in the order of time is done here; every figure is made of what comes out. Memory is that
of the largest local day, whatever the number of days.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
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
    """What the rows of some runs say together."""

    cells: pa.Table
    stretches: list[dict[str, Any]]
    chosen: Selection
    """What is worth a second look."""
    first: Any
    """The earliest local time, None where no time is known."""
    last: Any


def survey_runs(runs: Sequence[CommittedRun]) -> Survey:
    """Read every committed row of `runs`. Raises UsageError where two of them hold the same uri."""
    if len(runs) > 1:
        _refuse_overlap(runs)
    keep_column, assessed = runs[0].keep_column, runs[0].meaning.assessed
    files = order_files(runs)
    again = _Again(_repeated(files, "sha256", hash_digests, "duplicates"))
    cells: dict[str, list[pa.Table]] = defaultdict(list)
    found, times, doubtful = [], [], Collector()
    with step("report", _num_rows(files)) as shown:
        for date, day, camera in _days(files, keep_column):
            places = again.places(day)
            condition = find_conditions(day, camera, again.seen(places), assessed)
            cells[date].append(cells_module.count_cells(day, date, keep_column, condition))
            found += find_stretches(day, camera, condition)
            times += pc.min_max(day["captured_local"]).as_py().values()
            doubtful.add(day, condition, places >= 0)
            shown.advance(len(day))
    return Survey(
        cells=_joined(cells.values()),
        stretches=found,
        chosen=doubtful.chosen(files, runs),
        first=min(filter(None, times), default=None),
        last=max(filter(None, times), default=None),
    )


def _joined(days: Iterable[list[pa.Table]]) -> pa.Table:
    """Cells of different days have nothing to add; those of one that came in parts have."""
    merged = [parts[0] if len(parts) == 1 else cells_module.merge_cells(parts) for parts in days]
    return pa.concat_tables([cells_module.SCHEMA.empty_table(), *merged])


def _repeated(files: Sequence[File], column: str, hashed: Hash, name: str) -> Hashes:
    """The hashes that more than one whole-image row of `files` has in `column`."""
    with step(name, _num_rows(files)) as shown:

        def parts() -> Iterator[Hashes]:
            for values in _column(files, column):
                yield hashed(values)
                shown.advance(len(values))

        return find_repeated(parts())


def _column(files: Sequence[File], column: str) -> Iterator[pa.ChunkedArray]:
    for part in read_files(files, [column, "region"]):
        yield part.filter(pc.equal(part["region"], 0))[column]


def _num_rows(files: Sequence[File]) -> int:
    return sum(file.rows or 0 for _, file in files)


def _refuse_overlap(runs: Sequence[CommittedRun]) -> None:
    shared = _repeated(order_files(runs), "uri", hash_texts, "overlap")
    for one in reversed(runs) if len(shared) else ():
        uris = _column(order_files([one]), "uri")
        found = sum(int(np.isin(hash_texts(part), shared).sum()) for part in uris)
        if found:
            raise UsageError(
                f"{one.run.path}: {found:,} of its images are in another run too; report them apart"
            )


def _days(files: Sequence[File], keep_column: str | None) -> Iterator[tuple[str, pa.Table, Numbers]]:
    """The whole-image rows of each local day by camera and time, else file by file; and their cameras."""
    columns = [*COLUMNS, *([keep_column] if keep_column else [])]
    parts: list[pa.Table] = []
    dates = [file_date(file) for _, file in files]
    for number, part in enumerate(read_files(files, columns)):
        parts.append(_shortened(part, number))
        if dates[number] == schema.UNKNOWN_DATE or dates[number] != (*dates, None)[number + 1]:
            yield dates[number], *_sorted(pa.concat_tables(parts).unify_dictionaries())
            parts = []


def _shortened(part: pa.Table, number: int) -> pa.Table:
    """The whole-image rows of file `number`: short columns in the place of long ones, and where each lies."""
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


def _sorted(day: pa.Table) -> tuple[pa.Table, Numbers]:
    """Sorted by camera, then time, then bytes, whatever the order of files; and each row's camera."""
    camera = cells_module.number_groups(day, ("site", "camera"))[1]
    time = pc.fill_null(day["captured_at"].cast(pa.int64()), 0).to_numpy()
    order = np.lexsort((day["digest"].to_numpy(), time, camera))
    return day.take(pa.array(order)), camera[order]


class _Again:
    """Which images have the bytes of one that came before."""

    def __init__(self, repeated: Hashes) -> None:
        self._repeated, self._came = repeated, np.zeros(len(repeated), bool)

    def places(self, day: pa.Table) -> Numbers:
        """Which of the repeated hashes each row of `day` has (N,), -1 for none."""
        if not len(self._repeated):
            return np.full(len(day), -1)
        digest = day["digest"].to_numpy()
        place = np.minimum(np.searchsorted(self._repeated, digest), len(self._repeated) - 1)
        return np.where(self._repeated[place] == digest, place, -1)

    def seen(self, places: Numbers) -> NDArray[np.bool_]:
        """(N,) for rows at `places`, in their order; calls go on from each other."""
        flags = places >= 0
        rows = np.flatnonzero(flags)
        found, first = np.unique(places[rows], return_index=True)
        flags[rows[first]] = self._came[found]
        self._came[found] = True
        return flags
