"""Read images of a committed run again, score them in this process, and compare."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from maskbatch.config import DECODE_RULES, JobConfig
from maskbatch.decode.images import Decoded, describe
from maskbatch.decode.sandbox import open_sandbox
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
from maskbatch.score.scene import DecodedFrame, cut_face
from maskbatch.stores.options import StorageOptions
from maskbatch.verify.compare import Finding, compare_images
from maskbatch.verify.result import Verification
from maskbatch.verify.tolerance import TOLERANCES, Row

File = TypeVar("File", Checkpoint, DetectorFile)
CHUNK_ROWS = 256
"""Images read and scored at a time."""
CHUNK_SCENES = 16
"""Of these, whole scenes: their frames, of some 3 MB, are used twice."""


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
    result.decoder, tolerance = run.score.decoder, TOLERANCES[run.score.decoder]
    config, access, clock = replace(run.score, decoder="cpu"), run.open_access(options), run.clock
    dtype = _choose_dtype(devices, config.dtype, result)
    networks = Networks(*files, config, dtype=dtype)
    card, finding = networks.card, None
    if run.detector and config.detect_px:
        is_exact = dtype == "float32" and isinstance(devices, dict) and networks.device in devices
        is_exact &= result.decoder == "cpu"
        finding = Finding(run.detector.card["threshold"], config.detect_px, is_exact, tolerance)
    chunk_rows = CHUNK_SCENES if finding else CHUNK_ROWS
    sandbox = open_sandbox((run.settings.job or JobConfig()).decode_timeout_s)
    with step("sample", len(planned)) as shown:
        for start in range(0, len(planned), chunk_rows):
            plan = planned.slice(start, chunk_rows)
            encoded = read_images(plan.select(READ_COLUMNS).to_pylist(), access, config.max_bytes)
            pixels = decode_pixels(
                encoded, len(plan), card.preset, config, lambda _, *image: sandbox.decode(*image)
            )
            was = _group_rows(rows.filter(pc.is_in(rows["id"], plan["id"].combine_chunks())))
            pixels = pixels if isinstance(pixels, Decoded) else list(pixels)
            again = _group_rows(networks.score(plan, pixels, clock))
            own = _judge_boxes(was, plan, pixels, networks) if isinstance(pixels, list) else {}
            readable = [again[image][0] for image, old in was.items() if old[0]["sha256"]]
            if readable and not any(row["sha256"] for row in readable):
                got = f"none ({readable[0]['error']}); --sample 0 checks the files alone"
                archives = ", ".join(run.settings.plan.archives)
                result.differ(archives, "images read again", len(readable), got)
                return
            for image, reused in zip(plan["id"].to_pylist(), plan["reuse_run"].to_pylist(), strict=True):
                is_older = _rules_of(run, reused) < DECODE_RULES
                compare_images(
                    was[image],
                    again[image],
                    card.classes,
                    result,
                    finding,
                    own.get(image, []),
                    tolerance=tolerance,
                    is_older=is_older,
                )
            shown.advance(len(plan))
    result.check_far_apart()


def _group_rows(rows: pa.Table) -> dict[int, list[Row]]:
    """The rows of each image, its faces from left to right after it, by id."""
    ordered = rows.sort_by([("id", "ascending"), ("region", "ascending")]).to_pylist()
    return {image: list(group) for image, group in groupby(ordered, key=itemgetter("id"))}


def _judge_boxes(
    was: Mapping[int, list[Row]], plan: pa.Table, frames: Sequence[DecodedFrame], networks: Networks
) -> dict[int, list[Row]]:
    """By id, for each committed face what its box holds now: measures, label, probabilities."""
    preset, classes = networks.card.preset, networks.card.classes
    crops = {
        image: [cut_face(frame, face["box"], preset) for face in was[image] if face["region"] > 0]
        for image, (_, frame) in zip(plan["id"].to_pylist(), frames, strict=True)
        if frame
    }
    probs_MK = iter(networks.classifier.probs_of_each(map(np.asarray, chain(*crops.values()))))

    def judge(crop: Image.Image) -> Row:
        probs_K = next(probs_MK)
        probs = {f"prob_{name}": float(prob) for name, prob in zip(classes, probs_K, strict=True)}
        return {**describe(crop), **probs, "label": classes[int(probs_K.argmax())]}

    return {image: list(map(judge, own)) for image, own in crops.items()}


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
