"""`maskbatch demo`: a month of four drawn cameras with a known truth, scored by the ordinary job.

The archive is what a real one is: day and night light, people and empty gates, a few spoilt files,
a file that is no image, one camera frozen for a day, one without light, one switched off for two.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from maskbatch import runner
from maskbatch.config import PlanConfig
from maskbatch.demo.month import DARK, FIRST_DAY, FROZEN, OFF, Snapshot, _truth, draw_archive, plan_month
from maskbatch.drawing import LABELS
from maskbatch.errors import UsageError
from maskbatch.progress import say
from maskbatch.runs.directory import RunDir
from maskbatch.stores.files import write_whole
from maskbatch.stores.uris import local_path

LAYOUT = "{site}/{camera}/{captured_at:%Y/%m/%d/%H%M%S}.jpg"


TIMEZONE = "Europe/Paris"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What was found beside what was drawn."""

    drawn: dict[str, int]
    """Sound images by drawn label."""
    found: dict[str, int]
    """Those images by the label they got."""
    right: dict[str, int]
    """Those whose label is the drawn one."""
    spoilt: int
    """Files drawn spoilt."""
    spoilt_right: int
    """Of them, those with the status they were drawn for."""
    true_compliance: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def print(self, console: Console, overall: dict[str, Any]) -> None:
        """The truth beside the report's overall row."""
        table = Table(
            title="Drawn and found",
            title_justify="left",
            title_style="bold",
            header_style="",
            box=SIMPLE_HEAD,
        )
        for name in ("label", "drawn", "found", "right"):
            table.add_column(name, justify="left" if name == "label" else "right")
        for name in LABELS:
            share = self.right[name] / self.drawn[name] if self.drawn[name] else 1
            table.add_row(name, f"{self.drawn[name]:,}", f"{self.found[name]:,}", f"{share:.1%}")
        console.print(table)
        console.print(f"Spoilt files: {self.spoilt} drawn, {self.spoilt_right} found with the right reason.")
        held = overall["compliance_low"] <= self.true_compliance <= overall["compliance_high"]
        holds = "holds" if held else "does not hold"
        console.print(f"Compliance drawn: {self.true_compliance:.1%}; the report's interval {holds} it.")
        frozen, dark, off = (FIRST_DAY + timedelta(days=n) for n in (FROZEN[1], DARK[1], OFF[1][0]))
        console.print(
            f"Drawn to be found too: {FROZEN[0]} repeats one frame all {frozen:%Y-%m-%d}, {DARK[0]} is dark "
            f"all {dark:%Y-%m-%d}, {OFF[0]} is off for {len(OFF[1])} days from {off:%Y-%m-%d}."
        )


def run_demo(out: Path, num_images: int, *, verbose: bool = False) -> tuple[runner.Result, Comparison]:
    """Draw the archive at `out`/archive unless it is there, score it to `out`/run, compare."""
    archive, truth_path = out.absolute() / "archive", out.absolute() / "truth.parquet"
    snapshots = list(plan_month(num_images))
    if len(snapshots) != num_images:
        say(f"{len(snapshots):,} snapshots: as many every day of each camera, none while {OFF[0]} is off.")
    if truth_path.exists():
        truth = pq.read_table(truth_path)
        if truth["path"].to_pylist() != [snapshot.path for snapshot in snapshots]:
            raise UsageError(f"{out} holds a demo of {truth.num_rows} images; name another --out")
    elif archive.exists() and any(archive.iterdir()) and not (out / ".drawing").exists():
        raise UsageError(f"{archive} is not empty and holds no demo; name another --out")
    else:
        draw_archive(archive, snapshots)
        with write_whole(truth_path) as partial:
            pq.write_table(pa.Table.from_pylist([_truth(snapshot) for snapshot in snapshots]), partial)
        (out / ".drawing").unlink()
    config = PlanConfig(archives=(str(archive),), layout=LAYOUT, timezone=(TIMEZONE,))
    result = runner.score_archive(config, str(out / "run"), verbose=verbose)
    say(f"Archive: {archive}   Truth: {truth_path}")
    return result, compare_truth(result.run, archive, snapshots)


def compare_truth(committed: RunDir, archive: Path, snapshots: list[Snapshot]) -> Comparison:
    """Join the committed rows to the truth by path."""
    rows = ds.dataset(committed.scores, partitioning="hive").to_table(columns=["uri", "status", "label"])
    scored = {local_path(row["uri"]).decode(): row for row in rows.to_pylist()}
    drawn, found, right = (Counter(dict.fromkeys(LABELS, 0)) for _ in range(3))
    spoilt = spoilt_right = 0
    for snapshot in snapshots:
        row = scored[str(archive / snapshot.path)]
        if snapshot.spoilt:
            spoilt += 1
            spoilt_right += row["status"] == snapshot.spoilt
        else:
            drawn[snapshot.label] += 1
            found[row["label"]] += 1
            right[snapshot.label] += row["label"] == snapshot.label
    return Comparison(
        drawn=drawn,
        found=found,
        right=right,
        spoilt=spoilt,
        spoilt_right=spoilt_right,
        true_compliance=drawn["with_mask"] / (drawn.total() - drawn["no_face"]),
    )
