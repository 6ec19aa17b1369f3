"""What rows of scores/ must agree in, with the plan and with themselves; the archive is not needed for it."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from maskbatch import schema
from maskbatch.clock import EARLIEST, Clock
from maskbatch.committed import Committed
from maskbatch.differences import Verification

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
"""Zones have changed their offset, since EARLIEST, only at whole quarters of an hour."""


def clock_of(one: Committed) -> Clock:
    """The clock that the run's times were read by."""
    return Clock.parse(one.settings["plan"]["timezone"], datetime.fromisoformat(one.settings["created_at"]))


def check_statuses_known(rows: pa.Table, result: Verification) -> None:
    """Each row is of a whole image, and its status is one that there is."""
    result.compare(rows, "region", pa.repeat(pa.scalar(0, pa.int16()), len(rows)), rows["region"])
    unknown = pc.invert(pc.is_in(rows["status"], pa.array(schema.STATUSES)))
    result.mark(rows, unknown, "status", "one of " + ", ".join(schema.STATUSES), rows["status"])


def check_as_planned(rows: pa.Table, planned: pa.Table, keep_column: str | None, result: Verification) -> None:
    """Each row says of its image what the plan says, given beside it; a time that it lacks is from EXIF."""
    names = {name: name for name in ("uri", "site", "camera")} | ({keep_column: "kept"} if keep_column else {})
    for name, source in names.items():
        result.compare(rows, name, planned[source], rows[name])
    time, exif = rows["captured_at"], pc.if_else(pc.is_valid(rows["captured_at"]), "exif", None)
    result.compare(rows, "captured_at", pc.coalesce(planned["captured_at"], time), time)
    source = pc.if_else(pc.is_valid(planned["captured_at"]), planned["time_source"], exif)
    result.compare(rows, "time_source", source, rows["time_source"])


def check_local_times(rows: pa.Table, clock: Clock, result: Verification) -> None:
    """captured_local is captured_at by the clock of the row's site."""
    at = pc.fill_null(rows["captured_at"].cast(pa.int64()), -1).to_numpy()
    first, last, quarter = (int(span / timedelta(microseconds=1)) for span in
                            (EARLIEST - EPOCH, clock.latest - EPOCH, QUARTER))  # fmt: skip
    known = (at >= first) & (at <= last) & pc.is_valid(rows["captured_at"]).to_numpy()
    sites = rows["site"].combine_chunks().dictionary_encode(null_encoding="encode")
    num_sites = max(len(sites.dictionary), 1)
    keys, place = np.unique(
        np.where(known, at, 0) // quarter * num_sites + sites.indices.to_numpy(), return_inverse=True
    )
    offsets = []
    for key in keys.tolist():
        start = EPOCH + key // num_sites * QUARTER
        local = clock.to_local(start, sites.dictionary[key % num_sites].as_py())
        offsets.append(((local or start).replace(tzinfo=UTC) - start) // timedelta(microseconds=1))
    expected = pa.array(np.where(known, at, 0) + np.array(offsets, np.int64)[place], mask=~known)
    result.compare(rows, "captured_local", expected.cast(pa.timestamp("us")), rows["captured_local"])


def check_labels(rows: pa.Table, one: Committed, result: Verification) -> None:
    """Rows have probabilities exactly where they are ok, and else an error; what the label is follows.

    Where two probabilities are equal, the first class wins, as in `rows.scores_rows`.
    """
    classes, nothing = one.meaning.classes, pa.nulls(len(rows), pa.string())
    ok = pc.equal(rows["status"], "ok")
    result.mark(rows, pc.equal(pc.is_valid(rows["error"]), ok), "error",
                pc.if_else(ok, None, "a sentence"), rows["error"])  # fmt: skip
    sound = np.ones(len(rows), bool)
    for name in (f"prob_{name}" for name in classes):
        is_right = pc.if_else(ok, pc.fill_null(pc.is_finite(rows[name]), False), pc.is_null(rows[name]))
        result.mark(rows, pc.invert(is_right), name, pc.if_else(ok, "a number", None), rows[name])
        sound &= is_right.to_numpy()
    probs = np.stack([pc.fill_null(rows[f"prob_{name}"], 0).to_numpy() for name in classes], axis=1)
    best = probs.max(axis=1)
    expected = {
        "label": pc.if_else(ok, pa.array(np.array(classes, object)[probs.argmax(axis=1)], pa.string()), nothing),
        "confidence": pc.if_else(ok, pa.array(best), None),
        "needs_review": pc.and_(ok, pa.array(best < one.card["review_threshold"])),
    }
    for name, values in expected.items():  # of what has no probabilities nothing follows
        result.compare(rows, name, pc.if_else(pa.array(sound), values, rows[name]), rows[name])
