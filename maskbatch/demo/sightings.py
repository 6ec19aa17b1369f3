"""What a run of whole scenes found beside what was drawn, a face at a time."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from rich.console import Console

from maskbatch.demo.truth import print_compliance, print_incidents, print_spoilt, print_table
from maskbatch.demo.week import CAMERAS, DARK, FIRST_DAY, FROZEN, OFF
from maskbatch.drawing.gate import LABELS
from maskbatch.geometry import measure_overlap, measure_sides
from maskbatch.model.checkpoint import open_detector
from maskbatch.runner import Result
from maskbatch.runs.directory import RunDir
from maskbatch.stores.uris import local_path
from maskbatch.visible import print_lines

SAME_FACE = 0.4
"""Intersection over union from which a box that is found is that of a face that is drawn."""
IN_SIGHT = 0.7
"""Share of a face that must be visible."""
SIZES = (48, 96, 160)
"""Edges, in pixels, of the sizes in the table: the longer side of the box that is drawn."""

Row = dict[str, Any]
Counts = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class FaceComparison:
    """How the run compares with the truth, in sound pictures.

    Counts are (drawn, found, found and labelled right).
    labels, sizes: people's faces in sight that are large enough to assess, by drawn label and by size.
    too_small, hidden, poster: the other faces. static: how often the report calls the poster static_face.
    false_alarms: boxes where no face is drawn. assessed_alarms: those with a label to assess. spoilt: spoilt
    files. spoilt_right: those with the expected status.
    """

    labels: dict[str, Counts]
    sizes: dict[str, Counts]
    too_small: Counts
    hidden: Counts
    poster: Counts
    static: int
    false_alarms: int
    assessed_alarms: int
    spoilt: int
    spoilt_right: int
    true_compliance: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def print(self, console: Console, overall: dict[str, Any]) -> None:
        """Print the truth next to `overall`, the report's row over all faces."""
        print_table(console, "Faces drawn and found", "label", self.labels)
        print_table(console, "By size", "pixels", self.sizes)
        small, hidden, poster = self.too_small, self.hidden, self.poster
        lines = [
            f"Not in the tables: {small[0]:,} faces too small to assess ({small[1]:,} found), and "
            f"{hidden[0]:,} that others hide ({hidden[1]:,} found).",
            f"False alarms: {self.false_alarms:,}, {self.assessed_alarms:,} of them labelled as a face.",
            f"Poster: found in {poster[1]:,} of {poster[0]:,} pictures; the report calls it static_face in "
            f"{self.static:,}, and leaves those out of the rates.",
        ]
        print_lines(console, lines)
        print_spoilt(console, self.spoilt, self.spoilt_right)
        print_compliance(console, self.true_compliance, overall)
        print_incidents(console, FIRST_DAY, FROZEN, DARK, OFF)


def compare_faces(result: Result, archive: Path, truth: pa.Table) -> FaceComparison:
    """Match the boxes of a run to those of `truth`, its rows as `week.draw_file` makes them."""
    scored = _group(_read_rows(result.run), "path")
    faces: list[Row] = []
    alarms: list[Row] = []
    spoilt: list[bool] = []
    for path, (drawn, *drawn_faces) in _group(truth.to_pylist(), "path").items():
        picture, *found = scored[str(archive / path)]
        if drawn["status"] != "ok":
            spoilt.append(picture["status"] == drawn["status"])
            continue
        matches = match_boxes([face["box"] for face in drawn_faces], [face["box"] for face in found])
        labels = [found[k]["label"] if k is not None else None for k in matches]
        faces += [
            face | {"found": k is not None, "right": label == face["label"]}
            for face, k, label in zip(drawn_faces, matches, labels, strict=True)
        ]
        alarms += [face for k, face in enumerate(found) if k not in matches]
    return FaceComparison(
        **_count_faces(faces),
        static=_count_static(result),
        false_alarms=len(alarms),
        assessed_alarms=sum(alarm["label"] in LABELS[:3] for alarm in alarms),
        spoilt=len(spoilt),
        spoilt_right=sum(spoilt),
    )


def _read_rows(run: RunDir) -> list[Row]:
    """The rows of scores, each picture before its faces, with the path of the file."""
    scores = ds.dataset(run.scores, partitioning="hive")
    rows = scores.to_table(columns=["uri", "region", "status", "label", "box"])
    rows = rows.sort_by([("uri", "ascending"), ("region", "ascending")])
    return [row | {"path": local_path(row["uri"]).decode()} for row in rows.to_pylist()]


def _group(rows: list[Row], key: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def match_boxes(drawn: list[list[float]], found: list[list[float]]) -> list[int | None]:
    """For each box that is drawn, the place of its own among those found; the nearest pairs first."""
    overlaps = {
        (i, k): float(measure_overlap(a, b)) for i, a in enumerate(drawn) for k, b in enumerate(found)
    }
    matches: list[int | None] = [None] * len(drawn)
    for (i, k), overlap in sorted(overlaps.items(), key=lambda item: -item[1]):
        if overlap >= SAME_FACE and matches[i] is None and k not in matches:
            matches[i] = k
    return matches


def _count_faces(faces: list[Row]) -> dict[str, Any]:
    """The fields of FaceComparison that come of drawn faces."""
    groups: dict[str, list[Row]] = {"poster": [], "hidden": [], "too_small": [], "clear": []}
    min_face_px = open_detector().card.min_face_px
    for face in faces:
        hidden, small = face["visible"] < IN_SIGHT, _longer_side(face) < min_face_px
        group = "poster" if face["poster"] else "hidden" if hidden else "too_small" if small else "clear"
        groups[group].append(face)
    clear = groups.pop("clear")
    labels = {label: _count([face for face in clear if face["label"] == label]) for label in LABELS[:3]}
    sizes = {
        f"{low}-{high}" if high < inf else f"{low}+": _count(
            [face for face in clear if low <= _longer_side(face) < high]
        )
        for low, high in pairwise((min_face_px, *SIZES, inf))
    }
    counts = {name: _count(group) for name, group in groups.items()}
    return {
        **counts,
        "labels": labels,
        "sizes": sizes,
        "true_compliance": labels["with_mask"][0] / len(clear),
    }


def _longer_side(face: Row) -> float:
    return float(measure_sides(np.asarray(face["box"])))


def _count(faces: list[Row]) -> Counts:
    return len(faces), sum(face["found"] for face in faces), sum(face["right"] for face in faces)


def _count_static(result: Result) -> int:
    """How many faces of the poster's camera the report calls static_face."""
    cameras = {f"{row['site']}/{row['camera']}": row for row in result.report.values["quality"]["by_camera"]}
    (poster,) = (camera.path for camera in CAMERAS if camera.poster)
    return int(cameras[poster]["static_face"])
