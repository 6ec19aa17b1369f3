"""The S3 server is strict where real ones are, and the proxy spoils answers in the ways it says."""

import contextlib
import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from tests.fault_proxy import KINDS, Faults, fault_proxy
from tests.s3_server import S3Server
from tests.store.conftest import ClientFactory

BODY = bytes(range(256)) * 1200
HALF = len(BODY) // 2

Fetch = Callable[..., tuple[int, bytes]]


@pytest.fixture
def fetch(bucket: str, s3_client: ClientFactory) -> Fetch:
    """GET or HEAD an object of BODY through a proxy by plain HTTP: the status and the body."""
    s3_client().put_object(Bucket=bucket, Key="object", Body=BODY)

    def fetch(endpoint: str, method: str = "GET", timeout_s: float = 30) -> tuple[int, bytes]:
        parameters = {"Bucket": bucket, "Key": "object"}
        client = s3_client(endpoint_url=endpoint)
        url = urlsplit(client.generate_presigned_url(f"{method.lower()}_object", parameters))
        with contextlib.closing(http.client.HTTPConnection(url.netloc, timeout=timeout_s)) as connection:
            connection.request(method, f"{url.path}?{url.query}")
            with connection.getresponse() as answer:
                return answer.status, answer.read()

    return fetch


def status_of(error: ClientError) -> int:
    return error.response["ResponseMetadata"]["HTTPStatusCode"]


def test_the_server_refuses_a_wrong_secret(s3_client: ClientFactory) -> None:
    with pytest.raises(ClientError) as refusal:
        s3_client(aws_secret_access_key="wrong").list_buckets()
    assert refusal.value.response["Error"]["Code"] == "SignatureDoesNotMatch"


def test_an_exclusive_put_is_refused_the_second_time(bucket: str, s3_client: ClientFactory) -> None:
    client = s3_client()
    client.put_object(Bucket=bucket, Key="claim", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as refusal:
        client.put_object(Bucket=bucket, Key="claim", Body=b"second", IfNoneMatch="*")
    assert status_of(refusal.value) == 412
    assert client.get_object(Bucket=bucket, Key="claim")["Body"].read() == b"first"


def test_of_many_exclusive_puts_at_once_one_is_taken(bucket: str, s3_client: ClientFactory) -> None:
    client = s3_client(config=Config(max_pool_connections=16, retries={"total_max_attempts": 1}))

    def put(attempt: int) -> int:
        key, body = f"claim-{attempt % 10}", b"%d" % attempt
        try:
            client.put_object(Bucket=bucket, Key=key, Body=body, IfNoneMatch="*")
        except ClientError as error:
            return status_of(error)
        return 200

    with ThreadPoolExecutor(16) as threads:
        statuses = list(threads.map(put, sorted(range(160), key=lambda attempt: attempt % 10)))
    assert (statuses.count(200), statuses.count(412)) == (10, 150)


def test_the_daemons_end_with_the_process_that_started_them(s3: S3Server, tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from tests.s3_server import s3_server\n"
        "with s3_server(Path(sys.argv[1])) as s: print(*s.pids(), flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as child:
        pids = [int(pid) for pid in child.stdout.readline().split()]
        assert len(pids) == 3 and all(map(is_running, pids))
        child.kill()
    deadline = time.monotonic() + 60
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


def is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def test_a_proxy_without_faults_changes_nothing(bucket: str, s3: S3Server, s3_client: ClientFactory) -> None:
    body = os.urandom(3_000_001)
    with fault_proxy(s3.endpoint, Faults()) as proxy:
        client = s3_client(endpoint_url=proxy.endpoint)
        for key in ("a", "b/c", "empty"):
            client.put_object(Bucket=bucket, Key=key, Body=b"" if key == "empty" else body)
        assert client.get_object(Bucket=bucket, Key="b/c")["Body"].read() == body
        assert client.get_object(Bucket=bucket, Key="a", Range="bytes=5-9")["Body"].read() == body[5:10]
        assert client.head_object(Bucket=bucket, Key="a")["ContentLength"] == len(body)
        listing = client.list_objects_v2(Bucket=bucket)  # radosgw sends it in chunks
        assert [entry["Key"] for entry in listing["Contents"]] == ["a", "b/c", "empty"]
        with pytest.raises(ClientError, match="NoSuchKey"):
            client.get_object(Bucket=bucket, Key="none")
        assert proxy.requests == 8
        assert proxy.counts() == dict.fromkeys(KINDS, 0)


def test_the_proxy_is_late(fetch: Fetch, s3: S3Server) -> None:
    with fault_proxy(s3.endpoint, Faults(latency_s=0.4)) as proxy:
        start_s = time.monotonic()
        assert fetch(proxy.endpoint) == (200, BODY)
        assert 0.4 <= time.monotonic() - start_s < 5


def only(kind: str, seed: int = 0, **changes: object) -> Faults:
    return Faults(rate=1, kinds=(kind,), seed=seed, **changes)


def test_unavailable_is_a_503_that_asks_to_slow_down(fetch: Fetch, s3: S3Server) -> None:
    with fault_proxy(s3.endpoint, only("unavailable")) as proxy:
        status, body = fetch(proxy.endpoint)
        assert status == 503 and b"<Code>SlowDown</Code>" in body
        assert fetch(proxy.endpoint, "HEAD") == (503, b"")
        assert proxy.counts()["unavailable"] == 2


def test_a_reset_comes_before_the_answer_or_in_its_middle(
    fetch: Fetch, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = []
    begin = HTTPResponse.begin
    monkeypatch.setattr(HTTPResponse, "begin", lambda answer: (begin(answer), heads.append(answer))[0])
    with fault_proxy(s3.endpoint, only("reset")) as proxy:
        for _ in range(20):
            with pytest.raises(ConnectionResetError):
                fetch(proxy.endpoint)
        assert 0 < len(heads) < 20
        assert proxy.counts()["reset"] == 20


@pytest.mark.parametrize(("seed", "stops"), [(4, False), (0, True)])
def test_a_slow_answer_stops_or_dribbles_and_is_whole_at_last(
    fetch: Fetch, s3: S3Server, seed: int, stops: bool
) -> None:
    with fault_proxy(s3.endpoint, only("slow", seed, stall_s=3)) as proxy:
        start_s = time.monotonic()
        if stops:
            with pytest.raises(TimeoutError):
                fetch(proxy.endpoint, timeout_s=1.5)
        else:
            assert fetch(proxy.endpoint, timeout_s=1.5) == (200, BODY)
            assert time.monotonic() - start_s >= 3
        assert proxy.counts()["slow"] == 1


def test_a_truncated_answer_ends_after_half_the_body(fetch: Fetch, s3: S3Server) -> None:
    with fault_proxy(s3.endpoint, only("truncated")) as proxy:
        with pytest.raises(http.client.IncompleteRead) as cut:
            fetch(proxy.endpoint)
        assert cut.value.partial == BODY[:HALF]
        assert cut.value.expected == len(BODY) - HALF


def test_a_short_length_is_silent(fetch: Fetch, s3: S3Server) -> None:
    with fault_proxy(s3.endpoint, only("short_length")) as proxy:
        assert fetch(proxy.endpoint) == (200, BODY[:HALF])


def test_a_long_length_promises_more_than_comes(fetch: Fetch, s3: S3Server) -> None:
    with fault_proxy(s3.endpoint, only("long_length")) as proxy:
        with pytest.raises(http.client.IncompleteRead) as cut:
            fetch(proxy.endpoint)
        assert cut.value.partial == BODY


@pytest.mark.parametrize("kind", ["slow", "truncated", "short_length", "long_length"])
def test_an_answer_without_a_body_becomes_unavailable(fetch: Fetch, s3: S3Server, kind: str) -> None:
    with fault_proxy(s3.endpoint, only(kind)) as proxy:
        assert fetch(proxy.endpoint, "HEAD") == (503, b"")
        assert proxy.counts()[kind] == 0 and proxy.counts()["unavailable"] == 1


def test_a_put_that_is_reset_has_happened_and_one_refused_has_not(
    bucket: str, s3: S3Server, s3_client: ClientFactory
) -> None:
    def put(kind: str) -> None:
        with fault_proxy(s3.endpoint, only(kind, methods=("PUT",))) as proxy:
            s3_client(endpoint_url=proxy.endpoint).put_object(Bucket=bucket, Key=kind, Body=BODY)

    with pytest.raises(ConnectionClosedError):
        put("reset")
    with pytest.raises(ClientError) as refusal:
        put("unavailable")
    assert status_of(refusal.value) == 503
    assert [entry["Key"] for entry in s3_client().list_objects_v2(Bucket=bucket)["Contents"]] == ["reset"]


def test_a_share_of_the_requests_fails_and_the_same_ones_for_a_seed(fetch: Fetch, s3: S3Server) -> None:
    def outcomes(seed: int) -> list[int]:
        kinds = ("unavailable", "short_length")
        with fault_proxy(s3.endpoint, Faults(rate=0.3, kinds=kinds, seed=seed)) as proxy:
            seen = [len(fetch(proxy.endpoint)[1]) for _ in range(100)]
            counts = proxy.counts()
            assert counts["short_length"] == seen.count(HALF) > 5
            assert counts["unavailable"] == 100 - seen.count(HALF) - seen.count(len(BODY)) > 5
            assert sum(counts.values()) < 45
        return seen

    assert outcomes(1) == outcomes(1) != outcomes(2)


@pytest.mark.parametrize("wrong", [{"rate": 1.5}, {"kinds": ("unheard_of",)}])
def test_faults_out_of_bounds_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"rate is a share|unheard_of"):
        Faults(**wrong)
