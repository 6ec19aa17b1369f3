"""Three nights of one archive, scored and reported."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from maskbatch.model.checkpoint import Checkpoint
from maskbatch.schedule.nightly import report_nights
from tests.conftest import LAYOUT
from tests.maskbatch.schedule.places import FIRST_NIGHT, LAST_NIGHT, Place


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="session")
def scored(
    archive: Path,
    checkpoint: Checkpoint,
    ray_with_a_logical_gpu: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Place, dict[str, Any]]:
    """Three nights, of which the first has two images that are missing, back-filled, and what was said."""
    root = tmp_path_factory.mktemp("schedule")
    place = Place(root / "archive", root / "base", root / "nightly.toml")
    shutil.copytree(archive, place.archive)
    for name in ("235901", "235902"):
        (place.archive / f"north/gate-0/2026/10/01/{name}.jpg").symlink_to("gone")
    place.toml.write_text(
        f"layout = '{LAYOUT}'\ntimezone = 'Europe/Paris'\ncheckpoint = '{checkpoint.path}'\ndtype = 'float32'\n"
        "expect = '12/h@06-22'\n"
    )
    return place, report_nights(place.schedule(), FIRST_NIGHT, LAST_NIGHT)


@pytest.fixture
def place(scored: tuple[Place, dict[str, Any]], tmp_path: Path) -> Place:
    """A copy of these nights, to be added to; the archive stays where it is."""
    shutil.copytree(scored[0].base, tmp_path / "base")
    return Place(scored[0].archive, tmp_path / "base", scored[0].toml)
