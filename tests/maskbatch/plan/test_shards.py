"""How an archive is cut into shards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.config import ScoreConfig
from maskbatch.plan.shards import EACH, Crew, choose_shard_size

FACES, SCENES = ScoreConfig(), ScoreConfig(view="scene")
ENCODED = ScoreConfig(decoder="gpu")
VGA, HD = 66_000, 440_000
"""Bytes of an image of 640x480, and of 1920x1080."""
configs = st.sampled_from([FACES, SCENES, ENCODED])
crews = st.builds(Crew, st.integers(1, 5_000), st.booleans())


@given(st.integers(1, 10**9), st.floats(0, 1e8), st.integers(8, 1024), st.integers(8, 1024), configs, crews)
def test_a_shard_is_a_power_of_two_of_bounded_images_and_bytes(
    num_images: int, mean_bytes: float, height: int, width: int, config: ScoreConfig, crew: Crew
) -> None:
    size = choose_shard_size(num_images, mean_bytes, (height, width), config, crew)
    assert size.bit_count() == 1  # so that the files of a commit end at the same images, whoever scored
    assert size <= 1024
    kept_bytes = max(height * width * 3, mean_bytes if config is ENCODED else 0)
    assert size * kept_bytes <= max(96 * 2**20, kept_bytes)


@given(st.integers(1, 10**9), st.sampled_from([VGA, HD]), st.integers(1, 64))
def test_every_worker_has_eight_shards_where_there_are_images_enough(
    num_images: int, mean_bytes: int, num_workers: int
) -> None:
    size = choose_shard_size(num_images, mean_bytes, (160, 160), FACES, Crew(num_workers))
    assert num_images >= EACH * num_workers * size or size <= max(32, 6 * num_workers)  # 30 shards a second


@pytest.mark.parametrize(
    ("num_images", "mean_bytes", "config", "crew", "size"),
    [
        (8_000, HD, FACES, Crew(2), 128),  # a second of 110 images
        (8_000, VGA, FACES, Crew(2), 256),
        (720, VGA, FACES, Crew(2), 32),
        (10**8, HD, FACES, Crew(64), 1024),  # 100,000 objects in staging
        (8_000, HD, SCENES, Crew(2), 64),
        (48_000, HD, ScoreConfig(view="scene", decoder="gpu"), Crew(16, on_gpus=True), 64),
        (48_000, HD, ENCODED, Crew(16, on_gpus=True), 128),  # 56 MB
        (48_000, VGA, ENCODED, Crew(16, on_gpus=True), 256),
        (10**6, VGA, ENCODED, Crew(16, on_gpus=True), 1024),
        (4_000, VGA, FACES, Crew(16), 64),  # less, and the driver could not follow
        (10_000, 0, FACES, Crew(2), 256),  # of no known size
    ],
)
def test_a_shard_is_a_second_of_work(
    num_images: int, mean_bytes: float, config: ScoreConfig, crew: Crew, size: int
) -> None:
    assert choose_shard_size(num_images, mean_bytes, (160, 160), config, crew) == size
