import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFilter

from maskbatch.decode.quality import dhash, measure
from tests.maskbatch.samples import draw

LUMA = draw(3).convert("L")


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_measures_lie_in_their_bounds(luma: np.ndarray) -> None:
    brightness, contrast, sharpness = measure(luma)
    assert 0 <= brightness <= 1
    assert 0 <= contrast <= 0.5
    assert 0 <= sharpness <= 1020**2


@pytest.mark.parametrize(("grey", "brightness"), [(0, 0.0), (51, 0.2), (255, 1.0)])
def test_an_even_grey_has_brightness_alone(grey: int, brightness: float) -> None:
    assert measure(np.full((8, 8), grey, np.uint8)) == (pytest.approx(brightness), 0, 0)


def test_sharpness_is_the_variance_of_the_laplacian_and_falls_with_blur() -> None:
    point = np.zeros((5, 5), np.uint8)
    point[2, 2] = 10
    laplacian = np.array([[0, 10, 0], [10, -40, 10], [0, 10, 0]])
    assert measure(point)[2] == pytest.approx(laplacian.var())
    sharp, blurred = (measure(np.asarray(p))[2] for p in (LUMA, LUMA.filter(ImageFilter.GaussianBlur(2))))
    assert blurred < sharp / 2


def test_a_hash_is_near_for_noise_and_far_for_another_picture() -> None:
    noise = np.random.default_rng(0).normal(0, 3, (120, 160))
    noisy = Image.fromarray(np.clip(np.asarray(LUMA) + noise, 0, 255).astype(np.uint8))

    def distance(one: bytes, other: bytes) -> int:
        return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()

    assert len(dhash(LUMA)) == 8
    assert dhash(LUMA) == dhash(LUMA.copy())
    assert distance(dhash(LUMA), dhash(noisy)) <= 6
    assert distance(dhash(LUMA), dhash(draw(8, label="no_face").convert("L"))) > 10


def test_a_hash_has_a_bit_for_each_rise_to_the_right() -> None:
    assert dhash(Image.new("L", (90, 80), 50)) == b"\0" * 8
    rising = Image.fromarray(np.tile(np.arange(0, 252, 28, np.uint8), (8, 1)))
    assert dhash(rising) == b"\xff" * 8
    assert dhash(rising.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == b"\0" * 8
