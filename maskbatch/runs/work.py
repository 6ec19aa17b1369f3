"""What every worker of a run must know, and what a scores row takes from the plan."""

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from maskbatch.clock import Clock
from maskbatch.config import JobConfig, ScoreConfig
from maskbatch.runs.directory import RunDir
from maskbatch.runs.records import RunSettings
from maskbatch.runs.request import Request
from maskbatch.stores.access import Access
from maskbatch.stores.files import locate_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What every worker of a run must know; small, and sent once to each."""

    run_id: str
    """Identifies this run's files in staging; others are ignored."""
    out: str
    archives: tuple[str, ...]
    checkpoint: str
    digest: str
    """sha256 of the checkpoint that the run began with."""
    detector: str | None = None
    """With the view `scene`, and so is the next."""
    detector_digest: str | None = None
    config: ScoreConfig
    clock: Clock
    is_remote: bool
    """Whether reading waits for a network."""
    num_images: int
    """Images to score; those carried over from earlier runs come after them in the plan."""
    shard_size: int
    access: Access = field(default_factory=Access)
    keep_column: str | None = None
    num_carried: int = 0
    decode_timeout_s: float = JobConfig().decode_timeout_s
    call: str = field(default_factory=lambda: uuid.uuid4().hex)
    """One driver's work; what its workers note of each other is no other's business."""

    @property
    def run(self) -> RunDir:
        return RunDir(locate_folder(self.out, self.access.options))

    @property
    def num_planned(self) -> int:
        return self.num_images + self.num_carried

    @property
    def num_shards(self) -> int:
        return -(-self.num_images // self.shard_size)

    def describe_shard(self, shard: int) -> str:
        """Its number and ids in words."""
        ids = self.ids(shard)
        return f"shard {shard} (images {ids.start} to {ids.stop - 1})"

    def ids(self, shard: int) -> range:
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_images))


def make_work(run: RunDir, settings: RunSettings, request: Request) -> Work:
    """What the workers of a run must know; `settings` are complete, and `request` is to score."""
    opened, detector = request.checkpoint, request.detector
    assert request.score and opened  # noqa: S101
    digests = " ".join(file.digest[:16] for file in (opened, detector) if file)
    return Work(
        run_id=f"{digests} {settings.created_at.isoformat()} rules {settings.decode_rules}",
        archives=settings.plan.archives,
        out=str(run.path),
        checkpoint=opened.path,
        digest=opened.digest,
        detector=detector.path if detector else None,
        detector_digest=detector.digest if detector else None,
        config=settings.score or request.score,
        clock=Clock.parse(settings.plan.timezone, settings.created_at),
        is_remote=any(source.is_remote for source in request.sources),
        num_images=settings.num_to_score,
        shard_size=settings.shard_size or 1,
        access=request.access,
        keep_column=settings.plan.keep_column,
        num_carried=settings.num_carried,
        decode_timeout_s=request.decode_timeout_s,
    )


def take_planned(
    planned: pa.Table, exif_times: list[object], clock: Clock, keep_column: str | None
) -> dict[str, Any]:
    """The columns of scores rows that come from the plan; a time that it lacks comes from `exif_times`."""
    columns: dict[str, Any] = {name: planned[name] for name in ("id", "uri", "site", "camera")}
    if keep_column:
        columns[keep_column] = planned["kept"]
    columns |= {"captured_at": [], "captured_local": [], "time_source": []}
    known = (planned[name].to_pylist() for name in ("captured_at", "time_source", "site"))
    for time, source, site, exif in zip(*known, exif_times, strict=True):
        if time is None and exif is not None:
            time = clock.to_utc(datetime.fromisoformat(str(exif)), site)
            source = "exif" if time else None
        columns["captured_at"].append(time)
        columns["captured_local"].append(clock.to_local(time, site))
        columns["time_source"].append(source)
    return columns
