"""A real head of a Ray cluster that asks for a token, a web server that holds pictures back, and some nights."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from tests.s3_server import free_ports
from tests.serving import serving

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0
TOKEN = "0123456789abcdef" * 3
PORTS = (
    "--port",
    "--dashboard-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port",
    "--metrics-export-port",
    "--ray-client-server-port",
)


def wait_for(condition: Callable[[], object], what: str) -> None:
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends, f"waited in vain for {what}"
        time.sleep(0.2)


@dataclass(frozen=True)
class Head:
    """A cluster of one node, and the program that submits to it."""

    address: str

    def environment(self, **changes: str) -> dict[str, str]:
        mine = {"RAY_API_SERVER_ADDRESS": self.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        return {name: value for name, value in (os.environ | mine | changes).items() if value}

    def start(self, *arguments: object, folder: Path = ROOT, **env: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.submit", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=self.environment(PYTHONPATH=str(ROOT), **env),
        )

    def submit(
        self, *arguments: object, folder: Path = ROOT, **env: str
    ) -> "subprocess.CompletedProcess[str]":
        started = self.start(*arguments, folder=folder, **env)
        out, err = started.communicate(timeout=600)
        return subprocess.CompletedProcess(started.args, started.returncode, out, err)


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="mb-head-")  # short: the paths of Ray's sockets have 107 bytes
    ports = free_ports(len(PORTS))
    python = Path(sys.executable).parent
    path = f"{python}{os.pathsep}{os.environ['PATH']}"
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PATH": path}
    own["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"
    flags = [f"{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
    with open(f"{folder}/head.log", "w") as log:
        started = subprocess.Popen(
            [python / "ray", "start", "--head", "--block", *flags, "--num-cpus=2", f"--temp-dir={folder}/ray",
             "--node-ip-address=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0",
             "--object-store-memory=200000000", "--disable-usage-stats"],
            stdout=log, stderr=log, env=os.environ | own, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{ports[1]}"

    def up() -> bool:
        assert started.poll() is None, Path(folder, "head.log").read_text()
        try:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            return requests.get(f"{address}/api/jobs/", headers=headers, timeout=5).status_code == 200
        except requests.RequestException:
            return False

    try:
        wait_for(up, "the head")
        yield Head(address)
        assert started.poll() is None, Path(folder, "head.log").read_text()
    finally:
        started.terminate()
        started.wait(PATIENCE_S)
        shutil.rmtree(folder, ignore_errors=True)


class Pictures(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        number = int(self.path.removeprefix("/").removesuffix(".jpg"))
        if number >= self.server.open_until:  # type: ignore[attr-defined]
            self.server.gate.wait(PATIENCE_S)  # type: ignore[attr-defined]
        data = self.server.files[number].read_bytes()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class PictureServer(ThreadingHTTPServer):
    """Serves the pictures of an archive by number; those of the last shard wait for `gate`."""

    daemon_threads = True
    open_until = 192

    def __init__(self, files: list[Path]) -> None:
        super().__init__(("127.0.0.1", 0), Pictures)
        self.files, self.gate = files, threading.Event()

    def handle_error(self, *args: object) -> None:
        """A worker that was stopped closed its connection."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


@pytest.fixture(scope="session")
def pictures(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PictureServer]:
    server = PictureServer(sorted(archive.rglob("*.jpg")))
    with serving(server):
        yield server


@dataclass
class Line:
    """A connection to the cluster that a test can cut."""

    upstream: tuple[str, int]
    live: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.create_connection(self.upstream)
            self.live += [near, far]
            for pair in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def cut(self) -> int:
        """End every connection that still stands, and count their ends; new ones are taken again."""
        ended = 0
        for end in self.live:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
                ended += 1
            end.close()
        self.live.clear()
        return ended

    def close(self) -> None:
        self._listening.close()
        self.cut()
