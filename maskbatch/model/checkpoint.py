"""A checkpoint: one `.safetensors` file, weights plus one JSON string of everything scoring must know.

Reading this card needs no torch, so planning and reporting start quickly. No pickle is ever loaded.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from reprlib import repr as _short
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from safetensors import SafetensorError, safe_open

from maskbatch.errors import UsageError
from maskbatch.schema import RESERVED_COLUMNS
from maskbatch.stores.files import parse_json, write_whole

if TYPE_CHECKING:
    import torch


FORMAT_VERSION = 1
METADATA_KEY = "maskbatch"
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
        version = self.format_version
        _check(version == FORMAT_VERSION, f"format_version {version}, {FORMAT_VERSION} expected")
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
        sound = isinstance(counts, (list, tuple)) and all(type(n) is int and 0 <= n < 2**53 for n in counts)
        _check(sound, f"reference {_short(name)}: a list of counts expected")


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


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint file: where it lies, its sha256, its card."""

    path: str
    digest: str
    card: Card

    def card_dict(self) -> dict[str, Any]:
        """The card as JSON-ready values."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self.card)))
        return values

    def load_state(self) -> "dict[str, torch.Tensor]":
        """The weights as float32 tensors by name; half-precision storage is widened."""
        from safetensors.torch import load_file

        try:
            state = {
                name: tensor.float() if tensor.is_floating_point() else tensor
                for name, tensor in load_file(self.path).items()
            }
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise UsageError(f"checkpoint {self.path}: its weights cannot be read ({error})") from error
        for name, tensor in state.items():
            if fault := _find_fault(name, tensor):
                raise UsageError(f"checkpoint {self.path}: weight {_short(name)} {fault}")
        return state


def _find_fault(name: str, tensor: "torch.Tensor") -> str:
    """Why a network cannot use this weight, or nothing."""
    if tensor.is_complex():
        return "is complex, real numbers expected"
    if not tensor.isfinite().all():
        return "is not finite everywhere, finite numbers expected"
    if name.endswith("running_var") and (tensor < 0).any():
        return "is below 0 somewhere, variances expected"
    return ""


def default_path() -> str:
    """The checkpoint inside the package."""
    return str(resources.files("maskbatch.model") / "checkpoints" / "default.safetensors")


def open_checkpoint(path: str | None = None) -> Checkpoint:
    """Read the card and the digest of the checkpoint at `path` (the default one when None)."""
    path = str(Path(path or default_path()).absolute())
    try:
        data = Path(path).read_bytes()
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise UsageError(f"checkpoint {path}: no such file; give --checkpoint FILE.safetensors") from error
    except (OSError, SafetensorError, ValueError) as error:  # of a path with a NUL
        raise UsageError(f"checkpoint {path}: not a readable .safetensors file ({error})") from error
    return Checkpoint(path, hashlib.sha256(data).hexdigest(), _parse(path, metadata.get(METADATA_KEY)))


def find_checkpoint(digest: str, path: str) -> Checkpoint | None:
    """The checkpoint of that sha256 at `path` or in the package; None where it is in neither."""
    for place in (path, None):
        with suppress(UsageError):
            opened = open_checkpoint(place)
            if opened.digest == digest:
                return opened
    return None


def _parse(path: str, text: str | None) -> Card:
    if text is None:
        message = f"checkpoint {path}: no '{METADATA_KEY}' metadata; export it with training/ first"
        raise UsageError(message)
    try:
        values = parse_json(text)
        _check(isinstance(values, dict), "a JSON object expected")
        known = {item.name for item in fields(Card)}
        frozen = {k: _freeze(v) if k in FROZEN else v for k, v in values.items() if k in known}
        return Card(**frozen)
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"checkpoint {path}: its metadata cannot be used: {error}") from error


FROZEN = ("classes", "compliant", "not_assessed", "input_size", "mean", "std", "confusion")


def _freeze(value: Any) -> Any:
    return tuple(_freeze(item) for item in value) if isinstance(value, list) else value


def save_checkpoint(
    path: str | Path, card: Card, state: "dict[str, torch.Tensor]", *, halved: bool = True
) -> None:
    """Write `state` and `card` to `path`, whole or not at all.

    `halved` stores convolution and linear weights as float16, in half the space; evaluate the file, not the
    state. Vectors (biases, batch-norm statistics) stay float32.
    """
    from safetensors.torch import save

    stored = {
        name: (tensor.half() if halved and tensor.is_floating_point() and tensor.ndim > 1 else tensor)
        for name, tensor in state.items()
    }
    stored = {name: tensor.clone().contiguous() for name, tensor in stored.items()}  # ties written twice
    with write_whole(Path(path), durable=True) as partial:
        partial.write_bytes(save(stored, {METADATA_KEY: json.dumps(asdict(card), sort_keys=True)}))
