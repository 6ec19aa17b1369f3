from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from training.augment import PRESETS, Augmentation, augment_images
from training.prepare import draw

ALWAYS = Augmentation(
    squash_chance=1, night_chance=1, grey_chance=1, blur_chance=1, noise_chance=1, jpeg_chance=1, erase_chance=1
)  # fmt: skip
STILL = PRESETS["none"]
EVERY = PRESETS | {"always": ALWAYS}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """(8, 48, 48, 3) uint8 RGB, two drawings of each label."""
    drawn = [picture.resize((48, 48)) for picture, _ in draw(2, seed=2, sizes=((96, 72),))]
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in drawn]))


def plain(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


def seeded(seed: int, images: torch.Tensor, size: int, preset: Augmentation) -> torch.Tensor:
    torch.manual_seed(seed)
    return augment_images(images, size, preset)


@pytest.mark.parametrize("size", [32, 48, 64])
@pytest.mark.parametrize("name", EVERY)
def test_pictures_come_out_at_the_input_size_as_floats_from_0_to_1(
    images: torch.Tensor, name: str, size: int
) -> None:
    kept = images.clone()
    made = seeded(3, images, size, EVERY[name])
    assert made.shape == (8, 3, size, size) and made.dtype == torch.float32
    assert made.min() >= 0 and made.max() <= 1
    assert torch.equal(images, kept)


def test_the_preset_none_changes_pixels_by_rounding_alone(images: torch.Tensor) -> None:
    torch.manual_seed(3)
    made = augment_images(images, 48, STILL)
    assert (made - plain(images)).abs().max() <= 0.5 / 255


def test_the_preset_none_at_another_size_is_the_picture_resized(images: torch.Tensor) -> None:
    made = seeded(3, images, 96, STILL)
    expected = torch.nn.functional.interpolate(plain(images), 96, mode="bilinear")
    assert (made - expected)[..., 2:-2, 2:-2].abs().max() < 0.01


def test_geometry_moves_pixels_and_changes_no_brightness(images: torch.Tensor) -> None:
    flat = torch.tensor([[12, 200, 90], [0, 0, 0], [255, 255, 255]], dtype=torch.uint8)
    flat = flat[:, None, None, :].expand(3, 48, 48, 3)
    made = seeded(5, flat, 48, PRESETS["geometry"])
    assert (made - plain(flat)).abs().max() <= 0.5 / 255
    moved = seeded(5, images, 48, PRESETS["geometry"])
    assert (moved - plain(images)).abs().flatten(1).amax(dim=1).min() > 0.05
    assert (moved.mean() - plain(images).mean()).abs() < 0.02


def test_the_camera_changes_brightness_as_geometry_does_not() -> None:
    grey = torch.full((32, 32, 32, 3), 128, dtype=torch.uint8)
    made = seeded(5, grey, 32, PRESETS["camera"]).mean(dim=(1, 2, 3))
    assert made.max() - made.min() > 0.3


@pytest.mark.parametrize("name", ["camera", "geometry", "always"])
def test_two_draws_of_a_picture_differ_and_a_seed_repeats_them(images: torch.Tensor, name: str) -> None:
    first, second, again = (seeded(seed, images, 48, EVERY[name]) for seed in (1, 2, 1))
    assert (first != second).flatten(1).any(dim=1).all()
    assert torch.equal(first, again)


def test_copies_of_a_picture_in_one_batch_are_drawn_apart(images: torch.Tensor) -> None:
    copies = images[:1].expand(8, 48, 48, 3)
    made = seeded(1, copies, 48, PRESETS["geometry"])
    assert len({picture.numpy().tobytes() for picture in made}) == 8


def test_flips_mirror_about_half_of_the_pictures_and_no_more_than_that(images: torch.Tensor) -> None:
    many = images[:1].expand(64, 48, 48, 3)
    made, picture = seeded(1, many, 48, replace(STILL, flip=True)), plain(images[:1])
    same = (made - picture).abs().flatten(1).amax(dim=1) < 0.01
    mirrored = (made - picture.flip(3)).abs().flatten(1).amax(dim=1) < 0.01
    assert bool((same ^ mirrored).all()) and 16 <= int(mirrored.sum()) <= 48


def test_an_erased_picture_is_of_one_colour_in_one_rectangle_and_whole_elsewhere(
    images: torch.Tensor,
) -> None:
    made = seeded(1, images, 48, replace(STILL, erase_chance=1))
    for picture, before in zip(made, plain(images), strict=True):
        changed = ((picture - before).abs() > 0.5 / 255).any(dim=0)
        rows, columns = (changed.any(dim=axis).nonzero().flatten() for axis in (1, 0))
        inside = picture[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert inside.flatten(1).std(dim=1).max() < 0.01
        assert 0.01 < inside[0].numel() / 48**2 < 0.2


def test_jpeg_artefacts_stay_near_the_picture(images: torch.Tensor) -> None:
    made = seeded(1, images, 48, replace(STILL, jpeg_chance=1))
    far = (made - plain(images)).abs().mean(dim=(1, 2, 3))
    assert far.min() > 0 and far.max() < 0.06


def test_infrared_pictures_have_no_colour() -> None:
    red = torch.from_numpy(np.array(Image.new("RGB", (32, 32), (200, 40, 40))))[None]
    made = seeded(1, red, 32, replace(STILL, grey_chance=1))
    assert (made.amax(dim=1) - made.amin(dim=1)).max() < 1e-4
    assert made.mean() == pytest.approx(280 / 3 / 255, abs=1e-3)
