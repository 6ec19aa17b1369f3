import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
import httpx
import pytest
from gradio.state_holder import SessionState
from playwright.sync_api import Page as Tab
from playwright.sync_api import expect

from maskbatch.errors import UsageError
from maskbatch.stores.options import NO_OPTIONS
from maskbatch.ui.app import Page, serve
from maskbatch.ui.uploads import ABANDONED_S, Uploads
from tests.conftest import Cli
from tests.maskbatch.samples import draw, encode
from tests.ui.conftest import PATIENCE_S, Proxy, Serve, Server

PICTURE = encode(draw(1))
PASSWORD = "correct horse"


def post(server: Server, data: bytes = PICTURE, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{server.url}gradio_api/upload",
        files={"files": ("a.jpg", data)},
        headers=headers,
        timeout=PATIENCE_S,
    )


def test_neither_the_page_nor_the_server_asks_another_host(page: Tab, server: Server, proxy: Proxy) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    page.locator("#examples button").first.click()
    expect(page.locator("#answer h2")).to_be_visible()
    page.get_by_text("Model card").click()
    expect(page.get_by_role("heading", name="Model card: default")).to_be_visible()
    own = urlsplit(server.url).netloc
    assert {urlsplit(url).netloc for url in asked if urlsplit(url).scheme not in ("data", "blob")} == {own}
    policy = httpx.get(server.url).headers["content-security-policy"]
    assert policy.startswith("default-src 'self' ") and "http" not in policy
    assert proxy.asked == []


def test_the_page_offers_nothing_of_gradios_own(page: Tab, server: Server) -> None:
    page.goto(server.url)
    expect(page.locator("#examples")).to_be_visible()
    for text in ("API", "Gradio", "Settings", "Share", "Flag"):
        expect(page.get_by_text(text, exact=False)).to_have_count(0)


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd",
        "gradio_api/file=pyproject.toml",
        "file/etc/passwd",
        "gradio_api/proxy=http://127.0.0.1:1/",
        "gradio_api/info",
        "gradio_api/openapi.json",
        "gradio_api/runs",
        "gradio_api/token",
        "gradio_api/mcp/sse",
        "gradio_api/deep_link",
        "config",
        "docs",
        "openapi.json",
        "manifest.json",
        "monitoring",
        "gradio_api/call/chosen",
        "static/../../../../../../etc/passwd",
    ],
)
def test_what_the_page_does_not_ask_for_is_not_there(path: str, server: Server) -> None:
    host, port = urlsplit(server.url).netloc.split(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as line:  # a client would tidy the path
        line.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    status = int(answer.split()[1])
    assert status in (403, 404) and b"root:" not in answer


def test_other_sites_and_other_names_of_this_machine_are_refused(server: Server) -> None:
    assert httpx.get(server.url, headers={"Host": "evil.example"}).status_code == 403
    assert post(server, Origin="https://evil.example").status_code == 403
    assert post(server, Origin=server.url.rstrip("/").replace("127.0.0.1", "localhost")).status_code == 403
    assert post(server, Origin="null").status_code == 403
    assert server.kept == []


def event(server: Server, function: int, data: list[Any]) -> dict[str, Any]:
    """What the server makes of one event of the page."""
    body = {"data": data, "fn_index": function, "session_hash": f"test{time.monotonic_ns()}"}
    joined = httpx.post(f"{server.url}gradio_api/queue/join", json=body)
    assert joined.status_code == 200, joined.text
    params = {"session_hash": body["session_hash"]}
    with httpx.stream(
        "GET", f"{server.url}gradio_api/queue/data", params=params, timeout=PATIENCE_S
    ) as stream:
        for line in stream.iter_lines():
            message = json.loads(line.removeprefix("data:") or "{}")
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("no answer")


def test_no_event_makes_the_server_read_its_own_files_or_fetch_a_url(
    server: Server, proxy: Proxy, tmp_path: Path
) -> None:
    """A browser names its upload by the path on the server; any other path would be as good to Gradio."""
    (path,) = post(server).json()
    meta = {"_type": "gradio.FileData"}
    good = event(server, 0, [{"path": path, "meta": meta}])
    assert good["success"] and "data-share" in good["output"]["data"][1]
    own = tmp_path / "own.jpg"
    own.write_bytes(PICTURE)
    for named in (str(own), f"{server.temp}/../{own.name}", f"{proxy.url}/a.jpg", str(Path(path).parents[1])):
        for file in (
            {"path": named, "meta": meta},
            {"path": named},
            {"path": named, "url": named, "meta": meta},
        ):
            assert not event(server, 0, [file])["success"], file
    assert own.exists() and proxy.asked == [] and server.kept == []


def test_200_mb_are_refused_unread(server: Server) -> None:
    before = peak_kib(server)
    host, port = urlsplit(server.url).netloc.split(":")
    with socket.create_connection((host, int(port)), PATIENCE_S) as line:
        line.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 200000000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            b'Content-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        )
        with suppress(ConnectionError):
            for _ in range(200):
                line.sendall(bytes(1_000_000))
            assert line.recv(100).startswith(b"HTTP/1.1 413 ")
    assert httpx.post(f"{server.url}gradio_api/upload", content=iter([PICTURE])).status_code == 411
    assert httpx.post(f"{server.url}gradio_api/queue/join", content=bytes(2**20 + 1)).status_code == 413
    assert server.kept == []
    assert peak_kib(server) - before < 50_000


def peak_kib(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def test_the_server_remembers_nothing_of_what_a_visitor_sent_or_was_shown(tmp_path: Path) -> None:
    with Page(Uploads(str(tmp_path)), analytics_enabled=False) as made:
        box = gr.Textbox()
        box.submit(str.upper, box, box)
    session = SessionState(made)
    with ThreadPoolExecutor() as pool:  # the browser's driver runs a loop in this thread
        answer = pool.submit(lambda: asyncio.run(made.process_api(0, ["secret"], state=session))).result()
    assert answer["data"] == ["SECRET"]
    assert "secret" not in repr(vars(session)).lower()


def test_uploads_that_were_broken_off_or_never_scored_are_swept(tmp_path: Path) -> None:
    old = time.time() - ABANDONED_S - 1
    for name in ("partial", "new"):
        (tmp_path / name).write_bytes(PICTURE)
    (tmp_path / "digest").mkdir()
    (tmp_path / "digest" / "a.jpg").write_bytes(PICTURE)
    os.utime(tmp_path / "partial", (old, old))
    os.utime(tmp_path / "digest", (old, old))
    Uploads(str(tmp_path)).sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    Uploads(str(tmp_path / "gone")).sweep()


@pytest.fixture(scope="module")
def guarded(serve: Serve, small_checkpoint: Path) -> Iterator[Server]:
    """A server that other machines could reach."""
    arguments = ("--host", "0.0.0.0", "--checkpoint", small_checkpoint)
    with serve(*arguments, MASKBATCH_UI_PASSWORD=PASSWORD) as started:
        yield started


def test_other_machines_need_the_password_and_any_name(page: Tab, guarded: Server) -> None:
    assert post(guarded).status_code == 401
    for name, given in (("ann", "wrong"), ("ann", ""), ("", PASSWORD)):
        answer = httpx.post(f"{guarded.url}login", data={"username": name, "password": given})
        assert answer.status_code in (400, 422) and not answer.cookies
    page.goto(guarded.url)
    expect(page.get_by_text("the password that you were given")).to_be_visible()
    expect(page.locator("#picture")).to_have_count(0)
    page.get_by_label("username").fill("Ann Other")
    page.get_by_label("password").fill(PASSWORD)
    page.get_by_role("button", name="Login").click()
    expect(page.locator("#picture")).to_be_visible()
    assert '"username":"Ann Other"' in page.content()
    assert PASSWORD not in page.content()
    said = guarded.log.read_text()
    assert "lets other machines connect" in said and "unencrypted" in said and PASSWORD not in said


def test_the_address_that_is_printed_is_one_that_other_machines_can_ask_for(guarded: Server) -> None:
    host = urlsplit(guarded.url).hostname
    assert host not in ("localhost", "127.0.0.1", "0.0.0.0")
    assert httpx.get(guarded.url, timeout=PATIENCE_S).status_code == 200


def test_any_address_of_this_machine_alone_needs_no_password(serve: Serve, small_checkpoint: Path) -> None:
    with serve("--host", "127.0.0.2", "--checkpoint", small_checkpoint) as started:
        assert started.url.startswith("http://127.0.0.2:")
        assert httpx.get(started.url, timeout=PATIENCE_S).status_code == 200


def test_without_a_password_other_machines_are_not_let_in(cli: Cli) -> None:
    for env in ({}, {"MASKBATCH_UI_PASSWORD": ""}):
        result = cli("ui", "--host", "0.0.0.0", **env)
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.count("\n") == 1 and "set MASKBATCH_UI_PASSWORD" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_quietly_and_leaves_nothing(
    number: signal.Signals, serve: Serve, small_checkpoint: Path
) -> None:
    with serve("--checkpoint", small_checkpoint) as started:
        post(started).raise_for_status()
        assert len(started.kept) == 1
        with httpx.stream("GET", f"{started.url}gradio_api/heartbeat/abc"):  # a page that is still open
            started.process.send_signal(number)
            assert started.process.wait(PATIENCE_S) == 0
        assert list(started.temp.iterdir()) == []
        assert started.log.read_text().splitlines() == [f"maskbatch ui: {started.url} (Ctrl-C ends it)"]


def test_an_address_that_cannot_be_had_is_one_sentence(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments in (("--port", port), ("--host", "203.0.113.9")):
            result = cli("ui", *arguments, MASKBATCH_UI_PASSWORD="x")
            assert result.returncode == 2 and result.stderr.count("\n") == 1
            assert f"{' '.join(arguments)}: cannot listen there" in result.stderr


@pytest.mark.parametrize("flag", ["checkpoint", "run"])
def test_a_checkpoint_or_run_that_is_not_there_is_refused(flag: str, tmp_path: Path) -> None:
    named: dict[str, Any] = {"checkpoint": None, "run": None} | {flag: str(tmp_path / "none")}
    with pytest.raises(UsageError, match="none"):
        serve(
            str(tmp_path),
            **named,
            corrections=None,
            host="127.0.0.1",
            port=None,
            login=None,
            hosts=None,
            open_browser=False,
            options=NO_OPTIONS,
        )


def test_without_gradio_it_says_what_to_install(cli: Cli) -> None:
    result = cli("ui", script="import sys; sys.modules['gradio'] = None")
    assert (result.returncode, result.stdout) == (2, "")
    assert "pip install 'maskbatch[ui]'" in result.stderr and result.stderr.count("\n") == 1
