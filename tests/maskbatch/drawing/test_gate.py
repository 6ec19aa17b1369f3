import numpy as np
import pytest

from maskbatch.drawing.gate import LABELS, Gate, draw_snapshot


def picture(label: str, seed: int = 1, **options: object) -> np.ndarray:
    gate = Gate.draw_lots(np.random.default_rng(9))
    return np.asarray(draw_snapshot(label, gate, np.random.default_rng(seed), **options), np.int16)  # type: ignore[arg-type]


@pytest.mark.parametrize("label", LABELS)
def test_the_same_seed_draws_the_same_pixels_and_another_does_not(label: str) -> None:
    assert np.array_equal(picture(label), picture(label))
    assert np.abs(picture(label) - picture(label, seed=2)).mean() > 1


def test_labels_differ_in_what_is_seen() -> None:
    pictures = [picture(label) for label in LABELS]
    for i in range(4):
        for j in range(i):
            assert (np.abs(pictures[i] - pictures[j]).max(axis=2) > 30).mean() > 0.005


@pytest.mark.parametrize("size", [(640, 480), (320, 240), (97, 61)])
def test_a_snapshot_has_the_size_asked_for(size: tuple[int, int]) -> None:
    assert picture("with_mask", size=size).shape == (size[1], size[0], 3)


def test_night_is_darker_than_day() -> None:
    for seed in range(4):
        day, night = (picture("with_mask", seed, light=light).mean() for light in (1.0, 0.0))
        assert night < day


def test_an_unknown_label_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'hat'"):
        picture("hat")
