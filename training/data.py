"""What the classifier learns from and is measured on: faces, scenes without them, drawings.

Every sample is an encoded image that goes through `maskbatch.decode`, as an archive's images do.
A near-duplicate group (`cluster` in the manifest) lies wholly in one of fit, slice and val.
"""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskbatch.decode import Decoded, decode_batch
from maskbatch.drawing import LABELS, Gate, draw_snapshot
from maskbatch.errors import UsageError
from maskbatch.read import Encoded

CLASSES = LABELS
NO_FACE = CLASSES.index("no_face")
SLICE_PERCENT = 12
"""Groups of `train` kept from fitting: they choose the epoch, the temperature and the threshold."""
CUTS = 2
"""Windows a face, and crops without a face a scene."""
MIN_FACE_PX = 28
ASPECTS = log(0.56), log(1.78)
"""Frames of 9:16 to 16:9 are squashed to the square input, so windows take every such shape."""

Box = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax in pixels."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One encoded image; `label` indexes CLASSES, `source` is faces, extra, scenes or drawn."""

    data: bytes
    label: int
    source: str
    group: str
    suspect: bool = False


def load_training(root: Path, num_drawn: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """What is learned from, and the slice of `train` that chooses; suspect labels in neither."""
    faces = [face for face in read_faces(root, "train") if not face.suspect]
    cuts = cut_scenes(root, "train", seed)
    windows = [cut for cut in cuts if cut.label != NO_FACE]
    empty = [cut for cut in cuts if cut.label == NO_FACE]
    fit = [sample for sample in [*faces, *windows] if not in_slice(sample.group)]
    fit += read_faces(root, "train_extra")
    fit += [crop for crop in empty if not in_slice(crop.group)] + draw(num_drawn, seed)
    return fit, [sample for sample in [*faces, *empty] if in_slice(sample.group)]


def load_val(root: Path) -> list[Sample]:
    """The held-out set of every figure: val faces, suspects too, and crops without a face."""
    crops = [crop for crop in cut_scenes(root, "val", seed=0) if crop.label == NO_FACE]
    return [*read_faces(root, "val"), *crops]


def load_val_in_context(root: Path) -> list[Sample]:
    """Val faces again, suspects left out, in as much context and in such frames as a camera gives."""
    return [cut for cut in cut_scenes(root, "val", seed=0) if cut.label != NO_FACE]


def in_slice(group: str) -> bool:
    """Whether a near-duplicate group is kept from fitting; a function of its name alone."""
    return crc32(group.encode()) % 100 < SLICE_PERCENT


def read_faces(root: Path, split: str) -> list[Sample]:
    """The labelled face crops of `train`, `val` or `train_extra`."""
    folder, source = root / "data" / "faces", "extra" if split == "train_extra" else "faces"
    return [
        Sample(
            (folder / row["file"]).read_bytes(), CLASSES.index(row["label"]), source,
            row["cluster"] or row["file"], row["suspect"] == "1",
        )
        for row in _rows(folder / "manifest.csv") if row["file"].startswith(f"{split}/")
    ]  # fmt: skip


def cut_scenes(root: Path, split: str, seed: int) -> list[Sample]:
    """Cuts of the photographs of a split: its faces in random context, and crops without a face."""
    manifest = _rows(root / "data" / "faces" / "manifest.csv")
    sound = {
        Path(row["file"]).stem: CLASSES.index(row["label"])
        for row in manifest if row["suspect"] == "0"
    }  # fmt: skip
    groups = {Path(row["file"]).stem.rpartition("_")[0]: row["cluster"] for row in manifest}
    scenes: defaultdict[str, dict[str, Box]] = defaultdict(dict)
    for row in _rows(root / "data" / "scenes" / "boxes.csv"):
        if row["split"] == split:
            xmin, ymin, xmax, ymax = (float(row[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
            face = f"{Path(row['file']).stem}_{int(row['face']):02d}"
            scenes[row["file"]][face] = (xmin, ymin, xmax, ymax)
    face_rng, empty_rng = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    samples = []
    for file, boxes in sorted(scenes.items()):
        with Image.open(root / "data" / "scenes" / file) as picture:
            scene = picture.convert("RGB")
        group = groups.get(Path(file).stem, file)
        for name, box in boxes.items():
            if max(box[2] - box[0], box[3] - box[1]) < MIN_FACE_PX or name not in sound:
                continue
            others = [other for other in boxes.values() if other is not box]
            for _ in range(CUTS):
                if window := place_window(box, others, scene.size, face_rng):
                    data = encode(scene.crop(window))
                    samples.append(Sample(data, sound[name], "scenes", group))
        for window in place_empty(boxes.values(), scene.size, empty_rng):
            samples.append(Sample(encode(scene.crop(window)), NO_FACE, "scenes", group))
    return samples


def place_window(
    box: Box, others: Sequence[Box], size: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """A window of a scene of `size` (W, H), 1.2 to 3 times as long as `box`, clear of others."""
    for _ in range(8):
        side = max(box[2] - box[0], box[3] - box[1]) * exp(rng.uniform(0.18, 1.1))
        stretch = exp(rng.uniform(*ASPECTS) / 2)
        x = (box[0] + box[2]) / 2 + rng.normal(0, 0.12) * side
        y = (box[1] + box[3]) / 2 + rng.normal(0, 0.12) * side
        left, top = max(0, round(x - side * stretch / 2)), max(0, round(y - side / stretch / 2))
        right = min(size[0], round(x + side * stretch / 2))
        bottom = min(size[1], round(y + side / stretch / 2))
        whole = left <= box[0] and top <= box[1] and right >= box[2] and bottom >= box[3]
        if whole and not any(overlaps((left, top, right, bottom), other) for other in others):
            return left, top, right, bottom
    return None


def place_empty(
    boxes: Iterable[Box], size: tuple[int, int], rng: np.random.Generator
) -> list[tuple[int, int, int, int]]:
    """Windows of a scene of `size` (W, H), clear of every box widened 1.3 times."""
    widened = [
        (x0 - 0.15 * (x1 - x0), y0 - 0.15 * (y1 - y0), x1 + 0.15 * (x1 - x0), y1 + 0.15 * (y1 - y0))
        for x0, y0, x1, y1 in boxes
    ]
    windows: list[tuple[int, int, int, int]] = []
    for _ in range(30):
        side = exp(rng.uniform(log(40), log(0.9 * min(size))))
        stretch = exp(rng.uniform(*ASPECTS) / 2)
        width, height = min(size[0], round(side * stretch)), min(size[1], round(side / stretch))
        x, y = int(rng.integers(size[0] - width + 1)), int(rng.integers(size[1] - height + 1))
        if not any(overlaps((x, y, x + width, y + height), box) for box in widened):
            windows.append((x, y, x + width, y + height))
        if len(windows) == CUTS:
            break
    return windows


def overlaps(one: Box, other: Box) -> bool:
    """Whether two boxes share any area."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def draw(
    num_each: int, seed: int, sizes: Sequence[tuple[int, int]] = ((320, 240), (640, 480))
) -> list[Sample]:
    """`num_each` drawn pictures a label, day to night, each at a gate of its own.

    To no_face come a tenth as many frames of a covered or dark lens.
    """
    rng = np.random.default_rng([seed, 3])
    pictures = []
    for label, name in enumerate(CLASSES):
        for i in range(num_each):
            gate, light, size = Gate.draw_lots(rng), rng.uniform(), sizes[i % len(sizes)]
            pictures.append((label, draw_snapshot(name, gate, rng, light=light, size=size)))
    for _ in range(num_each // 10):
        noise = rng.normal(rng.uniform(0, 255, 3) * rng.uniform(), rng.uniform(0, 12), (48, 64, 3))
        pictures.append((NO_FACE, Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))))
    return [
        Sample(encode(picture), label, "drawn", f"drawn-{seed}-{i}")
        for i, (label, picture) in enumerate(pictures)
    ]


def encode(picture: Image.Image) -> bytes:
    """A picture as JPEG bytes, as a camera would write it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def decode(samples: Sequence[Sample], size: int) -> tuple[Decoded, NDArray[np.int64]]:
    """Samples as scoring decodes them, to `size` by `size` pixels, and their labels (N,)."""
    encoded = (Encoded(sample.data, num_bytes=len(sample.data)) for sample in samples)
    decoded = decode_batch(encoded, len(samples), (size, size), max_pixels=50_000_000)
    for sample, error in zip(samples, decoded.columns["error"], strict=True):
        if error is not None:
            raise UsageError(f"an image of group {sample.group}: {error}; fetch the data again")
    return decoded, np.array([sample.label for sample in samples], np.int64)


def sampling_weights(samples: Sequence[Sample], shares: Mapping[str, float]) -> NDArray[np.float64]:
    """Weights (N,) that draw each source by its share and, within a source, each label alike."""
    counts = Counter((sample.source, sample.label) for sample in samples)
    labels = Counter(source for source, _ in counts)
    each = [shares[s.source] / labels[s.source] / counts[s.source, s.label] for s in samples]
    return np.array(each) / sum(each)


def _rows(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="") as lines:
            return list(csv.DictReader(lines))
    except OSError as error:
        message = f"training data {file}: {error.strerror}; give --data the folder that holds data/"
        raise UsageError(message) from error
