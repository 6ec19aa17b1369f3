"""Check a committed run: its files, that every image is in it once, and a sample read and scored again.

Compares rows with the plan one range of ids at a time: memory holds one range of a run of any size.
"""

import hashlib
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from maskbatch import schema
from maskbatch.clock import now
from maskbatch.config import PlanConfig
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.plan.table import read_plan
from maskbatch.progress import Step, step
from maskbatch.runs.committed import CommittedRun, group_files, open_committed
from maskbatch.runs.directory import RunDir
from maskbatch.runs.reading import advise_reading, is_unable
from maskbatch.runs.records import CommittedFile, RunSettings, Success, read_json
from maskbatch.runs.request import refuse_newer_rules
from maskbatch.runs.versions import choose_versions
from maskbatch.stores.files import Location, explain, find_names, num_threads, store_errors
from maskbatch.stores.options import NO_OPTIONS, StorageOptions
from maskbatch.stores.uris import Text
from maskbatch.verify.faces import check_faces
from maskbatch.verify.result import Difference, Verification
from maskbatch.verify.rows import check_ids, check_kinds, check_rows, check_statuses

COLUMNS = ("id", "captured_local", "region", "status")
"""Columns of scores to read where the classes are not known."""
NUM_FACES = pa.field("num_faces", schema.SCENE_COLUMNS["num_faces"])
LEFT_OVER = re.compile(r"(^|/)\.[^/]*(?<!\.parquet)$")
"""Dot names: what a `write_whole` that was cut off leaves, and what a desktop writes."""


def verify_run(
    run: Text,
    *,
    latest: bool = False,
    sample: int = 200,
    seed: int | None = None,
    checkpoint: str | None = None,
    detector: str | None = None,
    options: StorageOptions = NO_OPTIONS,
) -> Verification:
    """Check a committed run, and read and score `sample` random images of it again.

    `run` is its path or URL; `latest` takes its highest committed version. The same `seed` draws the same
    images. `checkpoint` and `detector` are where those of the run lie now, if they were moved.
    Raises UsageError where no committed run is there, or one of another format.
    """
    (chosen,) = choose_versions([RunDir.at(run, options)], take_latest=latest)
    moved = {"checkpoint": checkpoint, "detector": detector}
    return check_run(chosen, sample=sample, seed=seed, **moved, options=options)


def check_run(
    run: RunDir,
    *,
    sample: int = 200,
    seed: int | None = None,
    checkpoint: str | None = None,
    detector: str | None = None,
    options: StorageOptions = NO_OPTIONS,
) -> Verification:
    """As `verify_run`, of a run directory."""
    for flag, value in (("--sample", sample), ("--seed", seed or 0)):
        if value < 0:
            raise UsageError(f"{flag} {value}: 0 or more expected")
    committed, counts = _open(run)
    if detector is not None and committed.settings.score and not committed.detector:
        raise UsageError(f"--detector {detector}: {run.path} is a run of --view face; leave it out")
    if sample:
        refuse_newer_rules(run, committed.settings.decode_rules, "check its files alone with --sample 0")
    seed = secrets.randbelow(2**31) if seed is None else seed
    result = Verification(success_sha256=committed.success_sha256, seed=seed)
    with step("verify", len(committed.success.files), "files") as shown:
        sound = _check_plan(committed, result, shown)
        planned = committed.success.planned if sound else 0
        drawn = np.random.default_rng(seed).choice(planned, min(sample, planned), replace=False)
        rows, plan, statuses = _check_scores(committed, result, drawn, sound, shown)
    if statuses is not None:
        check_statuses(committed.success.planned, counts["statuses"], statuses, result)
    listed = {file.name for file in committed.success.files}
    for name in sorted({run.run_json.name, *_list_files(run.plan), *_list_files(run.scores)} - listed):
        result.differ(name, "file", "none, _SUCCESS does not list it", "a file")
    if len(rows):
        from maskbatch.verify.sample import check_sample

        try:
            moved = (checkpoint, detector)
            check_sample(committed, counts["devices"], result, rows, plan, moved, options)
        except OverflowError:  # of a time after the year 9999, which is a difference already
            result.differ(run.scores.name, "times of the sample", "years 1 to 9999", "another")
    return result


def _open(run: RunDir) -> tuple[CommittedRun, dict[str, Any]]:
    """The run, and what `_SUCCESS` says of `statuses` and `devices`, right or wrong.

    If run.json cannot be used, and is not the committed one, that is a difference, and the run has no
    settings. Raises UsageError where nothing can be compared.
    """
    values = read_json(run.success)
    if values is None:
        return open_committed(run), {}  # which raises
    counts = {name: values.get(name) for name in ("statuses", "devices")}
    success = Success.from_json({**values, **{name: {} for name in counts}}, run.success)
    nothing = RunSettings(created_at=now(), plan=PlanConfig(archives=()), versions={})
    committed = CommittedRun(run, nothing, success)
    try:
        opened = replace(committed, settings=run.read_run() or nothing)
        _ = opened.score  # which raises
        return opened, counts
    except UsageError:
        listed = [file for file in success.files if file.name == run.run_json.name]
        if any(_read(committed, file)[1] for file in listed):
            return committed, counts
        raise


def _list_files(folder: Location) -> Iterator[str]:
    """Every file below `folder`, named from the run directory, without LEFT_OVER."""
    return (f"{folder.name}/{name}" for name in find_names(folder) if not LEFT_OVER.search(name))


def _read(committed: CommittedRun, file: CommittedFile) -> tuple[bytes | None, list[Difference]]:
    """The bytes of a listed file, and how they differ from those that were committed."""
    try:
        data = (committed.run.path / file.name).read_bytes()
    except store_errors() as error:
        return None, [Difference(file.name, None, "file", f"{file.num_bytes} bytes", explain(error))]
    for what, got in (("num_bytes", len(data)), ("sha256", hashlib.sha256(data).hexdigest())):
        expected = getattr(file, what)
        if got != expected:
            return data, [Difference(file.name, None, what, str(expected), str(got))]
    return data, []


def _read_rows(
    committed: CommittedRun, file: CommittedFile, target: pa.Schema, exact: pa.Schema | None
) -> tuple[pa.Table | None, list[Difference]]:
    """The columns of `target` and, as `file`, the file's name; None where it does not read.

    `exact` has all columns that the file must hold, where that is known; where it is not, `num_faces` is
    read too if it is there.
    """
    data, differences = _read(committed, file)
    if data is None:
        return None, differences
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data))
        differences += _check_columns(file.name, exact, parquet.schema_arrow)
        if exact is None and NUM_FACES.name in parquet.schema_arrow.names:
            target = target.append(NUM_FACES)
        rows = parquet.read(target.names).select(target.names).cast(target)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        if is_unable(error):
            what = f"{committed.run.path / file.name} does not read ({explain(error)})"
            raise UsageError(f"{what}; {advise_reading(error, '')}") from error
        if not any(difference.what.startswith("column ") for difference in differences):
            got = f"does not read ({explain(error)})"
            differences.append(Difference(file.name, None, "rows", str(file.rows), got))
        return None, differences
    if len(rows) != file.rows:
        differences.append(Difference(file.name, None, "rows", str(file.rows), str(len(rows))))
    return rows.append_column("file", pa.repeat(file.name, len(rows))), differences


def _check_columns(name: str, expected: pa.Schema | None, got: pa.Schema) -> list[Difference]:
    """The columns that a file lacks, or has besides."""
    old, new = set((expected or got).names), set(got.names)
    said = {True: "a column", False: "none"}
    return [Difference(name, None, f"column {k}", said[k in old], said[k in new]) for k in sorted(old ^ new)]


def _check_plan(committed: CommittedRun, result: Verification, shown: Step) -> bool:
    """Whether run.json and the plan are the committed ones: else nothing can be compared with them."""
    target = pa.schema([schema.PLAN.field(name) for name in ("id", "reuse_run", "reuse_id")])
    success = committed.success
    num_rows = 0
    for file in sorted(success.files, key=lambda file: file.name):
        if file.name.startswith("scores/"):
            continue
        if file.name.startswith("plan/"):
            rows, differences = _read_rows(committed, file, target, schema.PLAN)
            ids = rows["id"].to_numpy() if rows is not None else np.zeros(0, np.int64)
            wrong = np.flatnonzero(ids != np.arange(num_rows, num_rows + len(ids)))[:1]
            differences += [
                Difference(file.name, int(ids[k]), "id", str(num_rows + k), str(ids[k])) for k in wrong
            ]
            if rows is not None and not len(wrong):
                num_reused = len(committed.settings.reuse)
                differences += _check_reuse(file.name, rows, success.planned - success.carried, num_reused)
            num_rows += len(ids)
        else:
            differences = _read(committed, file)[1]
        result.add(len(differences), differences)
        result.files += 1
        shown.advance()
    if result.verified and num_rows != success.planned:
        result.differ("_SUCCESS", "planned", f"{num_rows:,} (rows of the plan)", f"{success.planned:,}")
    return result.verified


def _check_reuse(name: str, rows: pa.Table, first_carried: int, num_reused: int) -> list[Difference]:
    """The first row of the plan that is carried over and should not be, or from no reused run."""
    ids = rows["id"].to_numpy()
    from_run = pc.fill_null(rows["reuse_run"], -1).to_numpy()
    sound = (from_run >= 0) & (from_run < num_reused) & (pc.fill_null(rows["reuse_id"], -1).to_numpy() >= 0)
    scored = pc.and_(pc.is_null(rows["reuse_run"]), pc.is_null(rows["reuse_id"])).to_numpy()
    carried, wanted = ids >= first_carried, {True: f"one of {num_reused} runs", False: "None"}
    return [
        Difference(name, int(ids[k]), "reuse_run", wanted[bool(carried[k])], str(rows["reuse_run"][k]))
        for k in np.flatnonzero(~np.where(carried, sound, scored))[:1].tolist()
    ]


def _check_scores(
    committed: CommittedRun, result: Verification, drawn: NDArray[np.int64], sound: bool, shown: Step
) -> tuple[pa.Table, pa.Table, Counter[str] | None]:
    """Check every file of scores/.

    Returns the rows of the ids `drawn`, and of the plan beside them, none unless the plan is `sound`; and
    images by status, None where a file does not read: its images would be named again.
    """
    exact = None
    if sound:
        exact = schema.scores(committed.meaning.classes, committed.keep_column, committed.score.view)
    target = exact or pa.schema([schema.scores(()).field(name) for name in COLUMNS])
    empty = target.append(pa.field("file", pa.string())).empty_table()
    kept, kept_plan = [empty], [schema.PLAN.empty_table()]
    statuses: Counter[str] = Counter()
    complete = True
    with ThreadPoolExecutor(num_threads(committed.run.path)) as pool:
        for ids, files in group_files(committed):
            parts = list(pool.map(lambda file: _read_rows(committed, file, target, exact), files))
            for _, differences in parts:
                result.add(len(differences), differences)
            all_read = all(table is not None for table, _ in parts)
            complete &= all_read
            tables = [empty, *(table for table, _ in parts if table is not None)]
            rows = pa.concat_tables(tables, promote_options="default")
            check_kinds(rows, result)
            is_picture = pc.equal(rows["region"], 0)
            rows, faces = rows.filter(is_picture), rows.filter(pc.invert(is_picture))
            if NUM_FACES.name in rows.column_names:
                result.faces = (result.faces or 0) + len(faces)
            statuses.update(rows["status"].to_pylist())
            rows = check_ids(rows, ids, result, all_read)
            planned = _read_plan(committed, ids, result) if sound else None
            if planned is not None:
                planned = planned.take(rows["id"].to_numpy() - ids.start)
                check_rows(rows, planned, committed, result)
                wanted = pa.array(np.isin(rows["id"].to_numpy(), drawn))
                kept.append(rows.filter(wanted))
                kept_plan.append(planned.filter(wanted))
                if committed.detector:
                    faces = check_faces(faces, rows, committed, result)
                    kept.append(faces.filter(pa.array(np.isin(faces["id"].to_numpy(), drawn))))
            result.files += len(files)
            shown.advance(len(files))
    result.rows = statuses.total()
    return pa.concat_tables(kept), pa.concat_tables(kept_plan), statuses if complete else None


def _read_plan(committed: CommittedRun, ids: range, result: Verification) -> pa.Table | None:
    """The plan's rows of `ids`; None where they are not where their ids put them."""
    plan = committed.run.plan
    try:
        planned = read_plan(plan, ids.start, ids.stop)
        if np.array_equal(planned["id"].to_numpy(), np.arange(ids.start, ids.stop)):
            return planned
        got = "rows of other ids there"
    except (pa.ArrowException, RunFailedError, LookupError, *store_errors()) as error:
        got = explain(error)
    result.differ(plan.name, "rows", f"those of ids {ids.start} to {ids.stop - 1}", got)
    return None
