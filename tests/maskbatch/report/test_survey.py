from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Checkpoint
from maskbatch.report.survey import Survey, _sort_day, survey_runs
from maskbatch.runs.committed import open_committed, open_together, order_files, read_files
from tests.maskbatch.samples import CLASSES, Run, read_scores, speckle, stage_run, write_files


def surveyed(*runs: Run) -> Survey:
    return survey_runs(open_together([run.run for run in runs]))


def by_condition(found: Survey) -> Counter[str | None]:
    counts: Counter[str | None] = Counter()
    for cell in found.cells.to_pylist():
        counts[cell["condition"]] += cell["count"]
    return counts


def test_the_cells_of_a_run_hold_every_planned_image(committed: Run) -> None:
    found = surveyed(committed)
    by_status: Counter[str] = Counter()
    for cell in found.cells.to_pylist():
        by_status[cell["status"]] += cell["count"]
    assert by_status == committed.run.read_success().statuses
    rows = read_scores(committed.run)
    assert found.first == pc.min(rows["captured_local"]).as_py()
    assert found.last == pc.max(rows["captured_local"]).as_py()


def test_the_least_certain_images_come_first_with_what_was_said_of_them(committed: Run) -> None:
    candidates = surveyed(committed).selection.candidates
    rows = read_scores(committed.run)
    rows = rows.filter(pc.is_valid(rows["confidence"]))
    assert candidates["rank"].to_pylist() == list(range(1, len(rows) + 1))
    assert candidates["confidence"].to_pylist() == sorted(rows["confidence"].to_pylist())
    by_id = {row["id"]: row for row in rows.to_pylist()}
    names = ("uri", "camera", "captured_local", "label", "sha256", *[f"prob_{name}" for name in CLASSES])
    for row in candidates.to_pylist():
        assert {name: row[name] for name in names} == {name: by_id[row["id"]][name] for name in names}
        assert row["run"] == str(committed.run.path)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> Run:
    """A run of a camera that stands still for five frames, and of a picture that two cameras have."""
    frames = {f"north/gate-1/2026-10-03/08{k:02d}00.jpg": speckle(k) for k in range(5)}
    frames |= {f"north/gate-1/2026-10-04/08{k:02d}00.jpg": speckle(99) for k in range(5)}
    frames |= {f"north/gate-2/2026-10-0{k}/090000.jpg": speckle(1) for k in (3, 4)}
    frames |= {"north/gate-2/undated.jpg": speckle(2)}
    root = tmp_path_factory.mktemp("odd")
    run = stage_run(root / "run", write_files(root / "archive", frames), checkpoint)
    run.commit()
    return run


def test_frozen_frames_and_repeated_bytes_are_found_across_days_and_cameras(odd: Run) -> None:
    found = surveyed(odd)
    # the first of the two pictures that are elsewhere again is no duplicate, the three others are
    assert by_condition(found) == {None: 5, "frozen": 5, "duplicate": 3}
    assert [(row["camera"], row["snapshots"]) for row in found.stretches] == [("gate-1", 5)]
    duplicates = found.cells.filter(pc.equal(found.cells["condition"], "duplicate"))
    assert duplicates.select(["camera", "date"]).to_pylist() == [
        {"camera": "gate-2", "date": "2026-10-03"},
        {"camera": "gate-2", "date": "2026-10-04"},
        {"camera": None, "date": "unknown"},
    ]


def test_files_are_read_in_the_order_of_days_whatever_the_order_of_runs(committed: Run) -> None:
    one = open_committed(committed.run)
    files = order_files([one])
    days = [file.name.split("/")[1] for _, file in files]
    assert days == sorted(days)
    parts = list(read_files(files, ["id", "uri"]))
    assert [len(part) for part in parts] == [file.rows for _, file in files]
    assert sorted(pa.concat_tables(parts)["id"].to_pylist()) == list(range(committed.work.num_images))


def test_a_committed_file_that_does_not_read_is_named(staged_at: Run) -> None:
    success = staged_at.commit()
    victim = next(file.name for file in success.files if file.name.startswith("scores/"))
    whole = (staged_at.run.path / victim).read_bytes()
    for damage in (b"PAR1", whole[: len(whole) // 2]):
        (staged_at.run.path / victim).write_bytes(damage)
        with pytest.raises(UsageError, match=victim):
            surveyed(staged_at)
    (staged_at.run.path / victim).unlink()
    with pytest.raises(UsageError, match=victim):
        surveyed(staged_at)


def test_pictures_of_one_second_come_in_the_order_of_their_bytes() -> None:
    rows = [
        {"site": "n", "camera": camera, "captured_at": second, "digest": digest, "region": 0}
        for camera, second, digest in (("2", 5, 1), ("1", 5, 3), ("1", 5, 2), ("1", 4, 9), ("1", None, 7))
    ]
    kinds = [("site", "string"), ("camera", "string"), ("captured_at", "timestamp[us]"), ("digest", "uint64")]
    kinds += [("region", "int16")]
    day = pa.Table.from_pylist(rows, pa.schema(kinds))
    assert _sort_day(day)[0]["digest"].to_pylist() == [7, 9, 2, 3, 1]
