"""A row against the same image scored again."""

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskbatch.schema import MAY_HEAL
from maskbatch.stores.files import write_json
from maskbatch.verify.compare import compare_images
from maskbatch.verify.files import check_run
from maskbatch.verify.result import Difference, Verification
from tests.maskbatch.samples import Run, edit_json, read_scores


@pytest.mark.parametrize(("gap", "differs"), [(0.0, False), (0.019, False), (0.021, True), (0.3, True)])
def test_another_label_is_a_difference_unless_the_two_best_are_close(gap: float, differs: bool) -> None:
    probs = {"prob_a": 0.35 + gap / 2, "prob_b": 0.35 - gap / 2, "prob_c": 0.3}
    row = {"file": "f", "id": 3, "uri": "u", "status": "ok", "sha256": "x", "label": "a", **probs}
    found = Verification(success_sha256="", seed=0)
    compare_images([{**row, "label": "b"}], [row], ("a", "b", "c"), found)
    assert found.differences == ([Difference("f", 3, "label of u", "b", "a")] if differs else [])


@pytest.mark.parametrize("status", MAY_HEAL)
def test_a_failure_that_may_heal_is_counted_and_no_difference(status: str) -> None:
    old = dict.fromkeys(("file", "id", "uri", "sha256", "error")) | {"status": status}
    found = Verification(success_sha256="", seed=0)
    for now in ("ok", "corrupt", "read_error"):
        compare_images([old], [old | {"status": now}], (), found)
    assert (found.sampled, found.healed, found.still_failing, found.verified) == (3, 1, 2, True)
    assert "2 failed in the run, and do so still. 1 failed in the run, and can be read now." in str(found)


def sampled(**values: object) -> dict[str, object]:
    columns = ("file", "id", "uri", "error", "captured_at", "captured_local", "time_source")
    return dict.fromkeys(columns) | {"status": "corrupt", "sha256": "x"} | values


@pytest.mark.parametrize(
    ("old", "new", "counted"),
    [
        ({"status": "corrupt"}, {"status": "ok"}, (1, 0)),
        ({"status": "ok"}, {"status": "corrupt"}, (1, 0)),
        ({"status": "corrupt"}, {"status": "unsupported"}, (1, 0)),
        ({"status": "truncated", "sha256": None}, {"status": "ok"}, (1, 0)),
        ({}, {"captured_at": 5, "captured_local": 6, "time_source": "exif"}, (0, 1)),
    ],
)
def test_what_newer_decode_rules_say_of_an_older_row_is_counted_and_no_difference(
    old: dict[str, object], new: dict[str, object], counted: tuple[int, int]
) -> None:
    for is_older in (True, False):
        found = Verification(success_sha256="", seed=0)
        compare_images([sampled(**old)], [sampled(**new)], (), found, is_older=is_older)
        assert found.verified == is_older
        assert (found.changed_status, found.changed_time) == (counted if is_older else (0, 0))
        assert ("1 of 1 changed" in str(found)) == is_older


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"status": "ok"}, {"status": "missing", "sha256": None}),  # the image is gone
        ({"status": "ok"}, {"status": "corrupt", "sha256": "y"}),  # its bytes are others
        ({"status": "unsupported", "sha256": None}, {"status": "read_error", "sha256": None}),
        ({"status": "corrupt"}, {"sha256": "y"}),
    ],
)
def test_decode_rules_explain_no_other_bytes(old: dict[str, object], new: dict[str, object]) -> None:
    found = Verification(success_sha256="", seed=0)
    compare_images([sampled(**old)], [sampled(**new)], (), found, is_older=True)
    assert found.num_differences == 1


def test_another_probability_of_an_ok_row_is_a_difference_under_any_rules() -> None:
    old = sampled(status="ok", label="a", prob_a=0.9, prob_b=0.1)
    found = Verification(success_sha256="", seed=0)
    compare_images([old], [old | {"prob_a": 0.6, "prob_b": 0.4}], ("a", "b"), found, is_older=True)
    assert found.num_differences == 1


def test_rows_of_older_decode_rules_that_read_otherwise_now_do_not_fail_a_run(
    committed: Run, tmp_path: Path
) -> None:
    made = committed.copy(tmp_path / "run")
    for rules, changed in ((1, 3), (2, 0)):
        edit_json(made.run.run_json, decode_rules=rules)
        path = made.run.scores / "date=2026-10-01" / "part-000000000000.parquet"
        rows = pq.read_table(path, partitioning=None)
        ok = [status == "ok" for status in rows["status"].to_pylist()]
        places = [k for k, sound in enumerate(ok) if sound][:3] if rules == 1 else []
        rows = pa.Table.from_pylist(
            [spoil(row) if k in places else row for k, row in enumerate(rows.to_pylist())], rows.schema
        )
        pq.write_table(rows, path)
        sign(made)
        found = check_run(made.run, sample=102, seed=1)
        assert (found.changed_status, found.verified) == (changed, rules == 1), found.differences


def spoil(row: dict[str, Any]) -> dict[str, Any]:
    """As if the image had been called corrupt."""
    names = [name for name in row if name.startswith("prob_")]
    gone = dict.fromkeys(["label", "confidence", *names])
    return row | gone | {"status": "corrupt", "error": "of old", "needs_review": False}


def sign(made: Run) -> None:
    """Make _SUCCESS list the files as they are, and their statuses."""
    success = made.run.read_success()
    files = []
    for file in success.files:
        data = (made.run.path / file.name).read_bytes()
        files.append(replace(file, num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    statuses = dict(Counter(read_scores(made.run)["status"].to_pylist()))
    write_json(made.run.success, replace(success, files=tuple(files), statuses=statuses).to_json())
