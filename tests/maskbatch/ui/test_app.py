import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Page as Tab
from playwright.sync_api import expect

from maskbatch.errors import UsageError
from maskbatch.stores.options import NO_OPTIONS
from maskbatch.ui.access import Listener
from maskbatch.ui.app import run_server
from maskbatch.ui.gradio_internals import ABANDONED_S, Uploads
from tests.conftest import Cli
from tests.maskbatch.samples import draw, encode
from tests.maskbatch.ui.conftest import PATIENCE_S, Serve, Server, find_url, is_unused, log_in

PICTURE = encode(draw(1))
PASSWORD = "correct horse"


def post(server: Server, data: bytes = PICTURE, **headers: str) -> httpx.Response:
    files = {"files": ("a.jpg", data)}
    return httpx.post(f"{server.url}gradio_api/upload", files=files, headers=headers, timeout=PATIENCE_S)


def send_raw(server: Server, request: str, headers: str = "", body: Sequence[bytes] = ()) -> bytes:
    """The answer to a request that an HTTP client would not send."""
    host, port = urlsplit(server.url).netloc.split(":")
    head, answer = f"{request} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n{headers}\r\n", b""
    with socket.create_connection((host, int(port)), PATIENCE_S) as line, suppress(ConnectionError):
        for part in (head.encode(), *body):
            line.sendall(part)
        while part := line.recv(65536):
            answer += part
    return answer


def test_neither_the_page_nor_the_server_asks_another_host(
    page: Tab, server: Server, proxy: socket.socket
) -> None:
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.goto(server.url)
    page.locator("#examples button").first.click()
    expect(page.locator("#answer h2")).to_be_visible()
    page.get_by_text("Model card").click()
    expect(page.get_by_role("heading", name="Model card: ")).to_be_visible()
    hosts = {urlsplit(url).netloc for url in urls if urlsplit(url).scheme not in ("data", "blob")}
    assert hosts == {urlsplit(server.url).netloc}
    policy = httpx.get(server.url, timeout=PATIENCE_S).headers["content-security-policy"]
    assert policy.startswith("default-src 'self' ") and "http" not in policy
    assert is_unused(proxy)


def test_gradios_own_features_are_hidden(page: Tab, server: Server) -> None:
    page.goto(server.url)
    expect(page.locator("#examples")).to_be_visible()
    for text in ("API", "Gradio", "Settings", "Share", "Flag"):
        expect(page.get_by_text(text, exact=False)).to_have_count(0)


OTHER_PATHS = """
    config docs openapi.json manifest.json monitoring file/etc/passwd static/../../../../../../etc/passwd
    gradio_api/file=/etc/passwd gradio_api/file=pyproject.toml gradio_api/proxy=http://127.0.0.1:1/
    gradio_api/info gradio_api/openapi.json gradio_api/runs gradio_api/token gradio_api/mcp/sse
    gradio_api/deep_link gradio_api/call/score_example gradio_api/call/score_upload
"""


@pytest.mark.parametrize("path", OTHER_PATHS.split())
def test_other_paths_do_not_exist(path: str, server: Server) -> None:
    answer = send_raw(server, f"GET /{path}")
    assert answer.split()[1] in (b"403", b"404") and b"root:" not in answer


def test_requests_from_other_sites_and_for_other_names_are_refused(server: Server) -> None:
    assert httpx.get(server.url, headers={"Host": "evil.example"}).status_code == 403
    assert post(server, Origin="https://evil.example").status_code == 403
    assert post(server, Origin=server.url.rstrip("/").replace("127.0.0.1", "localhost")).status_code == 403
    assert post(server, Origin="null").status_code == 403
    assert server.uploads == []


def event(server: Server, function: int, data: list[Any]) -> dict[str, Any]:
    """Send an event of the page; the server's message when it is done."""
    body = {"data": data, "fn_index": function, "session_hash": f"test{time.monotonic_ns()}"}
    joined = httpx.post(f"{server.url}gradio_api/queue/join", json=body)
    assert joined.status_code == 200, joined.text
    url = f"{server.url}gradio_api/queue/data?session_hash={body['session_hash']}"
    with httpx.stream("GET", url, timeout=PATIENCE_S) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data:") or "{}")
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("no answer")


def test_no_event_makes_the_server_read_its_own_files_or_fetch_a_url(
    server: Server, proxy: socket.socket, tmp_path: Path
) -> None:
    """A browser names its upload by its path on the server, and Gradio accepts any path."""
    (path,) = post(server).json()
    meta = {"_type": "gradio.FileData"}
    good = event(server, 0, [{"path": path, "meta": meta}])
    assert good["success"] and "data-share" in good["output"]["data"][1]
    own = tmp_path / "own.jpg"
    own.write_bytes(PICTURE)
    for named in (
        str(own),
        f"{server.temp}/../{own.name}",
        f"{find_url(proxy)}/a.jpg",
        str(Path(path).parents[1]),
    ):
        base: dict[str, Any] = {"path": named}
        for file in (base, {**base, "meta": meta}, {**base, "url": named, "meta": meta}):
            assert not event(server, 0, [file])["success"], file
    assert own.exists() and is_unused(proxy) and server.uploads == []


def test_200_mb_are_refused_unread(server: Server) -> None:
    before = peak_kib(server)
    form = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    headers = "Content-Length: 200000000\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    answer = send_raw(server, "POST /gradio_api/upload", headers, [form, *[bytes(1_000_000)] * 200])
    assert answer[:13] in (b"HTTP/1.1 413 ", b"")  # nothing where the server hangs up on what is being sent
    assert httpx.post(f"{server.url}gradio_api/upload", content=iter([PICTURE])).status_code == 411
    assert httpx.post(f"{server.url}gradio_api/queue/join", content=bytes(2**20 + 1)).status_code == 413
    assert server.uploads == []
    assert peak_kib(server) - before < 50_000


def peak_kib(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def test_abandoned_uploads_are_deleted(tmp_path: Path) -> None:
    old = time.time() - ABANDONED_S - 1
    for name in ("partial", "new"):
        (tmp_path / name).write_bytes(PICTURE)
    (tmp_path / "digest").mkdir()
    (tmp_path / "digest" / "a.jpg").write_bytes(PICTURE)
    for name in ("partial", "digest"):
        os.utime(tmp_path / name, (old, old))
    Uploads(str(tmp_path)).sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    Uploads(str(tmp_path / "gone")).sweep()


@pytest.fixture(scope="module")
def guarded(serve: Serve, small_checkpoint: Path) -> Iterator[Server]:
    """A server that other machines could reach."""
    arguments = ("--host", "0.0.0.0", "--checkpoint", small_checkpoint)
    with serve(*arguments, MASKBATCH_UI_PASSWORD=PASSWORD) as server:
        yield server


def test_other_machines_need_the_password_and_any_name(page: Tab, guarded: Server) -> None:
    assert post(guarded).status_code == 401
    for name, given in (("ann", "wrong"), ("ann", ""), ("", PASSWORD)):
        answer = httpx.post(f"{guarded.url}login", data={"username": name, "password": given})
        assert answer.status_code in (400, 422) and not answer.cookies
    page.goto(guarded.url)
    expect(page.get_by_text("the password that you were given")).to_be_visible()
    expect(page.locator("#picture")).to_have_count(0)
    log_in(page, "Ann Other", PASSWORD)
    expect(page.locator("#picture")).to_be_visible()
    assert '"username":"Ann Other"' in page.content()
    assert PASSWORD not in page.content()
    log = guarded.log.read_text()
    assert "lets other machines connect" in log and "unencrypted" in log and PASSWORD not in log


@pytest.mark.slow
def test_failed_passwords_slow_down_and_the_right_one_gets_in(serve: Serve, small_checkpoint: Path) -> None:
    arguments = ("--host", "127.0.0.2", "--checkpoint", small_checkpoint)
    with serve(*arguments, MASKBATCH_UI_PASSWORD=PASSWORD) as server:

        def log_in_with(given: str) -> tuple[int, float]:
            began = time.monotonic()
            data = {"username": "ann", "password": given}
            answer = httpx.post(f"{server.url}login", data=data, timeout=PATIENCE_S)
            return answer.status_code, time.monotonic() - began

        for _ in range(4):
            log_in_with("wrong")
        log_in_with("wrong")
        code, took_s = log_in_with("wrong")  # 4 s after the one before, which took a second to be refused
        assert code == 400 and took_s >= 2.5
        with ThreadPoolExecutor(12) as pool:
            codes = Counter(code for code, _ in pool.map(log_in_with, ["wrong"] * 12))
        assert codes[429] >= 8 and codes[400] >= 1
        code, took_s = log_in_with(PASSWORD)
        assert code == 200 and took_s < 25
        code, took_s = log_in_with("wrong")
        assert code == 400 and took_s < 10


def test_the_printed_url_works_for_other_machines(guarded: Server) -> None:
    host = urlsplit(guarded.url).hostname
    assert host not in ("localhost", "127.0.0.1", "0.0.0.0")
    assert httpx.get(guarded.url, timeout=PATIENCE_S).status_code == 200


def test_loopback_addresses_need_no_password(serve: Serve, small_checkpoint: Path) -> None:
    with serve("--host", "127.0.0.2", "--checkpoint", small_checkpoint) as server:
        assert server.url.startswith("http://127.0.0.2:")
        assert httpx.get(server.url, timeout=PATIENCE_S).status_code == 200


def test_other_hosts_are_refused_without_a_password(cli: Cli) -> None:
    for env in ({}, {"MASKBATCH_UI_PASSWORD": ""}):
        result = cli("ui", "--host", "0.0.0.0", **env)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.count("\n") == 1 and "set MASKBATCH_UI_PASSWORD" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_and_leaves_nothing(number: signal.Signals, serve: Serve, small_checkpoint: Path) -> None:
    with serve("--checkpoint", small_checkpoint) as server:
        post(server).raise_for_status()
        assert len(server.uploads) == 1
        with httpx.stream("GET", f"{server.url}gradio_api/heartbeat/abc"):  # a page that is still open
            server.process.send_signal(number)
            assert server.process.wait(PATIENCE_S) == 0
        assert list(server.temp.iterdir()) == []
        served, stopping = server.log.read_text().splitlines()
        assert served == f"maskbatch ui: {server.url} (press Ctrl-C to stop)"
        assert stopping == "maskbatch: stopping; once more stops it at once"


def test_an_unusable_address_is_one_sentence(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments in (("--port", port), ("--host", "203.0.113.9")):
            result = cli("ui", *arguments, MASKBATCH_UI_PASSWORD="x")
            assert result.returncode == 2 and result.stderr.count("\n") == 1
            assert f"{' '.join(arguments)}: cannot listen there" in result.stderr


@pytest.mark.parametrize("flag", ["checkpoint", "run"])
def test_a_missing_checkpoint_or_run_is_refused(flag: str, tmp_path: Path) -> None:
    flags: dict[str, Any] = {"values": {}, "run": None, "corrections": None, "open_browser": False}
    flags |= {"run": str(tmp_path / "none")} if flag == "run" else {"values": {flag: str(tmp_path / "none")}}
    with pytest.raises(UsageError, match="none"):
        run_server(str(tmp_path), Listener(host="127.0.0.1"), options=NO_OPTIONS, **flags)


def test_without_gradio_it_says_what_to_install(cli: Cli) -> None:
    result = cli("ui", script="import sys; sys.modules['gradio'] = None")
    assert (result.returncode, result.stdout) == (2, "")
    assert "pip install 'maskbatch[ui]'" in result.stderr and result.stderr.count("\n") == 1
