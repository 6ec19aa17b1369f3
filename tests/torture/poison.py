"""Images that crash, hang or swell their worker, scattered over an archive: the run ends, and names them."""

import random
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import save_untrained, table_of
from tests.maskbatch.samples import speckle, write_files
from tests.poison import many_scans, poison, write_hook
from tests.torture.command import call
from tests.torture.table import Promise

NUM_SOUND = 500
EACH = 3
STATUSES = {
    "crash": {"corrupt"},
    "kill": {"corrupt"},
    "swell": {"corrupt", "too_large"},
    "sleep": {"timeout"},
    "scans": {"timeout", "too_large"},
}
"""By kind of poison, what its row may say."""


def feed(folder: Path, chance: random.Random, _: int) -> Iterator[Promise]:
    """Score an archive with EACH images of every kind."""
    sound = {f"{k:03d}.jpg": speckle(k) for k in range(NUM_SOUND)}
    places = chance.sample(sorted(sound), EACH * len(STATUSES))
    kinds = dict(zip(places, sorted(STATUSES) * EACH, strict=True))
    bad = {place: _make(kind, sound[place]) for place, kind in kinds.items()}
    archive = write_files(folder / "archive", sound | bad)
    hook = write_hook(folder / "hook")
    flags = ("--checkpoint", save_untrained(folder, (32, 32)), "--decode-timeout-s", 1)
    paths = f"{hook}:{Path(__file__).parents[2]}"
    done = call("score", archive, "--out", folder / "out", *flags, PYTHONPATH=paths)
    if done.returncode:
        print(done.stderr)
        yield Promise("A run with images that end their worker ends by itself", len(kinds), len(kinds))
        return
    rows = {row["uri"].rpartition("/")[2]: row["status"] for row in table_of(folder / "out").to_pylist()}
    broke = sum(rows.pop(place) not in STATUSES[kind] for place, kind in kinds.items())
    yield Promise("An image that ends its worker becomes its own row", len(kinds), broke, ", ".join(STATUSES))
    broke = sum(status != "ok" for status in rows.values())
    yield Promise("Every other image of such a run is scored", NUM_SOUND - len(kinds), broke)


def _make(kind: str, sound: bytes) -> bytes:
    return many_scans((8000, 8000), 50) if kind == "scans" else poison(sound, kind)
