"""Decode a shard's images so that one which ends the worker is found by the next attempt at the shard.

Images decode in the worker, at no cost. A small mapped file, which outlives the worker, says which image is
at work, and a deadline ends a worker that is held up. The next attempt decodes that image in a sandbox,
which tells a bad image from one that is innocent of what befell its worker.
"""

import mmap
import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from maskbatch.decode.images import Picture, Shape, decode_image
from maskbatch.decode.sandbox import Sandbox
from maskbatch.errors import ImageError, RunFailedError

WALL_FACTOR = 1.5
"""A worker that one image holds up for so many times the processor time it may take ends. That is no verdict:
the sandbox gives it, as for an image that takes less and yet too long, so a busy machine costs time, never an
image."""
SANDBOXED_ATTEMPTS = 3
"""A shard that ended so many workers decodes in the sandbox from its first image to its last."""
MAX_ATTEMPTS = 8
"""No image is to blame for the end of so many; one of another shard, in the same worker, may be for a few."""
NOTE_EVERY_S = 5.0


class Watch:
    """Watches the images of one shard while they decode, over all attempts on one node."""

    def __init__(
        self, name: str, shard: str, num_images: int, timeout_s: float, note: Callable[[], None]
    ) -> None:
        """`name` is that of the file; `shard` says in words which it is; `note` shows that work goes on.

        Raises RunFailedError where MAX_ATTEMPTS ended their workers.
        """
        self._path = Path(tempfile.gettempdir()) / f"maskbatch-{name}"
        self._timeout_s, self._note, self._noted = timeout_s, note, float("-inf")
        self._marks = _map(self._path, 1 + num_images)
        """The number of attempts, and for each image whether it was at work when one ended.

        An attempt that did not `finish` counts as one that ended its worker. So it is while Ray tries again
        only after its own failures: an exception of ours ends the run.
        """
        self.num_ended, self._sandbox = self._marks[0], Sandbox(timeout_s)
        """Workers that earlier attempts at this shard ended."""
        if self.num_ended >= MAX_ATTEMPTS:
            self.finish()
            what = f"{shard} ended its worker {MAX_ATTEMPTS} times, and no image is to blame"
            raise RunFailedError(f"{what}; --verbose shows the workers' logs, the same command goes on")
        self._marks[0] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sandbox.close()

    def finish(self) -> None:
        """The shard is done; another attempt at it would be a first one."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def decode(self, number: int, data: bytes, shape: Shape, max_pixels: int) -> Picture:
        """As `decode_image`, of the image at place `number` of the shard."""
        if not self._marks[1 + number] and self.num_ended < SANDBOXED_ATTEMPTS:
            began = time.monotonic()
            decoded = self._decode_here(number, data, shape, max_pixels)
            if time.monotonic() - began < self._timeout_s:  # and so its processor time
                if isinstance(decoded, ImageError):
                    raise decoded
                return decoded
        if time.monotonic() - self._noted > NOTE_EVERY_S:
            self._note()
            self._noted = time.monotonic()
        return self._sandbox.decode(data, shape, max_pixels)

    def _decode_here(self, number: int, data: bytes, shape: Shape, max_pixels: int) -> Picture | ImageError:
        self._marks[1 + number] = 1
        # Of the wall alone: each call takes 4 us in a sandboxed kernel, and an image 1,000 and more.
        signal.setitimer(signal.ITIMER_REAL, WALL_FACTOR * self._timeout_s)
        try:
            return decode_image(data, shape, max_pixels)
        except ImageError as error:
            return error
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._marks[1 + number] = 0


def forget(call: str) -> None:
    """Remove the files of one driver's shards that this node still has."""
    for path in Path(tempfile.gettempdir()).glob(f"maskbatch-{call}-*"):
        with suppress(OSError):
            path.unlink()


def _map(path: Path, size: int) -> mmap.mmap:
    """The file, made of zeros if it is not there; memory that ends with this process where none can be."""
    with suppress(OSError):
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        with open(number, "r+b") as file:
            if os.fstat(number).st_size != size:
                file.write(bytes(size))  # not truncate: a full disk must fail here, not at a store to memory
                file.flush()
            return mmap.mmap(number, size)
    return mmap.mmap(-1, size)
