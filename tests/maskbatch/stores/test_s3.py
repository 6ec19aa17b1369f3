"""What S3 relies on in obstore and botocore, against a server on the loopback; tests/store has a real S3."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import botocore.session
import pytest
from botocore.credentials import RefreshableCredentials

from maskbatch.archives.arguments import find_sources
from maskbatch.archives.reader import list_entries
from maskbatch.archives.tally import Tally
from maskbatch.config import PlanConfig
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.stores.access import Access
from maskbatch.stores.base import Info, RefusedError, ThrottledError, TooLargeError, TransientError
from maskbatch.stores.options import StorageOptions
from maskbatch.stores.s3 import S3, Keys, parse_page
from maskbatch.stores.s3_clients import _credentials
from tests.serving import serving

DATA = b"0123456789"
PAGE = b"""<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><EncodingType>url</EncodingType>
<IsTruncated>true</IsTruncated><NextContinuationToken>next</NextContinuationToken>
<Contents><Key>a%2F%2Fb+c.jpg</Key><Size>3</Size><ETag>"e"</ETag></Contents>
<CommonPrefixes><Prefix>d%09/</Prefix></CommonPrefixes></ListBucketResult>"""


COLD = b"""<ListBucketResult><IsTruncated>false</IsTruncated>%s</ListBucketResult>"""
COLD_KEY = (
    b"<Contents><Key>cold/%s</Key><Size>3</Size><ETag>e</ETag><StorageClass>%s</StorageClass>%s</Contents>"
)
RESTORED = b"<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress><RestoreExpiryDate>2026-12-01T00:00:00Z</RestoreExpiryDate></RestoreStatus>"
RESTORING = b"<RestoreStatus><IsRestoreInProgress>true</IsRestoreInProgress></RestoreStatus>"
COLD_KEYS = [
    (b"a.jpg", b"GLACIER", b""), (b"b.jpg", b"DEEP_ARCHIVE", RESTORED), (b"c.jpg", b"GLACIER_IR", b""), (b"d.tar", b"GLACIER", b""),
    (b"e.jpg", b"DEEP_ARCHIVE", RESTORING), (b"f.jpg", b"STANDARD", b""), (b"g.txt", b"GLACIER", b""),
]  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Answers as the end of a key says: `ok`, `cut`, `hang`, `STATUS` or `STATUS-CODE`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        self.server.seen.append((self.path, self.headers))
        kind = "list" if "list-type" in query else path.rpartition("/")[2]
        if kind == "hang":
            self.server.stopped.wait(10)
            self.close_connection = True
        elif kind in ("ok", "cut"):
            self.answer(200, DATA if kind == "ok" else DATA[:5], len(DATA))
        elif kind == "list" and "prefix=cold" in query:
            asked = self.headers["x-amz-optional-object-attributes"] == "RestoreStatus"
            keys = [
                COLD_KEY % (name, storage, restored if asked else b"")
                for name, storage, restored in COLD_KEYS
            ]
            self.answer(200, COLD % b"".join(keys))
        elif kind == "list":
            self.answer(200, PAGE)
        else:
            status, _, code = kind.partition("-")
            self.answer(int(status), f"<Error><Code>{code or 'Other'}</Code></Error>".encode())

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length or len(body)))
        self.send_header("ETag", '"v1"')
        self.send_header("Last-Modified", "Sat, 31 Oct 2026 00:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
        self.close_connection = length not in (None, len(body))


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, Any]] = []
        self.stopped = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that hung up


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    with serving(server):
        yield server
        server.stopped.set()


def store_of(server: Server, **options: Any) -> S3:
    endpoint = f"http://127.0.0.1:{server.server_port}"
    return S3("b", {"endpoint_url": endpoint, "key": "k", "secret": "s", **options}, 0.5)


@pytest.fixture(scope="module")
def store(server: Server) -> S3:
    return store_of(server)


TIDY_AND_UNTIDY = pytest.mark.parametrize("folder", ["x/", "x//"])


@TIDY_AND_UNTIDY
def test_a_key_is_read_and_described(store: S3, folder: str) -> None:
    uri = f"s3://b/{folder}ok"
    assert store.info(uri) == Info(len(DATA), "v1")
    assert store.read(uri, None, None, len(DATA)) == DATA
    with pytest.raises(TooLargeError):
        store.read(uri, None, None, len(DATA) - 1)


@TIDY_AND_UNTIDY
@pytest.mark.parametrize(
    ("end", "error"),
    [
        ("404", FileNotFoundError), ("403", PermissionError), ("412", RefusedError), ("500", TransientError),
        ("429", ThrottledError), ("503", ThrottledError), ("503-SlowDown", ThrottledError),
        ("404-NoSuchBucket", RunFailedError), ("403-ExpiredToken", RunFailedError),
        ("403-SignatureDoesNotMatch", RunFailedError), ("cut", TransientError), ("hang", TimeoutError),
    ],
)  # fmt: skip
def test_tidy_and_untidy_keys_fail_alike(store: S3, folder: str, end: str, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        store.read(f"s3://b/{folder}{end}", None, None, 99)
    assert type(raised.value) is error


@pytest.mark.parametrize(
    "key", ["a//b/ok", "//ok", "/ok", "./ok", "../ok", "e/./ok", "e/../ok", "tab\t/ok", "a+b %20é//ok"]
)
def test_an_untidy_key_reaches_the_server_as_it_is(server: Server, store: S3, key: str) -> None:
    uri = f"s3://b/{key}".replace("%", "%25")
    assert store.read(uri, None, None, 99) == DATA
    quoted = key.replace("%", "%25").replace("\t", "%09").replace("+", "%2B")
    assert server.seen[-1][0].partition("?")[0] == f"/b/{quoted.replace(' ', '%20').replace('é', '%C3%A9')}"


def test_a_bucket_whose_requester_pays_is_told_so_by_every_request(server: Server) -> None:
    store = store_of(server, requester_pays=True)
    server.seen.clear()
    store.list_page(Prefix="")
    for key in ("x/ok", "x//ok"):
        store.info(f"s3://b/{key}")
        store.read(f"s3://b/{key}", None, None, 99)
    assert [headers["x-amz-request-payer"] for _, headers in server.seen] == ["requester"] * 5


def test_anonymous_requests_are_not_signed(server: Server) -> None:
    store = store_of(server, anon=True, key=None, secret=None)
    server.seen.clear()
    store.list_page(Prefix="")
    for key in ("x/ok", "x//ok"):
        assert store.read(f"s3://b/{key}", None, None, 99) == DATA
    assert len(server.seen) == 3
    assert not any("X-Amz" in path or headers["Authorization"] for path, headers in server.seen)


def test_a_page_of_a_listing_is_parsed(store: S3) -> None:
    expected = Keys([("a//b c.jpg", 3, "e")], ["d\t/"], "next")
    assert store.list_page(Prefix="") == parse_page(PAGE) == expected
    for wrong in (b"<Error/>", PAGE.replace(b"<Size>3</Size>", b""), PAGE.replace(b">true<", b">?<")):
        with pytest.raises(ValueError):
            parse_page(wrong)


def test_what_is_archived_and_not_restored_is_planned_as_such(server: Server, store: S3) -> None:
    page = store.list_page(Prefix="cold/")
    assert page.archived == dict.fromkeys(("cold/a.jpg", "cold/d.tar", "cold/g.txt"), "GLACIER") | {
        "cold/e.jpg": "DEEP_ARCHIVE"
    }
    options = {"endpoint_url": f"http://127.0.0.1:{server.server_port}", "key": "k", "secret": "s"}
    access = Access(options=StorageOptions(json.dumps({"s3://b/": options})))
    config = PlanConfig(archives=("s3://b/cold/*",))
    tally = Tally()
    found = {
        entry.relative: entry for entry in list_entries(find_sources(config, access), config, access, tally)
    }
    assert {name: entry.status for name, entry in found.items()} == {
        "a.jpg": "read_error", "b.jpg": None, "c.jpg": None, "d.tar": "read_error", "e.jpg": "read_error", "f.jpg": None,
    }  # fmt: skip
    remedy = "restore it, then run the same command with --reuse"
    assert found["a.jpg"].error == f"archived in storage class GLACIER; {remedy}"
    assert tally.skipped == {".txt": 1}


@TIDY_AND_UNTIDY
def test_reading_what_its_store_has_archived_says_so(store: S3, folder: str) -> None:
    with pytest.raises(RefusedError, match="archived by its store; restore it"):
        store.read(f"s3://b/{folder}403-InvalidObjectState", None, None, 99)


def test_a_key_without_its_secret_is_one_sentence(server: Server) -> None:
    with pytest.raises(UsageError, match=r"s3://b: Partial credentials .*; mend the profile"):
        store_of(server, secret=None)


def test_obstore_gets_the_given_credentials_or_those_that_botocore_renews() -> None:
    session, renewed = botocore.session.Session(), iter("12")

    def renew() -> dict[str, str]:
        number = next(renewed)
        expiry = "2000-01-01T00:00:00Z" if number == "1" else "2100-01-01T00:00:00Z"
        return {"access_key": f"k{number}", "secret_key": "s", "token": "t", "expiry_time": expiry}

    session._credentials = RefreshableCredentials.create_from_metadata(renew(), renew, "test")
    given = _credentials(session, {"key": "mine", "secret": "s", "token": "t"})()
    assert [given["access_key_id"], given["secret_access_key"], given["token"]] == ["mine", "s", "t"]
    found = _credentials(session, {})()
    assert [found["access_key_id"], found["secret_access_key"], found["token"]] == ["k2", "s", "t"]
