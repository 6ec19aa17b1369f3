"""A draft of a plan: which images earlier runs hold unchanged, so that their rows are carried over.

A row is carried over if uri, size, version, checkpoint and settings of scoring are equal and its status is
not one that may heal; of a run of older decode rules, if it is ok. Where the plan has no time, the zone in
which EXIF's was read must be equal too. We list the archive into a draft on local disk, and compare hashes of
its uris and of those of earlier runs there, a bucket at a time.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from maskbatch import schema
from maskbatch.archives.hidden import Rules, count_hidden
from maskbatch.buckets import Buckets, Records, hash_texts
from maskbatch.clock import Clock, name_zone, now
from maskbatch.config import DECODE_RULES, PLAN_RULES, PlanConfig, list_differences, to_dict
from maskbatch.errors import UsageError
from maskbatch.plan import table as table_module
from maskbatch.plan.listing import Listing
from maskbatch.plan.table import read_plan, write_plan
from maskbatch.progress import Step, say, step
from maskbatch.runs.committed import CommittedRun, check_digests, group_files, read_files
from maskbatch.runs.request import Request, Target, refuse_newer_rules

REASONS = ("carried", "failed before", "without a version", "changed", "new")
"""What may become of an image; of several runs that have it, the first of these decides. An image without a
version is scored again: nobody can tell whether it changed."""
CARRIED, FAILED, UNVERSIONED, CHANGED, NEW = range(len(REASONS))
RECORD = np.dtype(
    [("uri", "<u8"), ("key", "<u8"), ("details", "<u8"), ("heals", "?"), ("run", "<i2"), ("id", "<i8")]
)
"""One image: hashes of its uri, of size and version (`key`, 0 without a version), and of its site, camera,
time and kept value (`details`); `run` is -1 in the draft."""
MATCH = np.dtype([("reason", "u1"), ("run", "<i2"), ("id", "<i8")])
"""What becomes of an image, and the row of an earlier run that decides it."""
Match = NDArray[Any]
"""MATCH of each image, in the order of the listing."""


@dataclass(frozen=True, slots=True)
class Draft:
    """An archive listed on local disk, and what earlier runs hold of it; nothing is in the run directory."""

    created_at: datetime
    listing: Listing
    reused: list[CommittedRun]
    """Runs whose rows may be carried over, in the order that `reuse_run` counts."""
    folder: Path
    match: Match
    num_gone: int
    """Images of the first of these runs that the archive does not hold any more."""
    num_hidden: tuple[int, ...]
    """Of each run of the target that older rules planned, the images that their names leave out now."""
    num_moved: int
    """Images carried over from it that now have another site, camera, time or kept value."""

    def counts(self) -> dict[str, int]:
        """Images by REASONS."""
        counts = np.bincount(self.match["reason"], minlength=len(REASONS))
        return dict(zip(REASONS, counts.tolist(), strict=True))

    @property
    def num_to_score(self) -> int:
        return self.listing.num_images - self.counts()["carried"]

    def is_new(self, standing: CommittedRun, config: PlanConfig, *, scheduled: bool) -> bool:
        """Whether there is something to make a new version of.

        A scheduled call retries no image that failed or has no version, and replaces no run with images gone.
        """
        counts = self.counts()
        num_new = counts["new"] + counts["changed"] + self.num_moved
        if scheduled and self.num_gone and num_new:
            gone = f"{self.num_gone:,} of its images are in the archive no more, and {num_new:,} are new"
            say(f"reuse: {standing.run.path} is not replaced: {gone}; `maskbatch score --reuse` does it")
            return False
        if not scheduled:
            num_new += counts["failed before"] + counts["without a version"] + self.num_hidden[0]
        return num_new > 0 or bool(list_differences(to_dict(config), standing.settings.plan_values))


@contextmanager
def draft_plan(target: Target, request: Request) -> Iterator[Draft]:
    """List the archive, and find what reused runs hold of it. Raises UsageError where one was altered."""
    settings, listing = target.run.read_run(), Listing()
    created_at = settings.created_at if settings else now()
    clock, reused = request.clock(created_at), _pick_usable(target.reused, request)
    with TemporaryDirectory(prefix="maskbatch-") as scratch:
        folder = Path(scratch) / "plan"
        with step("plan") as listed:
            write_plan(folder, request.list_rows(created_at, listing), listed)
        with (
            step("reuse", sum(len(earlier.success.files) for earlier in reused), "files") as compared,
            Buckets(RECORD, "uri", Path(scratch)) as buckets,
        ):
            listed_records = _read_listed(folder, listing.num_images, clock)
            for records in chain(listed_records, _read_earlier(reused, compared, request.decode_timeout_s)):
                buckets.write(records)
            match, num_gone, num_moved = _match(buckets, Path(scratch) / "match", listing.num_images)
        hidden = tuple(_count_hidden(earlier, request) for earlier in target.reused)
        num_gone -= hidden[0] if reused[:1] == list(target.reused[:1]) else 0
        yield Draft(created_at, listing, reused, folder, match, num_gone, hidden, num_moved)


def _count_hidden(earlier: CommittedRun, request: Request) -> int:
    """Images that a run of earlier rules has, and that their names leave out now."""
    rules = Rules.of(request.plan)
    if earlier.settings.plan_rules >= PLAN_RULES or rules.include_hidden:
        return 0
    trees = [source.tree for source in request.sources if not source.file]
    planned, each = earlier.success.planned, table_module.GROUP_ROWS
    parts = (read_plan(earlier.run.plan, at, min(at + each, planned)) for at in range(0, planned, each))
    return count_hidden(chain.from_iterable(part["uri"].to_pylist() for part in parts), trees, rules)


def _pick_usable(runs: Sequence[CommittedRun], request: Request) -> list[CommittedRun]:
    """The runs that the same checkpoint and settings scored; names the others.

    Raises UsageError for one whose decode rules are newer than ours.
    """
    usable = []
    for earlier in runs:
        refuse_newer_rules(earlier.run, earlier.settings.decode_rules, "leave that --reuse out")
        if request.checkpoint is None or earlier.digest != request.checkpoint.digest:
            say(f"reuse: {earlier.run.path} was scored by another checkpoint; its rows are not carried over")
        elif (earlier.detector and earlier.detector.digest) != (request.detector and request.detector.digest):
            say(f"reuse: {earlier.run.path} was scored by another detector; its rows are not carried over")
        elif request.score and list_differences(to_dict(request.score), earlier.settings.score_values or {}):
            say(f"reuse: {earlier.run.path} was scored by other settings; its rows are not carried over")
        else:
            usable.append(earlier)
            if (rules := earlier.settings.decode_rules) < DECODE_RULES:
                older = f"older decode rules ({rules}, now {DECODE_RULES})"
                say(f"reuse: {earlier.run.path} was scored by {older}; only its ok rows are carried over")
    return usable


def _read_listed(folder: Path, num_images: int, clock: Clock) -> Iterator[Records]:
    for start in range(0, num_images, table_module.GROUP_ROWS):
        rows = read_plan(folder, start, min(start + table_module.GROUP_ROWS, num_images))
        yield _make_records(rows, clock, -1)


def _read_earlier(reused: Sequence[CommittedRun], step: Step, decode_timeout_s: float) -> Iterator[Records]:
    for number, earlier in enumerate(reused):
        check_digests(earlier, step)
        clock = Clock.parse(earlier.settings.plan.timezone, now())
        for ids, files in group_files(earlier):
            planned = read_plan(earlier.run.plan, ids.start, ids.stop)
            listed = [(earlier, file) for file in files]
            rows = pa.concat_tables(read_files(listed, ("id", "region", "status", "error")))
            rows = rows.filter(pc.equal(rows["region"], 0)).sort_by("id")
            if not rows["id"].equals(planned["id"]):
                what = "plan and scores differ; see `maskbatch verify`, leave it out"
                raise UsageError(f"{earlier.run.path}: {what}")
            is_older = earlier.settings.decode_rules < DECODE_RULES
            healing = schema.STATUSES[1:] if is_older else schema.MAY_HEAL
            heals = pc.is_in(rows["status"], pa.array(healing))
            if not is_older:  # the same limit of time would end the same decode
                final = pc.fill_null(pc.equal(rows["error"], schema.explain_timeout(decode_timeout_s)), False)
                heals = pc.and_not(heals, final)
            yield _make_records(planned, clock, number, heals)


def _make_records(planned: pa.Table, clock: Clock, run: int, heals: pa.ChunkedArray | None = None) -> Records:
    zones = {site: name_zone(clock.zone(site)) for site in planned["site"].unique().to_pylist()}
    zone = pa.array([zones[site] for site in planned["site"].to_pylist()], pa.string())
    zone = pc.if_else(pc.is_null(planned["captured_at"]), zone, "")
    num_bytes = pc.fill_null(planned["num_bytes"].cast(pa.string()), "")
    key = pc.binary_join_element_wise(num_bytes, planned["version"], zone, "|")  # null without a version
    key = pc.coalesce(pc.binary_join_element_wise(planned["status"], planned["error"], "|"), key)
    details = [planned[name].cast(pa.string()) for name in ("site", "camera", "captured_at", "kept")]
    details = pc.binary_join_element_wise(*details, "\0", null_handling="replace", null_replacement="\1")
    records = np.zeros(planned.num_rows, RECORD)
    records["uri"], records["details"] = hash_texts(planned["uri"]), hash_texts(details)
    records["key"] = np.where(pc.is_valid(key).to_numpy(), hash_texts(pc.fill_null(key, "")), 0)
    records["heals"] = heals.to_numpy() if heals is not None else False
    records["run"], records["id"] = run, planned["id"].to_numpy()
    return records


def _match(buckets: Buckets, path: Path, num_images: int) -> tuple[Match, int, int]:
    """The match of each listed image, `num_gone` and `num_moved`; `path` holds the match on disk."""
    match = np.memmap(path, MATCH, "w+", shape=(num_images,))
    match["reason"] = NEW
    num_gone = num_moved = 0
    for records in buckets.read():
        images = pd.DataFrame(records)
        listed, earlier = images[images["run"] < 0], images[images["run"] >= 0]
        pairs = _pair(listed, earlier)
        match["reason"][pairs["id"]], match["run"][pairs["id"]] = pairs["reason"], pairs["run_earlier"]
        match["id"][pairs["id"]] = pairs["id_earlier"]
        num_gone += int((~earlier["uri"][earlier["run"] == 0].isin(listed["uri"])).sum())
        of_first = (pairs["reason"] == CARRIED) & (pairs["run_earlier"] == 0)
        num_moved += int((of_first & (pairs["details"] != pairs["details_earlier"])).sum())
    return match, num_gone, num_moved


def _pair(listed: pd.DataFrame, earlier: pd.DataFrame) -> pd.DataFrame:
    """Each listed image that earlier runs have, with its `reason` and the one earlier record that decides."""
    pairs = listed.merge(earlier, on="uri", suffixes=("", "_earlier"))
    same = pairs["key"] == pairs["key_earlier"]
    kinds = [pairs["key"] == 0, same & ~pairs["heals_earlier"], same]
    pairs["reason"] = np.select(kinds, [UNVERSIONED, CARRIED, FAILED], CHANGED).astype(np.uint8)
    return pairs.sort_values(["id", "reason", "run_earlier"]).drop_duplicates("id")


def number_rows(folder: Path, match: Match) -> Iterator[pa.Table]:
    """The plan from a draft's rows in tables of GROUP_ROWS rows: images to score, then those carried over."""
    held: list[pa.Table] = []
    first = 0
    for table in _select_rows(folder, match):
        held.append(table)
        while sum(part.num_rows for part in held) >= table_module.GROUP_ROWS:
            joined = pa.concat_tables(held)
            yield _set_ids(joined.slice(0, table_module.GROUP_ROWS), first)
            first += table_module.GROUP_ROWS
            held = [joined.slice(table_module.GROUP_ROWS)]
    if sum(part.num_rows for part in held):
        yield _set_ids(pa.concat_tables(held), first)


def _select_rows(folder: Path, match: Match) -> Iterator[pa.Table]:
    for carried in (False, True):
        for start in range(0, len(match), table_module.GROUP_ROWS):
            part = match[start : start + table_module.GROUP_ROWS]
            rows, held = read_plan(folder, start, start + len(part)), part["reason"] == CARRIED
            for name, values in (("reuse_run", part["run"]), ("reuse_id", part["id"])):
                place = rows.schema.get_field_index(name)
                kind = rows.schema.field(place)
                rows = rows.set_column(place, kind, pa.array(values, kind.type, mask=~held))
            yield rows.filter(pa.array(held == carried))


def _set_ids(rows: pa.Table, first: int) -> pa.Table:
    ids = pa.array(np.arange(first, first + rows.num_rows))
    return rows.set_column(0, rows.schema.field(0), ids).combine_chunks()
