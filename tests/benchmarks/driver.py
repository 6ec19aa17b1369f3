"""What a run takes of its driver, however many shards it has: a stand-in stages them, nothing is decoded.

    python -m tests.benchmarks.driver                     4,000 and 100,000 shards, about 15 minutes
    python -m tests.benchmarks.driver --shards 4000       one of them

Each is run, killed with a third of its shards staged, called again, committed and reported. Shards have 16 images,
of a manifest of files that are not there. `MB` are the driver's at its largest: until the commit, and in all. Then what Ray Data passes by itself: an actor stage that does nothing.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from maskbatch import runner
from maskbatch.cluster import pipeline, workers
from maskbatch.config import JobConfig, PlanConfig
from maskbatch.decode.images import COLUMNS
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.plan.table import read_plan
from maskbatch.progress import log_json
from maskbatch.runs import begin, staging
from maskbatch.runs.work import Work
from maskbatch.score.rows import make_rows
from tests.benchmarks.score import FOLDER, measure

SIZE = 16
"""Images of a shard."""
ROWS = 1_000
LOOPS = ((1, 1_000), (100, 100_000))
"""Shards in a row, and in all."""


class StandIn(workers.Scorer):
    """Stages each shard at once: its planned images, all alike."""

    def __init__(self, work: Work, device: str | None) -> None:
        self.work, self.card, self.device = work, open_checkpoint(work.checkpoint).card, "none"

    def _score_shard(self, shard: int, packed: pa.Table | None = None) -> dict[str, Any]:
        began, ids = time.perf_counter(), self.work.ids(shard)
        planned = read_plan(self.work.run.plan, ids.start, ids.stop)
        columns: dict[str, list[object]] = {name: [None] * len(ids) for name in COLUMNS}
        columns["status"] = ["ok"] * len(ids)
        probs_NK = np.full((len(ids), len(self.card.classes)), 0.25, np.float32)
        table = make_rows(planned, columns, probs_NK, self.card, self.work.clock)
        statuses = staging.write_shard(self.work.run.staging, shard, table, self.device, self.work.run_id)
        effort = {"read_s": [0.0], "decode_s": [0.0], "decode_node": [""]}
        return workers._report_shard(shard, statuses, self.device, time.perf_counter() - began, effort)


def drive(manifest: Path, out: Path) -> None:
    """A whole run in this process, with the stand-in; prints its timings."""
    pipeline.Scorer = StandIn  # type: ignore[misc]
    begin.choose_shard_size = lambda *_: SIZE
    log_json()
    commit, peaks_mb = runner.commit_run, list[int]()

    def commit_run(*arguments: Any) -> Any:
        peaks_mb.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
        return commit(*arguments)

    runner.commit_run = commit_run
    plan = PlanConfig(archives=(str(manifest),), allow_prefix=("file:///nowhere/",))
    success = runner.score_archive(plan, str(out), job=JobConfig()).success
    print(json.dumps({"timings": success.timings_s, "statuses": success.statuses, "score_mb": peaks_mb[0]}))


def write_manifest(num_images: int) -> Path:
    path = FOLDER / f"driver-{num_images}.csv"
    if not path.exists():
        with path.open("w") as file:
            file.write("uri,camera,captured_at\n")
            for k in range(num_images):
                day, time_of_day = k // 8_640 % 28 + 1, time.strftime("%H:%M:%S", time.gmtime(k % 8_640 * 10))
                uri = f"file:///nowhere/cam-{k // 241_920:03d}/{k:09d}.jpg"
                file.write(f"{uri},cam-{k // 241_920:03d},2026-10-{day:02d}T{time_of_day}\n")
    return path


def kill_at(command: list[str], out: Path, num_staged: int) -> None:
    """Run a driver until so many shards are staged, then kill it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(1)
        if (out / "staging").is_dir() and len(os.listdir(out / "staging")) >= num_staged:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return
    sys.exit(f"{' '.join(command)} ended by itself with {process.returncode}")


def run(num_shards: int) -> None:
    """One archive, killed and resumed; prints a row of the table."""
    out = FOLDER.absolute() / "driver-run"
    shutil.rmtree(out, ignore_errors=True)
    manifest = write_manifest(num_shards * SIZE).absolute()
    command = [sys.executable, "-m", "tests.benchmarks.driver", "--drive", str(manifest), str(out)]
    kill_at(command, out, num_shards // 3)
    staged = len(os.listdir(out / "staging"))
    _, output, driver_mb, _ = measure(command)
    done = json.loads(output)
    timings, left = done["timings"], num_shards - staged
    commit_s = timings["whole"] - timings["plan"] - timings["start"] - timings["score"]
    print(
        f"| {num_shards:,} | {staged:,} | {timings['start']:.1f} | {left / timings['score']:.0f} "
        f"| {commit_s:.0f} | {done['score_mb']} | {driver_mb} |",
        flush=True,
    )
    if done["statuses"] != {"ok": num_shards * SIZE}:
        sys.exit(f"not every image is there: {done['statuses']}")


def loop(shards_each: int, num_shards: int) -> None:
    """An actor stage that does nothing; prints how many shards a second come out of it."""
    import ray
    import ray.data

    class Nothing:
        def __call__(self, rows: pa.Table) -> Iterator[dict[str, Any]]:
            for shard in rows["shards"][0].as_py():
                yield {"shard": [shard]}

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [
        {"shards": list(range(k, min(k + shards_each, num_shards)))}
        for k in range(0, num_shards, shards_each)
    ]
    source = ray.data.from_items(rows, override_num_blocks=len(rows))
    cores = os.cpu_count() or 1
    actors = ray.data.ActorPoolStrategy(
        size=cores, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True
    )
    stage = source.map_batches(Nothing, batch_size=1, batch_format="pyarrow", num_cpus=0.99, compute=actors)
    batches = iter(stage.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"))
    first = len(next(batches))
    began = time.monotonic()
    count = sum(map(len, batches))
    assert first + count == num_shards
    print(f"| {cores} | {shards_each} | {num_shards:,} | {count / (time.monotonic() - began):,.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shards", type=int, nargs="*", default=[4_000, 100_000])
    parser.add_argument("--drive", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--loop", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(*options.drive)
        return
    if options.loop:
        loop(*options.loop)
        return
    FOLDER.mkdir(exist_ok=True)
    print(
        "\n| shards | staged when killed | first shard after, s | shards/s | commit s | MB to score | MB in all |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for num_shards in options.shards:
        run(num_shards)
    print("\n| cores | shards in a row | shards | shards/s, Ray Data alone |")
    print("| --- | --- | --- | --- |", flush=True)
    for shards_each, num_shards in LOOPS:
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.driver",
            "--loop",
            str(shards_each),
            str(num_shards),
        ]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
