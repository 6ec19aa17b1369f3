"""Metrics of a run on every node's Prometheus page, in Ray's own way: no-ops where nothing exports them.

    ray_maskbatch_images_total{status}   images staged
    ray_maskbatch_seconds_total{stage}   workers' wall time in read (waiting for bytes), decode, score
    ray_maskbatch_busy{device}           share of the time that the model runs, of one worker, a shard ago

Each is set once a shard, in the worker that did it.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any


@cache
def _made() -> tuple[Any, Any, Any]:
    from ray.util.metrics import Counter, Gauge

    return (
        Counter("maskbatch_images", "Images staged, by status.", ("status",)),
        Counter("maskbatch_seconds", "Wall time of workers, by stage.", ("stage",)),
        Gauge("maskbatch_busy", "Share of the time that the model runs on its device.", ("device",)),
    )


def count_images(statuses: Mapping[str, int]) -> None:
    """Add the images of a shard, by status."""
    for status, number in statuses.items():
        _made()[0].inc(number, {"status": status})


def count_seconds(stage: str, seconds: float) -> None:
    """Add what a shard took in `stage`."""
    if seconds > 0:
        _made()[1].inc(seconds, {"stage": stage})


def set_busy(device: str, share: float) -> None:
    """Say that `device` was busy for this share, 0 to 1, of the time since the shard before."""
    _made()[2].set(share, {"device": device})
