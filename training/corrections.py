"""What people corrected in runs, as labelled pictures: the last judgement of each person, none disputed.

Of whole scenes they are faces, cut from their pictures as scoring cuts them.
"""

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
    _refuse_other_regions(runs)
    words = corrections.find_latest_judgements(pa.concat_tables(tables))
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


def _refuse_other_regions(runs: Sequence[CommittedRun]) -> None:
    """Raise UsageError where one region is another face in another run."""
    if len({run.settings.found_by for run in runs}) > 1:
        names = ", ".join(str(run.run.path) for run in runs)
        reason = (
            "their views, detectors or --detect-px differ, so that they say different things of a picture"
        )
        raise UsageError(f"--corrections {names}: {reason}; name those that are alike")


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
    rows = [row for run in runs for row in _read_places(run, uris)]
    places = pd.DataFrame(rows, columns=[*PLACE, "region", "day", "box", "detect_px"])
    image = ["uri", "region"]
    table = usable.merge(places.drop_duplicates(image), how="left", on=image).sort_values([*PLACE, "region"])
    if len(lost := table[(table["region"] > 0) & table["run"].isna()]):
        what = f"face {lost['region'].iloc[0]} of {lost['uri'].iloc[0]}: no run here says where it is"
        raise UsageError(f"{what}; name the run that it was judged in with --corrections RUN")
    plain = table["run"].isna() & table["uri"].str.startswith("file://")
    paths = [local_path(uri).decode(errors="surrogateescape") for uri in table["uri"][plain]]
    table.loc[plain, "uri"] = paths
    table = table.assign(source=CORRECTIONS, split=CORRECTIONS, cluster="", suspect="0")
    return table.fillna(dict.fromkeys(("run", "day", "box", "detect_px"), ""))[
        [*COLUMNS, "day", "stratum", "probability"]
    ]


def _read_places(one: CommittedRun, uris: Collection[str]) -> Iterator[tuple[Any, ...]]:
    """Read PLACE, `region`, `day`, `box` and `detect_px` of the images that the run has rows of."""
    planned = find_plan_rows(one, uris)
    wanted, detect_px = pa.array(list(planned), pa.string()), one.score.detect_px
    columns = ("uri", "site", "camera", "captured_local", "region", "box")
    for rows in read_files(order_files([one]), columns):
        rows = rows.filter(pc.is_in(rows["uri"], wanted))
        for row, day in zip(rows.to_pylist(), local_days(rows).to_pylist(), strict=True):
            place = (planned[row["uri"]][name] for name in ("container", "offset", "length"))
            box = " ".join(map(str, row["box"] or ()))
            where = row["uri"], row["region"], f"{row['site']}/{row['camera']} {day}"
            yield str(one.run.path), *place, *where, box, str(detect_px) if box else ""


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
