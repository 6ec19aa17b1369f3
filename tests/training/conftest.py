"""Fixtures of the training tests: a small data set of drawn faces."""

from pathlib import Path

import pytest
from hypothesis import settings

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
