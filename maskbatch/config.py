"""Every setting with its default and bounds. Flags win over a --config TOML file, the file over defaults."""

import codecs
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from maskbatch.clock import EARLIEST, Clock, parse_bound
from maskbatch.errors import UsageError
from maskbatch.layout import Template
from maskbatch.schema import CONDITIONS, RESERVED_COLUMNS, VIEWS
from maskbatch.stores.access import Access
from maskbatch.stores.uris import SCHEME, list_texts, parse_argument, parse_prefix

PILLOW_LIMIT_PIXELS = 89_478_485
PLAN_RULES = 2
"""The version of the rules by which an archive is listed; run.json records it.

1 planned thumbnails, bins and temporary files too, and did not follow links to folders.
"""
DECODE_RULES = 2
"""Which bytes give which status, size, time and pixels. Raise it with every change of that."""
DECODERS = ("cpu", "gpu")
DETECT_PX = 960
"""A face of 48 pixels at 1080p has 24 there, and 16 at 640, where CenterFace misses 3 in 10 masked ones."""
DEMO_IMAGES = {"face": 720, "scene": 300}
"""Snapshots that the demo draws, by view."""
ACCESS = Access()


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig:
    """Which images to plan, and how to read their paths."""

    archives: tuple[str, ...]
    """Paths and URLs, made absolute here."""
    layout: tuple[str, ...] = ()
    """Templates of the path below the archive; the first that fits counts. None: hive-style folders."""
    timezone: tuple[str, ...] = ()
    """`ZONE` or `SITE=ZONE` of the times in paths, manifests and EXIF, and of the report; none: UTC."""
    names_in: tuple[str, ...] = ()
    """`ZONE` or `SITE=ZONE` of the times in paths and manifests, where it is not `timezone`."""
    allow_unknown_times: bool = False
    """Plan also where more than a few images do not fit `layout`, or times cannot be read; changes no row."""
    since: str | None = None
    """First local time to plan, ISO 8601. Images of unknown time are kept."""
    until: str | None = None
    """Local time to stop before."""
    camera: tuple[str, ...] = ()
    """Only these cameras, each as `camera` or `site/camera`; none: all."""
    limit: int | None = None
    """At most this many images, the first in the plan's order."""
    keep_column: str | None = None
    """Column of a manifest, Parquet file or WebDataset sample to copy to the scores and the report."""
    allow_prefix: tuple[str, ...] = ()
    """Where a manifest may point, in addition to its own folder."""
    exclude_path: tuple[str, ...] = ()
    """Patterns of paths below the archive to leave out; one without `/` matches any one name of a path."""
    include_hidden: bool = False
    """Plan what its name leaves out too: thumbnails, bins, snapshots and temporary files of NAS systems."""
    skip_unreadable: bool = False
    """Go on where a folder may not be read, and count it."""
    encoding: str | None = None
    """Of manifests without a byte order mark, such as `cp1252`; None: UTF-8."""
    zip_encoding: str | None = None
    """Of names in a zip that does not say theirs, such as `cp932`; None: UTF-8, or else cp437."""
    margin_days: int = 0
    """Days before --since and after --until whose `{date:...}` paths to list too."""

    def __post_init__(self) -> None:
        _make_tuples(self)
        object.__setattr__(self, "archives", tuple(map(_make_absolute, self.archives)))
        _check("limit", self.limit, 1)
        _check("margin_days", self.margin_days, 0, 366)
        if self.keep_column is not None and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", self.keep_column):
            raise UsageError(f"keep_column {self.keep_column!r}: a name of letters, digits and _ expected")
        name = (self.keep_column or "").lower()
        if name in RESERVED_COLUMNS or name.startswith(("prob_", "num_", "share_", "failed_")):
            raise UsageError(f"keep_column {self.keep_column}: the tables have a column of that name already")
        for prefix in self.allow_prefix:
            parse_prefix(prefix)
        for name in ("encoding", "zip_encoding"):
            object.__setattr__(self, name, _find_encoding(name, getattr(self, name)))
        for pattern in self.exclude_path:
            if not pattern.rstrip("/") or pattern.startswith(("/", "./", "../")):
                what = "a pattern of paths below the archive expected, such as cam07 or 'old/**'"
                raise UsageError(f"--exclude-path {pattern!r}: {what}")
        for template in self.layout:
            Template(template)
        Clock.parse(self.timezone, EARLIEST, self.names_in)
        since, until = parse_bound("--since", self.since), parse_bound("--until", self.until)
        if since and until and since >= until:
            raise UsageError(f"--since {self.since} is not before --until {self.until}; swap them")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """What changes a row's content, beside the checkpoint. Fixed once scoring starts."""

    view: str = "face"
    """`face`: one face fills the picture; `scene`: a detector finds the faces, and each has a row."""
    detect_px: int | None = None
    """Longest side of the copy that the detector sees, pixels; None: DETECT_PX with the view `scene`."""
    decoder: str = "cpu"
    """What decodes baseline JPEGs: `cpu`, or `gpu` (nvJPEG), whose pixels differ by .5 to .8 grey levels."""
    dtype: str = "auto"
    """`auto` (bfloat16 where the hardware has it), `bfloat16` or `float32`."""
    batch_size: int | None = None
    """Images the model sees at a time: the only batch shape of a run. None: that of the device."""
    max_bytes: int = 64 * 2**20
    """Largest encoded image to read, bytes; larger ones become `too_large`."""
    max_pixels: int = PILLOW_LIMIT_PIXELS
    """Largest image to decode, pixels; larger ones become `too_large`."""

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise UsageError(f"--view {self.view}: {' or '.join(VIEWS)} expected")
        if self.view == "scene" and self.detect_px is None:
            object.__setattr__(self, "detect_px", DETECT_PX)
        if self.view == "face" and self.detect_px is not None:
            raise UsageError(
                f"--detect-px {self.detect_px} is for whole scenes; add --view scene, or leave it out"
            )
        _check("detect_px", self.detect_px, 128, 4096)
        if self.decoder not in DECODERS:
            raise UsageError(f"--decoder {self.decoder}: {' or '.join(DECODERS)} expected")
        if self.dtype not in ("auto", "bfloat16", "float32"):
            raise UsageError(f"dtype {self.dtype}: auto, bfloat16 or float32 expected")
        _check("batch_size", self.batch_size, 1, 4096)
        _check("max_bytes", self.max_bytes, 1)
        _check("max_pixels", self.max_pixels, 1, 2 * PILLOW_LIMIT_PIXELS)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobConfig:
    """How to carry out a run; nothing here changes a row."""

    address: str = "local"
    """Ray cluster: `local` starts one in this process, `auto` or `ray://HOST:PORT` joins one."""
    max_workers: int | None = None
    """At most this many workers that decode (and score, without GPUs); None: one a core."""
    max_scorers: int | None = None
    """At most this many scoring actors on GPUs; None: as many as fit.

    Ask for this many in a cluster that does not say how far it can grow.
    """
    gpus_per_worker: float = 1.0
    """GPUs for one scoring actor; below 1, several share a GPU; 0 scores on CPUs."""
    max_error_rate: float = 0.05
    """Share of failed images above which the exit code is 3."""
    stall_timeout_s: float = 600.0
    """The run stops, resumable, when nothing was scored for so long."""
    request_timeout_s: float = ACCESS.request_timeout_s
    """Give up a request to a store after so long, and try again."""
    image_timeout_s: float = ACCESS.image_timeout_s
    """An image that does not come in this time, all tries included, becomes `timeout`."""
    decode_timeout_s: float = 20.0
    """An image whose decode takes more processor time, or ten times as long in all, becomes `timeout`."""
    max_requests: int = ACCESS.max_requests
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
        _check("decode_timeout_s", self.decode_timeout_s, 0.1, 3600)
        _check("max_requests", self.max_requests, 1, 1024)


def check_decoder(score: ScoreConfig, job: JobConfig) -> None:
    """Raises UsageError where GPUs are to decode, and none is to be used."""
    if score.decoder == "gpu" and not job.gpus_per_worker:
        what = "--decoder gpu decodes on the GPUs that score, and --gpus-per-worker 0 uses none"
        raise UsageError(f"{what}; leave one of the two out")


UNIT_S = {"s": 1, "min": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Expect:
    """Snapshots to expect of every camera: `1/5min`, or with hours of the day `1/5min@06-22`."""

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
            what = "snapshots per time expected, such as 1/5min, 12/h or 1/30s@06-22, with hours of one day"
            raise UsageError(f"--expect {text}: {what}")
        return cls(text, int(number) * 3600 / period_s, hours)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """How to report on committed runs; nothing here changes a run."""

    exclude: tuple[str, ...] = ()
    """Conditions of the camera's view to leave out of the rates; a single text has commas between."""
    expect: str | None = None
    """Snapshots to expect of every camera, such as `1/5min`; None: inferred for each."""
    alert_below: float | None = None
    """An alert fires where a whole interval of compliance is below this."""
    alert_by: str | None = None
    """Check compliance by group, such as `camera`; None: overall."""
    alert_corrected: bool = False
    """Check the corrected rate, not the observed one."""
    thumbnails: bool = False
    """Put pictures of the first review candidates into the page."""
    corrections: str | None = None
    """Another folder of human judgements, beside the run's own; for a report on one run."""
    own_days: bool = False
    """Take only its own local days from each run: nightly runs share images of unknown time."""

    def __post_init__(self) -> None:
        if isinstance(self.exclude, str):
            names = [name.strip() for name in self.exclude.split(",") if name.strip()]
            object.__setattr__(self, "exclude", names)
        _make_tuples(self)
        if self.alert_by == "overall":
            object.__setattr__(self, "alert_by", None)
        for name in self.exclude:
            if name not in CONDITIONS:
                raise UsageError(f"--exclude {name}: {', '.join(CONDITIONS)} expected, with commas between")
        if self.expect is not None:
            Expect.parse(self.expect)
        _check("--alert-below", self.alert_below, 0, 1)
        if self.alert_below is None and (self.alert_by or self.alert_corrected):
            raise UsageError("--by and --corrected say how --alert-below is held; give it too")


def _make_tuples(config: "PlanConfig | ReportConfig") -> None:
    """Make a tuple of each setting that takes several texts: a text, a path, a list or None will do."""
    for item in fields(config):
        if str(item.type).startswith("tuple"):
            values = getattr(config, item.name)
            object.__setattr__(config, item.name, () if values is None else list_texts(values))


def _check(name: str, value: float | None, least: float, most: float = float("inf")) -> None:
    if value is not None and not least <= value <= most:
        bounds = f"{least:g} or more" if most == float("inf") else f"{least:g} to {most:g}"
        flag = name if name.startswith("--") else f"--{name.replace('_', '-')}"
        raise UsageError(f"{flag} {value}: {bounds} expected")


def _find_encoding(setting: str, name: str | None) -> str | None:
    """Python's own name of an encoding; names in a zip have ASCII's letters in any. Raises UsageError."""
    if name is None:
        return None
    try:
        if (b"a.jpg" if setting == "zip_encoding" else "a.jpg".encode(name)).decode(name) == "a.jpg":
            return codecs.lookup(name).name
    except (LookupError, ValueError):
        pass
    option = f"--{setting.replace('_', '-')}"
    raise UsageError(f"{option} {name}: no such encoding of text; one like cp932, gbk or cp1252 expected")


def _make_absolute(archive: str) -> str:
    """An ARCHIVE argument as run.json holds it: an absolute path, or a URL. Raises UsageError."""
    try:
        place = parse_argument(archive)
    except ValueError as error:
        raise UsageError(f"archive {archive}: {error}") from error
    if place.root == SCHEME:
        return place.path
    scheme, _, bucket = place.root.partition("://")
    is_web, path = scheme in ("http", "https"), place.path.rstrip("/")
    if place.login or place.query:
        remedy = "list it in a manifest, a CSV with a column uri" if is_web else "say it in --storage-options"
        message = f"a URL with a query or a password is kept in no run; {remedy}"
        raise UsageError(f"archive {place.root}{path}: {message}")
    if not path and (is_web or not bucket):
        example = f"{scheme}://HOST/NAME.tar" if is_web else f"{scheme}://BUCKET/PREFIX"
        raise UsageError(f"archive {archive}: names nothing; write it like {example}")
    return place.root + path


Config = TypeVar("Config", PlanConfig, ScoreConfig, JobConfig, ReportConfig)
LONG_NAMES = {"by": "alert_by", "corrected": "alert_corrected"}
"""Settings with a longer name than their flag."""
NO_FLAG = ("archives", "own_days")
NO_DIFFERENCE = ("allow_unknown_times",)
"""Settings that may differ between two calls for one run."""
OPEN = ("batch_size",)
"""Settings that fit any value where a call leaves them open."""


def make_config(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """The config of `kind` from those of `values` that it has and that are set."""
    own = ((item.name, values.get(item.name)) for item in fields(kind))
    chosen = {name: tuple(v) if isinstance(v, list) else v for name, v in own if v is not None}
    return kind(**chosen)  # type: ignore[arg-type]


def read_toml(path: Path) -> dict[str, Any]:
    """The settings of a --config file by flags of any command, with `-` or `_`. Raises UsageError."""
    try:
        content = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise UsageError(f"--config {path}: no such file; check the path") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config {path}: cannot be read as TOML: {error}") from error
    kinds = (PlanConfig, ScoreConfig, JobConfig, ReportConfig)
    types = {f.name: str(f.type) for kind in kinds for f in fields(kind) if f.name not in NO_FLAG}
    types |= {"checkpoint": "str", "detector": "str"}
    values: dict[str, Any] = {}
    for flag, value in content.items():
        name = flag.replace("-", "_")
        setting = LONG_NAMES.get(name, name)
        if setting not in types:
            near = get_close_matches(name, types, 1) or ["batch_size"]
            named = f"settings are named as flags, such as {near[0].replace('_', '-')}"
            raise UsageError(f"--config {path}: {name!r} is no setting; {named}")
        if setting in values:
            raise UsageError(f"--config {path}: {name} is set twice; once expected")
        try:
            values[setting] = _convert(setting, value, types[setting])
        except TypeError as error:
            raise UsageError(f"--config {path}: {name} = {value!r}, a {error} expected") from error
    return values


def _convert(setting: str, value: Any, kind: str) -> Any:
    """`value` from TOML as a setting of type `kind`; TypeError says what is expected instead."""
    expected = next(t for t in (tuple, bool, float, int, str) if t.__name__ in kind)
    if expected is tuple:
        if isinstance(value, str):
            return value if setting == "exclude" else [value]
        if type(value) is not list or not all(isinstance(item, str) for item in value):
            raise TypeError("list of strings")
        return value
    if expected is float and type(value) is int:
        value = float(value)
    if type(value) is not expected:
        raise TypeError(expected.__name__)
    return value


def list_differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The settings that differ, in words: `limit 10 instead of 20`."""
    return [
        f"{name} {_show(ours.get(name))} instead of {_show(theirs.get(name))}"
        for name in {**theirs, **ours}
        if name not in NO_DIFFERENCE
        and not (name in OPEN and ours.get(name) is None)
        and _plain(ours.get(name)) != _plain(theirs.get(name))
    ]


def _show(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def to_dict(config: PlanConfig | ScoreConfig | JobConfig | ReportConfig) -> dict[str, Any]:
    """The config as JSON-ready values."""
    return {name: _plain(value) for name, value in asdict(config).items()}
