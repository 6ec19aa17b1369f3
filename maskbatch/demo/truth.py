"""What a run found beside what was drawn, an image at a time."""

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from maskbatch.demo.month import DARK, FIRST_DAY, FROZEN, OFF, Snapshot
from maskbatch.drawing.gate import LABELS
from maskbatch.runs.directory import RunDir
from maskbatch.stores.uris import local_path
from maskbatch.visible import print_lines


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
        counts = {name: (self.drawn[name], self.found[name], self.right[name]) for name in LABELS}
        print_table(console, "Drawn and found", "label", counts)
        print_spoilt(console, self.spoilt, self.spoilt_right)
        print_compliance(console, self.true_compliance, overall)
        print_incidents(console, FIRST_DAY, FROZEN, DARK, OFF)


def print_table(console: Console, title: str, of: str, counts: dict[str, tuple[int, int, int]]) -> None:
    """Print how many were drawn, found, and right, which is shown as a share of those drawn; by name."""
    style: Any = {"title": title, "title_justify": "left", "title_style": "bold"}
    table = Table(of, header_style="", box=SIMPLE_HEAD, **style)
    for column in ("drawn", "found", "right"):
        table.add_column(column, justify="right")
    for name, (drawn, found, right) in counts.items():
        table.add_row(name, f"{drawn:,}", f"{found:,}", f"{right / drawn if drawn else 1:.1%}")
    console.print(table)


def print_spoilt(console: Console, drawn: int, right: int) -> None:
    """Say how many spoilt files were drawn, and how many got the right status."""
    print_lines(console, [f"Spoilt files: {drawn} drawn, {right} found with the right status."])


def print_compliance(console: Console, true: float, overall: dict[str, Any]) -> None:
    """Compare with the interval of `overall`, the report's row over all images."""
    inside = overall["compliance_low"] <= true <= overall["compliance_high"]
    contains = "contains" if inside else "does not contain"
    print_lines(console, [f"True compliance: {true:.1%}; the report's interval {contains} it."])


def print_incidents(
    console: Console,
    first_day: datetime,
    frozen: tuple[str, int],
    dark: tuple[str, int],
    off: tuple[str, tuple[int, ...]],
) -> None:
    """Say which camera is frozen, dark and off on which days, counted from 0."""
    froze, darkened, ended = (first_day + timedelta(days=n) for n in (frozen[1], dark[1], off[1][0]))
    console.print(
        f"The report shows these too: {frozen[0]} repeats one frame all {froze:%Y-%m-%d}, {dark[0]} is "
        f"dark all {darkened:%Y-%m-%d}, {off[0]} is off for {len(off[1])} days from {ended:%Y-%m-%d}."
    )


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
