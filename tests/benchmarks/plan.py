"""Planning very large buckets: keys a second, and the driver's memory.

    python -m tests.benchmarks.plan                    1,000,000 keys, then 10,000,000
    python -m tests.benchmarks.plan --keys 1000000
    python -m tests.benchmarks.plan --listing          ways to list a bucket, side by side

No store of this size is at hand, so a stub in a process of its own answers ListObjectsV2 as S3
does (prefix, delimiter, tokens, pages of 1,000, url encoding) for keys that it computes, and 404
to every GET. The benchmark makes a plan, makes it again with a filter, scores for a while, kills
the run and resumes it. `--listing` lists a bucket of Ceph's gateway instead.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import escape

from tests.benchmarks.score import FOLDER, family, measure
from tests.s3_server import s3_server

LAYOUT = "{camera}/{captured_at:%Y/%m/%d/%H%M%S}-*.jpg"
CAMERAS, DAYS = 20, 25
SCORING_S = 60
LISTED_KEYS, LISTED_FOLDERS, LISTED_TIMES = 32_000, 32, 3


class Keys(Sequence[str]):
    """Keys of `cam-07/2026/10/03/083000-0001.jpg`, in order, none of them kept."""

    def __init__(self, num_keys: int) -> None:
        self.each = num_keys // (CAMERAS * DAYS)

    def __len__(self) -> int:
        return self.each * CAMERAS * DAYS

    def __getitem__(self, i: int) -> str:  # type: ignore[override]
        folder, number = divmod(i, self.each)
        camera, day = divmod(folder, DAYS)
        second = number * 86_400 // self.each
        time_of_day = f"{second // 3600:02d}{second // 60 % 60:02d}{second % 60:02d}"
        return f"cam-{camera:02d}/2026/10/{day + 1:02d}/{time_of_day}-{number:07d}.jpg"


class Handler(BaseHTTPRequestHandler):
    """ListObjectsV2. Source: the S3 API reference."""

    protocol_version = "HTTP/1.1"
    keys: Keys

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if "list-type=2" not in parts.query:
            self._answer(404, "<Error><Code>NoSuchKey</Code></Error>")
            return
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self._answer(200, page(self.keys, **{n: asked.get(n, "") for n in ("prefix", "delimiter")}, after=(
            asked.get("continuation-token") or asked.get("start-after", "")
        )))  # fmt: skip

    do_HEAD = do_GET

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def page(keys: Keys, prefix: str, delimiter: str, after: str) -> str:
    at = max(bisect_left(keys, prefix), bisect_right(keys, after) if after else 0)
    if after.endswith("/"):
        at = max(at, bisect_left(keys, after + "\U0010ffff"))
    contents, folders, last = [], [], ""
    while at < len(keys) and keys[at].startswith(prefix) and len(contents) + len(folders) < 1000:
        key = keys[at]
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        if cut >= 0:
            last = key[: cut + 1]
            folders.append(f"<CommonPrefixes><Prefix>{quote(last)}</Prefix></CommonPrefixes>")
            at = bisect_left(keys, last + "\U0010ffff")
        else:
            last = key
            contents.append(
                f"<Contents><Key>{quote(key)}</Key><LastModified>2026-10-31T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;{at:032x}&quot;</ETag><Size>300000</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
            at += 1
    more = at < len(keys) and keys[at].startswith(prefix)
    token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>bench</Name><EncodingType>url</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        f"{''.join(contents)}{''.join(folders)}</ListBucketResult>"
    )


@contextmanager
def stub(num_keys: int) -> Iterator[None]:
    """The stub in a process of its own, named to what follows by the environment."""
    command = [sys.executable, "-m", "tests.benchmarks.plan", "--serve", "--keys", str(num_keys)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        os.environ["AWS_ENDPOINT_URL"] = process.stdout.readline().strip()
        os.environ.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x", AWS_DEFAULT_REGION="us-east-1")
        try:
            yield
        finally:
            process.kill()


def serve(num_keys: int) -> None:
    Handler.keys = Keys(num_keys)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def plan(out: Path, *flags: str) -> tuple[int, float, int]:
    """Images planned, seconds, and the driver's peak MB."""
    command = [sys.executable, "-m", "maskbatch", "plan", "s3://bench", "--out", str(out), "--layout", LAYOUT]
    seconds, output, driver_mb, _ = measure([*command, *flags, "--json"])
    return json.loads(output)["listing"]["num_images"], seconds, driver_mb


def score_and_kill(out: Path) -> tuple[int, int]:
    """Shards staged after SCORING_S of `maskbatch score`, and the driver's peak MB."""
    command = [
        sys.executable,
        "-m",
        "maskbatch",
        "score",
        "s3://bench",
        "--out",
        str(out),
        "--layout",
        LAYOUT,
    ]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        time.sleep(SCORING_S)
        status = Path(f"/proc/{process.pid}/status").read_text()
        for pid in family(process.pid):
            os.kill(pid, signal.SIGKILL)
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]
    return len(list((out / "staging").glob("0*.parquet"))), int(peak) // 1024


def bench(num_keys: int) -> None:
    out, filtered = FOLDER / "plan", FOLDER / "plan-filtered"
    for folder in (out, filtered):
        shutil.rmtree(folder, ignore_errors=True)
    print("\n| | images | s | images/s | driver MB |\n| --- | --- | --- | --- | --- |")

    def show(what: str, measured: tuple[int, float, int]) -> None:
        found, seconds, driver_mb = measured
        rate = f"{found / seconds:,.0f}" if seconds else "-"
        print(f"| {what} | {found:,} | {seconds:.1f} | {rate} | {driver_mb} |", flush=True)

    with stub(num_keys):
        show("plan", plan(out))
        show("the same command again", plan(out))
        show("plan --camera --since", plan(filtered, "--camera", "cam-07", "--since", "2026-10-20"))
        for what in ("scored and killed", "resumed and killed"):
            shards, driver_mb = score_and_kill(out)
            show(f"{what} after {SCORING_S} s, {shards:,} shards", (num_keys, 0, driver_mb))
    for folder in (out, filtered):
        shutil.rmtree(folder, ignore_errors=True)


def compare_listings(server_folder: Path) -> None:
    """Each way to list LISTED_KEYS, folder by folder in as many threads as maskbatch lists with, taking turns."""
    import obstore

    from maskbatch.archives.tree import PREFIXES
    from maskbatch.stores.access import Access

    with s3_server(server_folder) as server:
        os.environ.update(server.environment())
        store: Any = Access().store("s3://bench/x")
        store.signer.create_bucket(Bucket="bench")
        folders = [f"cam-{number:02d}/2026" for number in range(LISTED_FOLDERS)]
        keys = [f"{folder}/{k:06d}.jpg" for folder in folders for k in range(LISTED_KEYS // LISTED_FOLDERS)]
        with ThreadPoolExecutor(PREFIXES) as pool:
            list(pool.map(lambda key: obstore.put(store.client, key, b"x"), keys))
        measured: dict[str, list[tuple[float, float]]] = {}
        for _ in range(LISTED_TIMES):
            for name, count in listings(store).items():
                began, used = time.monotonic(), time.process_time()
                with ThreadPoolExecutor(PREFIXES) as pool:
                    found = sum(pool.map(count, folders))
                if found != len(keys):
                    sys.exit(f"{name}: {found} keys of {len(keys)}")
                seconds, used = time.monotonic() - began, time.process_time() - used
                measured.setdefault(name, []).append((found / seconds, used / found * 1e6))
    print(f"\n| {LISTED_KEYS:,} keys, median of {LISTED_TIMES} | keys/s | processor ms for 1,000 keys |")
    print("| --- | --- | --- |")
    for name, pairs in measured.items():
        rate, used_ms = map(statistics.median, zip(*pairs, strict=True))
        print(f"| {name} | {rate:,.0f} | {used_ms:.1f} |")


def listings(store: Any) -> dict[str, Callable[[str], int]]:
    """Ways to list a folder of the bucket of `store`; each gives the number of keys."""
    import botocore.session
    import obstore
    import s3fs

    session = botocore.session.Session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    clients = {
        "": botocore.session.Session().create_client("s3"),
        ", times not parsed": session.create_client("s3"),
    }
    files = s3fs.S3FileSystem(use_listings_cache=False)

    def count(folder: str) -> int:
        number, token = 0, {}
        while True:
            keys, _, after = store.list_page(Prefix=f"{folder}/", **token)
            number, token = number + len(keys), {"ContinuationToken": after}
            if after is None:
                return number

    def count_by(client: Any) -> Callable[[str], int]:
        pages = client.get_paginator("list_objects_v2").paginate
        return lambda folder: sum(
            len(page["Contents"]) for page in pages(Bucket="bench", Prefix=f"{folder}/")
        )

    return {
        "maskbatch: presigned, ElementTree": count,
        **{f"botocore's list_objects_v2{how}": count_by(client) for how, client in clients.items()},
        "obstore.list, no untidy keys": lambda folder: sum(
            map(len, obstore.list(store.client, folder, chunk_size=1000))
        ),
        "s3fs.find": lambda folder: len(files.find(f"bench/{folder}")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keys", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--listing", action="store_true", help="only the ways to list a bucket, side by side")
    options = parser.parse_args()
    if options.serve:
        serve(options.keys[0])
    if options.listing:
        with TemporaryDirectory() as folder:
            compare_listings(Path(folder))
        return
    for num_keys in options.keys:
        bench(num_keys)


if __name__ == "__main__":
    main()
