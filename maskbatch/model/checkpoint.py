"""A checkpoint: one `.safetensors` file, weights plus one JSON string of everything scoring must know.

Reading this card needs no torch, so planning and reporting start quickly. No pickle is ever loaded.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from reprlib import repr as _short
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from safetensors import SafetensorError, safe_open

from maskbatch.errors import UsageError
from maskbatch.model.card import Card, DetectorCard, parse_card
from maskbatch.stores.files import write_whole

if TYPE_CHECKING:
    import torch


METADATA_KEY = "maskbatch"
DETECTORS = ("centerface", "yunet_n")
"""The packaged ones, the default first; `--detector` takes them by name."""
AnyCard = TypeVar("AnyCard", Card, DetectorCard)


@dataclass(frozen=True, slots=True)
class CheckpointFile(Generic[AnyCard]):
    """A checkpoint file: where it lies, its sha256, its card."""

    noun: ClassVar[str]
    """What messages call it, and the flag that names it."""
    path: str
    digest: str
    card: AnyCard

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
            raise UsageError(f"{self.noun} {self.path}: its weights cannot be read ({error})") from error
        for name, tensor in state.items():
            if fault := _find_fault(name, tensor):
                raise UsageError(f"{self.noun} {self.path}: weight {_short(name)} {fault}")
        return state


class Checkpoint(CheckpointFile[Card]):
    """A classifier's file."""

    __slots__ = ()
    noun = "checkpoint"


class DetectorFile(CheckpointFile[DetectorCard]):
    """A face detector's file."""

    __slots__ = ()
    noun = "detector"


File = TypeVar("File", Checkpoint, DetectorFile)


def _find_fault(name: str, tensor: "torch.Tensor") -> str:
    """Why a network cannot use this weight, or nothing."""
    if tensor.is_complex():
        return "is complex, real numbers expected"
    if not tensor.isfinite().all():
        return "is not finite everywhere, finite numbers expected"
    if name.endswith("running_var") and (tensor < 0).any():
        return "is below 0 somewhere, variances expected"
    return ""


def packaged_path(name: str) -> str:
    """The checkpoint of that name inside the package."""
    return str(resources.files("maskbatch.model") / "checkpoints" / f"{name}.safetensors")


def default_path() -> str:
    """The classifier inside the package."""
    return packaged_path("default")


def open_checkpoint(path: str | None = None) -> Checkpoint:
    """Read the card and the digest of the classifier at `path` (the default one when None)."""
    path, digest, card = _open(Checkpoint.noun, path or default_path())
    if isinstance(card, DetectorCard):
        raise UsageError(
            f"checkpoint {path}: it finds faces, a classifier expected; give it as --detector instead"
        )
    return Checkpoint(path, digest, card)


def open_detector(path: str | None = None) -> DetectorFile:
    """Read the card and the digest of the detector at `path`, or of a packaged one (by default the first)."""
    name = path or DETECTORS[0]
    path, digest, card = _open(DetectorFile.noun, packaged_path(name) if name in DETECTORS else name)
    if isinstance(card, Card):
        raise UsageError(
            f"detector {path}: it is a classifier, a face detector expected; give it as --checkpoint instead"
        )
    return DetectorFile(path, digest, card)


def open_networks(
    checkpoint: str | None, detector: str | None, view: str
) -> tuple[Checkpoint, DetectorFile | None]:
    """The classifier, and with the view `scene` the detector. Raises UsageError for a detector without it."""
    if view != "scene":
        if detector is not None:
            raise UsageError(f"--detector {detector} goes with --view scene; add that, or leave it out")
        return open_checkpoint(checkpoint), None
    return open_checkpoint(checkpoint), open_detector(detector)


def _open(noun: str, path: str) -> tuple[str, str, Card | DetectorCard]:
    path = str(Path(path).absolute())
    try:
        data = Path(path).read_bytes()
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        known = f", or {' or '.join(DETECTORS)}" if noun == DetectorFile.noun else ""
        raise UsageError(f"{noun} {path}: no such file; give --{noun} FILE.safetensors{known}") from error
    except (OSError, SafetensorError, ValueError) as error:  # of a path with a NUL
        raise UsageError(f"{noun} {path}: not a readable .safetensors file ({error})") from error
    if METADATA_KEY not in metadata:
        raise UsageError(f"{noun} {path}: no '{METADATA_KEY}' metadata; export it with training/ first")
    try:
        card = parse_card(metadata[METADATA_KEY])
    except (ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"{noun} {path}: its metadata cannot be used: {error}") from error
    return path, hashlib.sha256(data).hexdigest(), card


def find_checkpoint(digest: str, path: str) -> Checkpoint | None:
    """The checkpoint of that sha256 at `path` or in the package; None where it is in neither."""
    return _find(open_checkpoint, digest, (path, None))


def find_detector(digest: str, path: str) -> DetectorFile | None:
    """The detector of that sha256 at `path` or in the package; None where it is in neither."""
    return _find(open_detector, digest, (path, *DETECTORS))


def _find(open_file: Callable[[str | None], File], digest: str, places: Iterable[str | None]) -> File | None:
    for place in places:
        with suppress(UsageError):
            opened = open_file(place)
            if opened.digest == digest:
                return opened
    return None


def save_checkpoint(
    path: str | Path, card: Card | DetectorCard, state: "dict[str, torch.Tensor]", *, halved: bool = True
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
