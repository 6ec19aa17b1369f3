"""How a plan is cut into shards: large enough for Ray's driver, small enough that every worker has several.

Ray Data's driver passes 40 to 80 shards a second, whatever they hold, so a shard is a second of a worker's
work. What is kept of one, pixels or bytes, stays below Ray's blocks of 128 MB.
"""

from dataclasses import dataclass

from maskbatch.config import ScoreConfig

SHARD_S = 1.0
MAX_PER_S = 30.0
"""Shards a second, of all workers together."""
EACH = 8
"""Shards that every worker gets at least, where there are images enough."""
MAX_BYTES = 96 * 2**20
MANY_SHARDS = 10_000
"""Of more, shards are larger: each is an object in staging."""
SIZES = {"face": (32, 1024), "scene": (32, 64), "encoded": (256, 1024)}
"""Images of the smallest and of the largest shard. Whole scenes on their way to a GPU have 6 MB each at
1080p, and at most 25 MB by the default --detect-px, those too that the GPU does not decode. Of faces that it
decodes, `encoded`, few are anything else."""
FIXED_S, S_PER_BYTE = 0.005, 1e-8
"""A worker's time for an image: 9 ms for 440 KB at 1920x1080, 6 ms for 66 KB at 640x480, read, decoded and
scored on one core. To read one and sort it takes a tenth."""
ENCODED_SHARE = 0.1
USUAL_BYTES = 200_000
"""Of an image whose size is not known."""


@dataclass(frozen=True, slots=True)
class Crew:
    """Who works on a run."""

    num_workers: int = 1
    """Those that decode."""
    on_gpus: bool = False


def choose_shard_size(
    num_images: int, mean_bytes: float, input_size: tuple[int, int], config: ScoreConfig, crew: Crew
) -> int:
    """Images of a shard, a power of two where SIZES allows; `input_size` is (H, W) of the classifier."""
    mean_bytes = mean_bytes or USUAL_BYTES
    is_encoded = config.decoder == "gpu"
    least, most = SIZES["encoded" if is_encoded and config.view == "face" else config.view]
    image_s = (FIXED_S + S_PER_BYTE * mean_bytes) * (ENCODED_SHARE if is_encoded else 1)
    wanted = max(SHARD_S / image_s, num_images / MANY_SHARDS)
    fair = max(num_images / (EACH * max(1, crew.num_workers)), num_images / MANY_SHARDS, 1)
    quick = 0 if is_encoded else crew.num_workers / (MAX_PER_S * image_s)  # those share rows
    size = min(2 * _floor(wanted), max(_floor(fair), _floor(quick)))
    pixel_bytes = input_size[0] * input_size[1] * 3
    kept_bytes = max(mean_bytes, pixel_bytes) if is_encoded else pixel_bytes
    return min(max(least, size), most, _floor(MAX_BYTES / kept_bytes))


def _floor(number: float) -> int:
    """The largest power of two that is not above `number`; 1 at least."""
    return 1 << max(0, int(number).bit_length() - 1)
