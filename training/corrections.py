"""What people corrected in runs, as labelled pictures: the last judgement of each person, none disputed."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Checkpoint, find_checkpoint, open_checkpoint
from maskbatch.progress import say
from maskbatch.review import corrections
from maskbatch.review.pictures import find_plan_rows
from maskbatch.review.queue import queue_path, read_queue
from maskbatch.runs.committed import CommittedRun, open_committed, order_files, read_files
from maskbatch.runs.directory import RunDir
from maskbatch.schema import local_days
from maskbatch.stores.uris import local_path
from training.data import COLUMNS, CORRECTIONS

PLACE = ["run", "container", "offset", "length", "uri"]
"""Sorted by these, neighbours in an archive are neighbours in the table."""


@dataclass(frozen=True, slots=True)
class Corrections:
    """What people said of images, and the checkpoint that they judged."""

    table: pd.DataFrame
    """`data.COLUMNS`, `stratum`, `probability`, and `day`: site, camera and local day, '' without a run."""
    counts: dict[str, int]
    """Images: judged, skipped, disputed, usable, and changed (usable, with a new label)."""
    sizes: dict[str, float]
    """Images of the archive in each stratum."""
    old: Checkpoint
    """The checkpoint to compare the new one with."""


def load_corrections(sources: Sequence[str], against: Path | None = None) -> Corrections:
    """Read the corrections of committed runs, or of folders of corrections alone. Raises UsageError.

    Images without a run are read from their uri. `against` replaces the checkpoint that scored the runs.
    """
    runs, tables = [], []
    for source in sources:
        run = RunDir.at(source)
        if run.run_json.exists():
            runs.append(open_committed(run))
            tables.append(corrections.read_run_judgements(runs[-1]))
        else:
            tables.append(corrections.read_judgements(run.path))
    words = corrections.find_latest_judgements(pa.concat_tables(tables))
    words = words[words["region"] == 0]
    disputed = corrections.find_disputes(words).drop_duplicates(corrections.IMAGE)
    labelled = words.dropna(subset="label").drop_duplicates(corrections.IMAGE, keep="last")
    usable = labelled.merge(disputed[corrections.IMAGE], how="left", indicator="where")
    usable = usable[usable["where"] == "left_only"].reset_index(drop=True)
    judged = len(words.drop_duplicates(corrections.IMAGE))
    counts = {
        "judged": judged, "skipped": judged - len(labelled), "disputed": len(disputed), "usable": len(usable),
        "changed": int((usable["label"] != usable["was"]).sum()),
    }  # fmt: skip
    say(
        f"People judged {judged:,} images. {counts['skipped']:,} skipped and {counts['disputed']:,} disputed "
        f"ones are left out; {counts['changed']:,} of the other {len(usable):,} have a new label."
    )
    if usable.empty:
        remedy = "judge some first: maskbatch ui --run RUN"
        raise UsageError(f"--corrections {', '.join(sources)}: no usable correction; {remedy}")
    table, sizes = _locate_images(usable, runs), _size_strata(usable, runs)
    return Corrections(table, counts, sizes, _find_old(runs, against))


def _size_strata(usable: pd.DataFrame, runs: Sequence[CommittedRun]) -> dict[str, float]:
    """Estimate the images in each stratum: from the runs' queues, or else from the judged images."""
    reports = [run.run.report for run in runs if queue_path(run.run.report).exists()]
    tables = [usable]
    if reports:
        queues = [read_queue(report).select(["stratum", "probability"]) for report in reports]
        tables.append(pa.concat_tables(queues).to_pandas())
    else:
        say("No queue of a run is given, so the judged images alone tell how many of each kind there are.")
    sizes: dict[str, float] = {}
    for rows in tables:
        sizes |= (1 / rows["probability"]).groupby(rows["stratum"]).sum().to_dict()
    return sizes


def _locate_images(usable: pd.DataFrame, runs: Sequence[CommittedRun]) -> pd.DataFrame:
    """Make the table of `Corrections`. Images that several runs hold are read from the first."""
    uris = set(usable["uri"])
    places = pd.DataFrame([row for run in runs for row in _read_places(run, uris)], columns=[*PLACE, "day"])
    table = usable.merge(places.drop_duplicates("uri"), how="left", on="uri").sort_values(PLACE)
    plain = table["run"].isna() & table["uri"].str.startswith("file://")
    paths = [local_path(uri).decode(errors="surrogateescape") for uri in table["uri"][plain]]
    table.loc[plain, "uri"] = paths
    table = table.assign(source=CORRECTIONS, split=CORRECTIONS, cluster="", suspect="0")
    return table.fillna({"run": "", "day": ""})[[*COLUMNS, "day", "stratum", "probability"]]


def _read_places(one: CommittedRun, uris: Collection[str]) -> Iterator[tuple[Any, ...]]:
    """Read PLACE and `day` of the images that the run has rows of."""
    planned = find_plan_rows(one, uris)
    wanted = pa.array(list(planned), pa.string())
    for rows in read_files(order_files([one]), ["uri", "site", "camera", "captured_local", "region"]):
        rows = rows.filter(pc.and_(pc.is_in(rows["uri"], wanted), pc.equal(rows["region"], 0)))
        columns = (rows[name].to_pylist() for name in ("uri", "site", "camera"))
        for uri, site, camera, day in zip(*columns, local_days(rows).to_pylist(), strict=True):
            place = (planned[uri][name] for name in ("container", "offset", "length"))
            yield str(one.run.path), *place, uri, f"{site}/{camera} {day}"


def _find_old(runs: Sequence[CommittedRun], against: Path | None) -> Checkpoint:
    """Open `against`, or else the checkpoint that scored the runs. Raises UsageError where it is gone."""
    if against:
        return open_checkpoint(str(against))
    paths = {run.digest: run.checkpoint.path for run in runs}
    if len(paths) != 1:
        reason = "several checkpoints scored the runs" if paths else "the corrections name no run"
        raise UsageError(f"{reason}; name the checkpoint to compare with: --against FILE")
    ((digest, path),) = paths.items()
    if checkpoint := find_checkpoint(digest, path):
        return checkpoint
    message = f"{path}: the checkpoint that scored the run (sha256 {digest[:12]}) is gone"
    raise UsageError(f"{message}; name a copy of it, or another one to compare with: --against FILE")
