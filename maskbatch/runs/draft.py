"""Which images of an archive are unchanged in earlier runs: their rows are carried over, not scored again.

A row is carried over where uri, size, version, checkpoint and settings of scoring are equal and its status is
not one that may heal; where the plan has no time, the zone that EXIF's was read in must be equal too. The
archive is listed into a draft on local disk; hashes of its uris and of those of earlier runs are compared in
buckets there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch.buckets import Buckets, Records, hash_texts
from maskbatch.clock import Clock, now
from maskbatch.errors import UsageError
from maskbatch.plan import table as table_module
from maskbatch.plan.table import read_plan
from maskbatch.progress import Step, say
from maskbatch.runs.committed import CommittedRun, check_digests, group_files, read_files
from maskbatch.schema import MAY_HEAL

REASONS = ("carried", "failed before", "without a version", "changed", "new")
"""What may come of an image, the best first where several runs have it. Whether one without a version changed
cannot be known, so it is scored again."""


CARRIED, FAILED, UNVERSIONED, CHANGED, NEW = range(len(REASONS))


RECORD = np.dtype(
    [("uri", "<u8"), ("key", "<u8"), ("told", "<u8"), ("heals", "?"), ("run", "<i2"), ("id", "<i8")]
)
"""One image: `key` hashes size and version, 0 where it has none, `told` what else the plan says of it; `run`
is -1 in the draft."""


MATCH = np.dtype([("reason", "u1"), ("run", "<i2"), ("id", "<i8")])


@dataclass(frozen=True, slots=True)
class Draft:
    """A listed archive on local disk, before it is numbered as a plan."""

    folder: Path
    match: NDArray[Any]
    """MATCH of each image, in the order of the listing."""
    gone: int
    """Images of the first of the earlier runs that are not in it."""
    retold: int
    """Images carried over from that run that now have another site, camera, time or kept value."""

    def counts(self) -> dict[str, int]:
        """Images by REASONS."""
        found = np.bincount(self.match["reason"], minlength=len(REASONS))
        return dict(zip(REASONS, found.tolist(), strict=True))

    def groups(self) -> Iterator[pa.Table]:
        """The plan, numbered, in tables of GROUP_ROWS rows: images to score, then those carried over."""
        held: list[pa.Table] = []
        first = 0
        for table in self._parts():
            held.append(table)
            while sum(part.num_rows for part in held) >= table_module.GROUP_ROWS:
                joined = pa.concat_tables(held)
                yield _numbered(joined.slice(0, table_module.GROUP_ROWS), first)
                first += table_module.GROUP_ROWS
                held = [joined.slice(table_module.GROUP_ROWS)]
        if sum(part.num_rows for part in held):
            yield _numbered(pa.concat_tables(held), first)

    def _parts(self) -> Iterator[pa.Table]:
        for carried in (False, True):
            for start in range(0, len(self.match), table_module.GROUP_ROWS):
                match = self.match[start : start + table_module.GROUP_ROWS]
                rows = read_plan(self.folder, start, start + len(match))
                for name, values in (("reuse_run", match["run"]), ("reuse_id", match["id"])):
                    place = rows.schema.get_field_index(name)
                    kind = rows.schema.field(place)
                    rows = rows.set_column(
                        place, kind, pa.array(values, kind.type, mask=match["reason"] != CARRIED)
                    )
                yield rows.filter(pa.array((match["reason"] == CARRIED) == carried))


def make_draft(
    folder: Path, num_images: int, clock: Clock, reused: Sequence[CommittedRun], step: Step
) -> Draft:
    """Find which images of the plan in `folder`, alone on local disk, `reused` hold.

    Raises UsageError where one of these is not as it was committed.
    """
    with Buckets(RECORD, "uri", folder.parent) as buckets:
        for records in chain(_drafted_records(folder, num_images, clock), _earlier_records(reused, step)):
            buckets.write(records)
        return Draft(folder, *_match(buckets, folder.parent / "match", num_images))


def _match(buckets: Buckets, path: Path, num_images: int) -> tuple[NDArray[Any], int, int]:
    """MATCH of each drafted image, and how many of the first run's are not drafted, or told otherwise."""
    match = np.memmap(path, MATCH, "w+", shape=(num_images,))
    match["reason"] = NEW
    gone = retold = 0
    for records in buckets.read():
        images = pd.DataFrame(records)
        drafted, earlier = images[images["run"] < 0], images[images["run"] >= 0]
        found = _matched(drafted, earlier)
        match["reason"][found["id"]], match["run"][found["id"]] = found["reason"], found["run_earlier"]
        match["id"][found["id"]] = found["id_earlier"]
        gone += int((~earlier["uri"][earlier["run"] == 0].isin(drafted["uri"])).sum())
        is_first = (found["reason"] == CARRIED) & (found["run_earlier"] == 0)
        retold += int((is_first & (found["told"] != found["told_earlier"])).sum())
    return match, gone, retold


def pick_usable(found: Sequence[CommittedRun], digest: str, score: Mapping[str, Any]) -> list[CommittedRun]:
    """Those of some runs that were scored by the same checkpoint and settings; of the others it is said."""
    for one in found:
        if one.digest != digest:
            say(f"reuse: {one.run.path} was scored by another checkpoint; its rows are not carried over")
        elif one.settings["score"] != score:
            say(f"reuse: {one.run.path} was scored by other settings; its rows are not carried over")
    return [one for one in found if one.digest == digest and one.settings["score"] == score]


def _drafted_records(folder: Path, num_images: int, clock: Clock) -> Iterator[Records]:
    for start in range(0, num_images, table_module.GROUP_ROWS):
        yield _records(read_plan(folder, start, min(start + table_module.GROUP_ROWS, num_images)), clock, -1)


def _earlier_records(reused: Sequence[CommittedRun], step: Step) -> Iterator[Records]:
    for run, one in enumerate(reused):
        check_digests(one, step)
        clock = Clock.parse(one.settings["plan"]["timezone"], now())
        for ids, items in group_files(one):
            planned = read_plan(one.run.plan, ids.start, ids.stop)
            rows = pa.concat_tables(read_files([(one, item) for item in items], ("id", "region", "status")))
            rows = rows.filter(pc.equal(rows["region"], 0)).sort_by("id")
            if not rows["id"].equals(planned["id"]):
                raise UsageError(
                    f"{one.run.path}: plan and scores differ; see `maskbatch verify`, leave it out"
                )
            yield _records(planned, clock, run, pc.is_in(rows["status"], pa.array(MAY_HEAL)))


def _records(planned: pa.Table, clock: Clock, run: int, heals: pa.ChunkedArray | None = None) -> Records:
    zones = {site: clock.zone(site).key for site in planned["site"].unique().to_pylist()}
    zone = pa.array([zones[site] for site in planned["site"].to_pylist()], pa.string())
    zone = pc.if_else(pc.is_null(planned["captured_at"]), zone, "")
    num_bytes = pc.fill_null(planned["num_bytes"].cast(pa.string()), "")
    key = pc.binary_join_element_wise(num_bytes, planned["version"], zone, "|")  # null without a version
    key = pc.coalesce(pc.binary_join_element_wise(planned["status"], planned["error"], "|"), key)
    told = [planned[name].cast(pa.string()) for name in ("site", "camera", "captured_at", "kept")]
    told = pc.binary_join_element_wise(*told, "\0", null_handling="replace", null_replacement="\1")
    records = np.zeros(planned.num_rows, RECORD)
    records["uri"], records["told"] = hash_texts(planned["uri"]), hash_texts(told)
    records["key"] = np.where(pc.is_valid(key).to_numpy(), hash_texts(pc.fill_null(key, "")), 0)
    records["heals"] = heals.to_numpy() if heals is not None else False
    records["run"], records["id"] = run, planned["id"].to_numpy()
    return records


def _matched(drafted: pd.DataFrame, earlier: pd.DataFrame) -> pd.DataFrame:
    """For each drafted image that an earlier run has: `reason`, and the record there that decides it."""
    pairs = drafted.merge(earlier, on="uri", suffixes=("", "_earlier"))
    same = pairs["key"] == pairs["key_earlier"]
    kinds = [pairs["key"] == 0, same & ~pairs["heals_earlier"], same]
    pairs["reason"] = np.select(kinds, [UNVERSIONED, CARRIED, FAILED], CHANGED).astype(np.uint8)
    return pairs.sort_values(["id", "reason", "run_earlier"]).drop_duplicates("id")


def _numbered(rows: pa.Table, first: int) -> pa.Table:
    ids = pa.array(np.arange(first, first + rows.num_rows))
    return rows.set_column(0, rows.schema.field(0), ids).combine_chunks()
