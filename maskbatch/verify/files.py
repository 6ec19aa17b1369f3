"""Check a committed run: its files, that every image is in it once, and a sample read and scored again.

Rows are compared with the plan one range of ids at a time, as the names of their files give them, so
that memory holds one range of a run of any size.
"""

import hashlib
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from maskbatch import schema
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.plan.table import read_plan
from maskbatch.progress import Step, step
from maskbatch.runs.committed import CommittedRun, group_files, open_committed
from maskbatch.runs.directory import RunDir
from maskbatch.stores.files import Location, explain, num_threads, store_errors
from maskbatch.stores.options import NO_OPTIONS, StorageOptions
from maskbatch.verify.result import Difference, Verification
from maskbatch.verify.rows import check_ids, check_kinds, check_rows, check_statuses

COLUMNS = ("id", "captured_local", "region", "status")
"""Of the scores, what is read where the classes are not known."""


LEFT_OVER = re.compile(r"(^|/)\.[^/]*(?<!\.parquet)$")
"""Dot names: what `rundir.whole` leaves where it is cut off, and what a desktop writes."""


Item = Mapping[str, Any]
"""What `_SUCCESS` says of one file."""


def verify_run(
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
        success_sha256=one.success_sha256,
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
        from maskbatch.verify.sample import check_sample

        try:
            check_sample(one, result, rows, plan, checkpoint, options)
        except OverflowError:  # of a time after the year 9999, which was said above
            result.differ(run.scores.name, "times of the sample", "years 1 to 9999", "another")
    return result


def _open(run: RunDir) -> CommittedRun:
    """The run; without its settings where run.json cannot be used and is not the committed one."""
    try:
        return open_committed(run)
    except UsageError as error:
        try:
            one = CommittedRun(run, {}, run.read_success() or {"files": []})
            settings = [item for item in one.success["files"] if item["name"] == run.run_json.name]
        except (KeyError, TypeError):
            raise error from None  # _SUCCESS is damaged as well
        counted = isinstance(one.success.get("planned"), int)
        if counted and any(_read(one, item)[1] for item in settings):
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


def _read(one: CommittedRun, item: Item) -> tuple[bytes | None, list[Difference]]:
    """The bytes of a listed file, and how they are not those that were committed."""
    name = item["name"]
    try:
        data = (one.run.path / name).read_bytes()
    except store_errors() as error:
        return None, [Difference(name, None, "file", f"{item['num_bytes']} bytes", explain(error))]
    for what, got in (("num_bytes", len(data)), ("sha256", hashlib.sha256(data).hexdigest())):
        if got != item[what]:
            return data, [Difference(name, None, what, str(item[what]), str(got))]
    return data, []


def _read_rows(
    one: CommittedRun, item: Item, target: pa.Schema, exact: pa.Schema | None
) -> tuple[pa.Table | None, list[Difference]]:
    """The columns of `target` and, as `file`, the file's name; None where it does not read.

    `exact` is what the file must hold, no more and no less, where that is known.
    """
    name, expected = item["name"], str(item["rows"])
    data, found = _read(one, item)
    if data is None:
        return None, found
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        found += _columns(name, exact, file.schema_arrow)
        rows = file.read(target.names).select(target.names).cast(target)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        if not any(difference.what.startswith("column ") for difference in found):
            found.append(Difference(name, None, "rows", expected, f"does not read ({explain(error)})"))
        return None, found
    if len(rows) != item["rows"]:
        found.append(Difference(name, None, "rows", expected, str(len(rows))))
    return rows.append_column("file", pa.repeat(name, len(rows))), found


def _columns(name: str, expected: pa.Schema | None, got: pa.Schema) -> list[Difference]:
    """The columns that a file lacks, or has besides."""
    old, new = set((expected or got).names), set(got.names)
    said = {True: "a column", False: "none"}
    return [Difference(name, None, f"column {k}", said[k in old], said[k in new]) for k in sorted(old ^ new)]


def _check_plan(one: CommittedRun, result: Verification, shown: Step) -> bool:
    """Whether run.json and the plan are the committed ones: else nothing can be compared with them."""
    target = pa.schema([schema.PLAN.field(name) for name in ("id", "reuse_run", "reuse_id")])
    first_carried = one.success["planned"] - (one.success.get("carried") or 0)
    num_reused = len(one.settings.get("reuse", ()))
    num_rows = 0
    for item in sorted(one.success["files"], key=lambda item: str(item["name"])):
        if item["name"].startswith("scores/"):
            continue
        if item["name"].startswith("plan/"):
            rows, found = _read_rows(one, item, target, schema.PLAN)
            ids = rows["id"].to_numpy() if rows is not None else np.zeros(0, np.int64)
            wrong = np.flatnonzero(ids != np.arange(num_rows, num_rows + len(ids)))[:1]
            found += [
                Difference(item["name"], int(ids[k]), "id", str(num_rows + k), str(ids[k])) for k in wrong
            ]
            if rows is not None and not len(wrong):
                found += _check_reuse(item["name"], rows, first_carried, num_reused)
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


def _check_reuse(name: str, rows: pa.Table, first_carried: int, num_reused: int) -> list[Difference]:
    """The first row of the plan that is carried over where it should not be, or from no reused run."""
    ids = rows["id"].to_numpy()
    from_run = pc.fill_null(rows["reuse_run"], -1).to_numpy()
    sound = (from_run >= 0) & (from_run < num_reused) & (pc.fill_null(rows["reuse_id"], -1).to_numpy() >= 0)
    scored = pc.and_(pc.is_null(rows["reuse_run"]), pc.is_null(rows["reuse_id"])).to_numpy()
    expected = np.where(ids >= first_carried, sound, scored)
    return [
        Difference(
            name,
            int(ids[k]),
            "reuse_run",
            f"one of {num_reused} runs" if ids[k] >= first_carried else "None",
            str(rows["reuse_run"][int(k)].as_py()),
        )
        for k in np.flatnonzero(~expected)[:1]
    ]


def _check_scores(
    one: CommittedRun, result: Verification, drawn: NDArray[np.int64], sound: bool, shown: Step
) -> tuple[pa.Table, pa.Table]:
    """Check every file of scores/ and the conservation law.

    Returns the rows of the ids `drawn`, and of the plan beside them; none unless the plan is `sound`.
    """
    scores = schema.scores(one.meaning.classes, one.keep_column) if sound else schema.scores(())
    exact = scores if sound else None
    target = exact or pa.schema([scores.field(name) for name in COLUMNS])
    empty = target.append(pa.field("file", pa.string())).empty_table()
    kept, kept_plan = [empty], [schema.PLAN.empty_table()]
    statuses: Counter[str] = Counter()
    complete = True
    with ThreadPoolExecutor(num_threads(one.run.path)) as pool:
        for ids, items in group_files(one):
            parts = list(
                pool.map(lambda item: _read_rows(one, item, target, scores if sound else None), items)
            )
            for _, found in parts:
                result.add(len(found), found)
            all_read = all(table is not None for table, _ in parts)
            complete &= all_read
            rows = pa.concat_tables([empty, *(table for table, _ in parts if table is not None)])
            check_kinds(rows, result)
            rows = rows.filter(pc.equal(rows["region"], 0))
            statuses.update(rows["status"].to_pylist())
            rows = check_ids(rows, ids, result, all_read)
            planned = _read_plan(one, ids, result) if sound else None
            if planned is not None:
                planned = planned.take(rows["id"].to_numpy() - ids.start)
                check_rows(rows, planned, one, result)
                wanted = pa.array(np.isin(rows["id"].to_numpy(), drawn))
                kept.append(rows.filter(wanted))
                kept_plan.append(planned.filter(wanted))
            result.files += len(items)
            shown.advance(len(items))
    result.rows = statuses.total()
    if complete:  # else what a file that does not read held would be named again
        check_statuses(one, statuses, result)
    return pa.concat_tables(kept), pa.concat_tables(kept_plan)


def _read_plan(one: CommittedRun, ids: range, result: Verification) -> pa.Table | None:
    """The plan's rows of `ids`; None where they are not where their ids put them."""
    try:
        planned = read_plan(one.run.plan, ids.start, ids.stop)
        if np.array_equal(planned["id"].to_numpy(), np.arange(ids.start, ids.stop)):
            return planned
        got = "rows of other ids there"
    except (pa.ArrowException, RunFailedError, LookupError, *store_errors()) as error:
        got = explain(error)
    result.differ(one.run.plan.name, "rows", f"those of ids {ids.start} to {ids.stop - 1}", got)
    return None
