"""Read images of a committed run again, score them in this process, and compare."""

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from maskbatch.config import DECODE_RULES, JobConfig
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import (
    DETECTORS,
    Checkpoint,
    DetectorFile,
    open_checkpoint,
    open_detector,
)
from maskbatch.progress import step
from maskbatch.runs.committed import CommittedRun
from maskbatch.score.networks import Networks, decode_pixels
from maskbatch.score.read import READ_COLUMNS, read_images
from maskbatch.score.sandbox import open_sandbox
from maskbatch.stores.options import StorageOptions
from maskbatch.verify.compare import Finding, compare_images
from maskbatch.verify.result import Verification

File = TypeVar("File", Checkpoint, DetectorFile)
CHUNK_ROWS = 256
"""Images read and scored at a time."""


def check_sample(
    run: CommittedRun,
    devices: Any,
    result: Verification,
    rows: pa.Table,
    planned: pa.Table,
    moved: tuple[str | None, str | None],
    options: StorageOptions,
) -> None:
    """Compare `rows` with what their images, by the same rows of the plan, give now.

    `devices` is what `_SUCCESS` says, right or wrong; `moved` is where checkpoint and detector lie now.
    """
    files = _open_networks(run, result, *moved)
    if files is None:
        return
    config, access, clock = run.score, run.open_access(options), run.clock
    dtype = _choose_dtype(devices, config.dtype, result)
    networks = Networks(*files, config, dtype=dtype)
    card, finding = networks.card, None
    if run.detector and config.detect_px:
        finding = Finding(run.detector.card["threshold"], config.detect_px)
    sandbox = open_sandbox((run.settings.job or JobConfig()).decode_timeout_s)
    with step("sample", len(planned)) as shown:
        for start in range(0, len(planned), CHUNK_ROWS):
            plan = planned.slice(start, CHUNK_ROWS)
            encoded = read_images(plan.select(READ_COLUMNS).to_pylist(), access, config.max_bytes)
            pixels = decode_pixels(
                encoded, len(plan), card.preset, config, lambda _, *image: sandbox.decode(*image)
            )
            was = _group_rows(rows.filter(pc.is_in(rows["id"], plan["id"].combine_chunks())))
            again = _group_rows(networks.score(plan, pixels, clock))
            pairs = [(was[image], rows) for image, rows in again.items()]
            readable = [new[0] for old, new in pairs if old[0]["sha256"]]
            if readable and not any(row["sha256"] for row in readable):
                got = f"none ({readable[0]['error']}); --sample 0 checks the files alone"
                archives = ", ".join(run.settings.plan.archives)
                result.differ(archives, "images read again", len(readable), got)
                return
            for (old, new), reused in zip(pairs, plan["reuse_run"].to_pylist(), strict=True):
                is_older = _rules_of(run, reused) < DECODE_RULES
                compare_images(old, new, card.classes, result, finding, is_older=is_older)
            shown.advance(len(plan))


def _group_rows(rows: pa.Table) -> dict[int, list[dict[str, Any]]]:
    """The rows of each image, its faces from left to right after it, by id."""
    ordered = rows.sort_by([("id", "ascending"), ("region", "ascending")]).to_pylist()
    return {image: list(group) for image, group in groupby(ordered, key=itemgetter("id"))}


def _choose_dtype(devices: Any, configured: str, result: Verification) -> str:
    """The dtype that scored the most shards; the configured one where `devices` does not say."""
    if isinstance(devices, dict) and all(isinstance(count, int) for count in devices.values()):
        dtype = max(devices, key=devices.__getitem__, default=configured).rpartition("/")[2]
        if dtype in ("auto", "bfloat16", "float32"):
            return dtype
    result.differ("_SUCCESS", "devices", "shards by device/dtype", devices)
    return configured


def _open_networks(
    run: CommittedRun, result: Verification, checkpoint: str | None, detector: str | None
) -> tuple[Checkpoint, DetectorFile | None] | None:
    """The run's checkpoint and detector, where they lie now or did, or in the package; None without them."""
    places = [checkpoint] if checkpoint else [run.checkpoint.path, None]
    classifier = _find_file(Checkpoint.noun, open_checkpoint, places, run.digest, result)
    if run.detector is None:
        return (classifier, None) if classifier else None
    places = [detector] if detector else [run.detector.path, *DETECTORS]
    finder = _find_file(DetectorFile.noun, open_detector, places, run.detector.digest, result)
    return (classifier, finder) if classifier and finder else None


def _find_file(
    noun: str,
    open_file: Callable[[str | None], File],
    places: Sequence[str | None],
    digest: str,
    result: Verification,
) -> File | None:
    """The file of that sha256 at one of `places`; None, and a difference, where it is at none."""
    got = ""
    for path in places:
        try:
            opened = open_file(path)
        except UsageError as error:
            got = got or str(error)
            continue
        if opened.digest == digest:
            return opened
        got = got or opened.digest
    result.differ(str(places[0]), f"sha256 of the {noun}", digest, got)
    return None


def _rules_of(run: CommittedRun, reused: int | None) -> int:
    """The decode rules of a row that is carried over from the run `reused`, or of one that is not."""
    return run.settings.decode_rules if reused is None else run.settings.reuse[reused].decode_rules
