"""Rows of scores/ against the plan and against themselves, without the archive."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from maskbatch import schema
from maskbatch.clock import EARLIEST, Clock
from maskbatch.runs.committed import CommittedRun
from maskbatch.verify.result import Difference, Verification

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
"""Since EARLIEST, zones have changed their offset only at whole quarters of an hour."""


def check_kinds(rows: pa.Table, result: Verification) -> None:
    """Each row is in the partition of its local day, is of a whole image, and has a known status."""
    partitions = pc.replace_substring_regex(rows["file"], ".*/date=([^/]*)/.*", r"\1")
    result.compare(rows, "partition of its local day", schema.local_days(rows), partitions)
    result.compare(rows, "region", pa.repeat(pa.scalar(0, pa.int16()), len(rows)), rows["region"])
    unknown = pc.invert(pc.is_in(rows["status"], pa.array(schema.STATUSES)))
    result.mark(rows, unknown, "status", "one of " + ", ".join(schema.STATUSES), rows["status"])


def check_rows(rows: pa.Table, planned: pa.Table, run: CommittedRun, result: Verification) -> None:
    """Compare whole-image rows with the same rows of the plan, and their columns with each other."""
    _check_plan_columns(rows, planned, run.keep_column, result)
    _check_local_times(rows, run.clock, result)
    _check_labels(rows, run, result)


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


def _check_labels(rows: pa.Table, run: CommittedRun, result: Verification) -> None:
    """An ok row has every number and no error, any other row only an error; numbers give the label.

    Where two probabilities are equal, the first class wins, as in `shard.make_rows`.
    """
    classes = run.meaning.classes
    names, threshold = [f"prob_{name}" for name in classes], run.card["review_threshold"]
    ok = pc.equal(rows["status"], "ok")
    nulls = {name: pc.is_null(rows[name]) for name in ("error", "label")}
    for name in (*names, "confidence"):  # a NaN is not a number, nor null
        no_number = pc.invert(pc.fill_null(pc.is_finite(rows[name]), False))
        nulls[name] = pc.if_else(ok, no_number, pc.is_null(rows[name]))
    found = pc.binary_join_element_wise(
        *(pc.if_else(is_null, name, pa.scalar(None, pa.string())) for name, is_null in nulls.items()),
        ", ",
        null_handling="skip",
    )
    expected = pc.if_else(ok, "error", ", ".join(["label", *names, "confidence"]))
    result.compare(rows, "null columns", expected, found)
    alike = pc.equal(expected, found)
    review = pc.and_(pc.and_not(alike, ok), rows["needs_review"])
    result.mark(rows, review, "needs_review", "false", rows["needs_review"])
    rows = rows.filter(pc.and_(alike, ok))
    probs_NK = np.array([rows[name].to_numpy() for name in names]).T
    labels, confidence = np.array(classes, object)[probs_NK.argmax(axis=1)], probs_NK.max(axis=1)
    result.compare(rows, "label", pa.array(labels, pa.string()), rows["label"])
    result.compare(rows, "confidence", pa.array(confidence), rows["confidence"])
    result.compare(rows, "needs_review", pa.array(confidence < threshold), rows["needs_review"])


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
