"""Committed runs as readers see them: only with `_SUCCESS`, and only the files that it lists."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from maskbatch.archives.arguments import make_access
from maskbatch.clock import Clock, parse_bound
from maskbatch.config import JobConfig, PlanConfig, make_config
from maskbatch.errors import UsageError
from maskbatch.progress import Step, say
from maskbatch.runs.directory import RunDir
from maskbatch.runs.versions import first_path, version_number
from maskbatch.stores.access import Access
from maskbatch.stores.files import Location, explain, num_threads, open_file, store_errors
from maskbatch.stores.options import StorageOptions

AHEAD_ROWS = 524_288


SCORES_FILE = re.compile(r"scores/date=([^/]+)/part-(\d+)\.parquet", re.ASCII)


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
    settings: dict[str, Any]
    success: dict[str, Any]
    own_days: bool = False
    """Read only the local days from --since to --until: an image of unknown time is in every night's run."""

    @property
    def card(self) -> dict[str, Any]:
        """The checkpoint's card, as JSON has it."""
        card: dict[str, Any] = self.settings["checkpoint"]["card"]
        return card

    @property
    def digest(self) -> str:
        return str(self.settings["checkpoint"]["digest"])

    @property
    def success_sha256(self) -> str:
        """Of `_SUCCESS`, which stands for every committed file."""
        return hashlib.sha256(self.run.success.read_bytes()).hexdigest()

    @property
    def meaning(self) -> Meaning:
        return Meaning(**{name: tuple(self.card[name]) for name in ("classes", "compliant", "not_assessed")})

    @property
    def keep_column(self) -> str | None:
        name: str | None = self.settings["plan"].get("keep_column")
        return name

    @property
    def num_images(self) -> int:
        """Those whose rows are in `score_files`."""
        return sum(item["rows"] for item in self.score_files())

    def score_files(self) -> list[dict[str, Any]]:
        """What `_SUCCESS` says of each file of scores/: name, rows, num_bytes, sha256."""
        files = [item for item in self.success["files"] if item["name"].startswith("scores/")]
        if not self.own_days:
            return files
        first, last = self._days()
        return [item for item in files if first <= file_date(item) <= last]

    def _days(self) -> tuple[str, str]:
        """The first and the last local day that were asked for; UNKNOWN_DATE comes after any."""
        since, until = (
            parse_bound(f"--{name}", self.settings["plan"].get(name)) for name in ("since", "until")
        )
        last = (until or datetime.max) - timedelta.resolution
        return (since or datetime.min).date().isoformat(), last.date().isoformat()


def open_committed(run: RunDir) -> CommittedRun:
    """Raises UsageError where no run, an unfinished one, or one of another format lies at `run`."""
    settings = run.read_run() if run.run_json.exists() else None
    success = run.read_success()
    if settings is None:
        raise UsageError(
            f"{run.path}: no run is there; make one with `maskbatch score ARCHIVE --out {run.path}`"
        )
    if success is None:
        raise UsageError(
            f"{run.path}: this run is not finished; finish it with the `maskbatch score` that began it"
        )
    _check_keys(run.run_json, settings, ("created_at", "plan", "checkpoint", "listing", "score", "versions"))
    _check_keys(run.run_json, settings["plan"], ("archives", "timezone"))
    _check_keys(run.run_json, settings["checkpoint"], ("path", "digest", "card"))
    _check_keys(run.run_json, settings["checkpoint"]["card"], ("architecture", "classes", "confusion"))
    _check_keys(run.success, success, ("planned", "statuses", "files"))
    listed = isinstance(success["files"], list) and all(
        isinstance(item, dict) and {"name", "rows", "num_bytes", "sha256"} <= item.keys()
        for item in success["files"]
    )
    if not listed or not isinstance(success["planned"], int) or success["planned"] < 0:
        raise UsageError(f"{run.success} is damaged: the files and counts of a commit expected; restore it")
    return CommittedRun(run, settings, success)


def _check_keys(path: Location, values: object, keys: Sequence[str]) -> None:
    missing = [key for key in keys if not isinstance(values, dict) or key not in values]
    if missing:
        raise UsageError(f"{path} is damaged: it lacks {missing[0]!r}; restore it")


def open_together(runs: Sequence[RunDir], *, own_days: bool = False) -> list[CommittedRun]:
    """Runs whose rows may be added; one that another of them replaces is left out. Raises UsageError."""
    found = [replace(open_committed(run), own_days=own_days) for run in runs]
    newest: dict[str, CommittedRun] = {}
    for one in sorted(found, key=lambda one: version_number(one.run.path, one.settings)):
        newest[str(first_path(one.run.path, one.settings))] = one
    kept = sorted(newest.values(), key=lambda one: str(one.run.path))
    for path in sorted({str(one.run.path) for one in found} - {str(one.run.path) for one in kept}):
        say(f"{path} is left out: another of these runs replaces it")
    if own_days and not any(one.num_images for one in kept):
        names = ", ".join(str(one.run.path) for one in kept)
        raise UsageError(f"{names}: no image there is of a day that was asked for; name other runs")
    for what, values in (
        ("classes", {"/".join(one.meaning.classes) for one in kept}),
        ("compliant classes", {"/".join(one.meaning.compliant) for one in kept}),
        ("classes without anything to assess", {"/".join(one.meaning.not_assessed) for one in kept}),
        ("--keep-column", {one.keep_column or "none" for one in kept}),
    ):
        if len(values) > 1:
            names = " and ".join(sorted(value or "none" for value in values))
            raise UsageError(f"these runs do not add up: their {what} differ ({names}); report them apart")
    return kept


File = tuple[CommittedRun, dict[str, Any]]
"""One file of scores/: its run, and what `_SUCCESS` says of it."""


def file_date(item: dict[str, Any]) -> str:
    """The local day of a file of scores/, or UNKNOWN_DATE."""
    return str(item["name"].split("/")[1].removeprefix("date="))


def order_files(runs: Iterable[CommittedRun]) -> list[File]:
    """Every file of scores/, by local day."""
    files = [(one, item) for one in runs for item in one.score_files()]
    return sorted(files, key=lambda file: file_date(file[1]))


def group_files(one: CommittedRun) -> Iterator[tuple[range, list[dict[str, Any]]]]:
    """The files of scores/ by the first id in their names, with the ids that they hold together."""
    files: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for item in one.score_files():
        match = SCORES_FILE.fullmatch(item["name"])
        files[int(match[2]) if match else 0].append(item)
    firsts = sorted(files) or [0]
    planned = one.success["planned"]
    bounds = pairwise([0, *(min(first, planned) for first in firsts[1:]), planned])
    for first, (start, stop) in zip(firsts, bounds, strict=True):
        yield range(start, stop), files[first]


def check_digests(one: CommittedRun, step: Step) -> None:
    """Raises UsageError where a file of the run is not the one that was committed."""

    def digest(item: dict[str, Any]) -> str:
        try:
            return hashlib.sha256((one.run.path / item["name"]).read_bytes()).hexdigest()
        except store_errors() as error:
            return explain(error)

    with ThreadPoolExecutor(num_threads(one.run.path)) as pool:
        for item, found in zip(one.success["files"], pool.map(digest, one.success["files"]), strict=True):
            if found != item["sha256"]:
                what = f"sha256 {item['sha256'][:12]} was committed, found {found[:12]}"
                raise UsageError(f"{one.run.path / item['name']}: {what}; restore it, or leave this run out")
            step.advance()


def read_files(files: Sequence[File], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Columns of each file, in order, some read ahead. Raises UsageError where one is not as committed."""
    if not files:
        return
    most = num_threads(files[0][0].run.path)
    with ThreadPoolExecutor(most) as pool:
        for together in _batches(files, most):
            yield from pool.map(lambda file: _read(file, columns), together)


def _batches(files: Sequence[File], most: int) -> Iterator[list[File]]:
    """Files that are read at a time: not more than `most`, nor than AHEAD_ROWS rows but for one file."""
    batch: list[File] = []
    for file in files:
        if batch and (len(batch) == most or sum(item["rows"] for _, item in [*batch, file]) > AHEAD_ROWS):
            yield batch
            batch = []
        batch.append(file)
    yield batch


def _read(place: File, columns: Sequence[str]) -> pa.Table:
    with _parquet(place) as parquet:
        return parquet.read(columns=list(columns)).select(columns)


def take_rows(
    files: Sequence[File], wanted: Mapping[int, NDArray[np.int64]], columns: Sequence[str]
) -> list[pa.Table]:
    """Columns of the rows `wanted`: places by the number of the file; only their row groups are read.

    Raises UsageError where a file is not as committed.
    """
    with ThreadPoolExecutor(num_threads(files[0][0].run.path) if files else 1) as pool:
        return list(pool.map(lambda number: _take(files[number], wanted[number], columns), wanted))


def _take(place: File, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
    with _parquet(place) as parquet:
        sizes = [parquet.metadata.row_group(k).num_rows for k in range(parquet.num_row_groups)]
        starts = np.cumsum([0, *sizes])
        groups, where = np.unique(np.searchsorted(starts, rows, "right") - 1, return_inverse=True)
        moved = np.cumsum([0, *(sizes[group] for group in groups)])[where] - starts[groups][where]
        found = parquet.read_row_groups(groups.tolist(), columns=list(columns))
        return found.select(columns).take(pa.array(rows + moved))


@contextmanager
def _parquet(place: File) -> Iterator[pq.ParquetFile]:
    """A file of scores/. Raises UsageError where it is not as committed."""
    one, item = place
    file = one.run.path / item["name"]
    try:
        with open_file(file) as source:
            size = source.seek(0, os.SEEK_END)
            parquet = pq.ParquetFile(source, pre_buffer=True)
            for what, found, expected in (
                ("rows", parquet.metadata.num_rows, item["rows"]),
                ("bytes", size, item["num_bytes"]),
            ):
                if found != expected:
                    raise UsageError(f"{file} has {found:,} {what}, {expected:,} were committed; restore it")
            yield parquet
    except (pa.ArrowInvalid, KeyError, *store_errors()) as error:
        message = f"{file} does not read ({explain(error)}); restore it, or score to another --out"
        raise UsageError(message) from error


def clock_of(one: CommittedRun) -> Clock:
    """The clock that the run's times were read by."""
    return Clock.parse(one.settings["plan"]["timezone"], datetime.fromisoformat(one.settings["created_at"]))


def access_to(one: CommittedRun, options: StorageOptions) -> Access:
    """How the run reached its archives."""
    settings = one.settings
    return make_access(
        make_config(PlanConfig, settings["plan"]), options, make_config(JobConfig, settings.get("job", {}))
    )
