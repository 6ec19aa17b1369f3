"""What run.json and `_SUCCESS` say, checked where they are read.

A setting that is missing means what was done before it existed. Unknown settings are kept, and count as a
difference between runs; what else we do not know is ignored.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass, replace
from datetime import datetime
from reprlib import repr as shorten
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from maskbatch.config import JobConfig, PlanConfig, ScoreConfig, to_dict
from maskbatch.errors import UsageError
from maskbatch.model.card import check_card, check_detector
from maskbatch.plan.listing import Listing
from maskbatch.schema import STATUSES
from maskbatch.stores.files import Location, explain, parse_json

FORMAT_VERSION = 2
FIRST_YEAR, LAST_YEAR = 1900, 9000
"""A day and a zone more or less stay times."""
MOST = 2**53
"""What JSON, Arrow and numpy all hold exactly."""
JSON_NAMES = {
    str: "a string", int: "a whole number", float: "a number", tuple: "a list", datetime: "a time",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReusedRun:
    """A run whose rows are carried over."""

    path: str
    success_sha256: str
    """Of its `_SUCCESS`, which stands for every file of it."""
    decode_rules: int = 1
    """The oldest that its rows follow."""


@dataclass(frozen=True, slots=True)
class UsedCheckpoint:
    """The checkpoint that scored a run."""

    path: str
    digest: str
    """sha256 of the file."""
    card: dict[str, Any]
    """As JSON has it; a later version may read other cards."""

    def __post_init__(self) -> None:
        for name in ("architecture", "classes", "compliant", "not_assessed", "confusion"):
            _ = self.card[name]
        check_card(self.card)


@dataclass(frozen=True, slots=True)
class UsedDetector:
    """The detector that found the faces of a run."""

    path: str
    digest: str
    """sha256 of the file."""
    card: dict[str, Any]
    """As JSON has it."""

    def __post_init__(self) -> None:
        check_detector(self.card)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """run.json: what a run was begun with, completed by its listing, then by how it is scored."""

    created_at: datetime
    plan: PlanConfig
    versions: dict[str, str]
    """Of Python and the libraries."""
    replaces: str | None = None
    """The name of the version before this one."""
    plan_rules: int = 1
    """The version of the rules by which the archive was listed: config.PLAN_RULES of that time."""
    listing: Listing | None = None
    """None until the archive is listed."""
    reuse: tuple[ReusedRun, ...] = ()
    reuse_counts: dict[str, int] = field(default_factory=dict)
    """Listed images by what became of them: `carried`, or why they are scored."""
    score: ScoreConfig | None = None
    """None until scoring starts, like what follows."""
    job: JobConfig | None = None
    checkpoint: UsedCheckpoint | None = None
    detector: UsedDetector | None = None
    """None with the view `face`."""
    shard_size: int | None = None
    """Rows."""
    decode_rules: int = 1
    """Those of the images that are scored, see `config.DECODE_RULES`."""
    unknown: dict[str, Any] = field(default_factory=dict)
    """What a later version wrote; by part, the settings that it added to `plan`, `score` and `job`."""

    def __post_init__(self) -> None:
        if self.shard_size is not None and self.shard_size < 1:
            raise ValueError(f"shard_size {self.shard_size}, 1 or more expected")
        _check_zone("created_at", self.created_at)
        if self.score and (self.score.view == "scene") != (self.detector is not None):
            raise ValueError(f"view {self.score.view} {'with' if self.detector else 'without'} a detector")
        if self.num_carried > self.num_images:
            raise ValueError(f"{self.num_carried} images carried over of {self.num_images}")

    @property
    def num_images(self) -> int:
        """Images that were listed."""
        return self.listing.num_images if self.listing else 0

    @property
    def num_carried(self) -> int:
        """Of these, those whose rows are carried over."""
        return self.reuse_counts.get("carried", 0)

    @property
    def num_to_score(self) -> int:
        """Of these, the others."""
        return self.num_images - self.num_carried

    def without_listing(self) -> "RunSettings":
        """As they were before the archive was listed."""
        listed = replace(self, score=None, job=None, checkpoint=None, detector=None)
        return replace(listed, listing=None, reuse=(), reuse_counts={}, shard_size=None, decode_rules=1)

    @property
    def oldest_decode_rules(self) -> int:
        """Of all rows, those carried over too."""
        return min([self.decode_rules, *(reused.decode_rules for reused in self.reuse)])

    @property
    def plan_values(self) -> dict[str, Any]:
        """Every setting of the plan, those of a later version too."""
        return {**to_dict(self.plan), **self.unknown.get("plan", {})}

    @property
    def score_values(self) -> dict[str, Any] | None:
        """Every setting that decides a row's content, those of a later version too."""
        return {**to_dict(self.score), **self.unknown.get("score", {})} if self.score else None

    @property
    def found_by(self) -> tuple[str | None, int | None]:
        """What decides which face of a picture a region is; no digest and no size with the view `face`."""
        digest = self.detector.digest if self.detector else None
        return digest, self.score.detect_px if self.score else None

    @property
    def scored_by(self) -> tuple[Any, ...]:
        """What decides a row's content beside the image: settings, and digests of checkpoint and detector.

        Not the batch shape: as the device, it changes the last digits alone.
        """
        files = (file and file.digest for file in (self.checkpoint, self.detector))
        return self.score_values and {**self.score_values, "batch_size": None}, *files

    @classmethod
    def from_json(cls, values: dict[str, Any], path: Location) -> "RunSettings":
        """Raises UsageError, which names the file `path` and what is wrong with it."""
        values = _read_single_layout(values)
        needed: dict[str, tuple[str, ...]] = {"plan": ("archives", "timezone")}
        if "score" in values:
            needed[""] = ("listing", "reuse_counts", "checkpoint", "shard_size")
        if values.get("listing") is not None:
            needed["listing"] = ("num_images",)
        known = {item.name for item in fields(cls)} | {"format_version"}
        unknown = {name: value for name, value in values.items() if name not in known}
        for part, kind in (("plan", PlanConfig), ("score", ScoreConfig), ("job", JobConfig)):
            own, given = {item.name for item in fields(kind)}, values.get(part)
            if isinstance(given, dict) and given.keys() - own:
                unknown[part] = {name: value for name, value in given.items() if name not in own}
        return _make(cls, {**values, "unknown": unknown}, path, needed)

    def to_json(self) -> dict[str, Any]:
        values = {
            **{name: value for name, value in self.unknown.items() if name not in ("plan", "score", "job")},
            "format_version": FORMAT_VERSION,
            "created_at": self.created_at.isoformat(),
            "plan": self.plan_values,
            "versions": self.versions,
            "replaces": self.replaces,
            "plan_rules": self.plan_rules,
        }
        if self.listing:
            reuse = [asdict(run) for run in self.reuse]
            values |= {"listing": self.listing.as_dict(), "reuse": reuse, "reuse_counts": self.reuse_counts}
        if self.score and self.job and self.checkpoint:
            job = to_dict(self.job) | self.unknown.get("job", {})
            values |= {"score": self.score_values, "job": job}
            values |= {"checkpoint": asdict(self.checkpoint), "shard_size": self.shard_size}
            values |= {"decode_rules": self.decode_rules}
        if self.detector:
            values |= {"detector": asdict(self.detector)}
        return values


@dataclass(frozen=True, slots=True)
class CommittedFile:
    """A file that a commit lists."""

    name: str
    """Below the run directory."""
    rows: int | None
    """None of run.json."""
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Success:
    """`_SUCCESS`: what was committed."""

    planned: int
    """Images."""
    carried: int = 0
    """Of these, those whose rows are an earlier run's."""
    statuses: dict[str, int]
    """Images by status."""
    max_error_rate: float
    """Share of failed images above which `exit_code` is 3."""
    committed_at: datetime
    exit_code: int
    devices: dict[str, int]
    """Shards by device/dtype."""
    timings_s: dict[str, float]
    """Seconds by phase; `whole` is the last call, planning and all."""
    unreadable: int = 0
    """Folders of the archive that could not be read."""
    files: tuple[CommittedFile, ...]
    """run.json, and each file of plan/ and scores/."""

    def __post_init__(self) -> None:
        _check_zone("committed_at", self.committed_at)
        if unknown := [name for name in self.statuses if name not in STATUSES]:
            raise ValueError(f"statuses has {shorten(unknown[0])}, one of {', '.join(STATUSES)} expected")
        for name, value, most in (
            ("carried", self.carried, self.planned),
            ("exit_code", self.exit_code, 255),
            ("max_error_rate", self.max_error_rate, 1),
            ("timings_s whole", self.timings_s.get("whole", 0), 1e9),
        ):
            if value > most:
                raise ValueError(f"{name} {value}, at most {most:g} expected")

    @classmethod
    def from_json(cls, values: dict[str, Any], path: Location) -> "Success":
        """Raises UsageError, which names the file `path` and what is wrong with it."""
        return _make(cls, values, path, {"timings_s": ("whole",)})

    def to_json(self) -> dict[str, Any]:
        values = {"format_version": FORMAT_VERSION, **asdict(self)}
        return values | {"committed_at": self.committed_at.isoformat()}


def _check_zone(name: str, time: datetime) -> None:
    if time.tzinfo is None:
        raise ValueError(f"{name} {time}, a time with its offset from UTC expected")


def read_json(path: Location) -> dict[str, Any] | None:
    """The object in a JSON file, None where no file is. Raises UsageError for anything else."""
    try:
        values = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        message = f"{path} is not readable as JSON ({error}); restore it, or name another folder"
        raise UsageError(message) from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} is damaged: a JSON object expected; restore it, or name another folder")
    return values


def _read_single_layout(values: dict[str, Any]) -> dict[str, Any]:
    """A run could have one layout only, and holds it as a string."""
    plan = values.get("plan")
    if isinstance(plan, dict) and isinstance(plan.get("layout"), str):
        return {**values, "plan": {**plan, "layout": [plan["layout"]]}}
    return values


Record = TypeVar("Record", RunSettings, Success)


def _make(
    kind: type[Record], values: dict[str, Any], path: Location, needed: Mapping[str, tuple[str, ...]]
) -> Record:
    """`kind` from `values` of the file `path`, where those of `needed` must be, by the part they are in."""
    try:
        record: Record = _parse(path.name, kind, values)
        for part, names in needed.items():
            for name in names:
                _ = (values[part] if part else values)[name]
    except KeyError as error:
        raise UsageError(f"{path} is damaged: it lacks {error}; restore it") from error
    except (UsageError, ValueError, TypeError, OverflowError) as error:
        raise UsageError(f"{path} is damaged: {explain(error)[:500]}; restore it") from error
    return record


def _parse(name: str, kind: Any, value: Any) -> Any:
    """A value of JSON as the type `kind`. Raises KeyError for what it lacks, ValueError for another type."""
    origin, items = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return value
    if origin is UnionType:
        return None if value is None else _parse(name, items[0], value)
    if kind is datetime and isinstance(value, str):
        return _parse_time(name, value)
    if is_dataclass(kind) and isinstance(value, dict):
        return _parse_fields(kind, value)
    if origin is tuple and isinstance(value, list):
        return tuple(_parse(name, items[0], item) for item in value)
    if origin in (dict, Counter) and isinstance(value, dict):
        of = int if origin is Counter else items[-1]
        return origin({key: _parse(f"{name} {key}", of, item) for key, item in value.items()})
    if kind in (int, float) and type(value) in (int, kind):
        return _parse_number(name, kind, value)
    if type(value) is kind:
        return value
    raise ValueError(f"{name} is {shorten(value)}, {JSON_NAMES.get(origin, 'an object')} expected")


def _parse_time(name: str, value: str) -> datetime:
    time = datetime.fromisoformat(value)
    if not FIRST_YEAR <= time.year <= LAST_YEAR:
        raise ValueError(f"{name} is {value}, a year from {FIRST_YEAR} to {LAST_YEAR} expected")
    return time


def _parse_number(name: str, kind: type, value: Any) -> Any:
    """Every number of our files is a count, a size, a share or a duration."""
    if not 0 <= value < MOST:
        bounds = "0 or more" if value < 0 else f"a number under {MOST}"
        raise ValueError(f"{name} {shorten(value)}, {bounds} expected")
    return value if kind is int else float(value)


def _parse_fields(kind: Any, values: dict[str, Any]) -> Any:
    types = get_type_hints(kind)
    wanted = [item for item in fields(kind) if _is_needed(item) or values.get(item.name) is not None]
    return kind(**{item.name: _parse(item.name, types[item.name], values[item.name]) for item in wanted})


def _is_needed(item: "Field[Any]") -> bool:
    return item.default is MISSING and item.default_factory is MISSING
