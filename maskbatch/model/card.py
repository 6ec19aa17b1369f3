"""What a checkpoint says of itself, checked: the `Card` of a classifier, the `DetectorCard` of a detector."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from reprlib import repr as _short
from typing import Any, get_args, get_origin, get_type_hints

from maskbatch.schema import RESERVED_COLUMNS, SIZE_BANDS
from maskbatch.stores.files import parse_json

FORMAT_VERSION = 1
DETECTOR = "detector"
"""The `kind` of a detector's card; a classifier's has none."""
BATCH_SIZES = {"cpu": 32, "cuda": 128}
"""Images that a classifier sees at a time, by device: by 64, a GPU does less than half of what it can."""
RESIZES = ("squash", "crop")
INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
CLASS_NAME = re.compile(r"[a-z][a-z0-9_]*")
RESERVED_CLASSES = frozenset({"review", "clusters", "failed", "unknown"})
"""Beside RESERVED_COLUMNS: `num_review` and `num_clusters` are columns, `failed` a label of comparisons."""
RESERVED_STARTS = ("prob_", "num_", "share_", "failed_")
MIN_STD = 0.001
"""1 / 255 is in use; less makes numbers that half precision cannot hold."""


@dataclass(frozen=True, slots=True)
class Preset:
    """How a picture of any size becomes the model's input; training and scoring share it."""

    input_size: tuple[int, int]
    """(H, W) in pixels."""
    resize: str = "squash"
    """`squash`: the whole frame, whatever its aspect ratio; `crop`: a square from the middle."""
    crop_share: float = 1.0
    """Side of that square, as a share of the frame's shorter side."""
    interpolation: str = "bilinear"
    """A filter of Pillow's resize, antialiased."""

    def __post_init__(self) -> None:
        check_types(self)
        size, (height, width) = f"input_size {self.input_size}", self.input_size
        _check(min(height, width) >= 8 and max(height, width) <= 2048, f"{size}, 8 to 2048 pixels expected")
        _check(self.resize in RESIZES, f"resize {self.resize!r}, one of {RESIZES} expected")
        _check(self.resize != "crop" or height == width, f"{size} with resize crop, a square expected")
        _check(0.1 <= self.crop_share <= 1, f"crop_share {self.crop_share}, 0.1 to 1 expected")
        known = f"one of {INTERPOLATIONS} expected"
        _check(self.interpolation in INTERPOLATIONS, f"interpolation {self.interpolation!r}, {known}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What a checkpoint says of itself; `classes` has K >= 2 names, in the order of the logits."""

    architecture: str
    """A name that `architectures.build` knows."""
    options: dict[str, Any] = field(default_factory=dict)
    """Its arguments there."""
    classes: tuple[str, ...]
    compliant: tuple[str, ...]
    """Classes that count as compliant."""
    not_assessed: tuple[str, ...] = ()
    """Classes that say there is nothing to assess, such as an empty gate."""
    input_size: tuple[int, int]
    """(H, W) in pixels; with the next three the `preset`."""
    resize: str = "squash"
    crop_share: float = 1.0
    interpolation: str = "bilinear"
    mean: tuple[float, float, float]
    """Of RGB in [0, 1]."""
    std: tuple[float, float, float]
    temperature: float = 1.0
    """Logits are divided by it before the softmax. Source: Guo et al. 2017."""
    review_threshold: float = 0.0
    """Pictures of less confidence get needs_review."""
    confusion: tuple[tuple[int, ...], ...]
    """Held-out counts (K, K), true by predicted."""
    reference: dict[str, list[int]] = field(default_factory=dict)
    """Held-out histograms by measure, in the bins of `report.cells`."""
    recipe: dict[str, Any] = field(default_factory=dict)
    data_fingerprint: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        check_types(self)
        _check_version(self.format_version)
        _check_meaning(self.classes, self.compliant, self.not_assessed, self.confusion)
        taken = [name for name in self.classes if name in RESERVED_COLUMNS | RESERVED_CLASSES]
        taken += [name for name in self.classes if name.startswith(RESERVED_STARTS)]
        _check(not taken, f"class {', '.join(taken)}: the tables have a column of that name already")
        _check(
            all(-1000 <= value <= 1000 for value in self.mean), f"mean {self.mean}, -1000 to 1000 expected"
        )
        _check(
            all(MIN_STD <= value <= 1000 for value in self.std), f"std {self.std}, {MIN_STD} to 1000 expected"
        )
        _check(
            0.001 <= self.temperature <= 1000,
            f"temperature {_short(self.temperature)}, 0.001 to 1000 expected",
        )
        _check(
            0 <= self.review_threshold <= 1,
            f"review_threshold {_short(self.review_threshold)}, 0 to 1 expected",
        )
        _check_reference(self.reference)
        _ = self.preset  # which checks itself

    @property
    def preset(self) -> Preset:
        return Preset(self.input_size, self.resize, self.crop_share, self.interpolation)


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectorCard:
    """What the checkpoint of a face detector says of itself."""

    kind: str = DETECTOR
    architecture: str
    """A name in `detector.NETWORKS`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Its arguments there."""
    input_px: int
    """The longest side of the pictures that `recall` was measured on."""
    threshold: float
    """Faces of less confidence are left out."""
    nms_iou: float
    """Of two boxes that overlap by more, the more confident one stays."""
    min_face_px: int
    """A face whose longer side has fewer pixels in the source is too small to assess."""
    recall: dict[str, list[list[int]]] = field(default_factory=dict)
    """Held-out `[found, boxed]` of each class, one for each of `schema.SIZE_BANDS`; empty: not measured."""
    recipe: dict[str, Any] = field(default_factory=dict)
    data_fingerprint: str = ""
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        check_types(self)
        _check_version(self.format_version)
        _check(self.kind == DETECTOR, f"kind {_short(self.kind)}, {DETECTOR!r} expected")
        for name, low, high in (
            ("input_px", 128, 4096),
            ("threshold", 0, 1),
            ("nms_iou", 0, 1),
            ("min_face_px", 1, 1024),
        ):
            value = getattr(self, name)
            _check(low <= value <= high, f"{name} {_short(value)}, {low} to {high} expected")
        check_recall(self.recall)


def check_detector(card: Mapping[str, Any]) -> None:
    """Raises ValueError where a run's card of a detector, perhaps of another version, cannot be used."""
    for name, kind in (("threshold", float), ("min_face_px", int), ("architecture", str), ("recall", dict)):
        _check_type(name, card[name], kind)
    check_recall(card["recall"])


def check_recall(recall: Mapping[str, Any]) -> None:
    """Raises ValueError unless these are counts `[found, boxed]` by class and size band."""
    for name, bands in recall.items():
        sound = _is_list(bands) and len(bands) == len(SIZE_BANDS)
        sound = sound and all(_is_counts(band) and len(band) == 2 and band[0] <= band[1] for band in bands)
        what = f"{len(SIZE_BANDS)} pairs [found, boxed], one for each size band, expected"
        _check(sound and CLASS_NAME.fullmatch(name) is not None, f"recall of {_short(name)}: {what}")


def _check_meaning(
    classes: Sequence[str],
    compliant: Sequence[str],
    not_assessed: Sequence[str],
    confusion: Sequence[Sequence[int]],
) -> None:
    """Raises ValueError unless these say what K labels mean, and the matrix (K, K) holds counts."""
    num_classes, names = len(classes), {*classes}
    _check(num_classes >= 2, f"{num_classes} classes, 2 or more expected")
    sound = len(names) == num_classes and all(map(CLASS_NAME.fullmatch, classes))
    _check(sound, f"class names {_short(classes)}, each once and like [a-z][a-z0-9_]* expected")
    good, none = {*compliant}, {*not_assessed}
    sound = bool(good) and good | none <= names and not good & none
    _check(sound, "compliant and not_assessed name classes, and none is both")
    square = [len(row) for row in confusion] == [num_classes] * num_classes
    _check(square, "confusion matrix is not K by K")
    _check(
        all(0 <= count < 2**53 for row in confusion for count in row),
        "confusion matrix: counts of 0 or more expected",
    )


def _check_reference(reference: Mapping[str, Any]) -> None:
    for name, counts in reference.items():
        _check(_is_counts(counts), f"reference {_short(name)}: a list of counts expected")


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _is_counts(value: Any) -> bool:
    return _is_list(value) and all(type(count) is int and 0 <= count < 2**53 for count in value)


def _check_version(version: int) -> None:
    _check(version == FORMAT_VERSION, f"format_version {version}, {FORMAT_VERSION} expected")


def check_card(card: Mapping[str, Any]) -> None:
    """Raises ValueError where a run's card, perhaps of another version, cannot say what labels mean."""
    names = tuple(_freeze(card[name]) for name in ("classes", "compliant", "not_assessed"))
    for name, value in zip(("classes", "compliant", "not_assessed"), names, strict=True):
        _check_type(name, value, tuple[str, ...])
    confusion = _freeze(card["confusion"])
    _check_type("confusion", confusion, tuple[tuple[int, ...], ...])
    _check_type("architecture", card["architecture"], str)
    classes, compliant, not_assessed = names
    _check_meaning(classes, compliant, not_assessed, confusion)
    threshold, reference = card.get("review_threshold", 0.0), card.get("reference") or {}
    _check_type("review_threshold", threshold, float)
    _check(0 <= threshold <= 1, f"review_threshold {_short(threshold)}, 0 to 1 expected")
    _check_type("reference", reference, dict[str, Any])
    _check_reference(reference)


def check_types(settings: Any) -> None:
    """Raises ValueError where a field of a dataclass holds another type than it says."""
    for name, kind in get_type_hints(type(settings)).items():
        _check_type(name, getattr(settings, name), kind)


def _check_type(name: str, value: Any, kind: Any) -> None:
    plain, items = get_origin(kind) or kind, get_args(kind)
    allowed = (int, float) if plain is float else plain
    good = isinstance(value, allowed) and not (isinstance(value, bool) and plain is not bool)
    if not good or (plain is tuple and items[-1] is not ... and len(value) != len(items)):
        raise ValueError(f"{name} = {_short(value)}, {kind if items else plain.__name__} expected")
    if plain is float and not math.isfinite(value if isinstance(value, float) else 0):
        raise ValueError(f"{name} = {value}, a finite number expected")
    for item in value if plain is tuple else ():
        _check_type(name, item, items[0])


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def parse_card(text: str) -> Card | DetectorCard:
    """The card in this JSON, without the keys of later versions.

    Raises ValueError, TypeError or OverflowError where it cannot be used.
    """
    values = parse_json(text)
    _check(isinstance(values, dict), "a JSON object expected")
    kind: type[Card] | type[DetectorCard] = Card if values.get("kind") is None else DetectorCard
    known = {item.name for item in fields(kind)}
    return kind(**{k: _freeze(v) if k in FROZEN else v for k, v in values.items() if k in known})


FROZEN = ("classes", "compliant", "not_assessed", "input_size", "mean", "std", "confusion")


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value
