"""A recipe: all settings of a training except the data, in one TOML file of `training/recipes`."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from maskbatch.errors import UsageError
from maskbatch.model.card import Card, Preset, check_types
from training.augment import PRESETS, Augmentation

FOLDER = Path(__file__).with_name("recipes")
CHOICES = {
    "weights": ("none", "imagenet"),
    "train": ("all", "head"),
    "imbalance": ("none", "sampler", "weights", "smote"),
    "optimizer": ("adam", "adamax", "adamw", "sgd"),
    "schedule": ("constant", "one_cycle"),
    "augmentation": tuple(PRESETS),
}
AT_LEAST = {"epochs": 1, "batch_size": 1, "views": 1} | dict.fromkeys(
    ("weight_decay", "patience", "head_epochs", "samples_per_epoch", "seed"), 0
)
OF_THE_CARD = ("architecture", "options", "classes", "compliant", "not_assessed", "mean", "std")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How to make a classifier. Each field is a key of the TOML file."""

    architecture: str
    """A name that `maskbatch.model.architectures.build` knows."""
    options: dict[str, Any] = field(default_factory=dict)
    """Its options; `head` gives dense layers before the logits."""
    weights: str = "none"
    """`imagenet`: torchvision's, or the file that --weights names; `none`: from scratch."""

    classes: tuple[str, ...]
    """In the order of the logits."""
    compliant: tuple[str, ...] = ("with_mask",)
    not_assessed: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    """Labels of the data to leave out."""

    input_px: int
    stored_px: int = 0
    """Side of the training pictures in the cache, larger so that zooming in shows detail; 0: input_px."""
    resize: str = "squash"
    crop_share: float = 1.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    augmentation: str = "camera"
    augment: dict[str, Any] = field(default_factory=dict)
    """Fields of `Augmentation` that differ from that preset."""

    train: str = "all"
    """`head`: freeze the backbone, and compute its features once."""
    frozen: tuple[str, ...] = ()
    """Prefixes of the names of weights to freeze; running means of batch norms still move."""
    head_epochs: int = 0
    """For so many epochs at the start, only the head learns."""
    views: int = 1
    """With train = head: augmented versions of each picture to compute features of."""
    imbalance: str = "none"
    """`sampler`: draw all labels alike; `weights`: weigh the loss by how often each label is drawn;
    `smote`: oversample the features."""
    shares: dict[str, float] = field(default_factory=dict)
    """Share of each source in an epoch; within a source, all labels are drawn alike."""
    corrections_share: float = 0.25
    """Share of --corrections in an epoch. Each is drawn as often as the images that it stands for, whatever
    its label; `sampler`, `smote` and `shares` apply to the other pictures alone."""
    priors: dict[str, float] = field(default_factory=dict)
    """How often a class occurs, as a share of how often training draws it; 1 where none is given. The
    exported logits are shifted by its logarithm. Source: Saerens et al. 2002."""
    leave_out: tuple[str, ...] = ()
    """Sources of the data to leave out."""

    epochs: int
    samples_per_epoch: int = 0
    """0: as many as there are."""
    batch_size: int = 64
    optimizer: str = "adamw"
    learning_rate: float
    schedule: str = "one_cycle"
    """`one_cycle`: up for a tenth of the steps, then a cosine to 0."""
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    """Per step, for the averaged weights, which are exported; 0: export the last weights."""
    patience: int = 0
    """Stop after so many epochs without a better loss on the slice; 0: never."""
    target_accuracy: float = 0.98
    """Of pictures that are not marked for review."""
    seed: int = 7
    notes: str = ""
    """For the model card: the data, its licences and its limits, as Markdown."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} = {getattr(self, name)!r}, one of {', '.join(allowed)} expected")
        for name, least in AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)}, {least} or more expected")
        smote_fits = self.imbalance != "smote" or (self.train == "head" and not self.shares)
        checks = {
            "imbalance = 'smote' needs train = 'head' and no shares": smote_fits,
            "corrections_share must be above 0 and below 1": 0 < self.corrections_share < 1,
            "learning_rate must be above 0": self.learning_rate > 0,
            "ema_decay must be in [0, 1)": 0 <= self.ema_decay < 1,
            "label_smoothing must be in [0, 1)": 0 <= self.label_smoothing < 1,
            "target_accuracy must be in (0, 1]": 0 < self.target_accuracy <= 1,
            "priors are of classes, and above 0": {*self.priors} <= {*self.classes}
            and all(prior > 0 for prior in self.priors.values()),
            "a label cannot be both in classes and in drop": not {*self.classes} & {*self.drop},
        }
        for message, holds in checks.items():
            if not holds:
                raise ValueError(message)
        _ = self.card(), self.stored, self.augmenter  # which check themselves

    @property
    def preset(self) -> Preset:
        """How scoring and evaluation decode a picture."""
        return Preset((self.input_px, self.input_px), self.resize, self.crop_share)

    @property
    def stored(self) -> Preset:
        """The same at the side of the cached training pictures."""
        side = self.stored_px or self.input_px
        return Preset((side, side), self.resize, self.crop_share)

    @property
    def augmenter(self) -> Augmentation:
        augmentation = Augmentation(**(asdict(PRESETS[self.augmentation]) | _make_tuples(self.augment)))
        check_types(augmentation)
        return augmentation

    def card(self) -> Card:
        """The card of a checkpoint of this recipe, before anything is measured."""
        confusion = ((0,) * len(self.classes),) * len(self.classes)
        values = {name: getattr(self, name) for name in OF_THE_CARD}
        return Card(**values, **asdict(self.preset), confusion=confusion)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Recipe":
        """Make a recipe from the values of TOML or JSON. Raises ValueError or TypeError."""
        return cls(**_make_tuples(values))

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def _make_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def read_recipe(name: str, changes: Sequence[str] = (), **flags: Any) -> Recipe:
    """Read a recipe of `training/recipes` by name, or a TOML file. Raises UsageError.

    `key=value` changes win over the file, and `flags` that are not None win over both.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    known = {item.name for item in fields(Recipe)}
    try:
        values = tomllib.loads(path.read_text())
        for change in changes:
            key, equals, text = change.partition("=")
            if not equals:
                raise ValueError(f"--set {change}: KEY=VALUE expected")
            values[key] = _parse_value(text)
        values |= {key: value for key, value in flags.items() if value is not None}
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"{unknown[0]!r} is not a setting; it has {', '.join(sorted(known))}")
        return Recipe.of(values)
    except OSError as error:
        names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.toml")))
        raise UsageError(f"recipe {name}: {error.strerror}; give a TOML file or one of {names}") from error
    except (TypeError, ValueError) as error:
        message = str(error).removeprefix("Recipe.__init__() ")
        raise UsageError(f"recipe {name}: {message}") from error


def _parse_value(text: str) -> Any:
    """Parse a TOML value; any other text is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def describe(recipe: Mapping[str, Any]) -> str:
    """Describe a recipe's values in a few words."""
    what = "the head" if recipe["train"] == "head" else "all weights"
    return (
        f"{recipe['architecture']} at {recipe['input_px']} px, {what}, {recipe['epochs']} epochs, "
        f"{recipe['optimizer']}, seed {recipe['seed']}"
    )
