"""Against a real server on the loopback that answers as its paths say."""

import base64
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from maskbatch.stores import web
from maskbatch.stores.base import Info, RefusedError, ThrottledError, TooLargeError, TransientError
from maskbatch.stores.uris import is_allowed
from maskbatch.stores.web import Http
from tests.serving import serving

DATA = bytes(range(256)) * 4


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        kind, _, rest = self.path.removeprefix("/").partition("/")
        getattr(self, f"send_{kind}")(rest)

    def answer(self, code: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def send_ranges(self, rest: str) -> None:
        span, etag = self.headers.get("Range"), f'"{self.server.etag}"'
        if span is None:
            self.answer(200, DATA, ETag=etag)
            return
        first, last = map(int, span.removeprefix("bytes=").split("-"))
        part = DATA[first : last + 1]
        self.answer(206, part, ETag=etag, Content_Range=f"bytes {first}-{first + len(part) - 1}/{len(DATA)}")

    def send_whole(self, rest: str) -> None:
        self.answer(200, DATA)

    def send_status(self, code: str) -> None:
        self.answer(int(code), b"<html>no</html>")

    def send_to(self, target: str) -> None:
        self.answer(302, b"moved", Location=target.replace("HERE", f"http://{self.headers['Host']}"))

    def send_loop(self, rest: str) -> None:
        self.answer(307, Location=f"/loop/{int(rest) + 1}")

    def send_login(self, rest: str) -> None:
        known = "Basic " + base64.b64encode(b"ann:p@ss").decode()
        self.answer(200, DATA) if self.headers.get("Authorization") == known else self.answer(401)

    def send_cut(self, rest: str) -> None:
        self.answer(200, DATA[:500], length=len(DATA))
        self.close_connection = True

    def send_dribble(self, rest: str) -> None:
        self.answer(200, b"", length=len(DATA))
        for number in range(200):
            self.wfile.write(DATA[number : number + 1])
            time.sleep(0.05)
            if self.server.stopped.is_set():
                break
        self.close_connection = True

    def send_silence(self, rest: str) -> None:
        self.server.stopped.wait(10)
        self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.etag, self.stopped = "v1", threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with serving(made):
        yield made
        made.stopped.set()


@pytest.fixture
def http(server: Server) -> Iterator[Http]:
    made = Http(lambda uri: is_allowed(uri, [f"{server.url}/ranges/"]), 0.5)
    yield made
    made.session.close()


def read(http: Http, uri: str, **changes: Any) -> bytes:
    return http.read(uri, **({"span": None, "version": None, "max_bytes": 10**6} | changes))


def test_a_file_is_read_whole_and_in_part(http: Http, server: Server) -> None:
    uri = f"{server.url}/ranges/x.jpg?sig=a%2Bb"
    assert http.info(uri) == Info(len(DATA), "v1")
    assert read(http, uri) == DATA
    assert read(http, uri, span=(10, 300), version="v1") == DATA[10:300]
    assert read(http, uri, span=(10, 300), max_bytes=1) == DATA[10:300]
    assert {path for path, _ in server.seen} == {"/ranges/x.jpg?sig=a%2Bb"}
    assert all(headers["Accept-Encoding"] == "identity" for _, headers in server.seen)


def test_a_part_of_a_file_that_changed_is_refused_and_the_whole_is_not(http: Http, server: Server) -> None:
    server.etag = "v2"
    with pytest.raises(RefusedError, match="changed since it was planned"):
        read(http, f"{server.url}/ranges/x.tar", span=(10, 300), version="v1")
    assert read(http, f"{server.url}/ranges/x.jpg", version="v1") == DATA


def test_a_server_without_ranges_is_refused_a_part_of_a_file(http: Http, server: Server) -> None:
    assert read(http, f"{server.url}/whole/x.jpg") == DATA
    for ask in (http.info, lambda uri: read(http, uri, span=(10, 300))):
        with pytest.raises(RefusedError, match="the server does not serve ranges"):
            ask(f"{server.url}/whole/x.jpg")


def test_a_redirect_is_followed_where_it_may_lead_and_nowhere_else(http: Http, server: Server) -> None:
    assert read(http, f"{server.url}/to//ranges/x.jpg") == DATA
    server.seen.clear()
    for target in (
        "/whole/x.jpg", "//169.254.169.254/latest", "HERE/status/200", "file:///etc/passwd", "/ranges/../whole/x",
        "/ranges/%2e%2e/whole/x", "http://127.0.0.1:1/ranges/x.jpg",
    ):  # fmt: skip
        with pytest.raises(RefusedError, match="redirects to a place outside the allowed prefixes"):
            read(http, f"{server.url}/to/{target}")
    assert all(path.startswith("/to/") for path, _ in server.seen)


def test_redirects_without_end_are_refused(server: Server) -> None:
    http = Http(lambda uri: True, 0.5)
    with pytest.raises(RefusedError, match="it redirects without end"):
        read(http, f"{server.url}/loop/0")
    assert len(server.seen) == web.REDIRECTS + 1
    http.session.close()


def test_user_info_is_sent_as_basic_authentication_and_not_on_to_another_place(
    http: Http, server: Server
) -> None:
    assert read(http, f"{server.url.replace('//', '//ann:p%40ss@')}/login/x.jpg") == DATA
    with pytest.raises(PermissionError):
        read(http, f"{server.url}/login/x.jpg")
    server.seen.clear()
    assert read(http, f"{server.url.replace('//', '//ann:p%40ss@')}/to/HERE/ranges/x.jpg") == DATA
    assert ["Authorization" in headers for _, headers in server.seen] == [True, False]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (401, PermissionError), (403, PermissionError), (404, FileNotFoundError), (410, FileNotFoundError),
        (400, RefusedError), (418, RefusedError), (408, TransientError), (429, ThrottledError),
        (500, TransientError), (502, TransientError), (503, ThrottledError),
    ],
)  # fmt: skip
def test_a_status_says_whether_another_try_may_help(
    http: Http, server: Server, code: int, error: type[Exception]
) -> None:
    for ask in (lambda uri: read(http, uri), lambda uri: read(http, uri, span=(0, 9)), http.info):
        with pytest.raises(error) as raised:
            ask(f"{server.url}/status/{code}")
        assert type(raised.value) is error


def test_a_body_that_ends_early_may_heal(http: Http, server: Server) -> None:
    with pytest.raises(TransientError, match="ended early"):
        read(http, f"{server.url}/cut/x.jpg")


@pytest.mark.parametrize("path", ["dribble", "silence"])
def test_a_body_that_comes_too_slowly_is_given_up(http: Http, server: Server, path: str) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        read(http, f"{server.url}/{path}/x.jpg")
    assert time.monotonic() - began < 10  # as long as the server takes


def test_more_bytes_than_allowed_are_too_large(http: Http, server: Server) -> None:
    assert len(read(http, f"{server.url}/ranges/x.jpg", max_bytes=len(DATA))) == len(DATA)
    with pytest.raises(TooLargeError):
        read(http, f"{server.url}/ranges/x.jpg", max_bytes=len(DATA) - 1)


@pytest.mark.parametrize("uri", ["http://", "http://[::1/x", "http://exa mple.org/x"])
def test_a_url_that_is_none_is_refused(http: Http, uri: str) -> None:
    with pytest.raises(RefusedError, match="its URL cannot be used"):
        read(http, uri)


def test_a_server_that_is_not_there_may_come_back(http: Http) -> None:
    with pytest.raises(TransientError, match="cannot be reached"):
        read(http, "http://127.0.0.1:1/x")
