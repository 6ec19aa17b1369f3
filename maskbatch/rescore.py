"""Images of a committed run read from the archive and scored again, in this process, and compared."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from maskbatch.archive import access_of
from maskbatch.checkpoint import Checkpoint, open_checkpoint
from maskbatch.classifier import Classifier
from maskbatch.clock import Clock
from maskbatch.committed import Committed
from maskbatch.config import JobConfig, PlanConfig, ScoreConfig, make
from maskbatch.decode import decode_batch
from maskbatch.differences import Verification
from maskbatch.errors import UsageError
from maskbatch.plan import read_plan
from maskbatch.progress import step
from maskbatch.read import READ_COLUMNS, read_images
from maskbatch.rows import scores_rows
from maskbatch.stores import StorageOptions

TOLERANCE = 0.02
"""Between probabilities of one image on two devices; a label may differ where its two best are that close."""
HEALING = ("missing", "read_error", "timeout", "score_error")
"""Statuses that may be others when an image is read again."""
CHUNK_ROWS = 256
"""Images read and scored at a time."""

Row = Mapping[str, Any]


def check_sample(
    one: Committed, result: Verification, rows: pa.Table, moved: str | None, options: StorageOptions
) -> None:
    """Read the images of `rows` again, score them in this process, and compare."""
    opened = _open_checkpoint(one, result, moved)
    if opened is None:
        return
    plan_config = make(PlanConfig, one.settings["plan"])
    config = make(ScoreConfig, one.settings["score"])
    access = access_of(plan_config, options, make(JobConfig, one.settings["job"]))
    clock = Clock.parse(plan_config.timezone, datetime.fromisoformat(one.settings["created_at"]))
    devices = one.success["devices"]
    dtype = max(devices, key=devices.get, default=config.dtype).rpartition("/")[2]
    classifier = Classifier(opened, dtype=dtype, batch_size=config.batch_size)
    with step("sample", len(rows)) as shown:
        for start in range(0, len(rows), CHUNK_ROWS):
            was = rows.slice(start, CHUNK_ROWS)
            planned = pa.concat_tables([read_plan(one.run.plan, k, k + 1) for k in was["id"].to_pylist()])
            encoded = read_images(planned.select(READ_COLUMNS).to_pylist(), access, config.max_bytes)
            decoded = decode_batch(encoded, len(was), opened.card.preset, config.max_pixels)
            probs = classifier.probs(decoded.images_NHWC)
            again = scores_rows(planned, decoded, probs, opened.card, clock)
            pairs = list(zip(was.to_pylist(), again.to_pylist(), strict=True))
            readable = [new for old, new in pairs if old["sha256"]]
            if readable and not any(new["sha256"] for new in readable):
                got = f"none ({readable[0]['error']}); --sample 0 checks the files alone"
                result.differ(", ".join(plan_config.archives), "images read again", len(readable), got)
                return
            for old, new in pairs:
                _compare(old, new, opened.card.classes, result)
            shown.advance(len(was))


def _open_checkpoint(one: Committed, result: Verification, moved: str | None) -> Checkpoint | None:
    """The run's checkpoint, where it is now, where it was, or the packaged one; None where none is it."""
    recorded, got = one.settings["checkpoint"]["path"], ""
    for path in (moved,) if moved else (recorded, None):
        try:
            opened = open_checkpoint(path)
        except UsageError as error:
            got = got or str(error)
            continue
        if opened.digest == one.digest:
            return opened
        got = got or opened.digest
    result.differ(moved or recorded, "sha256 of the checkpoint", one.digest, got)
    return None


def _compare(old: Row, new: Row, classes: Sequence[str], result: Verification) -> None:
    """A committed row and the same image read and scored again."""
    result.sampled += 1

    def differ(what: str, expected: object, got: object) -> None:
        result.differ(old["file"], f"{what} of {old['uri']}", expected, got, old["id"])

    if old["status"] in HEALING:
        result.healed += new["status"] not in HEALING
        result.still_failing += new["status"] in HEALING
    elif old["status"] != new["status"]:
        why = f" ({new['error']})" if new["error"] else ""
        differ("status", old["status"], f"{new['status']}{why}")
    elif old["sha256"] != new["sha256"]:
        differ("sha256", old["sha256"], new["sha256"])
    elif old["status"] == "ok":
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
