"""The Ray Data job: shards in, staged shards out. The one module that names Ray, CPUs, GPUs and batch sizes.

    without GPUs   shard number -> Scorer actor, one a core: read, decode, score, stage
    with GPUs      shard number -> decode task on a CPU -> Scorer actor on a GPU: score, stage

A shard travels as one row of one block. Pixels cross the object store only on the way to a GPU,
as uint8.
"""

import io
import logging
import os
import queue
import re
import socket
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from maskbatch import errors, staging
from maskbatch.checkpoint import Checkpoint, open_checkpoint
from maskbatch.config import JobConfig
from maskbatch.decode import Decoded
from maskbatch.errors import MaskbatchError, RunFailedError, UsageError
from maskbatch.progress import quiet_output
from maskbatch.rows import Work, decode_shard, read_shard, scores_rows

WORKER_CPUS = 0.9
"""Of a core, for a worker that decodes and scores: one fits, and a little stays for Ray's own tasks."""
DECODE_CPUS = 1.0
CONNECT_S = 10.0
CALLS_PER_ACTOR = 2
"""One decodes and scores, the other reads its first images or stages its rows."""

Batch = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ShardDone:
    """What a worker reports of one staged shard."""

    shard: int
    statuses: dict[str, int]
    """Images by status."""
    device: str
    decode_s: float
    """Wall time in read, decode and quality."""
    score_s: float


@cache
def _open(path: str, digest: str) -> Checkpoint:
    """The run's checkpoint, once a worker. Raises UsageError where it is not the one the run began with."""
    checkpoint = open_checkpoint(path)
    if checkpoint.digest != digest:
        raise UsageError(f"checkpoint {path} changed while the run was going; put the first one back")
    return checkpoint


def decode(batch: Batch, work: Work) -> Batch:
    """One shard number to its decoded images (n, H, W, 3) uint8 as bytes, and its columns as Arrow IPC."""
    began = time.perf_counter()
    shard = int(batch["shard"][0])
    planned, encoded = read_shard(work, shard)
    decoded = decode_shard(work, _open(work.checkpoint, work.digest).card, encoded, len(planned))
    sink = io.BytesIO()
    columns = pa.table(decoded.columns)
    for table in (planned, columns):
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return {
        "shard": [shard],
        "rows": [sink.getvalue()],
        "images": [decoded.images_NHWC.tobytes()],
        "decode_s": [time.perf_counter() - began],
    }


class Scorer:
    """An actor: holds the classifier, stages what it scored, reports one row a shard."""

    def __init__(self, work: Work) -> None:
        from maskbatch.classifier import Classifier

        checkpoint = _open(work.checkpoint, work.digest)
        self.work, self.card = work, checkpoint.card
        self._busy = threading.Lock()
        self.classifier = Classifier(checkpoint, dtype=work.config.dtype, batch_size=work.config.batch_size)
        self.device = f"{self.classifier.device}/{str(self.classifier.dtype).removeprefix('torch.')}"

    def __call__(self, batch: Batch) -> Batch:
        shard = int(batch["shard"][0])
        if "images" not in batch:
            planned, encoded = read_shard(self.work, shard)
        with self._busy:  # another call of this actor reads ahead meanwhile, or stages
            began = time.perf_counter()
            if "images" in batch:
                planned, decoded = self._unpack(batch)
                decode_s = float(batch["decode_s"][0])
            else:
                decoded = decode_shard(self.work, self.card, encoded, len(planned))
                decode_s = time.perf_counter() - began
                began = time.perf_counter()
            probs = self.classifier.probs(decoded.images_NHWC)
        table = scores_rows(planned, decoded, probs, self.card, self.work.clock, self.work.keep_column)
        statuses = staging.write_shard(self.work.run.staging, shard, table, self.device, self.work.run_id)
        return {
            "shard": [shard],
            "statuses": [list(statuses)],
            "counts": [list(statuses.values())],
            "device": [self.device],
            "decode_s": [decode_s],
            "score_s": [time.perf_counter() - began],
        }

    def _unpack(self, batch: Batch) -> tuple[pa.Table, Decoded]:
        source = io.BytesIO(batch["rows"][0])
        planned, columns = (pa.ipc.open_stream(source).read_all() for _ in range(2))
        height, width = self.card.input_size
        images = np.frombuffer(bytearray(batch["images"][0]), np.uint8).reshape(-1, height, width, 3)
        return planned, Decoded(images, {name: columns[name].to_pylist() for name in columns.column_names})


class Cluster:
    """Ray, started or joined in the background while the archive is being planned."""

    def __init__(self, job: JobConfig, *, verbose: bool) -> None:
        self.job, self.verbose = job, verbose
        self._error: Exception | None = None
        self._quiet = ExitStack()
        self._ready, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, name="ray", daemon=True)

    def __enter__(self) -> "Cluster":
        if not self.verbose:
            self._quiet.enter_context(quiet_output())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave.set()
        self._thread.join()
        self._quiet.close()

    def _hold(self) -> None:
        """Start Ray, and stay: the kernel ends Ray's processes with the thread that started them."""
        owned = False
        try:
            owned = self._start()
        except Exception as error:  # whatever it is, the driver waits to hear of it
            self._error = error
        finally:
            self._ready.set()
        self._leave.wait()
        if owned:
            import ray

            ray.shutdown()

    def _start(self) -> bool:
        """Start or join Ray; whether it is ours to shut down."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        owned = not ray.is_initialized()
        if owned:
            _check_address(self.job.address)
            options: dict[str, Any] = {}
            if self.job.address == "local":
                options["include_dashboard"] = False
            ray.init(
                address=self.job.address,
                log_to_driver=self.verbose,
                logging_level=logging.INFO if self.verbose else logging.ERROR,
                **options,
            )
        import ray.data  # a second of imports, while the plan is being made

        return owned

    def ready(self) -> None:
        """Wait for Ray. Raises RunFailedError where it did not start."""
        self._ready.wait()
        if self._error is not None:
            first = (
                str(self._error).strip().splitlines()[0] if str(self._error).strip() else "no reason given"
            )
            message = f"Ray at {self.job.address!r} did not start: {first}; check --address, or leave it out"
            raise RunFailedError(message) from self._error

    def num_gpus(self) -> float:
        """GPUs of the whole cluster."""
        import ray

        return float(ray.cluster_resources().get("GPU", 0))

    def num_workers(self) -> int:
        """Decoding workers: as asked, else one a core."""
        import ray

        return self.job.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def score(self, work: Work, shards: Sequence[int]) -> Iterator[ShardDone]:
        """Score `shards`, yielding each as it is staged, in any order.

        Raises RunFailedError when the job fails or nothing was staged for `stall_timeout_s`; what
        is staged stays.
        """
        done: queue.Queue[ShardDone | BaseException | None] = queue.Queue()
        thread = threading.Thread(target=self._drain, args=(work, shards, done), daemon=True)
        thread.start()
        while True:
            try:
                item = done.get(timeout=self.job.stall_timeout_s)
            except queue.Empty:
                message = (
                    f"nothing was scored for {self.job.stall_timeout_s:.0f} s: workers die (--verbose shows "
                    "of what), or no CPU or GPU is free; mend that, then run the same command to go on"
                )
                raise RunFailedError(message) from None
            if item is None:
                return
            if isinstance(item, BaseException):
                raise _explain(item) from item
            yield item

    def _drain(
        self, work: Work, shards: Sequence[int], done: "queue.Queue[ShardDone | BaseException | None]"
    ) -> None:
        try:
            dataset = self._dataset(work, shards)
            for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
                for row in batch.to_pylist():
                    statuses = dict(zip(row.pop("statuses"), row.pop("counts"), strict=True))
                    done.put(ShardDone(statuses=statuses, **row))
            done.put(None)
        except BaseException as error:  # whatever ends this thread must reach the driver, which waits
            done.put(error)

    def _dataset(self, work: Work, shards: Sequence[int]) -> Any:
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = self.verbose
        context.raise_original_map_exception = True
        if not self.verbose:
            logging.getLogger("ray.data").setLevel(logging.ERROR)
            warnings.filterwarnings("ignore", module=r"ray\.")
        # Not from_arrow: it runs a task a block, in the workers that were warmed up for the actors.
        source = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
        num_gpus = self.num_gpus()
        if num_gpus < self.job.gpus_per_worker:
            size = min(self.num_workers(), len(shards))
            return self._actors(source, work, size, num_cpus=WORKER_CPUS)
        decoded = source.map_batches(
            decode,
            fn_kwargs={"work": work},
            batch_size=1,
            batch_format="numpy",
            num_cpus=DECODE_CPUS / (CALLS_PER_ACTOR if work.remote else 1),
            compute=ray.data.TaskPoolStrategy(self.job.workers),
        )
        size = min(int(num_gpus / self.job.gpus_per_worker), len(shards))
        return self._actors(decoded, work, size, num_cpus=0, num_gpus=self.job.gpus_per_worker)

    @staticmethod
    def _actors(source: Any, work: Work, size: int, **resources: float) -> Any:
        import ray

        return source.map_batches(
            Scorer,
            fn_constructor_kwargs={"work": work},
            batch_size=1,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(
                size=size,
                max_concurrent_calls_per_actor=CALLS_PER_ACTOR,
                enable_true_multi_threading=True,
            ),
            **resources,
        )


def _check_address(address: str) -> None:
    """Raises OSError where nothing listens at `HOST:PORT`: Ray would try it for minutes, past any signal."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        with socket.create_connection((host, int(port)), CONNECT_S):
            pass


def _explain(error: BaseException) -> MaskbatchError:
    """What stopped the job, as one of our errors: a worker's own one where there is one in the chain."""
    chain, link = [], error
    while link is not None:
        chain.append(link)
        link = link.__cause__  # type: ignore[assignment]
    for link in chain:
        # Ray raises a mixture of its own error and ours, whose text is a remote traceback.
        ours = getattr(link, "cause", link)
        if isinstance(ours, MaskbatchError):
            return type(ours)(str(ours))
    text = "\n".join(map(str, chain))
    told = re.search(r"maskbatch\.errors\.(\w+): (.+)", text)
    if told:  # an actor that dies while it is made leaves only its text
        kind: type[MaskbatchError] = getattr(errors, told[1], RunFailedError)
        return kind(told[2])
    last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    message = f"a worker failed: {type(error).__name__}: {last[0].strip()}; --verbose shows the workers' logs"
    return RunFailedError(message)
