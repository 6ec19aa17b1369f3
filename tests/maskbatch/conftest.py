"""Fixtures of the library's tests: one tiny real checkpoint, one archive, one staged and one committed run."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from torch import nn

from maskbatch.model.architectures import build
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint, save_checkpoint
from maskbatch.score import guard
from maskbatch.stores.files import Location, locate_folder, remove_tree
from tests.maskbatch.samples import CLASSES, SIZE, Run, make_card, stage_run, write_lobby, write_month

settings.register_profile("shared-cores", deadline=None)
settings.load_profile("shared-cores")


@pytest.fixture(params=["local", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    """A fresh folder of this machine, and a fresh prefix of a store that has no folders."""
    if request.param == "local":
        yield tmp_path
    else:
        made = locate_folder(f"memory://{uuid.uuid4().hex}")
        yield made
        remove_tree(made)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A mobilenet_v3_small of four classes at 32 x 32, random, but with logits that tell pictures apart."""
    torch.manual_seed(3)
    model = build("mobilenet_v3_small", len(CLASSES))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of what it sees, not a running mean of them
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.2)
    nn.init.normal_(model.classifier[-1].weight, 0, 0.3)
    with torch.inference_mode():
        model(torch.randn(64, 3, *SIZE))
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_checkpoint(path, make_card(), model.state_dict())
    return open_checkpoint(str(path))


@pytest.fixture(scope="session")
def month(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_month(tmp_path_factory.mktemp("month"))


@pytest.fixture(scope="session")
def staged_session(tmp_path_factory: pytest.TempPathFactory, month: Path, checkpoint: Checkpoint) -> Run:
    return stage_run(tmp_path_factory.mktemp("staged") / "run", month, checkpoint)


@pytest.fixture
def staged(staged_session: Run, tmp_path: Path) -> Run:
    """A copy of a run whose every shard is staged, to be spoilt and committed."""
    return staged_session.copy(tmp_path / "run")


@pytest.fixture
def staged_at(staged_session: Run, root: Location) -> Run:
    """Such a copy in a folder and in a store."""
    return staged_session.copy(root / "run")


@pytest.fixture(scope="session")
def committed(staged_session: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A committed run that no test changes."""
    made = staged_session.copy(tmp_path_factory.mktemp("committed") / "run")
    made.commit()
    return made


@pytest.fixture(scope="session")
def lobby(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A committed run of whole scenes, found and judged by the packaged networks, that no test changes."""
    folder = tmp_path_factory.mktemp("lobby")
    run = stage_run(folder / "run", write_lobby(folder / "archive"), open_checkpoint(), view="scene")
    run.commit()
    return run


@pytest.fixture
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards look as soon as they can: on a busy machine the idle priority would have a test wait for ever."""
    monkeypatch.setattr(guard, "YIELD", "")
