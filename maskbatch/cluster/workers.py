"""What runs on the cluster, a row of shards a call: `decode`, a task on a CPU, and `Scorer`, an actor."""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

import pyarrow as pa

from maskbatch.cluster import metrics
from maskbatch.cluster.packing import pack, unpack
from maskbatch.decode.images import Decoded, Picture
from maskbatch.decode.source import Encoded
from maskbatch.decode.triage import Sorted, sort_images
from maskbatch.decode.watch import Watch
from maskbatch.errors import UsageError
from maskbatch.model.card import Card
from maskbatch.model.checkpoint import Checkpoint, DetectorFile, open_checkpoint, open_detector
from maskbatch.runs import staging
from maskbatch.runs.work import Work
from maskbatch.score.networks import Pixels, decode_pixels, picture_shape
from maskbatch.score.scene import DecodedFrame
from maskbatch.score.shard import Timed, read_shard, refuse_missing_archive

DEVICE_ATTEMPTS = 2
"""One death may have been another's fault, and what the CPU decodes has other pixels."""
Batch = dict[str, Any]
AnyFile = TypeVar("AnyFile", Checkpoint, DetectorFile)


@dataclass(frozen=True, slots=True)
class ShardDone:
    """What a worker reports of one staged shard."""

    shard: int
    statuses: dict[str, int]
    """Images by status."""
    device: str
    read_s: float
    """Seconds of waiting for bytes."""
    decode_s: float
    """Seconds in decode and quality."""
    score_s: float
    """Seconds in the model and in staging."""
    node: str
    """Ray's id of the node that scored it."""
    decode_node: str
    """Of the node that read and decoded it."""


@cache
def _open_checkpoint(path: str, digest: str) -> Checkpoint:
    """The run's checkpoint, read once a worker. Raises UsageError if it has changed since the run began."""
    return _check(open_checkpoint(path), digest)


@cache
def _open_detector(path: str, digest: str) -> DetectorFile:
    """The run's detector, as `_open_checkpoint`."""
    return _check(open_detector(path), digest)


def _check(opened: AnyFile, digest: str) -> AnyFile:
    if opened.digest != digest:
        what = f"{opened.noun} {opened.path} changed while the run was going"
        raise UsageError(f"{what}; put the first one back")
    return opened


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _watch(work: Work, shard: int, stage: str, num_images: int) -> Watch:
    """Raises RunFailedError where the shard ended its workers time and again."""
    name = f"{work.call}-{stage}-{shard}"
    note = partial(staging.write_sign, work.run.staging, shard)
    return Watch(name, work.describe_shard(shard), num_images, work.decode_timeout_s, note)


def _decode(
    work: Work, card: Card, planned: pa.Table, encoded: Timed[Encoded], watch: Watch
) -> Decoded | Sorted | Timed[DecodedFrame]:
    config = work.config
    if config.decoder == "gpu":
        return sort_images(encoded, picture_shape(card.preset, config), config.max_pixels, watch.decode)
    pixels = decode_pixels(encoded, len(planned), card.preset, config, watch.decode)
    return pixels if isinstance(pixels, Decoded) else Timed(iter(pixels))


def _report(encoded: Timed[Encoded], decode_s: float) -> Batch:
    """What reading and decoding took."""
    metrics.count_seconds("read", encoded.seconds)
    metrics.count_seconds("decode", decode_s)
    return {"read_s": [encoded.seconds], "decode_s": [decode_s], "decode_node": [_node_id()]}


def _report_shard(
    shard: int, statuses: Mapping[str, int], device: str, score_s: float, effort: Batch
) -> Batch:
    """A row of what `ShardDone` holds; `effort` is that of `_report`."""
    return {
        "shard": [shard],
        "statuses": [list(statuses)],
        "counts": [list(statuses.values())],
        "device": [device],
        "score_s": [score_s],
        "node": [_node_id()],
        **effort,
    }


def decode(rows: pa.Table, work: Work) -> Iterator[Batch]:
    """A row of shard numbers to the decoded images of each, packed."""
    for shard in rows["shards"][0].as_py():
        yield _decode_shard(shard, work)


def _decode_shard(shard: int, work: Work) -> Batch:
    planned, encoded = read_shard(work, shard)
    card = _open_checkpoint(work.checkpoint, work.digest).card
    began, waited_s = time.perf_counter(), encoded.seconds
    with _watch(work, shard, "decode", len(planned)) as watch:
        packed, statuses = pack(planned, _decode(work, card, planned, encoded, watch))
    refuse_missing_archive(work, statuses)
    watch.finish()
    decode_s = time.perf_counter() - began - (encoded.seconds - waited_s)
    return {"shard": [shard], **packed, **_report(encoded, decode_s)}


class Scorer:
    """An actor: holds the networks, scores and stages shards, reports one row a shard."""

    def __init__(self, work: Work, device: str | None) -> None:
        """`device` None takes CUDA where there is one."""
        from maskbatch.score.networks import Networks

        checkpoint = _open_checkpoint(work.checkpoint, work.digest)
        detector = _open_detector(work.detector, work.detector_digest) if work.detector else None
        self.work, self.card = work, checkpoint.card
        self.networks = Networks(checkpoint, detector, work.config, device=device)
        if work.config.decoder == "gpu":
            self.networks.decoder.check()
        self.device = self.networks.device
        self._scored = time.perf_counter()

    def __call__(self, rows: pa.Table) -> Iterator[Batch]:
        """Score a row: the numbers of shards, or a decoded shard."""
        if "pixels" in rows.column_names:
            yield self._score_shard(rows["shard"][0].as_py(), rows)
            return
        shards = rows["shards"][0].as_py()
        was_begun = len(shards) > 1 and self._read_staged(shards[0]) is not None
        for shard in shards:  # of a row whose worker died, some are done
            yield (self._read_staged(shard) if was_begun else None) or self._score_shard(shard)

    def _read_staged(self, shard: int) -> Batch | None:
        """The report of a shard that another call staged."""
        summary = staging.read_summary(staging.shard_path(self.work.run.staging, shard), self.work.run_id)
        effort = {"read_s": [0.0], "decode_s": [0.0], "decode_node": [_node_id()]}
        return _report_shard(shard, *summary, 0.0, effort) if summary else None

    def _score_shard(self, shard: int, packed: pa.Table | None = None) -> Batch:
        planned, images = unpack(packed) if packed is not None else read_shard(self.work, shard)
        with self.networks.turns.take(), _watch(self.work, shard, "score", len(planned)) as watch:
            # Meanwhile another call of this actor reads ahead, stages, or works on the GPU beside this one.
            if isinstance(images, Timed):
                table, model_s, report = self._decode_and_score(planned, images, watch)
            else:
                table, model_s, report = self._score_packed(planned, images, watch, packed)
            before, self._scored = self._scored, time.perf_counter()
            metrics.set_busy(self.device, min(1.0, model_s / (self._scored - before)))
        statuses = staging.write_shard(self.work.run.staging, shard, table, self.device, self.work.run_id)
        watch.finish()
        score_s = model_s + time.perf_counter() - self._scored
        metrics.count_images(statuses)
        metrics.count_seconds("score", score_s)
        return _report_shard(shard, statuses, self.device, score_s, report)

    def _score_packed(
        self, planned: pa.Table, pixels: Pixels, watch: Watch, packed: pa.Table
    ) -> tuple[pa.Table, float, Batch]:
        """The rows of a shard, the model's seconds, and the report of reading and decoding."""
        began = time.perf_counter()
        table = self._score(planned, pixels, watch)
        report = {name: packed[name].to_pylist() for name in ("read_s", "decode_s", "decode_node")}
        return table, time.perf_counter() - began, report

    def _decode_and_score(
        self, planned: pa.Table, encoded: Timed[Encoded], watch: Watch
    ) -> tuple[pa.Table, float, Batch]:
        """As `_score_packed`; scenes are decoded while they are scored."""
        began, waited_s = time.perf_counter(), encoded.seconds
        pixels = _decode(self.work, self.card, planned, encoded, watch)
        decode_s = time.perf_counter() - began
        table = self._score(planned, pixels, watch)
        refuse_missing_archive(self.work, table["status"].to_pylist())
        read_s = encoded.seconds - waited_s
        decode_s += (pixels.seconds if isinstance(pixels, Timed) else 0.0) - read_s
        return table, time.perf_counter() - began - decode_s - read_s, _report(encoded, decode_s)

    def _score(self, planned: pa.Table, pixels: Pixels, watch: Watch) -> pa.Table:
        """A shard that ended its workers time and again is not given to the device any more."""

        def decode(*image: Any) -> Picture:
            with self.networks.turns.lock:  # its deadline is that of the process
                return watch.decode(*image)

        try:
            return self.networks.score(
                planned,
                pixels,
                self.work.clock,
                self.work.keep_column,
                decode,
                is_device_safe=watch.num_ended < DEVICE_ATTEMPTS,
            )
        except RuntimeError:
            if self.networks.is_device_lost():
                os.kill(os.getpid(), signal.SIGKILL)  # another worker can use it, and tries again
            raise
