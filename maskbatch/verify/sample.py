"""Read images of a committed run again, score them in this process, and compare."""

from collections.abc import Callable, Mapping, Sequence
from math import isclose
from typing import Any

import numpy as np
import pyarrow as pa

from maskbatch.config import DECODE_RULES, JobConfig
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint
from maskbatch.model.classifier import Classifier
from maskbatch.progress import step
from maskbatch.runs.committed import CommittedRun
from maskbatch.schema import MAY_HEAL
from maskbatch.score.read import READ_COLUMNS, read_images
from maskbatch.score.rows import make_rows
from maskbatch.score.sandbox import open_sandbox
from maskbatch.stores.options import StorageOptions
from maskbatch.verify.result import Verification

TOLERANCE = 0.02
"""Between probabilities of one image on two devices; with its two best so close, the label may differ."""
MEASURE_TOLERANCE = 1e-3
"""Between brightness, contrast and sharpness by two versions of a JPEG library, absolute or relative."""
ELSEWHERE = ("id", "uri", "site", "camera", "error", "label", "confidence", "needs_review")
"""Columns that `rows` checks, and `error`, which is in a library's words."""
FROM_EXIF = ("captured_at", "captured_local", "time_source")
CHUNK_ROWS = 256
"""Images read and scored at a time."""
Row = Mapping[str, Any]


def check_sample(
    run: CommittedRun,
    devices: Any,
    result: Verification,
    rows: pa.Table,
    planned: pa.Table,
    moved: str | None,
    options: StorageOptions,
) -> None:
    """Compare `rows` with what their images, by the same rows of the plan, give now.

    `devices` is what `_SUCCESS` says, right or wrong; `moved` is where the checkpoint lies now.
    """
    opened = _open_checkpoint(run, result, moved)
    if opened is None:
        return
    config, access, clock = run.score, run.open_access(options), run.clock
    dtype = _choose_dtype(devices, config.dtype, result)
    classifier = Classifier(opened, dtype=dtype, batch_size=config.batch_size)
    sandbox = open_sandbox((run.settings.job or JobConfig()).decode_timeout_s)
    with step("sample", len(rows)) as shown:
        for start in range(0, len(rows), CHUNK_ROWS):
            was = rows.slice(start, CHUNK_ROWS)
            plan = planned.slice(start, CHUNK_ROWS)
            encoded = read_images(plan.select(READ_COLUMNS).to_pylist(), access, config.max_bytes)
            decoded = sandbox.decode_batch(encoded, len(was), opened.card.preset, config.max_pixels)
            probs = classifier.probs(decoded.images_NHWC)
            again = make_rows(plan, decoded, probs, opened.card, clock)
            pairs = list(zip(was.to_pylist(), again.to_pylist(), strict=True))
            readable = [new for old, new in pairs if old["sha256"]]
            if readable and not any(new["sha256"] for new in readable):
                got = f"none ({readable[0]['error']}); --sample 0 checks the files alone"
                archives = ", ".join(run.settings.plan.archives)
                result.differ(archives, "images read again", len(readable), got)
                return
            for (old, new), reused in zip(pairs, plan["reuse_run"].to_pylist(), strict=True):
                is_older = _rules_of(run, reused) < DECODE_RULES
                _compare(old, new, opened.card.classes, result, is_older=is_older)
            shown.advance(len(was))


def _choose_dtype(devices: Any, configured: str, result: Verification) -> str:
    """The dtype that scored the most shards; the configured one where `devices` does not say."""
    if isinstance(devices, dict) and all(isinstance(count, int) for count in devices.values()):
        dtype = max(devices, key=devices.__getitem__, default=configured).rpartition("/")[2]
        if dtype in ("auto", "bfloat16", "float32"):
            return dtype
    result.differ("_SUCCESS", "devices", "shards by device/dtype", devices)
    return configured


def _open_checkpoint(run: CommittedRun, result: Verification, moved: str | None) -> Checkpoint | None:
    """The run's checkpoint, at `moved`, or where it was or in the package; None where it is not."""
    recorded, got = run.checkpoint.path, ""
    for path in (moved,) if moved else (recorded, None):
        try:
            opened = open_checkpoint(path)
        except UsageError as error:
            got = got or str(error)
            continue
        if opened.digest == run.digest:
            return opened
        got = got or opened.digest
    result.differ(moved or recorded, "sha256 of the checkpoint", run.digest, got)
    return None


def _rules_of(run: CommittedRun, reused: int | None) -> int:
    """The decode rules of a row that is carried over from the run `reused`, or of one that is not."""
    return run.settings.decode_rules if reused is None else run.settings.reuse[reused].decode_rules


def _compare(
    old: Row, new: Row, classes: Sequence[str], result: Verification, *, is_older: bool = False
) -> None:
    """Compare a committed row with the same image read and scored again.

    Of a row that `is_older` than our decode rules, another status or time from EXIF is only counted.
    """
    result.sampled += 1

    def differ(what: str, expected: object, got: object) -> None:
        result.differ(old["file"], f"{what} of {old['uri']}", expected, got, old["id"])

    failed = old["status"] != "ok"
    result.still_failing += failed and new["status"] != "ok"
    if old["status"] != new["status"]:
        result.healed += old["status"] in MAY_HEAL and new["status"] == "ok"
        if old["status"] not in MAY_HEAL and is_older and _is_of_rules(old, new):
            result.changed_status += 1
        elif old["status"] not in MAY_HEAL:
            why = f" ({new['error']})" if new["error"] else ""
            differ("status", old["status"], f"{new['status']}{why}")
        return
    if old["sha256"] != new["sha256"]:
        differ("sha256", old["sha256"], new["sha256"])
        return
    changed_time = is_older and any(old[name] != new[name] for name in FROM_EXIF)
    result.changed_time += changed_time
    passed = (*ELSEWHERE, *FROM_EXIF) if changed_time else ELSEWHERE
    for name in new:
        if name not in passed and not name.startswith("prob_") and not _alike(old[name], new[name]):
            differ(name, old[name], new[name])
    if not failed:
        _compare_probs(old, new, classes, result, differ)


def _is_of_rules(old: Row, new: Row) -> bool:
    """Whether other decode rules may explain another status: the bytes came, and are the same."""
    same_bytes = old["sha256"] in (None, new["sha256"])
    return same_bytes and new["status"] not in ("missing", "read_error")


def _alike(old: object, new: object) -> bool:
    if isinstance(old, float) and isinstance(new, float):
        return isclose(old, new, rel_tol=MEASURE_TOLERANCE, abs_tol=MEASURE_TOLERANCE)
    return old == new


def _compare_probs(
    old: Row, new: Row, classes: Sequence[str], result: Verification, differ: Callable[..., None]
) -> None:
    """Compare the probabilities of an ok row, and its label unless two classes are close."""
    result.rescored += 1
    probs, again = (np.array([row[f"prob_{name}"] for name in classes], float) for row in (old, new))
    apart = np.abs(probs - again)
    worst = int(apart.argmax())  # a null is NaN, which argmax takes for the most
    result.bit_equal += bool((apart == 0).all())
    result.largest_difference = max(result.largest_difference, float(np.nanmax(apart, initial=0)))
    if not apart[worst] <= TOLERANCE:
        differ(f"prob_{classes[worst]}", f"{probs[worst]:.6g}", f"{again[worst]:.6g}")
    named = again[[name == old["label"] for name in classes]].max(initial=0)
    if old["label"] != new["label"] and again.max() - named > TOLERANCE:
        differ("label", old["label"], new["label"])
