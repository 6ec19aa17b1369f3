"""The demo's archive on the disk: drawn with every core, some files spoilt, and its truth beside it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import cos, pi
from multiprocessing import get_context
from os import cpu_count
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from maskbatch.errors import UsageError
from maskbatch.progress import step
from maskbatch.stores.files import write_whole

SPOILT = ("truncated", "corrupt", "unsupported")


class Drawn(Protocol):
    """A file of the archive; path: below it."""

    @property
    def path(self) -> str: ...


File = TypeVar("File", bound=Drawn)


def draw_archive(
    out: Path, files: Sequence[File], draw: Callable[[Path, File], list[dict[str, Any]]]
) -> pa.Table:
    """Draw `files` below `out`/archive unless they are there, and return their truth.

    `draw` draws one file below the archive and returns its rows of `out`/truth.parquet.
    """
    archive, truth_path, unfinished = out / "archive", out / "truth.parquet", out / ".drawing"
    if truth_path.exists():
        truth = pq.read_table(truth_path)
        paths = list(dict.fromkeys(truth["path"].to_pylist()))
        if paths != [file.path for file in files]:
            raise UsageError(f"{out} holds a demo of {len(paths)} images; name another --out")
        return truth
    if archive.exists() and any(archive.iterdir()) and not unfinished.exists():
        raise UsageError(f"{archive} is not empty and holds no demo; name another --out")
    archive.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    (archive / "README.txt").write_text("Drawn by maskbatch demo; no real people.\n")
    truth = pa.Table.from_pylist(_draw_files(archive, files, draw))
    with write_whole(truth_path) as partial_file:
        pq.write_table(truth, partial_file)
    unfinished.unlink()
    return truth


def _draw_files(
    archive: Path, files: Sequence[File], draw: Callable[[Path, File], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Draw with every core."""
    rows = []
    pool = ProcessPoolExecutor(cpu_count(), get_context("spawn"))
    with pool, step("draw", len(files)) as progress:
        for drawn in pool.map(partial(draw, archive), files, chunksize=16):
            rows += drawn
            progress.advance()
    return rows


def daylight(hour: float) -> float:
    """How light it is: 1.17 at half past one in the afternoon, 0.07 twelve hours later."""
    return 0.62 - 0.55 * cos(2 * pi * (hour - 1.5) / 24)


def choose_spoilt(number: int, every: int) -> str | None:
    """How file `number` is spoilt, if it is: one of `every`, in turn in the ways of SPOILT."""
    return SPOILT[number // every % len(SPOILT)] if number % every == every // 2 else None


def save_picture(archive: Path, path: str, picture: Image.Image, *, dark: bool, spoilt: str | None) -> None:
    """Save a JPEG at `path` below `archive`, as of a dark room, or spoilt, if so asked."""
    if dark:
        picture = picture.point(lambda value: value // 20)
    target = archive / path
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, quality=88)
    if spoilt:
        target.write_bytes(spoil(target.read_bytes(), spoilt))


def spoil(data: bytes, how: str) -> bytes:
    """Spoil a file as a full disk, a bad cable or a failed download does."""
    middle = len(data) // 2
    return {
        "truncated": data[:middle],
        "corrupt": data[:middle] + b"\0" * 2000 + data[middle + 2000 :],
        "unsupported": b"<html><body>502 Bad Gateway</body></html>",
    }[how]
