"""Check a committed run: its files, that every image is in it once, and a sample read and scored again.

Rows are compared with the plan one range of ids at a time, as the names of their files give them, so
that memory holds one range of a run of any size.
"""

import hashlib
import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from maskbatch import schema
from maskbatch.committed import Committed, open_committed
from maskbatch.differences import Difference, Verification
from maskbatch.errors import UsageError
from maskbatch.plan import read_plan
from maskbatch.progress import Step, step
from maskbatch.rundir import Location, RunDir, num_threads, reason, store_errors
from maskbatch.stores import NO_OPTIONS, StorageOptions

SCORES_FILE = re.compile(r"scores/date=([^/]+)/part-(\d+)\.parquet")
LEFT_OVER = re.compile(r"(^|/)\.[^/]*(?<!\.parquet)$")
"""Dot names: what `rundir.whole` leaves where it is cut off, and what a desktop writes."""

Item = Mapping[str, Any]
"""What `_SUCCESS` says of one file."""


def verify(
    run: RunDir,
    *,
    sample: int = 200,
    seed: int | None = None,
    checkpoint: str | None = None,
    options: StorageOptions = NO_OPTIONS,
) -> Verification:
    """Check the committed run at `run`, and `sample` random images of it against the archive.

    `checkpoint` is where the run's checkpoint lies now, if it was moved. Raises UsageError where
    no committed run is there, or one of another format.
    """
    for flag, value in (("--sample", sample), ("--seed", seed or 0)):
        if value < 0:
            raise UsageError(f"{flag} {value}: 0 or more expected")
    one = _open(run)
    result = Verification(
        success_sha256=hashlib.sha256(run.success.read_bytes()).hexdigest(),
        seed=secrets.randbelow(2**31) if seed is None else seed,
    )
    with step("verify", len(one.success["files"]), "files") as shown:
        sound = _check_plan(one, result, shown)
        planned = one.success["planned"] if sound else 0
        drawn = np.random.default_rng(result.seed).choice(planned, min(sample, planned), replace=False)
        rows, plan = _check_scores(one, result, drawn, sound, shown)
    listed = {item["name"] for item in one.success["files"]}
    for name in sorted({run.run_json.name, *_stored(run.plan), *_stored(run.scores)} - listed):
        result.differ(name, "file", "none, _SUCCESS does not list it", "a file")
    if len(rows):
        from maskbatch.rescore import check_sample  # torch, which files alone do not need

        check_sample(one, result, rows, plan, checkpoint, options)
    return result


def _open(run: RunDir) -> Committed:
    """The run; without its settings where run.json cannot be used and is not the committed one."""
    try:
        return open_committed(run)
    except UsageError:
        one = Committed(run, {}, run.read_success() or {"files": []})
        settings = (item for item in one.success["files"] if item["name"] == run.run_json.name)
        if any(_read(one, item)[1] for item in settings):
            return one  # and that is a difference
        raise


def _stored(folder: Location) -> Iterator[str]:
    """Every file below `folder`, named from the run directory; dot names left out, but a .parquet file.

    A link to a folder counts as a file: some readers follow it.
    """
    if isinstance(folder, Path):
        found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        paths = [path.relative_to(folder).as_posix() for path in found]
    else:
        here = folder.path.rstrip("/") + "/"
        paths = [path.removeprefix(here) for path in folder.fs.find(here)]
    return (f"{folder.name}/{path}" for path in paths if not LEFT_OVER.search(path))


def _read(one: Committed, item: Item) -> tuple[bytes | None, list[Difference]]:
    """The bytes of a listed file, and how they are not those that were committed."""
    name = item["name"]
    try:
        data = (one.run.path / name).read_bytes()
    except store_errors() as error:
        return None, [Difference(name, None, "file", f"{item['num_bytes']:,} bytes", reason(error))]
    for what, got in (("num_bytes", len(data)), ("sha256", hashlib.sha256(data).hexdigest())):
        if got != item[what]:
            return data, [Difference(name, None, what, str(item[what]), str(got))]
    return data, []


def _read_rows(
    one: Committed, item: Item, target: pa.Schema, columns: Sequence[str] | None = None
) -> tuple[pa.Table | None, list[Difference]]:
    """`columns` of a file that must be of `target` and, as `file`, its name; None where it does not read."""
    name, expected = item["name"], f"{item['rows']:,}"
    data, found = _read(one, item)
    if data is None:
        return None, found
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        types, wanted = ({field.name: field.type for field in kind} for kind in (file.schema_arrow, target))
        for column in types | wanted if len(target) else ():
            if (is_type := types.get(column)) != (expected_type := wanted.get(column)):
                found.append(
                    Difference(name, None, f"column {column}", str(expected_type), str(is_type))
                )
        if wanted.keys() - types.keys():
            return None, found
        target = pa.schema([target.field(column) for column in columns or target.names])
        rows = file.read(target.names).select(target.names).cast(target)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        return None, [*found, Difference(name, None, "rows", expected, f"does not read ({reason(error)})")]
    if len(rows) != item["rows"]:
        found.append(Difference(name, None, "rows", expected, f"{len(rows):,}"))
    return rows.append_column("file", pa.repeat(name, len(rows))), found


def _check_plan(one: Committed, result: Verification, shown: Step) -> bool:
    """Whether run.json and the plan are the committed ones: else nothing can be compared with them."""
    target = pa.schema([schema.PLAN.field("id")])
    num_rows = 0
    for item in sorted(one.success["files"], key=lambda item: str(item["name"])):
        if item["name"].startswith("scores/"):
            continue
        if item["name"].startswith("plan/"):
            rows, found = _read_rows(one, item, target)
            ids = rows["id"].to_numpy() if rows is not None else np.zeros(0, np.int64)
            wrong = np.flatnonzero(ids != np.arange(num_rows, num_rows + len(ids)))[:1]
            found += [_difference(rows, k, "id", num_rows + k, ids[k]) for k in wrong]
            num_rows += len(ids)
        else:
            found = _read(one, item)[1]
        result.add(len(found), found)
        result.files += 1
        shown.advance()
    if result.verified and num_rows != one.success["planned"]:
        result.differ(
            "_SUCCESS", "planned", f"{num_rows:,} (rows of the plan)", f"{one.success['planned']:,}"
        )
    return result.verified


def _ranges(one: Committed) -> Iterator[tuple[range, list[Item]]]:
    """The files of scores/ by the first id in their names, with the ids that they hold together."""
    files: dict[int, list[Item]] = defaultdict(list)
    for item in one.score_files():
        match = SCORES_FILE.fullmatch(item["name"])
        files[int(match[2]) if match else 0].append(item)
    firsts = sorted(files) or [0]
    bounds = pairwise([0, *firsts[1:], one.success["planned"]])
    for first, (start, stop) in zip(firsts, bounds, strict=True):
        yield range(start, stop), files[first]


def _check_scores(
    one: Committed, result: Verification, drawn: NDArray[np.int64], sound: bool, shown: Step
) -> pa.Table:
    """Check every file of scores/ and the conservation law; returns the rows of the ids `drawn`, sorted."""
    classes = one.meaning.classes if sound else ()
    scores = schema.scores(classes)
    target = pa.schema([scores.field(name) for name in (*COLUMNS, *(f"prob_{name}" for name in classes))])
    kept = [target.append(pa.field("file", pa.string())).empty_table()]
    statuses: Counter[str] = Counter()
    complete = True
    with ThreadPoolExecutor(num_threads(one.run.path)) as pool:
        for ids, items in _ranges(one):
            parts = list(pool.map(lambda item: _read_rows(one, item, target), items))
            for _, found in parts:
                result.add(len(found), found)
            all_read = all(table is not None for table, _ in parts)
            complete &= all_read
            rows = pa.concat_tables([kept[0], *(table for table, _ in parts if table is not None)])
            _check_partitions(rows, result)
            rows = rows.filter(pc.equal(rows["region"], 0))
            statuses.update(rows["status"].to_pylist())
            rows = _check_ids(rows, ids, result, all_read)
            if sound:
                planned = read_plan(one.run.plan, ids.start, ids.stop)
                _check_as_planned(rows, planned.take(rows["id"].to_numpy() - ids.start), result)
            wanted = drawn[slice(*np.searchsorted(drawn, (ids.start, ids.stop)))]
            kept.append(rows.filter(pa.array(np.isin(rows["id"].to_numpy(), wanted))))
            result.files += len(items)
            shown.advance(len(items))
    result.rows = statuses.total()
    if complete:  # else what a file that does not read held would be named again
        _check_statuses(one, statuses, result)
    return pa.concat_tables(kept)


def _check_partitions(rows: pa.Table, result: Verification) -> None:
    """Each row lies in the partition of its own local day."""
    partitions = pc.replace_substring_regex(rows["file"], SCORES_FILE.pattern, r"\1")
    _check_same(rows, "partition of its local day", schema.local_days(rows), partitions, result)


def _check_as_planned(rows: pa.Table, planned: pa.Table, result: Verification) -> None:
    """Each row says of its image what the plan says, given beside it."""
    for name in AS_PLANNED:
        _check_same(rows, name, planned[name], rows[name], result)


def _check_same(
    rows: pa.Table, what: str, expected: pa.ChunkedArray, got: pa.ChunkedArray, result: Verification
) -> None:
    """Two columns of strings, beside `rows`, are equal; nulls too."""
    same = pc.equal(pc.fill_null(expected, ""), pc.fill_null(got, "")).to_numpy()
    wrong = np.flatnonzero(~same)
    result.add(len(wrong), (_difference(rows, k, what, expected[k], got[k]) for k in wrong.tolist()))


def _difference(rows: pa.Table, k: int, what: str, expected: object, got: object) -> Difference:
    return Difference(str(rows["file"][k]), rows["id"][k].as_py(), what, str(expected), str(got))


def _check_ids(rows: pa.Table, ids: range, result: Verification, all_read: bool) -> pa.Table:
    """Each of `ids` has one row, where `all_read`, and no other has one; returns one row an id, in order."""
    found, first, counts = np.unique(rows["id"].to_numpy(), return_index=True, return_counts=True)
    rows = rows.take(first)
    own = (found >= ids.start) & (found < ids.stop)
    repeated, foreign = np.flatnonzero(counts > 1).tolist(), np.flatnonzero(~own).tolist()
    missing = np.setdiff1d(np.arange(ids.start, ids.stop), found).tolist() if all_read else []
    file = f"scores/date=*/part-{ids.start:012d}.parquet"
    result.add(len(repeated), (_difference(rows, k, "rows", 1, counts[k]) for k in repeated))
    result.add(len(foreign), (_difference(rows, k, "rows", 0, counts[k]) for k in foreign))
    result.add(len(missing), (Difference(file, k, "rows", "1", "0") for k in missing))
    return rows.filter(pa.array(own))


def _check_statuses(one: Committed, statuses: Counter[str], result: Verification) -> None:
    """planned = sum of statuses, and each status has as many rows as were committed."""
    planned, committed = one.success["planned"], one.success["statuses"]
    if sum(committed.values()) != planned:
        result.differ("_SUCCESS", "sum of statuses", f"{planned:,} planned", f"{sum(committed.values()):,}")
    for status in sorted({*statuses, *committed}):
        if statuses[status] != committed.get(status, 0):
            counted = f"{statuses[status]:,} (rows of scores/)"
            result.differ("_SUCCESS", f"images {status}", counted, f"{committed.get(status, 0):,}")
