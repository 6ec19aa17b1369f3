"""Whole scenes: pictures to frames, frames to faces, faces to probabilities.

The detector sees a copy of each picture. Faces are cut from the larger frame, as squares of CROP_SCALE times
the box, clipped to the picture, which is how training cuts them. The classifier gets full batches of faces
across pictures, and no more than a batch and a picture's faces wait, however crowded the pictures are.

Shape suffixes: F faces of one picture, K classes.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil, floor
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskbatch.config import DETECT_PX, ScoreConfig
from maskbatch.decode.images import (
    HEADROOM,
    Columns,
    Decode,
    Row,
    Whole,
    decode_each,
    describe,
    gather_columns,
    resize,
)
from maskbatch.decode.source import Encoded
from maskbatch.geometry import measure_sides
from maskbatch.model.card import Preset
from maskbatch.model.checkpoint import DetectorFile
from maskbatch.schema import MAX_FACES

if TYPE_CHECKING:
    from maskbatch.model.classifier import Classifier, Images
    from maskbatch.model.detector import Faces

CROP_SCALE = 1.3
BROKEN_DETECTOR, BROKEN_MODEL = (
    {"status": "score_error", "error": f"the {network}'s output is not a finite number"}
    for network in ("detector", "model")
)


class AnyFrame(Protocol):
    """A decoded picture in which faces are to be found, or what was made of it, on the host or a device."""

    size: tuple[int, int]
    """(W, H) of the source, upright."""

    @property
    def shown(self) -> tuple[int, int]:
        """(W, H) of its own pixels."""

    @property
    def pixels(self) -> "Images":
        """(H, W, 3) uint8 RGB."""

    def shrink(self, longest_px: int) -> Self:
        """A copy, reduced if its longest side has more pixels: what the detector sees."""

    def fit(self, preset: Preset) -> Self:
        """As the classifier sees it."""

    def cut(self, box: Sequence[float], preset: Preset) -> Self:
        """What the classifier sees of the face in `box`, which is in pixels of the source."""

    @staticmethod
    def describe_all(frames: Sequence[Any]) -> list[Row]:
        """`decode.describe` of each of these frames of the model's input size."""


@dataclass(slots=True)
class Frame:
    """A picture on the host."""

    image: Image.Image
    """RGB, upright, in its proportions: what faces are cut from."""
    size: tuple[int, int]
    """(W, H) of the source, upright."""

    @property
    def shown(self) -> tuple[int, int]:
        return self.image.size

    @property
    def pixels(self) -> NDArray[np.uint8]:
        return np.asarray(self.image)

    def shrink(self, longest_px: int) -> Self:
        return type(self)(Image.fromarray(shrink(self.image, longest_px)), self.size)

    def fit(self, preset: Preset) -> Self:
        return type(self)(resize(self.image, preset, preset.input_size[::-1], self.image.size), self.size)

    def cut(self, box: Sequence[float], preset: Preset) -> Self:
        own = frame_square(box, self.size, self.shown)
        return type(self)(self.image.crop(own), self.size).fit(preset)

    @staticmethod
    def describe_all(frames: Sequence["Frame"]) -> list[Row]:
        return [describe(frame.image) for frame in frames]


DecodedFrame = tuple[Row, Frame | None]
"""A picture's row, as `decode_batch` makes it, and its frame; None where it is not ok."""


@dataclass(slots=True)
class Scene:
    """The faces of one picture, from left to right."""

    boxes_F4: NDArray[np.float32]
    """x0, y0, x1, y1 in pixels of the upright source."""
    confidence_F: NDArray[np.float32]
    measures: list[Row]
    """Of each crop: `decode.describe`."""
    probs_FK: NDArray[np.float32]
    """Of each crop; NaN until it is judged, and of faces too small to assess."""
    assess_F: NDArray[np.bool_]
    """Whether a face is large enough to be judged."""
    num_left_out: int
    """Faces beyond MAX_FACES."""


@dataclass(slots=True)
class Scenes:
    """Pictures in plan order, and what was found in them."""

    columns: Columns
    scenes: list[Scene | None]
    """None where the picture is not ok."""


def decode_frames(
    encoded: Iterable[Encoded], config: ScoreConfig, decode: Decode | None = None
) -> Iterator[DecodedFrame]:
    """Each picture decoded; `decode` takes the place of `decode_image`."""
    for row, picture in decode_each(encoded, frame_shape(detect_px(config)), config.max_pixels, decode):
        yield row, Frame(picture.image, (picture.width, picture.height)) if picture else None


def detect_px(config: ScoreConfig) -> int:
    """The longest side of what the detector sees."""
    return config.detect_px or DETECT_PX


def frame_shape(longest_px: int) -> Whole:
    """What a picture becomes that the detector sees with a longest side of `longest_px`."""
    return Whole(ceil(HEADROOM * longest_px))


def shrink(image: Image.Image, longest_px: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3), reduced if its longest side has more pixels; Pillow takes three times as long."""
    import torch
    from torch.nn.functional import interpolate

    image_HWC = np.array(image)
    scale = longest_px / max(image.size)
    if scale >= 1:
        return image_HWC
    sides = [max(1, round(side * scale)) for side in image_HWC.shape[:2]]
    images_NCHW = torch.from_numpy(image_HWC).permute(2, 0, 1)[None]
    reduced_NCHW = interpolate(images_NCHW, sides, mode="bilinear", antialias=True)
    return np.ascontiguousarray(reduced_NCHW[0].permute(1, 2, 0).numpy())


class Finder:
    """Finds the faces of pictures, and cuts them out for the classifier."""

    def __init__(
        self, opened: DetectorFile, classifier: "Classifier", preset: Preset, config: ScoreConfig
    ) -> None:
        from maskbatch.model.detector import Detector  # torch: who only decodes does without

        self.detector = Detector(opened, dtype=classifier.dtype_name, device=classifier.device)
        self.min_face_px, self.detect_px = opened.card.min_face_px, detect_px(config)
        self.classifier, self.preset = classifier, preset

    def score(self, frames: Iterable[tuple[Row, AnyFrame | None]]) -> Scenes:
        """Find and judge the faces of pictures, in full batches across them."""
        rows, scenes = list[Row](), list[Scene | None]()
        probs_MK = iter(self.classifier.probs_of_each(self._cut_all(frames, rows, scenes)))
        for scene in filter(None, scenes):
            for face in np.flatnonzero(scene.assess_F):
                scene.probs_FK[face] = next(probs_MK)
        return Scenes(gather_columns(rows), scenes)

    def _cut_all(
        self, frames: Iterable[tuple[Row, AnyFrame | None]], rows: list[Row], scenes: list[Scene | None]
    ) -> Iterator["Images"]:
        """The crops (H, W, 3) of all faces to judge; adds pictures to `rows`, and faces to `scenes`."""
        frames = iter(frames)
        while batch := list(islice(frames, self.detector.batch_size)):
            copies = [frame.shrink(self.detect_px) for _, frame in batch if frame]
            found = zip(copies, self.detector.detect_all([copy.pixels for copy in copies]), strict=True)
            for row, frame in batch:
                scene, crops = None, list[AnyFrame]()
                if frame:
                    copy, faces = next(found)
                    if faces is None:
                        row |= BROKEN_DETECTOR
                    else:
                        scene = self._place_faces(faces, copy)
                        crops = [frame.cut(box, self.preset) for box in scene.boxes_F4.tolist()]
                    own, *measures = frame.describe_all([copy.fit(self.preset), *crops])
                    row |= own
                if scene:
                    scene.measures = measures
                rows.append(row)
                scenes.append(scene)
                assess_F = scene.assess_F if scene else ()
                yield from (crop.pixels for crop, assess in zip(crops, assess_F, strict=True) if assess)

    def _place_faces(self, faces: "Faces", copy: AnyFrame) -> Scene:
        """The faces found in a copy of a picture, not measured yet."""
        scale = np.array(
            [side / own for side, own in zip(copy.size, copy.shown, strict=True)] * 2, np.float32
        )
        boxes_F4, confidence_F = faces.boxes_K4[:MAX_FACES] * scale, faces.confidence_K[:MAX_FACES]
        order = np.lexsort(boxes_F4.T[::-1])
        boxes_F4 = boxes_F4[order]
        return Scene(
            boxes_F4=boxes_F4,
            confidence_F=confidence_F[order],
            measures=[],
            probs_FK=np.full((len(boxes_F4), self.classifier.num_classes), np.nan, np.float32),
            assess_F=measure_sides(boxes_F4) >= self.min_face_px,
            num_left_out=len(faces.boxes_K4) - len(boxes_F4),
        )


def cut_face(frame: Frame, box: Sequence[float], preset: Preset) -> Image.Image:
    """What the classifier sees of the face in `box`, which is in pixels of the source."""
    return frame.cut(box, preset).image


def frame_square(
    box: Sequence[float], size: tuple[int, int], shown: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The square around a face in the `shown` (W, H) pixels of a picture; `box` is in those of its `size`."""
    across, down = (own / source for own, source in zip(shown, size, strict=True))
    return frame_crop((box[0] * across, box[1] * down, box[2] * across, box[3] * down), shown)


def frame_crop(
    box: Sequence[float], size: tuple[int, int], scale: float = CROP_SCALE
) -> tuple[int, int, int, int]:
    """The square around a face that the classifier sees, in whole pixels, clipped to a picture.

    `size` is (W, H) of the picture; the square's side is `scale` times the longer side of `box`, which is
    (x0, y0, x1, y1).
    """
    x0, y0, x1, y1 = box
    half = scale * max(x1 - x0, y1 - y0) / 2
    (left, right), (top, bottom) = (
        (min(max(0, floor(middle - half)), length - 1), max(1, min(length, ceil(middle + half))))
        for middle, length in zip(((x0 + x1) / 2, (y0 + y1) / 2), size, strict=True)
    )
    return left, top, max(left + 1, right), max(top + 1, bottom)
