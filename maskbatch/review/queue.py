"""Which images people are asked to judge: the least certain ones, and a random sample of all others.

In runs of whole scenes people judge faces, those large enough to assess: each is an image here.

The ok images of a run fall into two strata. `uncertain` holds the least certain: as many as need review, but
at least a twentieth of all and at most NUM_UNCERTAIN. All of them are queued. `random` holds all others, of
which NUM_RANDOM are queued by simple random sampling. Each stratum comes in a random order, and both take
turns, so that at any time the judged images are a random sample of each stratum. The order depends on each
image's bytes alone, and on a face's place among those of its picture: every queue of a run is the same, and a
later version's is mostly the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from maskbatch import schema
from maskbatch.runs.committed import CommittedRun, File, take_rows
from maskbatch.stores.files import Location, open_file

STRATA = RANDOM, UNCERTAIN = "random", "uncertain"
NUM_UNCERTAIN = 1000
"""The least certain images, kept for review."""
NUM_RANDOM = 500
"""With an error rate of 5 %, its 95 % interval is 4 points wide."""
LEAST_SHARE = 0.05
PLACE = [("file", pa.int32()), ("row", pa.int32())]
HASHES = [("digest", pa.uint64()), ("order", pa.uint64())]
KEPT = pa.schema([("confidence", pa.float32()), *HASHES, ("condition", pa.string()), *PLACE])
SHOWN_COLUMNS = ("id", "uri", "site", "camera", "captured_local", "label", "confidence")
FACE_COLUMNS = ("region", "box")
"""What only faces have; an image without a `region` is region 0, a whole picture."""
SIZE = [("width", pa.int32()), ("height", pa.int32())]
PICTURE = pa.schema([("sha256", pa.string()), ("num_faces", pa.int16()), *SIZE])


@dataclass(frozen=True, slots=True)
class Selection:
    """The images of some runs that people should look at."""

    candidates: pa.Table
    """The least certain images, the least certain first: `rank`, `run`, `list_shown`, `sha256` and
    probabilities."""
    queue: pa.Table
    """The images to judge, by `position`: `list_shown`, `sha256`, probabilities, `condition`, `stratum`, and
    `probability`, the chance of an image of its stratum to be queued.

    In both, faces have the `sha256`, `width` and `height` of their picture, and `faces`: the boxes of all its
    faces from left to right."""


def list_shown(view: str) -> list[str]:
    """The columns that tell people what an image is."""
    return [*SHOWN_COLUMNS, *(FACE_COLUMNS if view == "scene" else ())]


def queue_path(report: Location) -> Location:
    """The path of the queue in the folder of a report."""
    return report / "queue.parquet"


def read_queue(report: Location) -> pa.Table:
    """The queue in the folder of a run's report, by position."""
    with open_file(queue_path(report)) as file:
        return pq.read_table(file)


class Collector:
    """Collects the images that may be selected, in whatever order rows come."""

    def __init__(self) -> None:
        self._least = self._drawn = KEPT.empty_table()
        self._num_ok = self._num_review = 0

    def add(self, day: pa.Table, condition: pa.Array, repeated: NDArray[np.bool_]) -> None:
        """Add the scored rows of a day, of whole scenes their faces; a face's `digest` is its own.

        `condition` (N,); `repeated` (N,): whether the bytes come again.
        """
        rows = day.append_column("order", pa.array(_order(day, repeated)))
        rows = rows.append_column("condition", condition).filter(pc.is_valid(rows["confidence"]))
        self._num_ok += len(rows)
        self._num_review += pc.sum(rows["needs_review"]).as_py() or 0
        rows = rows.select(KEPT.names).cast(KEPT)
        least, drawn = (pa.concat_tables([kept, rows]) for kept in (self._least, self._drawn))
        self._least = _first(least, ["confidence", "digest", "file", "row"], NUM_UNCERTAIN)
        self._drawn = _first(drawn, ["order"], NUM_UNCERTAIN + NUM_RANDOM)

    def select(self, files: Sequence[File], runs: Sequence[CommittedRun]) -> Selection:
        """The selected rows, whole: only their row groups are read again."""
        view, classes = runs[0].score.view, runs[0].meaning.classes
        shown = [*list_shown(view), "sha256", *(f"prob_{name}" for name in classes)]
        known = schema.scores(classes, view=view)
        queue, num_least = self._queue(), len(self._least)
        names = [name for name, _ in PLACE]
        places = pa.concat_tables([self._least.select(names), queue.select(names)])
        rows = _rows(files, places, pa.schema([known.field(name) for name in shown]))
        if view == "scene":
            rows = _add_pictures(files, places, rows)
            shown += [*(name for name, _ in SIZE), "faces"]
        candidates = rows.slice(0, num_least).append_column("rank", pa.array(np.arange(1, num_least + 1)))
        queued = rows.slice(num_least)
        for name in ("position", "condition", "stratum", "probability"):
            queued = queued.append_column(name, queue[name])
        return Selection(
            candidates=candidates.select(["rank", "run", *shown]),
            queue=queued.select(["position", *shown, "condition", "stratum", "probability"]),
        )

    def _queue(self) -> pa.Table:
        """The places of the queued images with their stratum and chance, in the queue's order."""
        most = max(self._num_review, int(np.ceil(LEAST_SHARE * self._num_ok)))
        uncertain = self._least.slice(0, most)
        others = ~np.isin(_codes(self._drawn), _codes(uncertain))
        random = self._drawn.filter(pa.array(others)).slice(0, NUM_RANDOM)
        num_others, shuffled = self._num_ok - len(uncertain), _first(uncertain, ["order"], len(uncertain))
        strata = ((RANDOM, random, num_others), (UNCERTAIN, shuffled, len(uncertain)))
        parts = []
        for first, (stratum, rows, num) in enumerate(strata):
            turn = pa.array(np.arange(len(rows)) * 2 + first)
            chance = pa.repeat(len(rows) / num if num else 1.0, len(rows))
            part = rows.append_column("turn", turn).append_column("stratum", pa.repeat(stratum, len(rows)))
            parts.append(part.append_column("probability", chance))
        both = pa.concat_tables(parts).sort_by("turn")
        return both.append_column("position", pa.array(np.arange(len(both))))


def _order(day: pa.Table, repeated: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """A random number (N,) for each image, from its bytes, and from its id where they are repeated."""
    own = mix_bits(day["id"].to_numpy().astype(np.uint64))
    return mix_bits(day["digest"].to_numpy() ^ np.where(repeated, own, np.uint64(0)))


def mix_bits(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers (N,) whose bits each depend on all bits of a value. Source: splitmix64, Steele et al. 2014."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _first(rows: pa.Table, keys: Sequence[str], most: int) -> pa.Table:
    """The first `most` rows by `keys`, ascending, in that order."""
    by = [(key, "ascending") for key in keys]
    return rows.take(pc.select_k_unstable(rows, min(most, len(rows)), by))


def _codes(rows: pa.Table) -> NDArray[np.int64]:
    """Each row's place as one number (N,)."""
    file, row = (rows[name].to_numpy().astype(np.int64) for name, _ in PLACE)
    return np.asarray(file << 32 | row)


def _rows(files: Sequence[File], places: pa.Table, wanted: pa.Schema) -> pa.Table:
    """The columns `wanted` of the rows at `places`, in that order, and the path of each row's `run`."""
    number, row = (places[name].to_numpy().astype(np.int64) for name, _ in PLACE)
    order = np.argsort(number, kind="stable")
    by_file = {k: row[number == k] for k in np.unique(number).tolist()}
    taken = [part.cast(wanted) for part in take_rows(files, by_file, wanted.names)]
    rows = pa.concat_tables([wanted.empty_table(), *taken]).take(pa.array(np.argsort(order, kind="stable")))
    runs = [str(files[k][0].run.path) for k in number]
    return rows.append_column("run", pa.array(runs, pa.string()))


def _add_pictures(files: Sequence[File], places: pa.Table, faces: pa.Table) -> pa.Table:
    """`faces`, at `places`, with what is known of their pictures.

    A picture's row comes right before those of its faces, in one file.
    """
    number, row = (places[name].to_numpy().astype(np.int64) for name, _ in PLACE)
    first = row - faces["region"].to_numpy()
    pictures = _rows(files, _make_places(number, first), PICTURE)
    num = pictures["num_faces"].to_numpy().astype(np.int64)
    ends = np.cumsum(num)
    every = np.repeat(first + 1 - (ends - num), num) + np.arange(num.sum())
    boxes = _rows(files, _make_places(np.repeat(number, num), every), pa.schema([("box", schema.BOX)]))["box"]
    of_picture = pa.ListArray.from_arrays(pa.array([0, *ends], pa.int32()), boxes.combine_chunks())
    faces = faces.set_column(faces.column_names.index("sha256"), "sha256", pictures["sha256"])
    for name, _ in SIZE:
        faces = faces.append_column(name, pictures[name])
    return faces.append_column("faces", of_picture)


def _make_places(number: NDArray[np.int64], row: NDArray[np.int64]) -> pa.Table:
    return pa.table({"file": number, "row": row}, pa.schema(PLACE))
