"""Rows of scores/ against the plan and against themselves, without the archive."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from maskbatch import schema
from maskbatch.clock import EARLIEST, Clock
from maskbatch.runs.committed import CommittedRun
from maskbatch.runs.regions import find_wrong_regions
from maskbatch.verify.result import Difference, Values, Verification

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
"""Since EARLIEST, zones have changed their offset only at whole quarters of an hour."""

SHOWN_REGIONS = 8


def check_kinds(rows: pa.Table, result: Verification) -> None:
    """Each row is in the partition of its local day, a region of its image, and of a known status."""
    partitions = pc.replace_substring_regex(rows["file"], ".*/date=([^/]*)/.*", r"\1")
    result.compare(rows, "partition of its local day", schema.local_days(rows), partitions)
    if "num_faces" in rows.column_names:
        _check_regions(rows, result)
    else:
        result.compare(rows, "region", pa.repeat(pa.scalar(0, pa.int16()), len(rows)), rows["region"])
    unknown = pc.invert(pc.is_in(rows["status"], pa.array(schema.STATUSES)))
    result.mark(rows, unknown, "status", "one of " + ", ".join(schema.STATUSES), rows["status"])


def _check_regions(rows: pa.Table, result: Verification) -> None:
    """The rows of each image are, in order, its regions 0 to `num_faces`; else one difference an image."""
    ids, wrong = rows["id"].to_numpy(), find_wrong_regions(rows)
    starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1))
    stops = np.append(starts[1:], len(rows))
    wrong_starts = wrong[starts]

    def describe(start: int, stop: int) -> Difference:
        image = rows.slice(start, stop - start)
        expected = f"0 to {image['num_faces'][0].as_py() or 0}"
        got = ", ".join(map(str, image["region"].slice(0, SHOWN_REGIONS).to_pylist()))
        more = " ..." if len(image) > SHOWN_REGIONS else ""
        return Difference(str(image["file"][0]), image["id"][0].as_py(), "regions", expected, got + more)

    bounds = zip(starts[wrong_starts].tolist(), stops[wrong_starts].tolist(), strict=True)
    result.add(int(wrong_starts.sum()), (describe(*pair) for pair in bounds))


def check_rows(rows: pa.Table, planned: pa.Table, run: CommittedRun, result: Verification) -> None:
    """Compare whole-image rows with the same rows of the plan, and their columns with each other."""
    _check_plan_columns(rows, planned, run.keep_column, result)
    _check_local_times(rows, run.clock, result)
    ok = pc.equal(rows["status"], "ok")
    if run.detector is None:
        check_labels(rows, {"error": ok}, ok, run, result)
        return
    always, failed = pa.repeat(True, len(rows)), pc.invert(ok)
    nulls = {"error": ok, **dict.fromkeys(("num_faces", "num_faces_left_out"), failed)}
    nulls |= dict.fromkeys(("box", "face_confidence"), always)
    check_labels(rows, nulls, pa.repeat(False, len(rows)), run, result)
    num_faces, left_out = (pc.fill_null(rows[name], 0) for name in ("num_faces", "num_faces_left_out"))
    over = pc.greater(num_faces, schema.MAX_FACES)
    result.mark(rows, over, "num_faces", f"at most {schema.MAX_FACES}", num_faces)
    odd = pc.and_(pc.not_equal(left_out, 0), pc.less(num_faces, schema.MAX_FACES))
    odd = pc.or_(odd, pc.less(left_out, 0))
    result.mark(rows, odd, "num_faces_left_out", f"0, or more beside {schema.MAX_FACES} faces", left_out)


def check_ids(rows: pa.Table, ids: range, result: Verification, all_read: bool) -> pa.Table:
    """Each of `ids` has one row, and no other id has any; returns one row an id, in order.

    Names missing ones only where `all_read` files were.
    """
    found, first, counts = np.unique(rows["id"].to_numpy(), return_index=True, return_counts=True)
    rows = rows.take(first)
    own = (found >= ids.start) & (found < ids.stop)
    for wrong, expected in ((counts > 1, "1"), (~own, "0")):
        result.mark(rows, pa.array(wrong), "rows", expected, pa.array(counts))
    num_missing = ids.stop - ids.start - int(own.sum())
    if all_read and num_missing:
        present = set(found.tolist())  # _SUCCESS may say that there are any number of images
        file = f"scores/date=*/part-{ids.start:012d}.parquet"
        missing = (Difference(file, k, "rows", "1", "0") for k in ids if k not in present)
        result.add(num_missing, missing)
    return rows.filter(pa.array(own))


def _check_plan_columns(
    rows: pa.Table, planned: pa.Table, keep_column: str | None, result: Verification
) -> None:
    """Each row repeats its row of the plan; a time that the plan lacks is from EXIF."""
    for name in ("uri", "site", "camera"):
        result.compare(rows, name, planned[name], rows[name])
    if keep_column:
        result.compare(rows, keep_column, planned["kept"], rows[keep_column])
    time, exif = rows["captured_at"], pc.if_else(pc.is_valid(rows["captured_at"]), "exif", None)
    result.compare(rows, "captured_at", pc.coalesce(planned["captured_at"], time), time)
    source = pc.if_else(pc.is_valid(planned["captured_at"]), planned["time_source"], exif)
    result.compare(rows, "time_source", source, rows["time_source"])


def _check_local_times(rows: pa.Table, clock: Clock, result: Verification) -> None:
    """captured_local is captured_at by the clock of the row's site."""
    at = pc.fill_null(rows["captured_at"].cast(pa.int64()), -1).to_numpy()
    microsecond = timedelta(microseconds=1)
    first, last, quarter = (span // microsecond for span in (EARLIEST - EPOCH, clock.latest - EPOCH, QUARTER))
    known = (at >= first) & (at <= last) & pc.is_valid(rows["captured_at"]).to_numpy()
    sites = rows["site"].combine_chunks().dictionary_encode(null_encoding="encode")
    num_sites = max(len(sites.dictionary), 1)
    at = np.where(known, at, 0)
    keys, place = np.unique(at // quarter * num_sites + sites.indices.to_numpy(), return_inverse=True)
    offsets = []
    for key in keys.tolist():
        start = EPOCH + key // num_sites * QUARTER
        local = clock.to_local(start, sites.dictionary[key % num_sites].as_py())
        offsets.append(((local or start).replace(tzinfo=UTC) - start) // microsecond)
    expected = pa.array(at + np.array(offsets, np.int64)[place], mask=~known)
    result.compare(rows, "captured_local", expected.cast(pa.timestamp("us")), rows["captured_local"])


def check_labels(
    rows: pa.Table, nulls: Mapping[str, Values], judged: Values, run: CommittedRun, result: Verification
) -> None:
    """Columns are null where `nulls` says; rows that are `judged` have every number, others none; numbers
    give the label.

    Where two probabilities are equal, the first class wins, as in `shard.make_rows`.
    """
    classes = run.meaning.classes
    names, threshold = [f"prob_{name}" for name in classes], run.card["review_threshold"]
    numbers = (*names, "confidence")
    expected_nulls = {**nulls, **dict.fromkeys(("label", *numbers), pc.invert(judged))}
    found_nulls = {name: pc.is_null(rows[name]) for name in expected_nulls}
    for name in numbers:  # a NaN is not a number, nor null
        no_number = pc.invert(pc.fill_null(pc.is_finite(rows[name]), False))
        found_nulls[name] = pc.if_else(judged, no_number, found_nulls[name])
    expected, found = _name_columns(expected_nulls), _name_columns(found_nulls)
    result.compare(rows, "null columns", expected, found)
    alike = pc.equal(expected, found)
    review = pc.and_(pc.and_not(alike, judged), rows["needs_review"])
    result.mark(rows, review, "needs_review", "false", rows["needs_review"])
    rows = rows.filter(pc.and_(alike, judged))
    probs_NK = np.array([rows[name].to_numpy() for name in names]).T
    labels, confidence = np.array(classes, object)[probs_NK.argmax(axis=1)], probs_NK.max(axis=1)
    result.compare(rows, "label", pa.array(labels, pa.string()), rows["label"])
    result.compare(rows, "confidence", pa.array(confidence), rows["confidence"])
    result.compare(rows, "needs_review", pa.array(confidence < threshold), rows["needs_review"])


def _name_columns(nulls: Mapping[str, Values]) -> Values:
    """For each row the names of its columns that are null, with commas between."""
    named = (pc.if_else(is_null, name, pa.scalar(None, pa.string())) for name, is_null in nulls.items())
    return pc.binary_join_element_wise(*named, ", ", null_handling="skip")


def check_statuses(planned: int, committed: Any, statuses: Counter[str], result: Verification) -> None:
    """planned = sum of statuses, and each status has as many rows as `committed` says, right or wrong."""
    if not isinstance(committed, dict) or not all(isinstance(count, int) for count in committed.values()):
        result.differ("_SUCCESS", "statuses", "a count of images by status", committed)
        return
    if sum(committed.values()) != planned:
        result.differ("_SUCCESS", "sum of statuses", f"{planned:,} planned", f"{sum(committed.values()):,}")
    for status in sorted({*statuses, *committed}):
        if statuses[status] != committed.get(status, 0):
            counted = f"{statuses[status]:,} (rows of scores/)"
            result.differ("_SUCCESS", f"images {status}", counted, f"{committed.get(status, 0):,}")
