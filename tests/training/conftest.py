"""Fixtures of the training tests: a small data set of drawn faces, and the commands."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Protocol

import pytest
from hypothesis import settings
from matplotlib.figure import Figure

from maskbatch.cli.program import run_program
from training.prepare import draw

settings.register_profile("shared-cores", deadline=None)
settings.load_profile("shared-cores")


@pytest.fixture(scope="session")
def faces_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """with_mask/, without_mask/ and incorrect_mask/ of 14 drawn pictures each, no two near-duplicates."""
    root = tmp_path_factory.mktemp("faces")
    for k, (picture, label) in enumerate(draw(14, seed=1, sizes=((96, 72),))):
        if label != "no_face":
            (root / label).mkdir(exist_ok=True)
            picture.save(root / label / f"{k:02d}.jpg", quality=90)
    return root


@dataclass
class Result:
    """What a command leaves behind."""

    exit_code: int
    stdout: str
    stderr: str


class Undrawn(Figure):
    """A figure whose file stays empty, which saves a second."""

    def savefig(self, path: Path, **options: object) -> None:
        path.touch()


class Invoke(Protocol):
    """Runs the command of a module as its command line does."""

    def __call__(self, module: ModuleType, *arguments: object) -> Result: ...


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Invoke]:
    before = signal.getsignal(signal.SIGTERM)

    def call(module: ModuleType, *arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_program(module.app, f"python -m {module.__name__} --help")
        return Result(int(ended.value.code or 0), *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, before)
