"""Scoring from a real S3 server against scoring from local disk, and readers of small objects side by side.

    python -m tests.benchmarks.store            all, about 10 minutes on two cores
    python -m tests.benchmarks.store --readers  the readers alone

The store (Ceph's gateway, kept in memory) and a proxy that adds 20 ms to every request run on
the same cores as the job. So two ratios are printed: of the wall times, and with the processor
seconds of the store and the proxy taken off.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks.score import CORES, FOLDER, make_files
from tests.fault_proxy import Faults, fault_proxy
from tests.s3_server import S3Server, s3_server

NUM_IMAGES = 4000
LATENCY_S = 0.02
NUM_SMALL = 2000
SMALL_BYTES = 60_000
THREADS = 32


def cpu_s(pids: list[int]) -> float:
    """Processor seconds that these processes have used."""
    ticks = 0
    for pid in pids:
        ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def upload(server: S3Server, endpoint: str, bucket: str, objects: dict[str, bytes | Path]) -> None:
    client = s3_client(server, endpoint)
    client.create_bucket(Bucket=bucket)

    def put(item: tuple[str, bytes | Path]) -> None:
        key, body = item
        if isinstance(body, bytes):
            client.put_object(Bucket=bucket, Key=key, Body=body)
        else:
            client.upload_file(str(body), bucket, key)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, objects.items()))


def s3_client(server: S3Server, endpoint: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(max_pool_connections=THREADS),
    )


def score(archive: str, environment: dict[str, str]) -> dict[str, float]:
    """Seconds of one run: whole, planning alone, scoring alone."""
    out = FOLDER / "run"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "maskbatch", "score", archive, "--out", str(out), "--json"]
    began = time.monotonic()
    answer = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    whole = time.monotonic() - began
    summary = json.loads(answer.stdout)
    if summary["statuses"] != {"ok": NUM_IMAGES}:
        sys.exit(f"{archive}: not every image is ok: {summary['statuses']}")
    return {"whole": whole, "score": summary["timings_s"]["score"]}


def index_s(archive: str, environment: dict[str, str]) -> float:
    """Seconds in which the archive is planned alone."""
    code = (
        "import sys, time\n"
        "from maskbatch.config import PlanConfig\n"
        "from maskbatch.runner import plan_archive\n"
        "began = time.monotonic()\n"
        "found = plan_archive(PlanConfig(archives=(sys.argv[1],))).num_images\n"
        "print(found, time.monotonic() - began)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, archive],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    found, seconds = answer.stdout.split()
    if int(found) != NUM_IMAGES:
        sys.exit(f"{archive}: {found} images found")
    return float(seconds)


def compare_scoring(folder: Path, repeat: int) -> None:
    files = make_files("1920x1080", 8000)
    chosen = sorted(files.rglob("*.jpg"))[:NUM_IMAGES]
    local = FOLDER / "4000"
    shutil.rmtree(local, ignore_errors=True)
    for path in chosen:
        link = local / path.relative_to(files)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.hardlink_to(path)
    tar = FOLDER / "4000.tar"
    with tarfile.open(tar, "w") as made:
        made.add(local, arcname=".")
    with s3_server(folder) as server:
        objects: dict[str, bytes | Path] = {
            f"month/{path.relative_to(local)}": path for path in local.rglob("*.jpg")
        }
        print(f"uploading {len(objects):,} files and a tar of them", flush=True)
        upload(server, server.endpoint, "bench", {**objects, "month.tar": tar})
        with fault_proxy(server.endpoint, Faults(latency_s=LATENCY_S)) as proxy:
            environment = {**server.environment(), "AWS_ENDPOINT_URL": proxy.endpoint}
            print(f"indexing of the tar: {index_s('s3://bench/month.tar', environment):.1f} s", flush=True)
            print(f"listing of the files: {index_s('s3://bench/month', environment):.1f} s", flush=True)
            print("\n| archive | whole s | score s | store and proxy, processor s | rate | without those |")
            print("| --- | --- | --- | --- | --- | --- |")
            for _ in range(repeat):
                baseline = score(str(local), {})
                print(
                    f"| local disk | {baseline['whole']:.1f} | {baseline['score']:.1f} | - | 1 | 1 |",
                    flush=True,
                )
                for archive in ("s3://bench/month", "s3://bench/month.tar"):
                    used = cpu_s([*server.pids(), proxy.pid])
                    run = score(archive, environment)
                    used = cpu_s([*server.pids(), proxy.pid]) - used
                    without = run["whole"] - used / CORES
                    print(
                        f"| {archive} | {run['whole']:.1f} | {run['score']:.1f} | {used:.1f} "
                        f"| {baseline['whole'] / run['whole']:.2f} | {baseline['whole'] / without:.2f} |",
                        flush=True,
                    )
    tar.unlink()


def compare_readers(folder: Path, repeat: int) -> None:
    """Objects per second of each reader, no latency added: what a core can do."""
    with s3_server(folder) as server:
        os.environ.update(server.environment())
        keys = [f"small/{k:05d}" for k in range(NUM_SMALL)]
        upload(server, server.endpoint, "bench", {key: os.urandom(SMALL_BYTES) for key in keys})
        readers: dict[str, Callable[[list[str]], int]] = {
            "maskbatch (obstore, 32 threads)": read_maskbatch,
            "obstore, asyncio, 64 in flight": read_async,
            "boto3, 32 threads": lambda keys: read_boto3(server, keys),
            "s3fs.cat": read_s3fs,
            "Ray's download()": read_ray,
        }
        rates: dict[str, list[float]] = {name: [] for name in readers}
        for read in readers.values():
            read(keys[:64])
        for _ in range(repeat):
            for name, read in readers.items():
                began = time.monotonic()
                total = read(keys)
                rates[name].append(len(keys) / (time.monotonic() - began))
                if total != len(keys) * SMALL_BYTES:
                    sys.exit(f"{name}: {total} bytes read")
    print(
        f"\n| {NUM_SMALL:,} objects of {SMALL_BYTES // 1000} KB, median of {repeat} | objects/s | of the best |"
    )
    print("| --- | --- | --- |")
    best = max(map(statistics.median, rates.values()))
    for name, measured in rates.items():
        rate = statistics.median(measured)
        print(f"| {name} | {rate:,.0f} | {rate / best:.2f} |")


def read_maskbatch(keys: list[str]) -> int:
    from maskbatch.score.read import READ_COLUMNS, read_images
    from maskbatch.stores.access import Access

    empty = dict.fromkeys(READ_COLUMNS)
    rows = [
        {**empty, "uri": f"s3://bench/{key}", "encoding": "raw", "num_bytes": SMALL_BYTES} for key in keys
    ]
    return sum(len(image.data or b"") for image in read_images(rows, Access(), SMALL_BYTES))


def read_async(keys: list[str]) -> int:
    import obstore

    from maskbatch.stores.access import Access

    client = Access().store("s3://bench/x").client  # type: ignore[attr-defined]

    async def all_of_them() -> int:
        free = asyncio.Semaphore(64)

        async def one(key: str) -> int:
            async with free:
                return len(bytes(await (await obstore.get_async(client, key)).bytes_async()))

        return sum(await asyncio.gather(*map(one, keys)))

    return asyncio.run(all_of_them())


def read_boto3(server: S3Server, keys: list[str]) -> int:
    client = s3_client(server, server.endpoint)
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(pool.map(lambda key: len(client.get_object(Bucket="bench", Key=key)["Body"].read()), keys))


def read_s3fs(keys: list[str]) -> int:
    import s3fs

    found = s3fs.S3FileSystem().cat([f"bench/{key}" for key in keys])
    return sum(map(len, found.values()))


def read_ray(keys: list[str]) -> int:
    import pyarrow.fs
    import ray
    import ray.data
    from ray.data.expressions import download

    if not ray.is_initialized():
        ray.init(address="local", include_dashboard=False, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    store = pyarrow.fs.S3FileSystem(endpoint_override=endpoint, scheme="http", region="us-east-1")
    uris = ray.data.from_items([{"uri": f"bench/{key}"} for key in keys])
    read = uris.with_column("data", download("uri", filesystem=store))
    return sum(
        len(row) for batch in read.iter_batches(batch_format="pyarrow") for row in batch["data"].to_pylist()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--readers", action="store_true", help="only the readers of small objects")
    parser.add_argument("--scoring", action="store_true", help="only scoring")
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    if not options.scoring:
        with TemporaryDirectory() as folder:
            compare_readers(Path(folder), max(3, options.repeat))
    if not options.readers:
        with TemporaryDirectory() as folder:
            compare_scoring(Path(folder), options.repeat)


if __name__ == "__main__":
    main()
