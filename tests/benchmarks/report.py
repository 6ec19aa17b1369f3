"""Reporting very large runs: seconds, and the peak memory of the process.

    python -m tests.benchmarks.report                  50,000,000 rows
    python -m tests.benchmarks.report --rows 5000000

The rows are made up, in the files that a commit writes: 200 cameras on a month of days, a picture every ten
seconds or so, each range of 262,144 ids cut by local day. The report is then made by the command line.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch import schema
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.plan.listing import Listing
from maskbatch.runs.commit import RANGE_ROWS
from maskbatch.runs.records import CommittedFile, RunSettings, Success, UsedCheckpoint
from maskbatch.stores.files import write_json
from tests.benchmarks.score import FOLDER, measure

CAMERAS, DAYS = 200, 30
FIRST_US = int(np.datetime64("2026-10-01", "us").astype(np.int64))
DAY_US = 86_400_000_000
CLASSES = open_checkpoint().card.classes
SCHEMA = schema.scores(CLASSES)


def make_run(out: Path, num_rows: int) -> None:
    """A committed run of `num_rows` made-up rows at `out`, unless it is there."""
    if (out / "_SUCCESS").exists():
        return
    starts = range(0, num_rows, RANGE_ROWS)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        ranges = pool.map(_write_range, [out] * len(starts), starts, [num_rows] * len(starts))
        files = [item for found in ranges for item in found]
    checkpoint = open_checkpoint()
    settings = RunSettings(
        created_at=datetime(2026, 11, 1, tzinfo=UTC),
        plan=PlanConfig(archives=("/made-up",)),
        versions={},
        listing=Listing(num_images=num_rows),
        score=ScoreConfig(),
        job=JobConfig(),
        checkpoint=UsedCheckpoint(checkpoint.path, checkpoint.digest, checkpoint.card_dict()),
        shard_size=64,
    )
    write_json(out / "run.json", settings.to_json())
    success = Success(
        planned=num_rows,
        statuses={"ok": num_rows},
        max_error_rate=0.05,
        committed_at=settings.created_at,
        exit_code=0,
        devices={},
        timings_s={"whole": 0.0},
        files=tuple(files),
    )
    write_json(out / "_SUCCESS", success.to_json())


def _write_range(out: Path, start: int, num_rows: int) -> list[CommittedFile]:
    ids = np.arange(start, min(start + RANGE_ROWS, num_rows))
    each = -(-num_rows // CAMERAS)
    camera, number = np.divmod(ids, each)
    time_us = FIRST_US + number * (DAYS * DAY_US // each)
    day = (time_us - FIRST_US) // DAY_US
    table = _rows(ids, camera, time_us)
    files = []
    for k in np.unique(day):
        rows = table.filter(pa.array(day == k))
        name = f"scores/date=2026-10-{k + 1:02d}/part-{start:012d}.parquet"
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, out / name, compression="zstd")
        files.append(CommittedFile(name, len(rows), (out / name).stat().st_size, ""))
    return files


def _rows(ids: np.ndarray, camera: np.ndarray, time_us: np.ndarray) -> pa.Table:
    """Scores rows; what a person wears depends on the camera and the day, as in real archives."""
    rng, n = np.random.default_rng(int(ids[0])), len(ids)
    level = np.random.default_rng(7).beta(18, 2, (CAMERAS, DAYS))[camera, (time_us - FIRST_US) // DAY_US]
    draw = rng.random(n)
    wears = np.where(rng.random(n) < level, 0, rng.integers(1, 3, n))
    label = np.where(draw < 0.4, len(CLASSES) - 1, wears)
    confidence = 1 - rng.beta(1, 20, n).astype(np.float32) / 2
    probs = np.repeat(((1 - confidence) / (len(CLASSES) - 1))[:, None], len(CLASSES), axis=1)
    probs[np.arange(n), label] = confidence
    cameras = pa.array([f"cam-{k:03d}" for k in range(CAMERAS)])
    hexadecimal = np.frombuffer(b"0123456789abcdef", "S1")[rng.integers(0, 16, (n, 64), np.uint8)]
    times = pa.array(time_us, pa.timestamp("us"))
    columns = {
        "id": ids,
        "uri": [f"s3://archive/cam-{c:03d}/{t:016d}.jpg" for c, t in zip(camera, time_us, strict=True)],
        "site": pa.repeat("north", n),
        "camera": cameras.take(pa.array(camera)),
        "captured_at": times.cast(schema.TIMESTAMP),
        "captured_local": times,
        "time_source": pa.repeat("path", n),
        "region": np.zeros(n, np.int16),
        "box": pa.nulls(n, schema.BOX),
        "status": pa.repeat("ok", n),
        "error": pa.nulls(n, pa.string()),
        "width": np.full(n, 1920, np.int32),
        "height": np.full(n, 1080, np.int32),
        "num_bytes": rng.integers(50_000, 90_000, n),
        "sha256": pa.array(hexadecimal.view("S64").ravel().astype("U64")),
        **{name: rng.beta(5, 5, n).astype(np.float32) for name in ("brightness", "contrast")},
        "sharpness": rng.lognormal(5, 1, n).astype(np.float32),
        "dhash": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(8), n, [None, pa.py_buffer(rng.bytes(8 * n))]
        ),
        "label": pa.array(list(CLASSES)).take(pa.array(label)),
        **{f"prob_{name}": probs[:, k].astype(np.float32) for k, name in enumerate(CLASSES)},
        "confidence": confidence,
        "needs_review": confidence < 0.9,
    }
    return pa.table({f.name: _column(columns[f.name], f.type) for f in SCHEMA}, SCHEMA)


def _column(value: Any, kind: pa.DataType) -> Any:
    return value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.array(value, kind)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000_000)
    arguments = parser.parse_args()
    out = FOLDER / f"report-{arguments.rows}"
    began = time.monotonic()
    make_run(out, arguments.rows)
    print(f"{arguments.rows:,} rows at {out}, made in {time.monotonic() - began:.0f} s")
    took, text, peak_mb, _ = measure(["maskbatch", "report", str(out), "--json"])
    overall = json.loads(text)["overall"]
    print(f"report: {took:.0f} s, {arguments.rows / took:,.0f} rows/s, peak {peak_mb:,} MB")
    print(f"compliance {overall['compliance']:.4f} of {overall['assessed']:,} assessed")
    size_mb = sum(path.stat().st_size for path in (out / "report").iterdir()) / 2**20
    print(
        f"report/: {size_mb:,.1f} MB, of it report.html {(out / 'report/report.html').stat().st_size / 2**20:.1f} MB"
    )


if __name__ == "__main__":
    main()
