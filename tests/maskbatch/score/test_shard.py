import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from maskbatch import schema
from maskbatch.clock import Clock
from maskbatch.decode.images import Columns, decode_batch
from maskbatch.decode.source import Encoded
from maskbatch.errors import RunFailedError
from maskbatch.model.card import Preset
from maskbatch.score.rows import make_rows
from maskbatch.score.shard import Timed, read_shard, refuse_missing_archive
from tests.maskbatch.samples import CLASSES, NOW, SIZE, Run, draw, encode, make_card, with_exif_time

CARD = make_card()
CLOCK = Clock.parse(["Europe/Paris", "tokyo=Asia/Tokyo"], NOW)
SOUND = encode(draw(1))


def planned(num_rows: int, **columns: list[Any]) -> pa.Table:
    rows = {"id": list(range(7, 7 + num_rows)), "uri": [f"file:///{i}.jpg" for i in range(num_rows)]}
    rows |= {"encoding": ["raw"] * num_rows} | columns
    return pa.Table.from_pydict(
        {f.name: rows.get(f.name, [None] * num_rows) for f in schema.PLAN}, schema.PLAN
    )


def decode(*items: Encoded) -> Columns:
    return decode_batch(items, len(items), Preset(SIZE), 10**6).columns


def probs(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


SURE, UNSURE = [0.7, 0.1, 0.1, 0.1], [0.2, 0.4, 0.3, 0.1]


def test_an_ok_image_has_its_label_probabilities_and_confidence() -> None:
    decoded = decode(Encoded(SOUND, num_bytes=len(SOUND)), Encoded(SOUND, num_bytes=len(SOUND)))
    table = make_rows(planned(2), decoded, probs(SURE, UNSURE), CARD, CLOCK)
    assert table.schema == schema.scores(CLASSES)
    assert table["id"].to_pylist() == [7, 8]
    assert table["label"].to_pylist() == ["with_mask", "without_mask"]
    assert table["confidence"].to_pylist() == [pytest.approx(0.7), pytest.approx(0.4)]
    assert [table[f"prob_{name}"][1].as_py() for name in CLASSES] == pytest.approx(UNSURE)
    assert table["needs_review"].to_pylist() == [False, True]  # the card's threshold is 0.6
    assert set(table["region"].to_pylist()) == {0}
    assert table["box"].null_count == 2
    assert [name for name in table.schema.names if name.startswith("prob_")] == [
        f"prob_{name}" for name in CLASSES
    ]


@pytest.mark.parametrize(
    ("item", "status"),
    [
        (Encoded(None, "missing", "gone"), "missing"),
        (Encoded(None, "read_error", "I/O error"), "read_error"),
        (Encoded(None, "too_large", "too many bytes"), "too_large"),
        (Encoded(b"", num_bytes=0), "truncated"),
        (Encoded(b"<html>", num_bytes=6), "unsupported"),
    ],
)
def test_a_failed_image_has_a_reason_and_no_score(item: Encoded, status: str) -> None:
    (row,) = make_rows(planned(1), decode(item), probs(UNSURE), CARD, CLOCK).to_pylist()
    assert row["status"] == status
    assert row["error"]
    for name in ("label", "confidence", "width", "brightness", "dhash", *(f"prob_{c}" for c in CLASSES)):
        assert row[name] is None
    assert row["needs_review"] is False


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_output_that_is_no_number_is_a_score_error(bad: float) -> None:
    items = [Encoded(SOUND), Encoded(SOUND), Encoded(None, "missing", "gone")]
    rows = make_rows(
        planned(3), decode(*items), probs(SURE, [0.5, bad, 0, 0], [bad] * 4), CARD, CLOCK
    ).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "score_error", "missing"]
    assert [row["label"] for row in rows] == ["with_mask", None, None]
    assert rows[1]["prob_with_mask"] is rows[1]["confidence"] is None
    assert "finite" in rows[1]["error"]
    assert (rows[1]["width"], rows[1]["needs_review"]) == (160, False)


def test_making_rows_leaves_what_was_decoded_alone() -> None:
    decoded = decode(Encoded(SOUND))
    make_rows(planned(1), decoded, probs([float("nan")] * 4), CARD, CLOCK)
    assert decoded["status"] == ["ok"]


def test_the_bytes_read_stand_before_the_bytes_listed() -> None:
    items = [Encoded(SOUND, num_bytes=5), Encoded(None, "missing", "gone"), Encoded(b"", num_bytes=0)]
    table = make_rows(planned(3, num_bytes=[9, 9, 9]), decode(*items), probs(SURE, SURE, SURE), CARD, CLOCK)
    assert table["num_bytes"].to_pylist() == [5, 9, 0]


UTC_NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("in_path", "exif", "site", "expected"),
    [
        (UTC_NOON, "2020:01:01 00:00:00", None, (UTC_NOON, datetime(2026, 10, 1, 14), "path")),
        (UTC_NOON, None, "tokyo", (UTC_NOON, datetime(2026, 10, 1, 21), "path")),
        (None, "2026:10:01 14:00:00", None, (UTC_NOON, datetime(2026, 10, 1, 14), "exif")),
        (None, "2026:10:01 21:00:00", "tokyo", (UTC_NOON, datetime(2026, 10, 1, 21), "exif")),
        (None, "1970:01:01 00:00:00", None, (None, None, None)),
        (None, "2031:01:01 00:00:00", None, (None, None, None)),
        (None, None, None, (None, None, None)),
    ],
)
def test_exif_fills_a_time_that_the_path_lacks(
    in_path: datetime | None, exif: str | None, site: str | None, expected: tuple[Any, ...]
) -> None:
    data = SOUND if exif is None else with_exif_time(exif)
    plan = planned(1, captured_at=[in_path], site=[site], time_source=["path" if in_path else None])
    (row,) = make_rows(plan, decode(Encoded(data)), probs(SURE), CARD, CLOCK).to_pylist()
    assert (row["captured_at"], row["captured_local"], row["time_source"]) == expected


def test_a_shard_is_its_plan_rows_in_order_and_its_images_in_the_same(staged_session: Run) -> None:
    seen = []
    for shard in range(staged_session.work.num_shards):
        plan, encoded = read_shard(staged_session.work, shard)
        decoded = decode_batch(encoded, len(plan), Preset(SIZE), 10**6)
        assert plan["id"].to_pylist() == list(staged_session.work.ids(shard))
        assert len(decoded.images_NHWC) == len(plan) == len(decoded.columns["status"])
        sizes = zip(plan["num_bytes"].to_pylist(), decoded.columns["num_bytes"], strict=True)
        assert all(listed == read for listed, read in sizes)
        seen += plan["uri"].to_pylist()
    assert len(set(seen)) == staged_session.work.num_images == 102


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "another file"])
def test_an_archive_that_vanished_stops_the_run_and_a_missing_image_does_not(
    staged: Run, tmp_path: Path, left: str
) -> None:
    root = tmp_path / "share"
    if left != "nothing":
        root.mkdir()
    if left == "another file":
        (root / "x").touch()
    gone = replace(staged.work, archives=("s3://b/x", f"{tmp_path}/*.tar", str(root)))
    refuse_missing_archive(gone, ["ok", "read_error"])
    if left == "another file":
        refuse_missing_archive(gone, ["missing", "ok"])
    else:
        with pytest.raises(RunFailedError, match=f"archive {root} is gone; mount it again"):
            refuse_missing_archive(gone, ["missing", "ok"])


def test_what_a_manifest_says_of_an_image_travels_to_its_row() -> None:
    plan = planned(
        1, kept=["shift 2"], captured_at=[UTC_NOON], time_source=["manifest"], fetch=["https://h/x?s"]
    )
    table = make_rows(plan, decode(Encoded(SOUND)), probs(SURE), CARD, CLOCK, "shift")
    (row,) = table.to_pylist()
    assert (row["shift"], row["time_source"]) == ("shift 2", "manifest")
    assert "fetch" not in row and "kept" not in row


def test_waiting_for_bytes_is_told_from_what_is_done_with_them() -> None:
    def slow() -> Iterator[Encoded]:
        for _ in range(3):
            time.sleep(0.05)
            yield Encoded(b"")

    encoded = Timed(slow())
    began = time.perf_counter()
    for _ in encoded:
        time.sleep(0.1)
    elapsed = time.perf_counter() - began
    assert 0.14 <= encoded.seconds <= elapsed - 0.28  # the clocks of sleeping and of counting differ a little
