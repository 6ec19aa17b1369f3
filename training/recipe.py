"""A recipe: everything that decides a training but the data, one TOML file of `training/recipes`."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Card, Preset, check_types
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a classifier is made; a field is a key of the TOML file."""

    architecture: str
    """A name that `maskbatch.architectures.build` knows."""
    options: dict[str, Any] = field(default_factory=dict)
    """What it is built with; `head` are dense layers before the logits."""
    weights: str = "none"
    """`imagenet`: torchvision's, or the file that --weights names; `none`: from scratch."""

    classes: tuple[str, ...]
    """In the order of the logits."""
    compliant: tuple[str, ...] = ("with_mask",)
    not_assessed: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    """Labels of the data that are left out."""

    input_px: int
    stored_px: int = 0
    """Side at which training pictures are kept, so that zooming in shows detail; 0: input_px."""
    resize: str = "squash"
    crop_share: float = 1.0
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    augmentation: str = "camera"
    augment: dict[str, Any] = field(default_factory=dict)
    """Fields of `Augmentation` that differ from that preset."""

    train: str = "all"
    """`head`: the backbone is frozen, and its features are computed once."""
    frozen: tuple[str, ...] = ()
    """Beginnings of names of weights that do not learn; running means of batch norms still move."""
    head_epochs: int = 0
    """At the start only the head learns, for so many epochs."""
    views: int = 1
    """With train = head: augmented versions of each picture whose features are learned from."""
    imbalance: str = "none"
    """`sampler`: labels are drawn alike; `weights`: in the loss, by how often each label is drawn;
    `smote`: on the features."""
    shares: dict[str, float] = field(default_factory=dict)
    """Of the pictures of an epoch, by source; within a source every label is drawn alike."""
    corrections_share: float = 0.25
    """Of the pictures of an epoch, those that --corrections gives. Each is drawn as often as the images that
    it stands for, whatever its label: `sampler`, `smote` and `shares` order the others among themselves."""
    leave_out: tuple[str, ...] = ()
    """Sources that are not learned from."""

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
    """Of the averaged weights, a step; they are what is exported. 0: the last weights."""
    patience: int = 0
    """Stop after so many epochs without a better loss on the slice; 0: never."""
    target_accuracy: float = 0.98
    """Of what is not marked for review."""
    seed: int = 7
    notes: str = ""
    """What the model card must say of the data, its licences and its limits, Markdown."""

    def __post_init__(self) -> None:
        check_types(self)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} = {getattr(self, name)!r}, one of {', '.join(allowed)} expected")
        checks = {
            "imbalance = 'smote' needs train = 'head' and no shares": self.imbalance != "smote"
            or (self.train == "head" and not self.shares),
            "corrections_share must be above 0 and below 1": 0 < self.corrections_share < 1,
            "epochs, batch_size and views must be 1 or more": min(self.epochs, self.batch_size, self.views)
            > 0,
            "learning_rate must be above 0": self.learning_rate > 0,
            "ema_decay and label_smoothing must be in [0, 1)": 0 <= self.ema_decay < 1
            and 0 <= self.label_smoothing < 1,
            "target_accuracy must be in (0, 1]": 0 < self.target_accuracy <= 1,
            "weight_decay, patience, head_epochs, samples_per_epoch and seed must be 0 or more": min(
                self.weight_decay, self.patience, self.head_epochs, self.samples_per_epoch, self.seed
            )
            >= 0,
            "a label cannot be both in classes and in drop": not {*self.classes} & {*self.drop},
        }
        for message, holds in checks.items():
            if not holds:
                raise ValueError(message)
        _ = self.card(), self.stored, self.augmenter

    @property
    def preset(self) -> Preset:
        """The evaluation transform, which is scoring's decode."""
        return Preset((self.input_px, self.input_px), self.resize, self.crop_share)

    @property
    def stored(self) -> Preset:
        """The same at the side that training pictures are kept at."""
        side = self.stored_px or self.input_px
        return Preset((side, side), self.resize, self.crop_share)

    @property
    def augmenter(self) -> Augmentation:
        values = asdict(PRESETS[self.augmentation]) | {
            key: tuple(it) if isinstance(it, list) else it for key, it in self.augment.items()
        }
        made = Augmentation(**values)
        check_types(made)
        return made

    def card(self) -> Card:
        """The card of a checkpoint of this recipe, before anything is measured."""
        return Card(
            architecture=self.architecture,
            options=self.options,
            classes=self.classes,
            compliant=self.compliant,
            not_assessed=self.not_assessed,
            input_size=self.preset.input_size,
            resize=self.resize,
            crop_share=self.crop_share,
            mean=self.mean,
            std=self.std,
            confusion=((0,) * len(self.classes),) * len(self.classes),
        )

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Recipe":
        """A recipe from what TOML or JSON holds of it. Raises ValueError or TypeError."""
        return cls(**{key: tuple(it) if isinstance(it, list) else it for key, it in values.items()})

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def read_recipe(name: str, changes: Sequence[str] = (), **flags: Any) -> Recipe:
    """The recipe of a name in `training/recipes` or of a TOML file, with `key=value` changes.

    `flags` that are not None win. Raises UsageError.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    known = {item.name for item in fields(Recipe)}
    try:
        values = tomllib.loads(path.read_text())
        for change in changes:
            key, equals, text = change.partition("=")
            if not equals:
                raise ValueError(f"--set {change}: KEY=VALUE expected")
            values[key] = _value(text)
        values |= {key: value for key, value in flags.items() if value is not None}
        if unknown := sorted(values.keys() - known):
            raise ValueError(f"{unknown[0]!r} is no setting; it has {', '.join(sorted(known))}")
        return Recipe.of(values)
    except OSError as error:
        names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.toml")))
        message = f"recipe {name}: {error.strerror}; give a TOML file or one of {names}"
        raise UsageError(message) from error
    except (TypeError, ValueError) as error:
        message = str(error).removeprefix("Recipe.__init__() ")
        raise UsageError(f"recipe {name}: {message}") from error


def _value(text: str) -> Any:
    """`text` as a TOML value, or as the string it is."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def describe(recipe: Recipe | Mapping[str, Any]) -> str:
    """A recipe in a few words."""
    values = recipe.as_dict() if isinstance(recipe, Recipe) else recipe
    what = "the head" if values["train"] == "head" else "all weights"
    return (
        f"{values['architecture']} at {values['input_px']} px, {what}, {values['epochs']} epochs, "
        f"{values['optimizer']}, seed {values['seed']}"
    )
