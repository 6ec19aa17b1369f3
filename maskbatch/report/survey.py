"""The one pass over committed rows, a local day at a time: cells, stretches, and what people should judge.

Whatever needs rows in the order of time is done here; every figure comes from the result. Memory is that of
the largest local day, however many days there are. In whole scenes pictures show what is wrong with a camera,
and their faces what people wear.
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
from maskbatch.report.conditions import find_conditions, find_scene_conditions, find_stretches
from maskbatch.report.faces import Faces
from maskbatch.review.queue import Collector, Selection, mix_bits
from maskbatch.runs.committed import CommittedRun, File, file_date, order_files, read_files

Hash = Callable[[pa.ChunkedArray], Hashes]
Numbers = NDArray[np.int64]
COLUMNS = ("id", *cells_module.COLUMNS, "captured_at", "contrast", "dhash", "sha256")
FACE_COLUMNS = ("box", "width", "height")


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


def survey_runs(runs: Sequence[CommittedRun], exclude: Sequence[str] = ()) -> Survey:
    """Read every committed row of `runs`. Raises UsageError where two of them hold the same uri.

    `exclude`: conditions; a face that has one of faces is nobody where cells say whether everyone complies.
    """
    if len(runs) > 1:
        _refuse_overlap(runs)
    files = order_files(runs)
    tally = _Tally(runs[0], _Repeats(_repeated(files, "sha256", hash_digests, "duplicates")), exclude)
    with step("report", _num_rows(files), _unit(files)) as progress:
        for date, rows in _days(files, runs[0].keep_column, in_scenes=runs[0].score.view == "scene"):
            tally.add(date, rows)
            progress.advance(len(rows))
    # Only cells of the same day can be equal, so only these are merged.
    parts = tally.cells.values()
    merged = [part[0] if len(part) == 1 else cells_module.merge_cells(part) for part in parts]
    return Survey(
        cells=pa.concat_tables([cells_module.SCHEMA.empty_table(), *merged]),
        stretches=tally.stretches,
        selection=tally.collector.select(files, runs),
        times=tally.times,
    )


class _Tally:
    """What the days have given so far."""

    def __init__(self, run: CommittedRun, repeats: "_Repeats", exclude: Sequence[str]) -> None:
        """`run`: any of the runs."""
        self._keep_column, self._meaning, self._detect_px = run.keep_column, run.meaning, run.score.detect_px
        self._repeats, self._nobody = repeats, [name for name in exclude if name in schema.FACE_CONDITIONS]
        self.cells: dict[str, list[pa.Table]] = defaultdict(list)
        self.stretches: list[dict[str, Any]] = []
        self.collector = Collector()
        self.times: dict[str, tuple[datetime, datetime]] = {}

    def add(self, date: str, rows: pa.Table) -> None:
        """Add the rows of a local day, or of a part of those without a date."""
        day, camera, faces = _sort_day(rows)
        places = self._repeats.places(day)
        duplicate, assessed = self._repeats.flag(places), self._meaning.assessed
        if faces is None:
            condition = find_conditions(day, camera, duplicate, assessed)
            self.collector.add(day, condition, places >= 0)
        else:
            condition, of_faces, stretches = find_scene_conditions(day, camera, duplicate, faces, assessed)
            self.stretches += stretches
            self.collector.add(faces.rows, of_faces, places[faces.picture_M] >= 0)
            day = day.append_column("everyone_complies", self._judge(len(day), faces, of_faces))
            sized = faces.rows.append_column("size_band", faces.name_size_bands(self._detect_px or 0))
            self._count(sized, date, of_faces)
        self._count(day, date, condition)
        self.stretches += find_stretches(day, camera, condition)
        bounds = pc.min_max(day["captured_local"]).as_py()
        if bounds["min"] is not None:
            self.times[date] = bounds["min"], bounds["max"]

    def _count(self, rows: pa.Table, date: str, condition: pa.Array) -> None:
        self.cells[date].append(cells_module.count_cells(rows, date, self._keep_column, condition))

    def _judge(self, num_pictures: int, faces: Faces, condition: pa.Array) -> pa.Array:
        """Whether everyone assessed in each picture (N,) complies; a poster that is left out is nobody."""
        counts = ~np.isin(condition.to_numpy(zero_copy_only=False), self._nobody)
        assessed, compliant = map(faces.is_labelled, (self._meaning.assessed, self._meaning.compliant))
        return faces.judge_pictures(num_pictures, assessed & counts, compliant)


def _repeated(files: Sequence[File], column: str, hash_column: Hash, name: str) -> Hashes:
    """The hashes that more than one whole-image row of `files` has in `column`."""
    with step(name, _num_rows(files), _unit(files)) as progress:

        def parts() -> Iterator[Hashes]:
            for part in read_files(files, [column, "region"]):
                yield hash_column(_of_pictures(part, column))
                progress.advance(len(part))

        return find_repeated(parts())


def _of_pictures(part: pa.Table, column: str) -> pa.ChunkedArray:
    return part.filter(pc.equal(part["region"], 0))[column]


def _num_rows(files: Sequence[File]) -> int:
    return sum(file.rows or 0 for _, file in files)


def _unit(files: Sequence[File]) -> str:
    """What has a row: an image, or a face too."""
    return "rows" if any(run.score.view == "scene" for run, _ in files) else "images"


def _refuse_overlap(runs: Sequence[CommittedRun]) -> None:
    shared = _repeated(order_files(runs), "uri", hash_texts, "overlap")
    for run in reversed(runs) if len(shared) else ():
        parts = read_files(order_files([run]), ["uri", "region"])
        num = sum(int(np.isin(hash_texts(_of_pictures(part, "uri")), shared).sum()) for part in parts)
        if num:
            overlap = f"{num:,} of its images are in another run too"
            raise UsageError(f"{run.run.path}: {overlap}; report them apart")


def _days(files: Sequence[File], keep_column: str | None, in_scenes: bool) -> Iterator[tuple[str, pa.Table]]:
    """(date, its rows) of each local day. Rows without a date come file by file."""
    columns = [*COLUMNS, *(FACE_COLUMNS if in_scenes else ()), *([keep_column] if keep_column else [])]
    parts: list[pa.Table] = []
    dates = [file_date(file) for _, file in files]
    for number, part in enumerate(read_files(files, columns)):
        parts.append(_compact(part, number))
        if dates[number] == schema.UNKNOWN_DATE or dates[number] != (*dates, None)[number + 1]:
            yield dates[number], pa.concat_tables(parts).unify_dictionaries()
            parts = []


def _compact(part: pa.Table, number: int) -> pa.Table:
    """The rows of file `number`, with their places and with dictionaries and hashes for texts."""
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
    return pa.table(columns)


def _sort_day(rows: pa.Table) -> tuple[pa.Table, Numbers, Faces | None]:
    """(pictures by camera, time and bytes, whatever the order of files; each one's camera (N,); their faces).

    A face gets a digest of its own from that of its picture. Without a box in `rows` there are no faces.
    """
    is_face = pc.greater(rows["region"], 0)
    day = rows.filter(pc.invert(is_face))
    camera = cells_module.number_groups(day, ("site", "camera"))[1]
    time = pc.fill_null(day["captured_at"].cast(pa.int64()), 0).to_numpy()
    order = np.lexsort((day["digest"].to_numpy(), time, camera))
    day, camera = day.take(pa.array(order)), camera[order]
    if "box" not in rows.column_names:
        return day, camera, None
    faces = rows.filter(is_face)
    image, image_of_face = (_number_images(table) for table in (day, faces))
    by_image = np.argsort(image)
    picture = by_image[np.searchsorted(image, image_of_face, sorter=by_image)]
    digest = day["digest"].to_numpy()[picture] ^ mix_bits(faces["region"].to_numpy().astype(np.uint64))
    faces = faces.set_column(faces.column_names.index("digest"), "digest", pa.array(digest))
    return day, camera, Faces.sort(faces, picture)


def _number_images(rows: pa.Table) -> Numbers:
    """A number (N,) of each row's image: ids differ in a file, not between runs."""
    return np.asarray(rows["file"].to_numpy().astype(np.int64) << 40 | rows["id"].to_numpy())


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
