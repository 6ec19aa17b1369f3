"""What is done to pictures on a device, against what Pillow and `decode` do to them on a CPU."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from maskbatch.decode.images import TURN, describe, resize
from maskbatch.model.card import INTERPOLATIONS, Preset
from maskbatch.score import tensors
from tests.maskbatch.samples import draw

SCENE = draw(3, (300, 220))


def as_tensor(*images: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.array(image) for image in images])).permute(0, 3, 1, 2)


def as_array(images_NCHW: torch.Tensor) -> NDArray[np.int64]:
    return images_NCHW[0].permute(1, 2, 0).numpy().astype(np.int64)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    "preset",
    [Preset((160, 160)), Preset((120, 200)), Preset((300, 420)), Preset((224, 224), "crop", 0.875)],
    ids=["squash", "tall", "enlarged", "crop"],
)
def test_a_picture_is_resized_as_pillow_does_it(interpolation: str, preset: Preset) -> None:
    preset = Preset(preset.input_size, preset.resize, preset.crop_share, interpolation)
    target = preset.input_size[::-1]
    expected = np.asarray(resize(SCENE, preset, target, SCENE.size)).astype(int)
    error = np.abs(as_array(tensors.fit(as_tensor(SCENE), preset, target)) - expected)
    assert error.max() <= 1 + (interpolation == "lanczos")  # Pillow's weights have 22 bits, ours 15
    assert error.mean() < 0.01


@pytest.mark.parametrize("size", [(1280, 960), (1920, 1080), (1001, 777), (2400, 300)])
@pytest.mark.parametrize(
    "preset", [Preset((160, 160)), Preset((160, 160), "crop", 0.9)], ids=["squash", "crop"]
)
def test_a_large_picture_is_reduced_by_whole_steps_first(size: tuple[int, int], preset: Preset) -> None:
    large = SCENE.resize(size, Image.Resampling.BICUBIC)
    expected = np.asarray(resize(large, preset, preset.input_size, size)).astype(int)
    assert np.abs(as_array(tensors.fit(as_tensor(large), preset, preset.input_size)) - expected).mean() < 1


@pytest.mark.parametrize("size", [(30_000, 9), (9, 30_000), (1, 1), (3, 700)])
@pytest.mark.parametrize(
    "preset", [Preset((160, 160)), Preset((96, 96), "crop", 0.9)], ids=["squash", "crop"]
)
def test_a_strip_takes_bounded_memory(size: tuple[int, int], preset: Preset) -> None:
    strip = torch.full((1, 3, size[1], size[0]), 201, dtype=torch.uint8)
    assert (tensors.fit(strip, preset, preset.input_size) == 201).all()


def test_what_lies_beside_a_picture_changes_no_pixel_of_it() -> None:
    pictures, preset = as_tensor(*(draw(k, (640, 480)) for k in range(5))), Preset((160, 160))
    together = tensors.fit(pictures, preset, preset.input_size)
    for k in range(5):
        assert torch.equal(tensors.fit(pictures[k : k + 1], preset, preset.input_size)[0], together[k])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation: int) -> None:
    upright = SCENE
    for turn in TURN.get(orientation, ()):
        upright = upright.transpose(turn)
    assert np.array_equal(as_array(tensors.turn(as_tensor(SCENE), orientation)), np.asarray(upright))


def test_halves_are_means_of_boxes() -> None:
    halved = as_array(tensors.halve(as_tensor(SCENE), 2))
    assert np.abs(halved - np.asarray(SCENE.reduce(4)).astype(int)).max() <= 1
    assert tensors.halve(as_tensor(SCENE.crop((0, 0, 5, 3))), 1).shape == (1, 3, 2, 3)


@pytest.mark.parametrize("size", [(160, 160), (8, 8), (9, 8), (200, 120), (31, 57), (512, 384)])
def test_measures_and_hash_are_those_of_the_same_pixels_on_a_cpu(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), np.uint8)
    pictures = [Image.fromarray(noise), SCENE.resize(size), Image.new("RGB", size, (7, 7, 7))]
    sums = tensors.measure(as_tensor(*pictures)).numpy()
    for row, picture in zip(tensors.describe_sums(sums, size), pictures, strict=True):
        expected = describe(picture)
        assert (row["dhash"], row["brightness"]) == (expected["dhash"], expected["brightness"])
        for name in ("contrast", "sharpness"):
            assert row[name] == pytest.approx(expected[name], rel=1e-9, abs=1e-9)
