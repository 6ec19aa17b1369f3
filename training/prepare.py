"""Make the default classifier's data from labelled faces, the photographs they come from, and drawings.

    python -m training.prepare ../shared --out DIR
    python -m training.prepare --out DIR                  without photographs: drawings alone
    python -m training.prepare ../shared --out DIR --view scene      faces as scoring cuts them from scenes

Writes DIR/manifest.csv: `uri,label,split,cluster,source,suspect`. The photographs give faces with as much
context as a camera shows (`scenes`) and pictures without a face (`empty`); `drawn` is as in the demo. Split
`extra` is for learning alone; `context`, `drawn` and `found` are further splits to measure on.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from math import exp, log
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from numpy.random import Generator
from PIL import Image
from typer import Argument, Option

from maskbatch.cli.program import run_program
from maskbatch.config import ScoreConfig
from maskbatch.drawing.gate import LABELS, Gate, draw_snapshot
from maskbatch.errors import UsageError
from maskbatch.geometry import do_overlap
from maskbatch.model.checkpoint import DetectorFile, open_checkpoint, open_detector
from maskbatch.progress import say, step
from maskbatch.schema import VIEWS
from maskbatch.stores.files import write_whole
from training import crops, scenes

CUTS = {"train": 6, "val": 2}
"""Windows per face, and windows without a face per photograph, by split."""
MIN_FACE_PX = 28
ASPECTS = log(0.56), log(1.78)
"""Scoring squashes frames of 9:16 to 16:9 to the square input, so windows take all these shapes."""
DRAWN = {"train": (500, 7, ((320, 240), (640, 480))), "drawn": (250, 20_000, ((640, 480),))}
"""Drawings per label, their seed and their sizes, by split."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)

Box = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax in pixels."""
Window = tuple[int, int, int, int]
Size = tuple[int, int]
Cut = tuple[Image.Image, dict[str, Any]]
"""A picture, and its row of the manifest without the uri."""


def prepare_photographs(root: Path, out: Path, only: str | None = None) -> pd.DataFrame:
    """Cut and draw pictures into `out`, and write the manifest of all pictures, or of split `only`."""
    faces = _read_faces(root)
    boxes = pd.read_csv(root / "data/scenes/boxes.csv")
    if only:
        names = sorted(set(boxes["split"]))
        if only not in names:
            raise UsageError(f"--only {only}: the photographs have splits {', '.join(names)}")
        boxes = boxes[boxes["split"] == only]
    uri = [str((root / "data/faces" / file).resolve()) for file in faces["file"]]
    split = faces["file"].str.partition("/")[0].str.removeprefix("train_")
    own = faces.assign(uri=uri, split=split, source=split.where(split == "extra", "faces"))
    rows = own.astype({"suspect": int}).to_dict("records")
    _clear(out)
    photographs = dict(iter(boxes.groupby("file")))
    with step("cut", len(photographs), "photographs") as progress:
        for file, group in photographs.items():
            for k, (picture, row) in enumerate(cut_scene(root / "data/scenes", file, group, faces)):
                rows.append(row | {"uri": _write(picture, out, f"{Path(file).stem}-{row['split']}-{k}")})
            progress.advance()
    manifest = pd.DataFrame(rows if only else [*rows, *_write_drawings(out)])
    if only:
        manifest = manifest[manifest["split"] == only]
    is_extra = manifest["source"].isin(["scenes", "drawn"]) & (manifest["split"] == "train")
    manifest.loc[is_extra, "split"] = "extra"
    return _write_manifest(manifest, out)


def prepare_scenes(root: Path, out: Path, detector: DetectorFile) -> pd.DataFrame:
    """Cut the faces that a detector finds in photographs as scoring does, and write the manifest.

    They are split `extra`, of val `found`. The folders `faces_more` and `no_face` add pictures where they
    are, and the same small and grey.
    """
    boxed = crops.name_clusters(read_boxed(root), _read_faces(root))
    files = boxed["file"].unique().tolist()
    found = crops.find_faces(files, detector, open_checkpoint(), ScoreConfig(view="scene"))
    _clear(out)
    rows = []
    for k, (picture, row) in enumerate(crops.cut_faces(boxed, found)):
        split = "found" if row["split"] == "val" else "extra"
        rows.append(row | {"split": split, "uri": _write(picture, out, f"found-{k}")})
    more = list(_list_more(root))
    grey = {"source": "grey", "split": "extra", "suspect": 0}
    for k, (picture, row) in enumerate(crops.turn_grey(more)):
        rows.append(row | grey | {"uri": _write(picture, out, f"grey-{k}")})
    rows += [row | {"uri": str(path)} for path, row in more if row["label"] != "no_face"]
    return _write_manifest(pd.DataFrame(rows), out)


def read_boxed(root: Path) -> pd.DataFrame:
    """Read the boxed faces of every folder of photographs below `root`, with a `source` for each folder."""
    tables = []
    for name, source in (("scenes", "found"), ("scenes_more", "found_more")):
        if (root / "data" / name / "boxes.csv").is_file():
            tables.append(scenes.read_boxes((root / "data" / name).resolve()).assign(source=source))
    return pd.concat(tables, ignore_index=True)


def _list_more(root: Path) -> Iterator[tuple[Path, crops.Row]]:
    """List the pictures of `faces_more` that are near none of `faces`, and those of `no_face`."""
    more = (root / "data/faces_more").resolve()
    base = {"split": "extra", "source": "faces_more", "suspect": 0}
    if more.is_dir():
        table = pd.read_csv(more / "manifest.csv", dtype=str, keep_default_na=False)
        for row in table[table["near_train"] != "1"].itertuples():
            yield more / row.file, base | {"label": row.label, "cluster": row.cluster}
    for path in sorted((root / "data/no_face").resolve().glob("*.jpg")):
        yield path, base | {"label": "no_face", "cluster": path.stem}


def prepare_drawings(out: Path) -> pd.DataFrame:
    """Do the same with drawings alone, to learn from and to measure on."""
    _clear(out)
    manifest = pd.DataFrame(_write_drawings(out)).replace({"split": {"drawn": "val"}})
    return _write_manifest(manifest, out)


def _read_faces(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "data/faces/manifest.csv", dtype=str, keep_default_na=False)


def _clear(out: Path) -> None:
    shutil.rmtree(out / "pictures", ignore_errors=True)
    (out / "pictures").mkdir(parents=True)


def _write_drawings(out: Path) -> Iterator[dict[str, Any]]:
    """Write the drawings of DRAWN; yields their rows of the manifest."""
    for split, (num_each, seed, sizes) in DRAWN.items():
        with step("draw", num_each * len(LABELS), "pictures") as progress:
            for k, (picture, label) in enumerate(draw(num_each, seed, sizes)):
                row = {"label": label, "split": split, "cluster": f"{split}-{k}", "source": "drawn"}
                yield row | {"suspect": 0, "uri": _write(picture, out, f"drawn-{split}-{k}")}
                progress.advance()


def _write_manifest(rows: pd.DataFrame, out: Path) -> pd.DataFrame:
    manifest = rows[["uri", "label", "split", "cluster", "source", "suspect"]]
    with write_whole(out / "manifest.csv") as partial:
        manifest.to_csv(partial, index=False)
    return manifest


def _write(picture: Image.Image, out: Path, name: str) -> str:
    picture.save(out / "pictures" / f"{name}.jpg", quality=92)
    return f"pictures/{name}.jpg"


def cut_scene(folder: Path, file: str, group: pd.DataFrame, faces: pd.DataFrame) -> Iterator[Cut]:
    """Cut a photograph's faces in random context, but no suspect or tiny ones, and windows without a face."""
    split, stem = str(group["split"].iloc[0]), Path(file).stem
    own = faces[faces["file"].str.contains(f"/{stem}_", regex=False)]
    sound = {Path(row.file).stem: row.label for row in own[own["suspect"] == "0"].itertuples()}
    cluster = own["cluster"].iloc[0] if len(own) else file
    boxes = list(group[["xmin", "ymin", "xmax", "ymax"]].astype(float).itertuples(index=False, name=None))
    rng = np.random.default_rng(list(file.encode()))
    with Image.open(folder / file) as picture:
        scene = picture.convert("RGB")
    row = {"cluster": cluster, "suspect": 0}
    where = {"split": "context" if split == "val" else split, "source": "scenes"}
    for face, box in zip(group["face"], boxes, strict=True):
        label = sound.get(f"{stem}_{int(face):02d}")
        if label is None or max(box[2] - box[0], box[3] - box[1]) < MIN_FACE_PX:
            continue
        others = [other for other in boxes if other is not box]
        for _ in range(CUTS[split]):
            if window := place_window(box, others, scene.size, rng):
                yield scene.crop(window), row | where | {"label": label}
    for window in place_empty(boxes, scene.size, rng, CUTS[split]):
        yield scene.crop(window), row | {"split": split, "source": "empty", "label": "no_face"}


def place_window(box: Box, others: Sequence[Box], size: Size, rng: Generator) -> Window | None:
    """Place a window in a scene of `size` (W, H), 1.2 to 3 times as long as `box`, clear of others."""
    for _ in range(8):
        side = max(box[2] - box[0], box[3] - box[1]) * exp(rng.uniform(0.18, 1.1))
        stretch = exp(rng.uniform(*ASPECTS) / 2)
        x = (box[0] + box[2]) / 2 + rng.normal(0, 0.12) * side
        y = (box[1] + box[3]) / 2 + rng.normal(0, 0.12) * side
        left, top = max(0, round(x - side * stretch / 2)), max(0, round(y - side / stretch / 2))
        right = min(size[0], round(x + side * stretch / 2))
        bottom = min(size[1], round(y + side / stretch / 2))
        inside = left <= box[0] and top <= box[1] and right >= box[2] and bottom >= box[3]
        if inside and not any(do_overlap((left, top, right, bottom), other) for other in others):
            return left, top, right, bottom
    return None


def place_empty(boxes: Iterable[Box], size: Size, rng: Generator, num: int) -> list[Window]:
    """Place at most `num` windows in a scene of `size` (W, H), clear of every box widened 1.3 times."""
    widened: list[Box] = []
    for x0, y0, x1, y1 in boxes:
        dx, dy = 0.15 * (x1 - x0), 0.15 * (y1 - y0)
        widened.append((x0 - dx, y0 - dy, x1 + dx, y1 + dy))
    windows: list[Window] = []
    for _ in range(15 * num):
        side = exp(rng.uniform(log(40), log(0.9 * min(size))))
        stretch = exp(rng.uniform(*ASPECTS) / 2)
        width, height = min(size[0], round(side * stretch)), min(size[1], round(side / stretch))
        x, y = int(rng.integers(size[0] - width + 1)), int(rng.integers(size[1] - height + 1))
        if not any(do_overlap((x, y, x + width, y + height), box) for box in widened):
            windows.append((x, y, x + width, y + height))
        if len(windows) == num:
            break
    return windows


def draw(num_each: int, seed: int, sizes: Sequence[Size]) -> Iterator[tuple[Image.Image, str]]:
    """Draw `num_each` pictures of each label, day to night, each at its own gate.

    no_face gets a tenth as many more: frames of a covered or dark lens.
    """
    rng = np.random.default_rng([seed, 3])
    for label in LABELS:
        for i in range(num_each):
            gate, light, size = Gate.draw_lots(rng), rng.uniform(), sizes[i % len(sizes)]
            yield draw_snapshot(label, gate, rng, light=light, size=size), label
    for _ in range(num_each // 10):
        noise = rng.normal(rng.uniform(0, 255, 3) * rng.uniform(), rng.uniform(0, 12), (48, 64, 3))
        yield Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)), "no_face"


@app.command()
def main(
    out: Annotated[Path, Option(help="Folder for the pictures and manifest.csv.")],
    root: Annotated[
        Path | None, Argument(help="Folder above data/faces and data/scenes [drawings alone].")
    ] = None,
    only: Annotated[str | None, Option(help="Prepare one split alone: val, to measure on.")] = None,
    view: Annotated[str, Option(help="face, or scene: faces as scoring cuts them from scenes.")] = VIEWS[0],
    detector: Annotated[str | None, Option(help="Name or file, with --view scene [the package's].")] = None,
) -> None:
    """Cut and draw the default classifier's training data."""
    if view not in VIEWS:
        raise UsageError(f"--view {view}: {' or '.join(VIEWS)} expected")
    if view == "scene" and (only or not root):
        raise UsageError("--view scene takes the folder above data/, and all splits; leave --only out")
    if view == "face" and detector:
        raise UsageError(f"--detector {detector} finds faces in scenes; add --view scene, or leave it out")
    if only and not root:
        raise UsageError("--only is a split of photographs; give the folder above data/ too")
    for table in ("data/faces/manifest.csv", "data/scenes/boxes.csv"):
        if root and not (root / table).is_file():
            raise UsageError(f"training data {root / table}: no such file; give the folder above data/")
    if root and view == "scene":
        manifest = prepare_scenes(root, out, open_detector(detector))
    else:
        manifest = prepare_photographs(root, out, only) if root else prepare_drawings(out)
    say(f"{out / 'manifest.csv'}: {len(manifest):,} pictures")


if __name__ == "__main__":
    run_program(app, "python -m training.prepare --help")
