"""`maskbatch demo`: draw a month of four cameras with a known truth, and score it with the ordinary job.

The archive is like a real one: day and night, people and empty gates, some spoilt files, a file that is no
image, one camera frozen for a day, one dark for a day, one off for two days.
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
from maskbatch.demo.month import DARK, FIRST_DAY, FROZEN, OFF, Snapshot, draw_archive, plan_month
from maskbatch.drawing.gate import LABELS
from maskbatch.errors import UsageError
from maskbatch.progress import say
from maskbatch.runs.directory import RunDir
from maskbatch.stores.files import write_whole
from maskbatch.stores.uris import local_path
from maskbatch.visible import print_lines

LAYOUT = "{site}/{camera}/{captured_at:%Y/%m/%d/%H%M%S}.jpg"
TIMEZONE = "Europe/Paris"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """How the run compares with the truth; `drawn`, `found` and `right` count sound images.

    drawn: by drawn label. found: by predicted label. right: by drawn label, where the predicted one is the
    same. spoilt: spoilt files. spoilt_right: those with the expected status.
    """

    drawn: dict[str, int]
    found: dict[str, int]
    right: dict[str, int]
    spoilt: int
    spoilt_right: int
    true_compliance: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def print(self, console: Console, overall: dict[str, Any]) -> None:
        """Print the truth next to `overall`, the report's row over all images."""
        title: Any = {"title": "Drawn and found", "title_justify": "left", "title_style": "bold"}
        table = Table("label", header_style="", box=SIMPLE_HEAD, **title)
        for name in ("drawn", "found", "right"):
            table.add_column(name, justify="right")
        for name in LABELS:
            share = self.right[name] / self.drawn[name] if self.drawn[name] else 1
            table.add_row(name, f"{self.drawn[name]:,}", f"{self.found[name]:,}", f"{share:.1%}")
        console.print(table)
        print_lines(
            console, [f"Spoilt files: {self.spoilt} drawn, {self.spoilt_right} found with the right status."]
        )
        inside = overall["compliance_low"] <= self.true_compliance <= overall["compliance_high"]
        contains = "contains" if inside else "does not contain"
        print_lines(
            console, [f"True compliance: {self.true_compliance:.1%}; the report's interval {contains} it."]
        )
        frozen, dark, off = (FIRST_DAY + timedelta(days=n) for n in (FROZEN[1], DARK[1], OFF[1][0]))
        console.print(
            f"The report shows these too: {FROZEN[0]} repeats one frame all {frozen:%Y-%m-%d}, {DARK[0]} is "
            f"dark all {dark:%Y-%m-%d}, {OFF[0]} is off for {len(OFF[1])} days from {off:%Y-%m-%d}."
        )


def run_demo(out: Path, num_images: int, *, verbose: bool = False) -> tuple[runner.Result, Comparison]:
    """Draw `out`/archive unless it exists, score it to `out`/run, and compare the run with the truth."""
    archive, truth_path = out.absolute() / "archive", out.absolute() / "truth.parquet"
    snapshots = list(plan_month(num_images))
    if len(snapshots) != num_images:
        say(f"{len(snapshots):,} snapshots: as many for every camera and day, none while {OFF[0]} is off.")
    if truth_path.exists():
        truth = pq.read_table(truth_path)
        if truth["path"].to_pylist() != [snapshot.path for snapshot in snapshots]:
            raise UsageError(f"{out} holds a demo of {truth.num_rows} images; name another --out")
    elif archive.exists() and any(archive.iterdir()) and not (out / ".drawing").exists():
        raise UsageError(f"{archive} is not empty and holds no demo; name another --out")
    else:
        draw_archive(archive, snapshots)
        rows = [{"path": it.path, "label": it.label, "status": it.spoilt or "ok"} for it in snapshots]
        with write_whole(truth_path) as partial:
            pq.write_table(pa.Table.from_pylist(rows), partial)
        (out / ".drawing").unlink()
    config = PlanConfig(archives=(str(archive),), layout=(LAYOUT,), timezone=(TIMEZONE,))
    result = runner.score_archive(config, str(out / "run"), verbose=verbose)
    say(f"Archive: {archive}   Truth: {truth_path}")
    return result, compare_with_truth(result.run, archive, snapshots)


def compare_with_truth(run: RunDir, archive: Path, snapshots: list[Snapshot]) -> Comparison:
    """Join the rows of a committed run to the truth by path."""
    rows = ds.dataset(run.scores, partitioning="hive").to_table(columns=["uri", "status", "label"])
    rows_by_path = {local_path(row["uri"]).decode(): row for row in rows.to_pylist()}
    drawn, found, right = (Counter(dict.fromkeys(LABELS, 0)) for _ in range(3))
    spoilt = []
    for snapshot in snapshots:
        row = rows_by_path[str(archive / snapshot.path)]
        if snapshot.spoilt:
            spoilt.append(row["status"] == snapshot.spoilt)
        else:
            drawn[snapshot.label] += 1
            found[row["label"]] += 1
            right[snapshot.label] += row["label"] == snapshot.label
    rate = drawn["with_mask"] / (drawn.total() - drawn["no_face"])
    return Comparison(
        drawn=drawn,
        found=found,
        right=right,
        spoilt=len(spoilt),
        spoilt_right=sum(spoilt),
        true_compliance=rate,
    )
