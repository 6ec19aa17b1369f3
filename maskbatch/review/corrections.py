"""What people say of images: each judgement is a new object in corrections/, and none ever changes.

The latest judgement of each person on each image counts; where those of several people differ, the image is
disputed. A judgement without a label says nothing: the image was skipped, or an earlier judgement taken back.
"""

import uuid
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from maskbatch.errors import UsageError
from maskbatch.progress import step
from maskbatch.review.queue import STRATA
from maskbatch.runs.committed import CommittedRun
from maskbatch.runs.versions import list_versions
from maskbatch.stores.files import (
    Location,
    explain,
    list_names,
    num_threads,
    open_file,
    store_errors,
    write_whole,
)

SCHEMA = pa.schema(
    pa.field(name, kind, nullable=name == "label")
    for name, kind in (
        ("uri", pa.string()), ("sha256", pa.string()), ("region", pa.int16()), ("label", pa.string()),
        ("was", pa.string()), ("by", pa.string()), ("at", pa.timestamp("us", tz="UTC")),
        ("stratum", pa.string()), ("probability", pa.float64()),
    )
)  # fmt: skip
"""`label`: the person's, null for none; `was`: the classifier's; `by`, `at`: who and when; `stratum` and
`probability` as in the review queue."""
MANY = 100
"""So many take time to read, so progress is shown."""
IMAGE = ["uri", "sha256", "region"]
"""What identifies an image, or a face in one; by its sha256 a changed picture is another image."""


def identify(row: Mapping[str, Any]) -> tuple[str, str, int]:
    """The values of IMAGE in a row of a queue or of judgements; a queue of whole pictures has no regions."""
    return row["uri"], row["sha256"], row.get("region", 0)


def write_judgement(folder: Location, row: Mapping[str, Any], after: datetime | None = None) -> datetime:
    """Write one judgement to `folder`, whole or not at all, and return its time. Raises RunFailedError.

    The time is now, but always later than `after`, the person's last judgement of the image: a clock may be
    set back.
    """
    at = datetime.now(UTC)
    if after is not None:
        at = max(at, after + timedelta(microseconds=1))
    table = pa.Table.from_pylist([{**row, "at": at}], SCHEMA)
    name = f"{at:%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex}.parquet"
    with write_whole(folder / name, exclusive=True, durable=True) as partial:
        pq.write_table(table, partial)
    return at


def read_judgements(folder: Location, chosen: Collection[str] | None = None) -> pa.Table:
    """All judgements in `folder` by time, or those in the objects `chosen` by name. Raises UsageError."""
    names = list_objects(folder) if chosen is None else sorted(chosen)
    progress = step("corrections", len(names), "judgements") if len(names) >= MANY else nullcontext()
    with progress as shown, ThreadPoolExecutor(num_threads(folder)) as pool:
        parts = [SCHEMA.empty_table()]
        for part in pool.map(lambda name: _read(folder / name), names):
            parts.append(part)
            if shown:
                shown.advance(1)
    return pa.concat_tables(parts).sort_by("at")


def list_objects(folder: Location) -> list[str]:
    """The names of the objects in `folder`, none where there is no folder."""
    return [name for name in list_names(folder) if name.endswith(".parquet") and not name.startswith(".")]


def _read(path: Location) -> pa.Table:
    try:
        with open_file(path) as file:
            table = pq.read_table(file, columns=SCHEMA.names).cast(SCHEMA)
        for row in table.select(["stratum", "probability"]).to_pylist():
            if row["stratum"] not in STRATA or not 0 < row["probability"] <= 1:
                raise ValueError(f"not of the review queue: {row}")
        return table
    except (pa.ArrowException, KeyError, ValueError, *store_errors()) as error:
        message = f"{path} is not a correction ({explain(error)}); restore it, or move it away"
        raise UsageError(message) from error


def read_run_judgements(run: CommittedRun) -> pa.Table:
    """The judgements of a run and of the versions that it replaces. Raises UsageError."""
    folders = list_folders(run)
    return pa.concat_tables([read_judgements(folder) for folder in folders])


def list_folders(run: CommittedRun) -> list[Location]:
    """The folders corrections/ of a run and of the versions before it, the oldest first.

    A version that looked for faces in another way is left out: its regions are other faces.
    """
    versions = list_versions(run.run) if run.settings.replaces else [run.run]
    paths = [str(version.path) for version in versions]
    earlier = [(version, version.find_run()) for version in versions[: paths.index(str(run.run.path))]]
    found_by = run.settings.found_by
    same = [version for version, settings in earlier if settings and settings.found_by == found_by]
    return [version.corrections for version in (*same, run.run)]


def find_latest_judgements(rows: pa.Table) -> pd.DataFrame:
    """The latest row of each person on each image, also where it has no label."""
    frame = rows.to_pandas().sort_values("at", kind="stable")
    return frame.drop_duplicates([*IMAGE, "by"], keep="last").reset_index(drop=True)


def find_disputes(judgements: pd.DataFrame) -> pd.DataFrame:
    """The latest judgements of images that have more than one label."""
    labels = judgements.groupby(IMAGE)["label"].transform("nunique")
    return judgements[labels > 1].dropna(subset="label").reset_index(drop=True)
