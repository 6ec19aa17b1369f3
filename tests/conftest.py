"""What many tests share: a small real checkpoint, small real archives, the real photographs if they are there."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from maskbatch.cli.commands import main
from maskbatch.drawing.gate import LABELS, Gate, draw_snapshot
from maskbatch.model.card import Card
from maskbatch.model.checkpoint import save_checkpoint

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SHARED = Path(__file__).parents[2] / "shared"
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: with several workers, none of these is left over at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs beside the repository."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the real photographs in ../shared/data")
    return SHARED


def save_untrained(folder: Path, input_size: tuple[int, int]) -> Path:
    """A real checkpoint of three classes, saved by the real code."""
    import torch

    from maskbatch.model.architectures import build

    torch.manual_seed(7)
    classes = ("with_mask", "without_mask", "no_face")
    card = Card(
        architecture="mobilenet_v3_small",
        classes=classes,
        compliant=("with_mask",),
        not_assessed=("no_face",),
        input_size=input_size,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        review_threshold=0.5,
        confusion=((9, 1, 0), (1, 9, 0), (0, 0, 10)),
    )
    path = folder / "small.safetensors"
    save_checkpoint(path, card, build(card.architecture, len(classes)).state_dict())
    return path


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real, untrained checkpoint of three classes at 32 x 32."""
    return save_untrained(tmp_path_factory.mktemp("checkpoint"), (32, 32))


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 drawn snapshots of two cameras over five days, four of them spoilt, and two files that are none."""
    root = tmp_path_factory.mktemp("archive")
    for k in range(200):
        rng = np.random.default_rng(k)
        folder = root / "north" / f"gate-{k % 2}" / f"2026/10/{k // 40 + 1:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = draw_snapshot(LABELS[k % 4], Gate.draw_lots(rng), rng, size=(96, 72))
        picture.save(folder / f"{8 + k % 12:02d}{k % 60:02d}00.jpg", quality=90)
    paths = sorted(root.rglob("*.jpg"))
    paths[3].write_bytes(b"")
    paths[50].write_bytes(paths[50].read_bytes()[:900])
    paths[90].write_text("not an image")
    paths[120].write_bytes(b"<html>502</html>")
    (root / "notes.txt").write_text("x")
    (root / "Thumbs.db").write_bytes(b"x")
    return root


def table_of(run: Path) -> pa.Table:
    """The rows of a committed run, by id."""
    return ds.dataset(run / "scores", partitioning="hive").to_table().sort_by("id")


LAYOUT = "{site}/{camera}/{captured_at:%Y/%m/%d/%H%M%S}.jpg"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Run the real command line in a process of its own."""

    def run(*arguments: object, script: str = "", **env: str) -> "subprocess.CompletedProcess[str]":
        command = (
            ["-c", f"{script}\nfrom maskbatch.cli.commands import main\nmain()"]
            if script
            else ["-m", "maskbatch"]
        )
        return subprocess.run(
            [sys.executable, *command, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env={**os.environ, **env},
        )

    return run


@pytest.fixture
def cli_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command line in this process, which saves seconds of imports: for what it refuses at once."""

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["maskbatch", *map(str, arguments)])
        at_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, at_sigterm)
        return subprocess.CompletedProcess(sys.argv, ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without their drawings, which take a third of the time of a small run."""
    from maskbatch.report import plots

    monkeypatch.setattr(plots, "_svg", lambda *_: "<svg></svg>")


@contextmanager
def headless_chromium(*switches: str) -> Iterator["Browser"]:
    """A browser that asks nobody for anything by itself; the test is skipped, under CI fails, without one."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=300_000)  # ms; the default of 5 s is short on a busy machine
    chromium = shutil.which("chromium")
    if chromium is None:
        missing = "no chromium is on the PATH; install the Debian package `chromium`"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    quiet += ["--disable-background-networking", "--disable-component-update"]
    with (
        sync_playwright() as driver,
        driver.chromium.launch(executable_path=chromium, args=[*quiet, *switches]) as launched,
    ):
        yield launched


def start_ray() -> None:
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)


@pytest.fixture(scope="session")
def ray_with_a_logical_gpu() -> Iterator[None]:
    """An embedded Ray of two CPUs and one GPU that is only counted, not there."""
    import ray

    start_ray()
    yield
    ray.shutdown()
