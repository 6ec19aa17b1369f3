"""Every setting, its default and its bounds; flags over a --config TOML file over these defaults."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from maskbatch.clock import EARLIEST, Clock, parse_bound
from maskbatch.errors import UsageError
from maskbatch.layout import Template
from maskbatch.schema import CONDITIONS, RESERVED_COLUMNS
from maskbatch.stores.uris import parse_prefix

PILLOW_LIMIT_PIXELS = 89_478_485


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """Which images are planned, and what their paths say."""

    archives: tuple[str, ...]
    """Absolute paths and URLs."""
    layout: str | None = None
    """Template of a path below the archive; None recognises hive-style folders."""
    timezone: tuple[str, ...] = ()
    """`ZONE` or `SITE=ZONE` of the times in paths and EXIF; UTC without any."""
    since: str | None = None
    """First local time planned, ISO 8601; images of unknown time are kept."""
    until: str | None = None
    """Local time before which images are planned."""
    camera: tuple[str, ...] = ()
    """Only these cameras, each as `camera` or `site/camera`; all without any."""
    limit: int | None = None
    """At most this many images, the first in the plan's order."""
    keep_column: str | None = None
    """Column of a manifest, Parquet file or WebDataset sample that travels to the scores and the report."""
    allow_prefix: tuple[str, ...] = ()
    """Where the uris of a manifest may lie, beside its own folder."""
    margin_days: int = 0
    """Days before --since and after --until whose `{date:...}` paths are listed too."""

    def __post_init__(self) -> None:
        _check("limit", self.limit, 1)
        _check("margin_days", self.margin_days, 0, 366)
        if self.keep_column is not None and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", self.keep_column):
            raise UsageError(f"keep_column {self.keep_column!r}: a name of letters, digits and _ expected")
        taken = (self.keep_column or "").lower()
        if taken in RESERVED_COLUMNS or taken.startswith(("prob_", "num_", "share_", "failed_")):
            raise UsageError(f"keep_column {self.keep_column}: the tables have a column of that name already")
        for prefix in self.allow_prefix:
            parse_prefix(prefix)
        if self.layout is not None:
            Template(self.layout)
        Clock.parse(self.timezone, EARLIEST)
        since, until = parse_bound("--since", self.since), parse_bound("--until", self.until)
        if since and until and since >= until:
            raise UsageError(f"--since {self.since} is not before --until {self.until}; swap them")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """What decides a row's content; together with the checkpoint it is fixed once scoring starts."""

    dtype: str = "auto"
    """`auto` (bfloat16 where the hardware has it), `bfloat16` or `float32`."""
    batch_size: int = 32
    """Images the model sees at a time; the one batch shape of the run."""
    max_bytes: int = 64 * 2**20
    """Largest encoded image read, bytes; larger ones become `too_large`."""
    max_pixels: int = PILLOW_LIMIT_PIXELS
    """Largest image decoded, pixels; larger ones become `too_large`."""

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "bfloat16", "float32"):
            raise UsageError(f"dtype {self.dtype}: auto, bfloat16 or float32 expected")
        _check("batch_size", self.batch_size, 1, 4096)
        _check("max_bytes", self.max_bytes, 1)
        _check("max_pixels", self.max_pixels, 1, 2 * PILLOW_LIMIT_PIXELS)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    """How a run is carried out; nothing here changes a row."""

    address: str = "local"
    """Ray cluster: `local` starts one in this process, `auto` or `ray://HOST:PORT` joins one."""
    max_workers: int | None = None
    """At most so many workers that decode (and score, without GPUs); one a core without it."""
    max_scorers: int | None = None
    """At most so many scoring actors on GPUs; as many as fit the GPUs without it.

    A cluster that does not say what it can grow to is asked for so many.
    """
    gpus_per_worker: float = 1.0
    """GPUs that one scoring actor takes; several fit one GPU below 1, and 0 scores on CPUs."""
    max_error_rate: float = 0.05
    """Share of failed images above which the exit code is 3."""
    stall_timeout_s: float = 600.0
    """The run stops, resumable, when nothing was scored for so long."""
    request_timeout_s: float = 30.0
    """A request to a store that takes longer is given up, and tried again."""
    image_timeout_s: float = 120.0
    """An image that is not there after so long, all tries included, becomes `timeout`."""
    max_requests: int = 32
    """Requests in flight in one worker; fewer while a store throttles."""

    def __post_init__(self) -> None:
        _check("max_workers", self.max_workers, 1)
        _check("max_scorers", self.max_scorers, 1)
        _check("gpus_per_worker", self.gpus_per_worker, 0, 64)
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise UsageError(f"gpus_per_worker {self.gpus_per_worker}: whole numbers expected above 1")
        _check("max_error_rate", self.max_error_rate, 0, 1)
        _check("stall_timeout_s", self.stall_timeout_s, 1)
        _check("request_timeout_s", self.request_timeout_s, 0.1)
        _check("image_timeout_s", self.image_timeout_s, 0.1)
        _check("max_requests", self.max_requests, 1, 1024)


UNIT_S = {"s": 1, "min": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Expect:
    """What --expect says of every camera: `1/5min`, or with hours of the day `1/5min@06-22`."""

    text: str
    per_hour: float
    hours: range

    @classmethod
    def parse(cls, text: str) -> "Expect":
        """Raises UsageError."""
        match = re.fullmatch(r"(\d+)/(\d*)(s|min|h)(?:@(\d\d?)-(\d\d?))?", text)
        number, each, unit, first, end = match.groups() if match else ("0",) * 5
        period_s = int(each or 1) * UNIT_S.get(unit, 0)
        hours = range(int(first or 0), int(end or 24))
        if not match or not int(number) or not period_s or not hours or hours.stop > 24:
            raise UsageError(
                f"--expect {text}: snapshots per time expected, such as 1/5min, 12/h or 1/30s@06-22"
            )
        return cls(text, int(number) * 3600 / period_s, hours)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """How a report is made of committed runs; nothing here changes a run."""

    exclude: tuple[str, ...] = ()
    """Conditions of the camera's view whose images are left out of the rates."""
    expect: str | None = None
    """Snapshots expected of every camera, such as `1/5min`; inferred for each without it."""
    alert_below: float | None = None
    """An alert fires where a whole interval of compliance is below it."""
    alert_by: str | None = None
    """What compliance is held to it by, such as `camera`; overall without it."""
    alert_corrected: bool = False
    """Hold the corrected rate to it, in the place of the observed one."""
    thumbnails: bool = False
    """Put pictures of the first review candidates into the page."""
    corrections: str | None = None
    """Folder of what people judged, beside the run's own; of one run only."""
    own_days: bool = False
    """Take from each run only its own local days: nights share images of unknown time."""

    def __post_init__(self) -> None:
        for name in self.exclude:
            if name not in CONDITIONS:
                raise UsageError(f"--exclude {name}: {', '.join(CONDITIONS)} expected, with commas between")
        if self.expect is not None:
            Expect.parse(self.expect)
        _check("--alert-below", self.alert_below, 0, 1)
        if self.alert_below is None and (self.alert_by or self.alert_corrected):
            raise UsageError("--by and --corrected say how --alert-below is held; give it too")


def _check(name: str, value: float | None, least: float, most: float = float("inf")) -> None:
    if value is not None and not least <= value <= most:
        bounds = f"{least:g} or more" if most == float("inf") else f"{least:g} to {most:g}"
        raise UsageError(f"{name} {value}: {bounds} expected")


Config = TypeVar("Config", PlanConfig, ScoreConfig, JobConfig, ReportConfig)


SHORT = {"by": "alert_by", "corrected": "alert_corrected"}
"""Flags whose setting has a longer name."""


NO_FLAG = ("archives", "own_days")


def make_config(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """The config of `kind` from those of `values` that are its own and set."""
    own = {item.name for item in fields(kind)}
    chosen: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name in own and value is not None
    }
    return kind(**chosen)


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a --config file: the flags' names, with `-` or `_`. Raises UsageError.

    One file may serve `score` and `report`, which each take their own.
    """
    try:
        read = {name.replace("-", "_"): value for name, value in tomllib.loads(path.read_text()).items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config {path}: cannot be read as TOML: {error}") from error
    kinds = (PlanConfig, ScoreConfig, JobConfig, ReportConfig)
    types = {item.name: item.type for kind in kinds for item in fields(kind)}
    types = {name: kind for name, kind in types.items() if name not in NO_FLAG} | {"checkpoint": "str | None"}
    values: dict[str, Any] = {}
    for name, value in read.items():
        setting = SHORT.get(name, name)
        if setting not in types:
            raise UsageError(f"--config {path}: {name!r} is no setting; one of {', '.join(types)} expected")
        values[setting] = _coerce(path, name, value, str(types[setting]))
    return values


def _coerce(path: Path, name: str, value: Any, kind: str) -> Any:
    if kind.startswith("tuple") and isinstance(value, str):
        value = split_names(value) if name == "exclude" else [value]
    if "float" in kind and type(value) is int:
        value = float(value)
    expected = next(t for t in (tuple, bool, float, int, str) if t.__name__ in kind)
    fits = all(type(item) is str for item in value) if type(value) is list else type(value) is expected
    if not fits or (expected is tuple) != (type(value) is list):
        wanted = "list of strings" if expected is tuple else expected.__name__
        raise UsageError(f"--config {path}: {name} = {value!r}, a {wanted} expected")
    return value


def split_names(text: str) -> list[str]:
    """The names in `frozen,dark`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def list_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The names of settings that differ, in words: `limit 10 instead of 20`."""
    return [
        f"{name} {_show(ours.get(name))} instead of {_show(theirs.get(name))}"
        for name in {**theirs, **ours}
        if _plain(ours.get(name)) != _plain(theirs.get(name))
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _show(value: Any) -> str:
    plain = _plain(value)
    return ", ".join(map(str, plain)) or "none" if isinstance(plain, list) else str(plain)


def to_dict(config: PlanConfig | ScoreConfig | JobConfig | ReportConfig) -> dict[str, Any]:
    """The config as JSON-ready values."""
    return {name: _plain(value) for name, value in asdict(config).items()}
