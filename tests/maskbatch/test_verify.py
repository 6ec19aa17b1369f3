import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import CLASSES, Run, make_card, speckle, stage_run, write_files, write_rows

from maskbatch import commit as commit_module
from maskbatch import plan as plan_module
from maskbatch.architectures import build
from maskbatch.checkpoint import Checkpoint, save_checkpoint
from maskbatch.differences import KEPT, Difference, Verification
from maskbatch.errors import UsageError
from maskbatch.rescore import HEALING, _compare
from maskbatch.rundir import RunDir, write_json
from maskbatch.verify import _check_ids, verify

NUM_IMAGES = 102
FIRST = "scores/date=2026-10-01/part-000000000000.parquet"
SECOND = "scores/date=2026-10-02/part-000000000000.parquet"
RANGE = "scores/date=*/part-000000000000.parquet"
PLAN = "plan/part-000000000000.parquet"
Edit = Callable[[pa.Table], pa.Table]


@pytest.fixture
def spoilt(committed: Run, tmp_path: Path) -> Run:
    """A copy of a committed run, to be spoilt."""
    return committed.copy(tmp_path / "run")


@pytest.fixture
def with_archive(checkpoint: Checkpoint, tmp_path: Path) -> tuple[Run, Path]:
    """A committed run of six images and a link to nothing, and its archive."""
    day = "north/gate-1/2026-10-01"
    archive = write_files(tmp_path / "archive", {f"{day}/09300{k}.jpg": speckle(k) for k in range(6)})
    (archive / day / "093006.jpg").symlink_to(archive / "nowhere.jpg")
    made = stage_run(tmp_path / "run", archive, checkpoint)
    made.commit()
    return made, archive


def success(made: Run, **changes: Any) -> None:
    """Edit _SUCCESS."""
    write_json(made.run.success, {**(made.run.read_success() or {}), **changes})


def item(made: Run, name: str) -> dict[str, Any]:
    files: list[dict[str, Any]] = (made.run.read_success() or {})["files"]
    return next(file for file in files if file["name"] == name)


def sign(made: Run, name: str, rows: int | None = None) -> None:
    """Make _SUCCESS say of a file what it is now, so that only what is in it can give it away."""
    data = (made.run.path / name).read_bytes()
    now = {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "rows": rows}
    files = (made.run.read_success() or {})["files"]
    success(made, files=[file | now if file["name"] == name else file for file in files])


def forge(made: Run, edit: Edit, name: str = FIRST) -> pa.Table:
    """Edit the rows of a file and sign it; returns the rows before."""
    before = pq.read_table(pa.BufferReader((made.run.path / name).read_bytes()))
    after = edit(before)
    write_rows(made.run.path / name, after)
    sign(made, name, len(after))
    return before


def setting(column: str, values: dict[int, Any]) -> Edit:
    """Replace a column's values at some rows."""

    def edit(table: pa.Table) -> pa.Table:
        new = [values.get(k, old) for k, old in enumerate(table[column].to_pylist())]
        place = table.schema.get_field_index(column)
        return table.set_column(
            place, table.schema.field(place), pa.array(new, table.schema.field(place).type)
        )

    return edit


def replace_bytes(made: Run, name: str, old: bytes, new: bytes) -> list[Difference]:
    path = made.run.path / name
    data = path.read_bytes().replace(old, new)
    path.write_bytes(data)
    what = "sha256" if len(old) == len(new) else "num_bytes"
    got = hashlib.sha256(data).hexdigest() if what == "sha256" else len(data)
    return [Difference(name, None, what, str(item(made, name)[what]), str(got))]


def a_byte_of_the_scores(made: Run) -> list[Difference]:
    return replace_bytes(made, FIRST, b"parquet-cpp", b"parquet-cpq")


def a_byte_of_the_plan(made: Run) -> list[Difference]:
    return replace_bytes(made, PLAN, b"parquet-cpp", b"parquet-cpq")


def run_json_edited(made: Run) -> list[Difference]:
    return replace_bytes(made, "run.json", b'"batch_size": 32', b'"batch_size": 8')


def run_json_garbled(made: Run) -> list[Difference]:
    return replace_bytes(made, "run.json", b"{", b"[")


def run_json_missing(made: Run) -> list[Difference]:
    return _missing(made, "run.json")


def _missing(made: Run, name: str) -> list[Difference]:
    expected = f"{item(made, name)['num_bytes']:,} bytes"
    (made.run.path / name).unlink()
    return [Difference(name, None, "file", expected, "No such file or directory")]


def a_scores_file_missing(made: Run) -> list[Difference]:
    return _missing(made, FIRST)


def the_plan_missing(made: Run) -> list[Difference]:
    return _missing(made, PLAN)


def a_truncated_file(made: Run) -> list[Difference]:
    path = made.run.path / FIRST
    path.write_bytes(path.read_bytes()[:-9])
    size = item(made, FIRST)["num_bytes"]
    no_parquet = "does not read (Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file.)"
    return [
        Difference(FIRST, None, "num_bytes", str(size), str(size - 9)),
        Difference(FIRST, None, "rows", str(item(made, FIRST)["rows"]), no_parquet),
    ]


def _extra(made: Run, name: str) -> list[Difference]:
    path = made.run.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((made.run.path / FIRST).read_bytes())
    return [Difference(name, None, "file", "none, _SUCCESS does not list it", "a file")]


def an_extra_file_in_scores(made: Run) -> list[Difference]:
    return _extra(made, "scores/date=2026-10-01/copy.parquet")


def an_extra_day(made: Run) -> list[Difference]:
    return _extra(made, "scores/date=2027-01-01/deep/part.parquet")


def an_extra_file_beside_the_days(made: Run) -> list[Difference]:
    return _extra(made, "scores/part.parquet")


def an_extra_file_in_the_plan(made: Run) -> list[Difference]:
    return _extra(made, "plan/part-000001048576.parquet")


def a_count_of_rows_edited(made: Run) -> list[Difference]:
    rows = item(made, FIRST)["rows"]
    sign(made, FIRST, rows + 1)
    return [Difference(FIRST, None, "rows", str(rows + 1), str(rows))]


def a_row_dropped(made: Run) -> list[Difference]:
    first = forge(made, lambda rows: rows.slice(1)).to_pylist()[0]
    return [
        Difference(RANGE, first["id"], "rows", "1", "0"),
        Difference("_SUCCESS", None, "images ok", "97 (rows of scores/)", "98"),
    ]


def a_row_repeated(made: Run) -> list[Difference]:
    first = forge(made, lambda rows: pa.concat_tables([rows, rows.slice(0, 1)])).to_pylist()[0]
    return [
        Difference(FIRST, first["id"], "rows", "1", "2"),
        Difference("_SUCCESS", None, "images ok", "99 (rows of scores/)", "98"),
    ]


def a_row_of_no_planned_id(made: Run) -> list[Difference]:
    before = forge(made, setting("id", {0: 5000})).to_pylist()[0]
    return [
        Difference(FIRST, 5000, "rows", "0", "1"),
        Difference(RANGE, before["id"], "rows", "1", "0"),
    ]


def another_uri(made: Run) -> list[Difference]:
    before = forge(made, setting("uri", {2: "file:///other.jpg"})).to_pylist()[2]
    return [Difference(FIRST, before["id"], "uri", before["uri"], "file:///other.jpg")]


def another_camera(made: Run) -> list[Difference]:
    before = forge(made, setting("camera", {2: "gate-9"})).to_pylist()[2]
    return [Difference(FIRST, before["id"], "camera", before["camera"], "gate-9")]


def a_row_in_another_days_partition(made: Run) -> list[Difference]:
    moved = forge(made, lambda rows: rows.slice(1)).slice(0, 1)
    forge(made, lambda rows: pa.concat_tables([rows, moved]), SECOND)
    what = "partition of its local day"
    return [Difference(SECOND, moved["id"][0].as_py(), what, "2026-10-01", "2026-10-02")]


def another_status(made: Run) -> list[Difference]:
    forge(made, setting("status", {0: "corrupt"}))
    return [
        Difference("_SUCCESS", None, "images corrupt", "1 (rows of scores/)", "0"),
        Difference("_SUCCESS", None, "images ok", "97 (rows of scores/)", "98"),
    ]


def statuses_of_success_edited(made: Run) -> list[Difference]:
    success(made, statuses={"ok": 99, "missing": 1, "truncated": 2})
    return [
        Difference("_SUCCESS", None, "images ok", "98 (rows of scores/)", "99"),
        Difference("_SUCCESS", None, "images unsupported", "1 (rows of scores/)", "0"),
    ]


def planned_of_success_edited(made: Run) -> list[Difference]:
    success(made, planned=NUM_IMAGES + 1)
    return [
        Difference("_SUCCESS", None, "planned", "102 (rows of the plan)", "103"),
        Difference(RANGE, NUM_IMAGES, "rows", "1", "0"),
        Difference("_SUCCESS", None, "sum of statuses", "103 planned", "102"),
    ]


def run_json_not_listed(made: Run) -> list[Difference]:
    files = (made.run.read_success() or {})["files"]
    success(made, files=[file for file in files if file["name"] != "run.json"])
    return [Difference("run.json", None, "file", "none, _SUCCESS does not list it", "a file")]


def a_row_of_the_plan_dropped(made: Run) -> list[Difference]:
    forge(made, lambda rows: rows.slice(0, NUM_IMAGES - 1), PLAN)
    return [Difference("_SUCCESS", None, "planned", "101 (rows of the plan)", "102")]


def an_id_of_the_plan_changed(made: Run) -> list[Difference]:
    forge(made, setting("id", {7: 8}), PLAN)
    return [Difference(PLAN, 8, "id", "7", "8")]


@pytest.mark.parametrize(
    "spoil",
    [
        a_byte_of_the_scores,
        a_byte_of_the_plan,
        run_json_edited,
        run_json_garbled,
        run_json_missing,
        a_scores_file_missing,
        the_plan_missing,
        a_truncated_file,
        an_extra_file_in_scores,
        an_extra_day,
        an_extra_file_beside_the_days,
        an_extra_file_in_the_plan,
        a_count_of_rows_edited,
        a_row_dropped,
        a_row_repeated,
        a_row_of_no_planned_id,
        another_uri,
        another_camera,
        a_row_in_another_days_partition,
        another_status,
        statuses_of_success_edited,
        planned_of_success_edited,
        run_json_not_listed,
        a_row_of_the_plan_dropped,
        an_id_of_the_plan_changed,
    ],
)
def test_what_the_files_give_away_is_said_and_nothing_else(
    spoil: Callable[[Run], list[Difference]], spoilt: Run
) -> None:
    expected = spoil(spoilt)
    found = verify(spoilt.run, sample=0)
    assert found.differences == expected
    assert not found.verified


def surest(made: Run, name: str = FIRST) -> tuple[int, dict[str, Any]]:
    """The place and the row of the image that the model is surest of, in one file."""
    rows = pq.read_table(pa.BufferReader((made.run.path / name).read_bytes()))
    place = pc.index(rows["confidence"], pc.max(rows["confidence"])).as_py()
    return place, rows.to_pylist()[place]


def test_values_that_only_the_archive_can_refute_are_said_with_their_images(spoilt: Run) -> None:
    rows = pq.read_table(pa.BufferReader((spoilt.run.path / FIRST).read_bytes())).to_pylist()
    sure = sorted(
        (k for k, row in enumerate(rows) if row["status"] == "ok"), key=lambda k: -rows[k]["confidence"]
    )
    least = min(CLASSES, key=lambda name: rows[sure[0]][f"prob_{name}"])
    new = {"label": least, "sha256": "0" * 64, "prob_with_mask": None, "status": "truncated"}
    places = dict(zip(new, sure, strict=False))
    for column, place in places.items():
        forge(spoilt, setting(column, {place: new[column]}))
    success(spoilt, statuses={"ok": 97, "missing": 1, "truncated": 3, "unsupported": 1})
    expected = [
        Difference(
            FIRST,
            rows[place]["id"],
            f"{column} of {rows[place]['uri']}",
            str(new[column] or "nan"),
            f"{rows[place][column]:.6g}" if column == "prob_with_mask" else rows[place][column],
        )
        for column, place in places.items()
    ]
    assert verify(spoilt.run).differences == sorted(expected, key=lambda difference: difference.id or 0)


def test_probabilities_that_are_off_by_a_tenth_are_all_said(spoilt: Run) -> None:
    def edit(rows: pa.Table) -> pa.Table:
        place = rows.schema.get_field_index("prob_no_face")
        return rows.set_column(
            place, "prob_no_face", pc.add(rows["prob_no_face"], pa.scalar(0.1, pa.float32()))
        )

    before = forge(spoilt, edit)
    found = verify(spoilt.run)
    ok = before.filter(pc.equal(before["status"], "ok"))
    assert [difference.id for difference in found.differences] == ok["id"].to_pylist()
    assert {difference.what.split()[0] for difference in found.differences} == {"prob_no_face"}
    assert found.largest_difference == pytest.approx(0.1, abs=1e-6)
    assert found.bit_equal == found.rescored - len(ok) == 98 - len(ok)


def test_probabilities_within_two_hundredths_are_counted_and_no_difference(spoilt: Run) -> None:
    place, row = surest(spoilt)
    forge(spoilt, setting("prob_no_face", {place: row["prob_no_face"] + 0.015}))
    found = verify(spoilt.run)
    assert found.verified
    assert (found.rescored, found.bit_equal) == (98, 97)
    assert found.largest_difference == pytest.approx(0.015, abs=1e-6)


@pytest.mark.parametrize(("gap", "differs"), [(0.0, False), (0.019, False), (0.021, True), (0.3, True)])
def test_another_label_is_a_difference_unless_the_two_best_are_close(gap: float, differs: bool) -> None:
    probs = {"prob_a": 0.35 + gap / 2, "prob_b": 0.35 - gap / 2, "prob_c": 0.3}
    row = {"file": "f", "id": 3, "uri": "u", "status": "ok", "sha256": "x", "label": "a", **probs}
    found = Verification(success_sha256="", seed=0)
    _compare({**row, "label": "b"}, row, ("a", "b", "c"), found)
    assert found.differences == ([Difference("f", 3, "label of u", "b", "a")] if differs else [])


@pytest.mark.parametrize("status", HEALING)
def test_a_failure_that_may_heal_is_counted_and_no_difference(status: str) -> None:
    old = {"status": status}
    found = Verification(success_sha256="", seed=0)
    for now in ("ok", "corrupt", "read_error"):
        _compare(old, {"status": now}, (), found)
    assert (found.sampled, found.healed, found.still_failing, found.verified) == (3, 2, 1, True)
    assert "2 healed, 1 did not" in str(found)


def test_an_untouched_run_verifies_with_every_probability_bit_equal(committed: Run) -> None:
    found = verify(committed.run, seed=7)
    assert found == Verification(
        success_sha256=hashlib.sha256(committed.run.success.read_bytes()).hexdigest(),
        seed=7,
        files=6,
        rows=NUM_IMAGES,
        sampled=NUM_IMAGES,
        rescored=98,
        bit_equal=98,
        still_failing=1,
    )
    assert str(found).startswith("verified: 6 files, 102 images; ")
    assert "(--seed 7), 98 scored again: 98 bit-equal" in str(found)
    assert json.loads(json.dumps(found.as_dict()))["verified"] is True


def test_a_run_verifies_where_it_lies_and_what_is_amiss_there_is_said(staged_at: Run) -> None:
    staged_at.commit()
    assert verify(staged_at.run, sample=5).verified
    extra = _extra(staged_at, "scores/date=2026-10-02/more.parquet")
    (staged_at.run.path / FIRST).unlink()
    left_over = staged_at.run.scores / "date=2026-10-02" / ".part-000000000000.parquet.0a"
    left_over.write_bytes(b"cut off")
    found = verify(staged_at.run, sample=0)
    assert [(d.file, d.what) for d in found.differences] == [(FIRST, "file"), (extra[0].file, "file")]


def test_many_files_of_plan_and_scores_are_checked_by_their_ranges_of_ids(
    month: Path, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit_module, "RANGE_ROWS", 64)
    monkeypatch.setattr(plan_module, "GROUP_ROWS", 16)
    for module in (plan_module, commit_module):
        monkeypatch.setattr(module, "FILE_ROWS", 32)
    made = stage_run(tmp_path / "run", month, checkpoint)
    made.commit()
    found = verify(made.run, sample=40)
    assert (found.verified, found.files, found.rows, found.sampled) == (True, 1 + 4 + 8, NUM_IMAGES, 40)
    later = "scores/date=2026-10-01/part-000000000064.parquet"
    moved = forge(made, lambda rows: rows.slice(1)).slice(0, 1)
    forge(made, lambda rows: pa.concat_tables([rows, moved]), later)
    number = moved["id"][0].as_py()
    assert verify(made.run, sample=0).differences == [
        Difference(RANGE, number, "rows", "1", "0"),
        Difference(later, number, "rows", "0", "1"),
    ]


@given(st.lists(st.integers(-2, 11), max_size=14))
def test_ids_verify_only_where_each_is_there_once(ids: list[int]) -> None:
    rows = pa.table({"id": pa.array(ids, pa.int64()), "file": pa.array(["f"] * len(ids), pa.string())})
    found = Verification(success_sha256="", seed=0)
    kept = _check_ids(rows, range(10), found, all_read=True)
    assert found.verified == (sorted(ids) == list(range(10)))
    assert {d.id for d in found.differences} == {k for k in range(-2, 12) if ids.count(k) != (0 <= k < 10)}
    assert kept["id"].to_pylist() == sorted({k for k in ids if 0 <= k < 10})


def test_one_seed_draws_the_same_images_and_another_others(spoilt: Run) -> None:
    for name in (FIRST, SECOND, "scores/date=2026-10-03/part-000000000000.parquet"):
        forge(spoilt, lambda rows: setting("sha256", dict.fromkeys(range(len(rows)), "0" * 64))(rows), name)
    drawn = [[d.id for d in verify(spoilt.run, sample=10, seed=seed).differences] for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_all_differences_are_counted_and_the_first_hundred_kept() -> None:
    found = Verification(success_sha256="", seed=0)
    for first in (0, 90):
        found.add(90, (Difference("f", first + k, "uri", "a", "b") for k in range(90)))
    assert (found.num_differences, [d.id for d in found.differences]) == (180, list(range(KEPT)))


def test_images_replaced_and_deleted_are_said_and_one_that_is_there_now_has_healed(
    with_archive: tuple[Run, Path],
) -> None:
    made, archive = with_archive
    replaced, deleted = pq.read_table(made.run.path / FIRST).to_pylist()[:2]
    path = Path(replaced["uri"].removeprefix("file://"))
    data = path.read_bytes()
    path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    Path(deleted["uri"].removeprefix("file://")).unlink()
    (archive / "nowhere.jpg").write_bytes(speckle(7))
    found = verify(made.run)
    what, got = f"sha256 of {replaced['uri']}", hashlib.sha256(path.read_bytes()).hexdigest()
    missing = "missing (the file is not there any more)"
    assert found.differences == [
        Difference(FIRST, replaced["id"], what, replaced["sha256"], got),
        Difference(FIRST, deleted["id"], f"status of {deleted['uri']}", "ok", missing),
    ]
    line = f"{FIRST}, id {replaced['id']}: {what}: expected {replaced['sha256']}, got {got}"
    assert str(found.differences[0]) == line
    assert (found.healed, found.still_failing) == (1, 0)


def test_an_archive_that_is_gone_is_one_difference(with_archive: tuple[Run, Path]) -> None:
    made, archive = with_archive
    shutil.rmtree(archive)
    found = verify(made.run)
    got = "none (the file is not there any more); --sample 0 checks the files alone"
    assert found.differences == [Difference(str(archive), None, "images read again", "6", got)]
    assert verify(made.run, sample=0).verified


def test_another_checkpoint_is_said_and_a_moved_one_is_taken(
    spoilt: Run, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    other, moved = tmp_path / "other.safetensors", tmp_path / "moved.safetensors"
    save_checkpoint(other, make_card(), build("mobilenet_v3_small", len(CLASSES)).state_dict())
    shutil.copy(checkpoint.path, moved)
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    (difference,) = verify(spoilt.run, checkpoint=str(other)).differences
    assert difference == Difference(str(other), None, "sha256 of the checkpoint", checkpoint.digest, digest)
    settings = spoilt.run.read_run() or {}
    settings["checkpoint"]["path"] = str(tmp_path / "gone.safetensors")
    write_json(spoilt.run.run_json, settings)
    sign(spoilt, "run.json")
    (difference,) = verify(spoilt.run).differences
    assert difference.file == settings["checkpoint"]["path"]
    assert "no such file; give --checkpoint" in difference.got
    found = verify(spoilt.run, checkpoint=str(moved))
    assert found.verified and found.bit_equal == 98


@pytest.mark.parametrize("flags", [{"sample": -1}, {"seed": -1}])
def test_a_negative_number_is_refused(flags: dict[str, int], committed: Run) -> None:
    with pytest.raises(UsageError, match="-1: 0 or more expected"):
        verify(committed.run, sample=flags.get("sample", 0), seed=flags.get("seed"))


def test_only_a_committed_run_can_be_verified(staged: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run is there"):
        verify(RunDir.at(str(tmp_path / "nothing")))
    with pytest.raises(UsageError, match="not finished"):
        verify(staged.run)
    settings = staged.run.read_run() or {}
    staged.commit()
    write_json(staged.run.run_json, settings | {"format_version": 2})
    sign(staged, "run.json")
    with pytest.raises(UsageError, match="run format 2, 1 expected"):
        verify(staged.run)
