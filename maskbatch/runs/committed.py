"""Committed runs as readers see them: only with `_SUCCESS`, and only the files that it lists."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from maskbatch.archives.arguments import make_access
from maskbatch.clock import Clock, fell_back, parse_bound
from maskbatch.config import JobConfig, ScoreConfig
from maskbatch.errors import UsageError
from maskbatch.plan.listing import Listing
from maskbatch.progress import Step, say
from maskbatch.runs.directory import RunDir
from maskbatch.runs.reading import advise_reading
from maskbatch.runs.records import CommittedFile, RunSettings, Success, UsedCheckpoint, UsedDetector
from maskbatch.runs.versions import split_version
from maskbatch.schema import UNKNOWN_DATE
from maskbatch.stores.access import Access
from maskbatch.stores.files import explain, num_threads, open_file, store_errors
from maskbatch.stores.options import StorageOptions

AHEAD_ROWS = 524_288
"""Rows of files that are read together."""
PLAN_FILE = re.compile(r"plan/part-\d+\.parquet", re.ASCII)
SCORES_FILE = re.compile(r"scores/date=([^/]+)/part-(\d+)\.parquet", re.ASCII)
Setting = TypeVar("Setting")


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """What the labels mean, from the checkpoint's card."""

    classes: tuple[str, ...]
    compliant: tuple[str, ...]
    not_assessed: tuple[str, ...]

    @property
    def assessed(self) -> tuple[str, ...]:
        return tuple(name for name in self.classes if name not in self.not_assessed)


@dataclass(frozen=True, slots=True)
class CommittedRun:
    """A committed run: where it lies, run.json and `_SUCCESS`."""

    run: RunDir
    settings: RunSettings
    success: Success
    own_days: bool = False
    """Read only the local days from --since to --until: an image of unknown time is in every night's run."""
    leaves_resets: bool = False
    """Leave images of clocks that fell back, which are in every night's run, to a later run."""

    @property
    def score(self) -> ScoreConfig:
        return self._known(self.settings.score, "score")

    @property
    def checkpoint(self) -> UsedCheckpoint:
        return self._known(self.settings.checkpoint, "checkpoint")

    @property
    def listing(self) -> Listing:
        return self._known(self.settings.listing, "listing")

    def _known(self, setting: Setting | None, name: str) -> Setting:
        """Raises UsageError where run.json has no such setting: it is not that of a committed run."""
        if setting is None:
            raise UsageError(f"{self.run.run_json} is damaged: it lacks {name!r}; restore it")
        return setting

    @property
    def card(self) -> dict[str, Any]:
        """The checkpoint's card, as JSON has it."""
        return self.checkpoint.card

    @property
    def digest(self) -> str:
        """sha256 of the checkpoint."""
        return self.checkpoint.digest

    @property
    def detector(self) -> UsedDetector | None:
        """None with the view `face`."""
        return self.settings.detector

    @property
    def success_sha256(self) -> str:
        """Of `_SUCCESS`, which stands for every committed file."""
        return hashlib.sha256(self.run.success.read_bytes()).hexdigest()

    @property
    def meaning(self) -> Meaning:
        return Meaning(**{name: tuple(self.card[name]) for name in ("classes", "compliant", "not_assessed")})

    @property
    def keep_column(self) -> str | None:
        return self.settings.plan.keep_column

    @property
    def clock(self) -> Clock:
        return Clock.parse(self.settings.plan.timezone, self.settings.created_at)

    def open_access(self, options: StorageOptions) -> Access:
        return make_access(self.settings.plan, options, self.settings.job or JobConfig())

    @property
    def num_images(self) -> int:
        """Those whose rows are in `score_files`."""
        return sum(file.rows or 0 for file in self.score_files())

    def score_files(self) -> list[CommittedFile]:
        """The files of scores/; with `own_days` those of the run's own days."""
        files = [file for file in self.success.files if file.name.startswith("scores/")]
        plan = self.settings.plan
        since, until = parse_bound("--since", plan.since), parse_bound("--until", plan.until)
        if self.leaves_resets and since:
            files = [file for file in files if not _is_reset(file, since.date())]
        if not self.own_days:
            return files
        first = (since or datetime.min).date().isoformat()
        last = ((until or datetime.max) - timedelta.resolution).date().isoformat()
        return [file for file in files if first <= file_date(file) <= last]  # UNKNOWN_DATE is after any


def _is_reset(file: CommittedFile, begins: date) -> bool:
    if file_date(file) == UNKNOWN_DATE:
        return False
    day = date.fromisoformat(file_date(file))
    return fell_back(day, day, begins)


def open_committed(run: RunDir) -> CommittedRun:
    """Raises UsageError where no run, an unfinished one, or one of another format lies at `run`."""
    settings = run.find_run()
    success = run.read_success()
    if settings is None:
        raise UsageError(f"{run.path}: no run is there; {run.remedy}")
    if success is None:
        remedy = "finish it with the `maskbatch score` that began it"
        raise UsageError(f"{run.path}: this run is not finished; {remedy}")
    committed = CommittedRun(run, settings, success)
    _ = committed.score, committed.listing, committed.checkpoint  # which raise
    if not committed.num_images:
        raise UsageError(f"{run.success} is damaged: it lists no rows of scores/; restore it")
    for file in success.files:
        if not _is_name(file.name):
            raise UsageError(
                f"{run.success} is damaged: it lists {file.name!r}, no file of a run; restore it"
            )
    return committed


def _is_name(name: str) -> bool:
    """Whether a commit can have listed a file of this name."""
    match = SCORES_FILE.fullmatch(name)
    if match is None:
        return name == "run.json" or PLAN_FILE.fullmatch(name) is not None
    try:
        return match[1] == UNKNOWN_DATE or date.fromisoformat(match[1]).isoformat() == match[1]
    except ValueError:
        return False


def _images(committed: CommittedRun) -> Hashable:
    """What of which archive a run planned, its days aside."""
    plan = committed.settings.plan
    return plan.archives, plan.camera, plan.exclude_path, plan.limit


def open_together(runs: Sequence[RunDir], *, own_days: bool = False) -> list[CommittedRun]:
    """Runs whose rows add up, without those that another of them replaces. Raises UsageError."""
    opened = [replace(open_committed(run), own_days=own_days) for run in runs]
    versions = [(*split_version(c.run.path, c.settings.replaces), c) for c in opened]
    newest = {str(first): c for first, _, c in sorted(versions, key=lambda version: version[1])}
    kept = sorted(newest.values(), key=lambda committed: str(committed.run.path))
    last = {_images(committed): committed for committed in kept}
    kept = [replace(c, leaves_resets=last[_images(c)] is not c) for c in kept]
    paths = [str(committed.run.path) for committed in kept]
    for path in sorted({str(committed.run.path) for committed in opened} - set(paths)):
        say(f"{path} is left out: another of these runs replaces it")
    if own_days and not any(committed.num_images for committed in kept):
        what = "no image there is of a day that was asked for"
        raise UsageError(f"{', '.join(paths)}: {what}; name other runs")
    for what, values in (
        ("classes", {"/".join(committed.meaning.classes) for committed in kept}),
        ("compliant classes", {"/".join(committed.meaning.compliant) for committed in kept}),
        ("classes without anything to assess", {"/".join(c.meaning.not_assessed) for c in kept}),
        ("--keep-column", {committed.keep_column or "none" for committed in kept}),
        ("--view", {committed.score.view for committed in kept}),
        # Both decide which faces there are, and so which are missed and how large they count.
        ("detectors", {c.detector.digest[:12] if c.detector else "none" for c in kept}),
        ("--detect-px", {str(committed.score.detect_px) for committed in kept}),
    ):
        if len(values) > 1:
            names = " and ".join(sorted(value or "none" for value in values))
            raise UsageError(f"these runs do not add up: their {what} differ ({names}); report them apart")
    return kept


File = tuple[CommittedRun, CommittedFile]
"""One file of scores/, and its run."""


def file_date(file: CommittedFile) -> str:
    """The local day of a file of scores/, or UNKNOWN_DATE."""
    return file.name.split("/")[1].removeprefix("date=")


def order_files(runs: Iterable[CommittedRun]) -> list[File]:
    """Every file of scores/, by local day."""
    files = [(committed, file) for committed in runs for file in committed.score_files()]
    return sorted(files, key=lambda pair: file_date(pair[1]))


def group_files(committed: CommittedRun) -> Iterator[tuple[range, list[CommittedFile]]]:
    """The files of scores/ by the first id in their names, with the ids that they hold together."""
    files: dict[int, list[CommittedFile]] = defaultdict(list)
    for file in committed.score_files():
        match = SCORES_FILE.fullmatch(file.name)
        files[int(match[2]) if match else 0].append(file)
    firsts = sorted(files) or [0]
    planned = committed.success.planned
    bounds = pairwise([0, *(min(first, planned) for first in firsts[1:]), planned])
    for first, (start, stop) in zip(firsts, bounds, strict=True):
        yield range(start, stop), files[first]


def check_digests(committed: CommittedRun, step: Step) -> None:
    """Raises UsageError where a file of the run is not the one that was committed."""
    folder, files = committed.run.path, committed.success.files

    def digest(file: CommittedFile) -> str:
        try:
            return hashlib.sha256((folder / file.name).read_bytes()).hexdigest()
        except store_errors() as error:
            return explain(error)

    with ThreadPoolExecutor(num_threads(folder)) as pool:
        for file, found in zip(files, pool.map(digest, files), strict=True):
            if found != file.sha256:
                what = f"sha256 {file.sha256[:12]} was committed, found {found[:12]}"
                raise UsageError(f"{folder / file.name}: {what}; restore it, or leave this run out")
            step.advance()


def read_files(files: Sequence[File], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of each file, in order, some read ahead. Raises UsageError where one is not as committed."""
    if not files:
        return
    most = num_threads(files[0][0].run.path)
    with ThreadPoolExecutor(most) as pool:
        for batch in _batches(files, most):
            yield from pool.map(lambda file: _read(file, columns), batch)


def _batches(files: Sequence[File], most: int) -> Iterator[list[File]]:
    """Files to read at a time: at most `most`, and, unless it is one file, at most AHEAD_ROWS rows."""
    batch: list[File] = []
    for file in files:
        if batch and (len(batch) == most or sum(f.rows or 0 for _, f in [*batch, file]) > AHEAD_ROWS):
            yield batch
            batch = []
        batch.append(file)
    yield batch


def _read(file: File, columns: Sequence[str]) -> pa.Table:
    with _open_parquet(file) as parquet:
        return parquet.read(columns=list(columns)).select(columns)


def take_rows(
    files: Sequence[File], wanted: Mapping[int, NDArray[np.int64]], columns: Sequence[str]
) -> list[pa.Table]:
    """Columns of the rows `wanted`, places by the number of the file; reads only their row groups."""
    with ThreadPoolExecutor(num_threads(files[0][0].run.path) if files else 1) as pool:
        return list(pool.map(lambda number: _take(files[number], wanted[number], columns), wanted))


def _take(file: File, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
    with _open_parquet(file) as parquet:
        sizes = [parquet.metadata.row_group(k).num_rows for k in range(parquet.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        groups, where = np.unique(np.searchsorted(starts, rows, "right") - 1, return_inverse=True)
        moved = np.cumsum([0, *(sizes[group] for group in groups)])[where] - starts[groups][where]
        table = parquet.read_row_groups(groups.tolist(), columns=list(columns))
        return table.select(columns).take(pa.array(rows + moved))


@contextmanager
def _open_parquet(file: File) -> Iterator[pq.ParquetFile]:
    """A file of scores/. Raises UsageError where it is not as committed."""
    committed, listed = file
    path = committed.run.path / listed.name
    try:
        with open_file(path) as source:
            size = source.seek(0, os.SEEK_END)
            parquet = pq.ParquetFile(source, pre_buffer=True)
            for what, found, expected in (
                ("rows", parquet.metadata.num_rows, listed.rows or 0),
                ("bytes", size, listed.num_bytes),
            ):
                if found != expected:
                    raise UsageError(f"{path} has {found:,} {what}, {expected:,} were committed; restore it")
            yield parquet
    except (pa.ArrowException, ValueError, LookupError, *store_errors()) as error:
        remedy = advise_reading(error, "restore it, or score to another --out")
        message = f"{path} does not read ({explain(error)}); {remedy}"
        raise UsageError(message) from error
