"""A real server in its own process, and a real browser."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from maskbatch.model.architectures import build
from maskbatch.model.checkpoint import open_checkpoint, save_checkpoint
from maskbatch.report.make import make_report
from maskbatch.runs.directory import RunDir
from tests.conftest import headless_chromium
from tests.maskbatch.samples import CLASSES, make_card, speckle, stage_run, write_files

PATIENCE_S = 300


@dataclass(frozen=True)
class Server:
    """A running `maskbatch ui`."""

    url: str
    process: "subprocess.Popen[bytes]"
    temp: Path
    """The process's own folder for temporary files."""
    log: Path

    @property
    def uploads(self) -> list[str]:
        """Files that the server keeps now."""
        return [path.name for path in self.temp.glob("maskbatch-ui-*/**/*") if path.is_file()]


Serve = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Start `maskbatch ui ARGUMENTS` on a free port; ends with SIGTERM."""

    @contextmanager
    def start(*arguments: object, **env: str) -> Iterator[Server]:
        folder = tmp_path_factory.mktemp("served")
        (temp := folder / "temp").mkdir()
        with (log := folder / "log").open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "maskbatch", "ui", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                env={**os.environ, "TMPDIR": str(temp), "OMP_NUM_THREADS": "1", **env},
            )
        try:
            yield Server(_wait_for_url(process, log), process, temp, log)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)

    return start


def _wait_for_url(process: "subprocess.Popen[bytes]", log: Path) -> str:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"http://\S+", log.read_text()):
            return found[0]
        time.sleep(0.05)
    pytest.fail(f"maskbatch ui did not start: {log.read_text()}")


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Headless Chromium with a fake camera."""
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with headless_chromium(*camera) as launched:
        yield launched


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a new visitor."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        context.set_default_timeout(1000 * PATIENCE_S)
        expect.set_options(timeout=1000 * PATIENCE_S)
        yield context.new_page()


def make_run(folder: Path) -> Path:
    """A committed run of 108 images: three cameras, three days; `folder` holds its archive too."""
    cameras = ("north/gate-1", "north/gate-2", "south/<b>dock")
    times = [f"2026-10-{day:02d}/{hour:02d}0000" for day in (1, 2, 3) for hour in range(7, 19)]
    names = [f"{camera}/{time}.jpg" for camera in cameras for time in times]
    write_files(folder / "archive", {name: speckle(k) for k, name in enumerate(names)})
    torch.manual_seed(3)
    card = make_card(review_threshold=0.0)
    save_checkpoint(folder / "tiny.safetensors", card, build(card.architecture, len(CLASSES)).state_dict())
    checkpoint = open_checkpoint(str(folder / "tiny.safetensors"))
    stage_run(folder / "run", folder / "archive", checkpoint).commit()
    return folder / "run"


@pytest.fixture(scope="session")
def reviewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of such a run, with its report."""
    run = RunDir.at(str(make_run(tmp_path_factory.mktemp("reviewed"))))
    make_report([run], run.report)
    return Path(run.path)


@pytest.fixture(scope="package")
def proxy() -> Iterator[socket.socket]:
    """A port that nobody connects to unless they ask another host."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def find_url(proxy: socket.socket) -> str:
    return f"http://127.0.0.1:{proxy.getsockname()[1]}"


def is_unused(proxy: socket.socket) -> bool:
    try:
        proxy.accept()
    except BlockingIOError:
        return True
    return False


@pytest.fixture(scope="package")
def server(serve: Serve, proxy: socket.socket) -> Iterator[Server]:
    """A server without a run; it would send requests to other hosts through the `proxy`."""
    through = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), find_url(proxy))
    with serve(no_proxy="", NO_PROXY="", **through) as server:
        yield server


def log_in(page: Page, name: str, password: str) -> None:
    page.get_by_label("username").fill(name)
    page.get_by_label("password").fill(password)
    page.get_by_role("button", name="Login").click()
