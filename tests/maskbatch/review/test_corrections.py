from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskbatch.errors import RunFailedError, UsageError
from maskbatch.review import corrections
from maskbatch.runs.committed import open_committed
from tests.maskbatch.samples import Run, edit_json

ROW: dict[str, Any] = {
    "uri": "file:///a/1.jpg",
    "sha256": "ab" * 32,
    "region": 0,
    "label": "with_mask",
    "was": "without_mask",
    "by": "ann",
    "stratum": "random",
    "probability": 0.25,
}


def test_a_judgement_is_one_new_object_that_reads_as_it_was_written(tmp_path: Path) -> None:
    corrections.write_judgement(tmp_path / "corrections", ROW)
    corrections.write_judgement(tmp_path / "corrections", ROW | {"label": None})
    rows = corrections.read_judgements(tmp_path / "corrections")
    assert rows.schema == corrections.SCHEMA
    assert [row | {"at": None} for row in rows.to_pylist()] == [
        ROW | {"at": None},
        ROW | {"label": None, "at": None},
    ]
    assert len(list((tmp_path / "corrections").iterdir())) == 2


def test_no_folder_is_no_correction(tmp_path: Path) -> None:
    assert corrections.read_judgements(tmp_path / "nothing") == corrections.SCHEMA.empty_table()


def test_only_the_objects_that_are_asked_for_are_read(tmp_path: Path) -> None:
    corrections.write_judgement(tmp_path, ROW)
    known = corrections.list_objects(tmp_path)
    corrections.write_judgement(tmp_path, ROW | {"by": "bob"})
    new = set(corrections.list_objects(tmp_path)) - set(known)
    assert corrections.read_judgements(tmp_path, new)["by"].to_pylist() == ["bob"]


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: corrections.write_judgement(tmp_path, ROW | {"by": f"p{k}"}), range(40)))
    assert sorted(corrections.read_judgements(tmp_path)["by"].to_pylist()) == sorted(
        f"p{k}" for k in range(40)
    )


def test_the_last_word_of_each_person_counts_and_different_words_are_a_dispute(tmp_path: Path) -> None:
    for by, label in (("ann", "with_mask"), ("bob", "with_mask"), ("ann", "without_mask"), ("eve", None)):
        corrections.write_judgement(tmp_path, ROW | {"by": by, "label": label})
    for label in ("with_mask", None):
        corrections.write_judgement(tmp_path, ROW | {"uri": "file:///a/2.jpg", "label": label})
    words = corrections.find_latest_judgements(corrections.read_judgements(tmp_path))
    said = {(row.uri[-5], row.by): row.label for row in words.replace({float("nan"): None}).itertuples()}
    assert said == {
        ("1", "ann"): "without_mask",
        ("1", "bob"): "with_mask",
        ("1", "eve"): None,
        ("2", "ann"): None,
    }
    assert set(corrections.find_disputes(words)["by"]) == {"ann", "bob"}


def test_a_later_word_counts_where_the_clock_was_set_back(tmp_path: Path) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    corrections.write_judgement(tmp_path, ROW, after=ahead)
    corrections.write_judgement(
        tmp_path, ROW | {"label": None}, after=corrections.read_judgements(tmp_path)["at"][0].as_py()
    )
    (word,) = corrections.find_latest_judgements(corrections.read_judgements(tmp_path)).itertuples()
    assert (pd.isna(word.label), word.at - ahead) == (True, timedelta(microseconds=2))


def test_a_picture_that_changed_is_another_image(tmp_path: Path) -> None:
    corrections.write_judgement(tmp_path, ROW)
    corrections.write_judgement(tmp_path, ROW | {"sha256": "cd" * 32, "label": "no_face", "by": "bob"})
    words = corrections.find_latest_judgements(corrections.read_judgements(tmp_path))
    assert len(words) == 2
    assert corrections.find_disputes(words).empty


def test_a_damaged_object_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"x\.parquet is not a correction .*move it away"):
        corrections.read_judgements(tmp_path)
    pq.write_table(pa.table({"uri": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(UsageError, match=r"x\.parquet is not a correction"):
        corrections.read_judgements(tmp_path)


@pytest.mark.parametrize("wrong", [{"probability": 0.0}, {"probability": 1.5}, {"stratum": "mine"}])
def test_no_image_is_queued_by_no_chance_or_in_another_stratum(tmp_path: Path, wrong: Any) -> None:
    corrections.write_judgement(tmp_path, ROW | wrong)
    with pytest.raises(UsageError, match=f"is not a correction .*{next(iter(wrong))}"):
        corrections.read_judgements(tmp_path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "corrections").write_text("a file in its place")
    with pytest.raises(RunFailedError, match="cannot write"):
        corrections.write_judgement(tmp_path / "corrections", ROW)


def test_of_a_version_that_looked_for_faces_in_another_way_no_word_counts(lobby: Run, tmp_path: Path) -> None:
    first, second = lobby.copy(tmp_path / "run"), lobby.copy(tmp_path / "run.v2")
    edit_json(second.run.run_json, replaces=str(first.run.path))
    corrections.write_judgement(first.run.corrections, ROW | {"region": 1})
    corrections.write_judgement(second.run.corrections, ROW | {"region": 2})
    settings = first.run.find_run()
    assert settings and settings.detector
    for digest, regions in ((settings.detector.digest, [1, 2]), ("0" * 64, [2])):
        detector = {"path": "a.safetensors", "digest": digest, "card": settings.detector.card}
        edit_json(first.run.run_json, detector=detector)
        words = corrections.read_run_judgements(open_committed(second.run))
        assert words["region"].to_pylist() == regions
