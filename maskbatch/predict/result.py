"""What a checkpoint says of single images, and of the faces in them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """What a row of scores would say of one face of a whole scene."""

    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the source, upright."""
    face_confidence: float
    label: str | None
    """None, as the next two, where the face is too small to assess."""
    confidence: float | None
    probs: dict[str, float] | None
    needs_review: bool
    crop: Image.Image | None = None
    """What the classifier sees of the source; None without `box_px`."""

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pixels, JSON-ready."""
        values = {name: getattr(self, name) for name in self.__slots__ if name != "crop"}
        return values | {"box": list(self.box)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What the rows of scores would say of one image."""

    uri: str
    """As a plan shows it: no user-info, no query."""
    status: str
    error: str | None
    label: str | None
    """Of an image that is one face; None of a whole scene, as the next two."""
    confidence: float | None
    probs: dict[str, float] | None
    """By class, in the checkpoint's order; None unless the status is ok."""
    needs_review: bool
    width: int | None
    """Pixels of the source, upright."""
    height: int | None
    faces: tuple[Face, ...] | None = None
    """Those of a whole scene, from left to right; None with the view `face`."""
    num_faces_left_out: int = 0
    """Faces beyond `schema.MAX_FACES`."""
    model_input: NDArray[np.uint8]
    """(H, W, 3) RGB, what the model saw; zeros where the image cannot be decoded, empty of a whole scene."""
    thumbnail: Image.Image | None = None
    """The source, upright; None without `box_px`, or where it cannot be decoded."""

    def as_dict(self) -> dict[str, Any]:
        """Everything but the pixels, JSON-ready."""
        others = ("model_input", "thumbnail", "faces", "num_faces_left_out")
        values = {name: getattr(self, name) for name in self.__slots__ if name not in others}
        if self.faces is None:
            return values
        faces = [face.as_dict() for face in self.faces]
        return values | {"faces": faces, "num_faces_left_out": self.num_faces_left_out}


@dataclass(frozen=True, slots=True)
class Predictions:
    """What one checkpoint, with a detector or without, says of some images."""

    checkpoint: str
    """Its path."""
    digest: str
    """Its sha256."""
    classes: tuple[str, ...]
    images: list[Prediction]
    """In the order in which they were given."""
    detector: str | None = None
    """Its path; None with the view `face`."""
    detector_digest: str | None = None
    """Its sha256."""

    def as_dict(self) -> dict[str, Any]:
        """What `maskbatch predict --json` prints."""
        values: dict[str, Any] = {"checkpoint": self.checkpoint, "digest": self.digest}
        if self.detector:
            values |= {"detector": self.detector, "detector_digest": self.detector_digest}
        return values | {"classes": list(self.classes), "images": [image.as_dict() for image in self.images]}
