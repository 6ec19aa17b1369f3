"""What runs on the cluster, a shard a call: `decode`, a task on a CPU, and `Scorer`, an actor."""

import io
import threading
import time
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from maskbatch.cluster import metrics
from maskbatch.errors import UsageError
from maskbatch.model.card import Card
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint
from maskbatch.runs import staging
from maskbatch.runs.work import Work
from maskbatch.score.decode import Decoded
from maskbatch.score.rows import make_rows
from maskbatch.score.shard import TimedReader, decode_shard, read_shard
from maskbatch.score.watch import Watch

Batch = dict[str, Any]


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
    checkpoint = open_checkpoint(path)
    if checkpoint.digest != digest:
        raise UsageError(f"checkpoint {path} changed while the run was going; put the first one back")
    return checkpoint


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _watch(work: Work, shard: int, stage: str, num_images: int) -> Watch:
    """Raises RunFailedError where the shard ended its workers time and again."""
    name = f"{work.call}-{stage}-{shard}"
    note = partial(staging.write_sign, work.run.staging, shard)
    return Watch(name, work.describe_shard(shard), num_images, work.decode_timeout_s, note)


def _decode(
    work: Work, card: Card, encoded: TimedReader, num_images: int, watch: Watch
) -> tuple[Decoded, Batch]:
    """Decode a shard; returns its images, and the report of reading and decoding."""
    began, waited_s = time.perf_counter(), encoded.seconds
    decoded = decode_shard(work, card, encoded, num_images, watch)
    decode_s = time.perf_counter() - began - (encoded.seconds - waited_s)
    metrics.count_seconds("read", encoded.seconds)
    metrics.count_seconds("decode", decode_s)
    return decoded, {"read_s": [encoded.seconds], "decode_s": [decode_s], "decode_node": [_node_id()]}


def decode(batch: Batch, work: Work) -> Batch:
    """One shard number to its decoded images (n, H, W, 3) uint8 as bytes, and its columns as Arrow IPC."""
    shard = int(batch["shard"][0])
    planned, encoded = read_shard(work, shard)
    card = _open_checkpoint(work.checkpoint, work.digest).card
    with _watch(work, shard, "decode", len(planned)) as watch:
        decoded, report = _decode(work, card, encoded, len(planned), watch)
    sink = io.BytesIO()
    columns = pa.table(decoded.columns)
    for table in (planned, columns):
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    watch.finish()
    return {"shard": [shard], "rows": [sink.getvalue()], "images": [decoded.images_NHWC.tobytes()], **report}


class Scorer:
    """An actor: holds the classifier, scores and stages shards, reports one row a shard."""

    def __init__(self, work: Work, device: str | None) -> None:
        """`device` None takes CUDA where there is one."""
        from maskbatch.model.classifier import Classifier

        checkpoint = _open_checkpoint(work.checkpoint, work.digest)
        self.work, self.card = work, checkpoint.card
        self._busy = threading.Lock()
        config = work.config
        self.classifier = Classifier(
            checkpoint, dtype=config.dtype, batch_size=config.batch_size, device=device
        )
        self.device = f"{self.classifier.device}/{str(self.classifier.dtype).removeprefix('torch.')}"
        self._scored = time.perf_counter()

    def __call__(self, batch: Batch) -> Batch:
        shard = int(batch["shard"][0])
        if "images" not in batch:
            planned, encoded = read_shard(self.work, shard)
        num_images = len(self.work.ids(shard)) if "images" not in batch else 0
        with self._busy, _watch(self.work, shard, "score", num_images) as watch:
            # Meanwhile another call of this actor reads ahead, or stages.
            if "images" in batch:
                planned, decoded, report = self._unpack(batch)
            else:
                decoded, report = _decode(self.work, self.card, encoded, num_images, watch)
            began = time.perf_counter()
            probs = self.classifier.probs(decoded.images_NHWC)
            before, self._scored = self._scored, time.perf_counter()
            metrics.set_busy(self.device, (self._scored - began) / (self._scored - before))
        table = make_rows(planned, decoded, probs, self.card, self.work.clock, self.work.keep_column)
        statuses = staging.write_shard(self.work.run.staging, shard, table, self.device, self.work.run_id)
        watch.finish()
        score_s = time.perf_counter() - began
        metrics.count_images(statuses)
        metrics.count_seconds("score", score_s)
        return {
            "shard": [shard],
            "statuses": [list(statuses)],
            "counts": [list(statuses.values())],
            "device": [self.device],
            "score_s": [score_s],
            "node": [_node_id()],
            **report,
        }

    def _unpack(self, batch: Batch) -> tuple[pa.Table, Decoded, Batch]:
        source = io.BytesIO(batch["rows"][0])
        planned, columns = (pa.ipc.open_stream(source).read_all() for _ in range(2))
        height, width = self.card.input_size
        images = np.frombuffer(bytearray(batch["images"][0]), np.uint8).reshape(-1, height, width, 3)
        decoded = Decoded(images, {name: columns[name].to_pylist() for name in columns.column_names})
        return planned, decoded, {name: batch[name] for name in ("read_s", "decode_s", "decode_node")}
