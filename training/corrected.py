"""What people corrected in runs, as labelled pictures: the last word of each person, nothing disputed."""

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
"""In this order the images of an archive lie beside each other."""


@dataclass(frozen=True, slots=True)
class Corrected:
    """What people said of images, and the checkpoint that they said it of."""

    table: pd.DataFrame
    """`data.COLUMNS`, `stratum`, `probability`; `day`: site, camera and local day, '' without a run."""
    counts: dict[str, int]
    """Images: judged, skipped, disputed, usable, and changed: usable, and not what the classifier said."""
    sizes: dict[str, float]
    """Images of the archive in each stratum."""
    old: Checkpoint
    """What the new one is held against."""


def load(sources: Sequence[str], against: Path | None = None) -> Corrected:
    """The corrections of committed runs, or of folders that hold nothing else, together. Raises UsageError.

    Of an image without a run, the uri is what is read. `against` is the old checkpoint where that is not
    the one that scored the runs.
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
    told = words.dropna(subset="label").drop_duplicates(corrections.IMAGE, keep="last")
    usable = told.merge(disputed[corrections.IMAGE], how="left", indicator="where")
    usable = usable[usable["where"] == "left_only"].reset_index(drop=True)
    judged = len(words.drop_duplicates(corrections.IMAGE))
    counts = {
        "judged": judged, "skipped": judged - len(told), "disputed": len(disputed), "usable": len(usable),
        "changed": int((usable["label"] != usable["was"]).sum()),
    }  # fmt: skip
    say(
        f"{judged:,} images were judged; {counts['skipped']:,} skipped and {counts['disputed']:,} disputed "
        f"are left out; {counts['changed']:,} of the other {len(usable):,} are not what the classifier said"
    )
    if usable.empty:
        remedy = "judge some first: maskbatch ui --run RUN"
        raise UsageError(f"--corrections {', '.join(sources)}: no correction that can be used; {remedy}")
    return Corrected(_located(usable, runs), counts, _sizes(usable, runs), _scored_with(runs, against))


def _sizes(usable: pd.DataFrame, runs: Sequence[CommittedRun]) -> dict[str, float]:
    """Images in each stratum, by the runs' queues; without any, as if all that was queued had been judged."""
    queues = [read_queue(one.run.report) for one in runs if queue_path(one.run.report).exists()]
    if not queues:
        say("no queue of a run is there: each kind of image is taken to be what its judged ones stand for")
        return _stood_for(usable)
    told = pa.concat_tables([queue.select(["stratum", "probability"]) for queue in queues]).to_pandas()
    return _stood_for(usable) | _stood_for(told)


def _stood_for(rows: pd.DataFrame) -> dict[str, float]:
    found: dict[str, float] = (1 / rows["probability"]).groupby(rows["stratum"]).sum().to_dict()
    return found


def _located(usable: pd.DataFrame, runs: Sequence[CommittedRun]) -> pd.DataFrame:
    """The table of `Corrected`, neighbours together; the first run that holds an image gives it."""
    uris = set(usable["uri"])
    places = pd.DataFrame([row for one in runs for row in _places(one, uris)], columns=[*PLACE, "day"])
    table = usable.merge(places.drop_duplicates("uri"), how="left", on="uri").sort_values(PLACE)
    plain = table["run"].isna() & table["uri"].str.startswith("file://")
    paths = [local_path(uri).decode(errors="surrogateescape") for uri in table["uri"][plain]]
    table.loc[plain, "uri"] = paths
    table = table.assign(source=CORRECTIONS, split=CORRECTIONS, cluster="", suspect="0")
    return table.fillna({"run": "", "day": ""})[[*COLUMNS, "day", "stratum", "probability"]]


def _places(one: CommittedRun, uris: Collection[str]) -> Iterator[tuple[Any, ...]]:
    """PLACE and `day` of those of the images that the run has rows of."""
    planned = find_plan_rows(one, uris)
    wanted = pa.array(list(planned), pa.string())
    for rows in read_files(order_files([one]), ["uri", "site", "camera", "captured_local", "region"]):
        rows = rows.filter(pc.and_(pc.is_in(rows["uri"], wanted), pc.equal(rows["region"], 0)))
        columns = (rows[name].to_pylist() for name in ("uri", "site", "camera"))
        for uri, site, camera, day in zip(*columns, local_days(rows).to_pylist(), strict=True):
            place = (planned[uri][name] for name in ("container", "offset", "length"))
            yield str(one.run.path), *place, uri, f"{site}/{camera} {day}"


def _scored_with(runs: Sequence[CommittedRun], against: Path | None) -> Checkpoint:
    """`against`, or the checkpoint that scored the runs. Raises UsageError where it is not there."""
    if against:
        return open_checkpoint(str(against))
    stated = {one.digest: one.checkpoint.path for one in runs}
    if len(stated) != 1:
        what = (
            "the corrections are of no run" if not stated else "the runs were scored by several checkpoints"
        )
        raise UsageError(f"{what}; name the one to hold the new one against: --against FILE")
    ((digest, path),) = stated.items()
    if found := find_checkpoint(digest, path):
        return found
    message = f"{path}: the checkpoint that scored the run (sha256 {digest[:12]}) is not there any more"
    raise UsageError(f"{message}; name a copy of it, or what to hold the new one against: --against FILE")
