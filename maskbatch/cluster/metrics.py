"""Metrics on every node's Prometheus page, by Ray's own means: no-ops where nothing exports them.

    ray_maskbatch_images_total{status}   images staged
    ray_maskbatch_seconds_total{stage}   workers' wall time in read (waiting for bytes), decode, score
    ray_maskbatch_busy{device}           share of the time that the model runs, of one worker, a shard ago

The worker sets each once a shard.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any


@cache
def _make() -> tuple[Any, Any, Any]:
    from ray.util.metrics import Counter, Gauge

    return (
        Counter("maskbatch_images", "Images staged, by status.", ("status",)),
        Counter("maskbatch_seconds", "Wall time of workers, by stage.", ("stage",)),
        Gauge("maskbatch_busy", "Share of the time that the model runs on its device.", ("device",)),
    )


def count_images(statuses: Mapping[str, int]) -> None:
    """Add the images of a shard, by status."""
    for status, number in statuses.items():
        _make()[0].inc(number, {"status": status})


def count_seconds(stage: str, seconds: float) -> None:
    """Add the time of a shard in `stage`."""
    if seconds > 0:
        _make()[1].inc(seconds, {"stage": stage})


def set_busy(device: str, share: float) -> None:
    """Set the share, 0 to 1, of the time since the shard before during which `device` was busy."""
    _make()[2].set(share, {"device": device})
