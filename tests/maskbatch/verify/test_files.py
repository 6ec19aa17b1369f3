import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from maskbatch.errors import UsageError
from maskbatch.model.architectures import build
from maskbatch.model.checkpoint import Checkpoint, save_checkpoint
from maskbatch.plan import table as plan_module
from maskbatch.runs import commit as commit_module
from maskbatch.runs.directory import RunDir
from maskbatch.schema import STATUSES
from maskbatch.verify.files import check_run, verify_run
from maskbatch.verify.result import KEPT, Difference, Verification
from tests.maskbatch.samples import (
    CLASSES,
    Run,
    edit_json,
    make_card,
    speckle,
    stage_run,
    write_files,
    write_rows,
)

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


def listed_files(made: Run) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = json.loads(made.run.success.read_bytes())["files"]
    return files


def listed_file(made: Run, name: str) -> dict[str, Any]:
    return next(file for file in listed_files(made) if file["name"] == name)


def sign(made: Run, name: str, rows: int | None = None) -> None:
    """Make _SUCCESS say of a file what it is now, so that only what is in it can give it away."""
    data = (made.run.path / name).read_bytes()
    now = {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "rows": rows}
    files = [file | now if file["name"] == name else file for file in listed_files(made)]
    edit_json(made.run.success, files=files)


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
    return [Difference(name, None, what, str(listed_file(made, name)[what]), str(got))]


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
    expected = f"{listed_file(made, name)['num_bytes']} bytes"
    (made.run.path / name).unlink()
    return [Difference(name, None, "file", expected, "No such file or directory")]


def a_scores_file_missing(made: Run) -> list[Difference]:
    return _missing(made, FIRST)


def the_plan_missing(made: Run) -> list[Difference]:
    return _missing(made, PLAN)


def a_truncated_file(made: Run) -> list[Difference]:
    path = made.run.path / FIRST
    path.write_bytes(path.read_bytes()[:-9])
    size = listed_file(made, FIRST)["num_bytes"]
    no_parquet = "does not read (Parquet magic bytes not found in footer. Either the file is corrupted or this is not a parquet file.)"
    return [
        Difference(FIRST, None, "num_bytes", str(size), str(size - 9)),
        Difference(FIRST, None, "rows", str(listed_file(made, FIRST)["rows"]), no_parquet),
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
    rows = listed_file(made, FIRST)["rows"]
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
    return [Difference(FIRST, 5000, "rows", "0", "1"), Difference(RANGE, before["id"], "rows", "1", "0")]


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


NULLS = ", ".join(["label", *(f"prob_{name}" for name in CLASSES), "confidence"])


def another_status(made: Run) -> list[Difference]:
    before = forge(made, setting("status", {0: "corrupt"})).to_pylist()[0]
    return [
        Difference(FIRST, before["id"], "null columns", NULLS, "error"),
        Difference("_SUCCESS", None, "images corrupt", "1 (rows of scores/)", "0"),
        Difference("_SUCCESS", None, "images ok", "97 (rows of scores/)", "98"),
    ]


def a_status_that_there_is_not(made: Run) -> list[Difference]:
    where = {
        name: pc.index(
            pq.read_table(pa.BufferReader((made.run.path / name).read_bytes()))["status"], "missing"
        )
        for name in (file["name"] for file in listed_files(made))
        if name.startswith("scores/")
    }
    name, place = next((name, place.as_py()) for name, place in where.items() if place.as_py() >= 0)
    before = forge(made, setting("status", {place: "fine"}), name).to_pylist()[place]
    edit_json(made.run.success, statuses={"ok": 98, "fine": 1, "truncated": 2, "unsupported": 1})
    return [Difference(name, before["id"], "status", "one of " + ", ".join(STATUSES), "fine")]


def needs_review_turned(made: Run) -> list[Difference]:
    place, row = surest(made)
    forge(made, setting("needs_review", {place: True}))
    return [Difference(FIRST, row["id"], "needs_review", "false", "true")]


def another_confidence(made: Run) -> list[Difference]:
    place, row = surest(made)
    forge(made, setting("confidence", {place: 0.5}))
    (known,) = pa.array([row["confidence"]], pa.float32()).cast(pa.string()).to_pylist()
    return [Difference(FIRST, row["id"], "confidence", known, "0.5")]


def another_label(made: Run) -> list[Difference]:
    place, row = surest(made)
    other = next(name for name in CLASSES if name != row["label"])
    forge(made, setting("label", {place: other}))
    return [Difference(FIRST, row["id"], "label", row["label"], other)]


def a_probability_that_is_not_a_number(made: Run) -> list[Difference]:
    place, row = surest(made)
    forge(made, setting("prob_no_face", {place: float("nan")}))
    return [Difference(FIRST, row["id"], "null columns", "error", "error, prob_no_face")]


def a_time_moved_within_its_day(made: Run) -> list[Difference]:
    _, row = surest(made)
    local = row["captured_local"]
    moved = local.replace(minute=(local.minute + 30) % 60)
    place = surest(made)[0]
    forge(made, setting("captured_local", {place: moved}))
    return [Difference(FIRST, row["id"], "captured_local", f"{local}.000000", f"{moved}.000000")]


def a_time_of_no_century_of_ours(made: Run) -> list[Difference]:
    place, row = surest(made)
    forge(made, setting("captured_at", {place: 2**62}))
    was, local = row["captured_at"], row["captured_local"]
    return [
        Difference(
            FIRST,
            row["id"],
            "captured_at",
            f"{was:%Y-%m-%d %H:%M:%S}.000000Z",
            "17036-07-06 14:00:27.387904Z",
        ),
        Difference(FIRST, row["id"], "captured_local", "None", f"{local}.000000"),
    ]


def another_time_source(made: Run) -> list[Difference]:
    place, row = surest(made)
    forge(made, setting("time_source", {place: "exif"}))
    return [Difference(FIRST, row["id"], "time_source", "path", "exif")]


def a_column_dropped(made: Run) -> list[Difference]:
    forge(made, lambda rows: rows.drop_columns("sha256"))
    return [Difference(FIRST, None, "column sha256", "a column", "none")]


def a_column_added(made: Run) -> list[Difference]:
    forge(made, lambda rows: rows.append_column("corrected", rows["label"]))
    return [Difference(FIRST, None, "column corrected", "none", "a column")]


def a_column_of_the_plan_dropped(made: Run) -> list[Difference]:
    forge(made, lambda rows: rows.drop_columns("site"), PLAN)
    return [Difference(PLAN, None, "column site", "a column", "none")]


def a_row_of_another_region(made: Run) -> list[Difference]:
    def edit(rows: pa.Table) -> pa.Table:
        return pa.concat_tables([rows, setting("region", {0: 1})(rows.slice(0, 1))])

    first = forge(made, edit).to_pylist()[0]
    return [Difference(FIRST, first["id"], "region", "0", "1")]


def a_linked_day(made: Run) -> list[Difference]:
    name = "scores/date=2026-10-09"
    (made.run.path / name).symlink_to(made.run.scores / "date=2026-10-01")
    return [Difference(name, None, "file", "none, _SUCCESS does not list it", "a file")]


def a_hidden_file_of_rows(made: Run) -> list[Difference]:
    (made.run.scores / ".part-0.parquet.0123456789abcdef0123456789abcdef").write_bytes(b"cut off")
    return _extra(made, "scores/date=2026-10-01/.more.parquet")


def a_scores_file_renamed_past_the_plan(made: Run) -> list[Difference]:
    name = "scores/date=2026-10-01/part-000000000500.parquet"
    rows = pq.read_table(pa.BufferReader((made.run.path / FIRST).read_bytes()))
    (made.run.path / FIRST).rename(made.run.path / name)
    files = [file | {"name": name} if file["name"] == FIRST else file for file in listed_files(made)]
    edit_json(made.run.success, files=files)
    ids = rows["id"].to_pylist()
    return [
        *(Difference(RANGE, k, "rows", "1", "0") for k in ids),
        *(Difference(name, k, "rows", "0", "1") for k in ids),
    ][:KEPT]


def statuses_of_success_garbled(made: Run) -> list[Difference]:
    edit_json(made.run.success, statuses={"ok": "many"})
    return [Difference("_SUCCESS", None, "statuses", "a count of images by status", "{'ok': 'many'}")]


def statuses_of_success_edited(made: Run) -> list[Difference]:
    edit_json(made.run.success, statuses={"ok": 99, "missing": 1, "truncated": 2})
    return [
        Difference("_SUCCESS", None, "images ok", "98 (rows of scores/)", "99"),
        Difference("_SUCCESS", None, "images unsupported", "1 (rows of scores/)", "0"),
    ]


def planned_of_success_edited(made: Run) -> list[Difference]:
    edit_json(made.run.success, planned=NUM_IMAGES + 1)
    return [
        Difference("_SUCCESS", None, "planned", "102 (rows of the plan)", "103"),
        Difference(RANGE, NUM_IMAGES, "rows", "1", "0"),
        Difference("_SUCCESS", None, "sum of statuses", "103 planned", "102"),
    ]


def run_json_not_listed(made: Run) -> list[Difference]:
    edit_json(made.run.success, files=[file for file in listed_files(made) if file["name"] != "run.json"])
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
        a_byte_of_the_scores, a_byte_of_the_plan, run_json_edited, run_json_garbled, run_json_missing,
        a_scores_file_missing, the_plan_missing, a_truncated_file, an_extra_file_in_scores, an_extra_day,
        an_extra_file_beside_the_days, an_extra_file_in_the_plan, a_count_of_rows_edited, a_row_dropped,
        a_row_repeated, a_row_of_no_planned_id, another_uri, another_camera,
        a_row_in_another_days_partition, another_status, a_status_that_there_is_not, needs_review_turned,
        another_confidence, another_label, a_probability_that_is_not_a_number,
        a_time_moved_within_its_day, a_time_of_no_century_of_ours, another_time_source, a_column_dropped,
        a_column_added, a_column_of_the_plan_dropped, a_row_of_another_region, a_linked_day,
        a_hidden_file_of_rows, a_scores_file_renamed_past_the_plan, statuses_of_success_garbled,
        statuses_of_success_edited, planned_of_success_edited, run_json_not_listed,
        a_row_of_the_plan_dropped, an_id_of_the_plan_changed,
    ],
)  # fmt: skip
def test_what_the_files_give_away_is_said_and_nothing_else(
    spoil: Callable[[Run], list[Difference]], spoilt: Run
) -> None:
    expected = spoil(spoilt)
    found = check_run(spoilt.run, sample=0)
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
    new: dict[str, Any] = {
        "sha256": "0" * 64, "width": 7, "height": 7, "num_bytes": 7, "dhash": b"12345678",
        "brightness": 2.0, "contrast": 2.0, "sharpness": 2.0,
    }  # fmt: skip
    places = dict(zip(new, sure, strict=False))
    for column, place in places.items():
        forge(spoilt, setting(column, {place: new[column]}))
    expected = [
        Difference(
            FIRST,
            rows[place]["id"],
            f"{column} of {rows[place]['uri']}",
            str(new[column]),
            str(rows[place][column]),
        )
        for column, place in places.items()
    ]
    assert check_run(spoilt.run, sample=0).verified
    assert check_run(spoilt.run).differences == sorted(expected, key=lambda difference: difference.id or 0)


def test_a_status_that_the_archive_refutes_is_said(spoilt: Run) -> None:
    place, row = surest(spoilt)
    nothing = {**dict.fromkeys(NULLS.split(", ")), "needs_review": False, "status": "corrupt", "error": "bad"}
    for column, value in nothing.items():
        forge(spoilt, setting(column, {place: value}))
    edit_json(
        spoilt.run.success, statuses={"ok": 97, "missing": 1, "truncated": 2, "unsupported": 1, "corrupt": 1}
    )
    assert check_run(spoilt.run, sample=0).verified
    what = f"status of {row['uri']}"
    assert check_run(spoilt.run).differences == [Difference(FIRST, row["id"], what, "corrupt", "ok")]


@pytest.mark.parametrize("run_json", ["{}", "[", None])
@pytest.mark.parametrize("damaged", [[], {"files": 5}, {"files": []}, {"files": [{"name": "run.json"}]}])
def test_a_damaged_success_is_refused_in_a_sentence(damaged: Any, run_json: str | None, spoilt: Run) -> None:
    spoilt.run.success.write_text(json.dumps(damaged))
    if run_json:
        spoilt.run.run_json.write_text(run_json)
    with pytest.raises(UsageError):
        check_run(spoilt.run)


@pytest.mark.parametrize("column", ["captured_at", "captured_local"])
def test_a_time_that_python_has_not_is_a_difference_and_no_crash(column: str, spoilt: Run) -> None:
    forge(spoilt, setting(column, {surest(spoilt)[0]: 2**62}))
    assert check_run(spoilt.run).differences[-1].what == "times of the sample"


def test_more_planned_images_than_memory_holds_are_counted(spoilt: Run) -> None:
    edit_json(spoilt.run.success, planned=10**15)
    found = check_run(spoilt.run)
    assert found.num_differences == 10**15 - NUM_IMAGES + 2
    assert (len(found.differences), found.differences[1].id) == (KEPT, NUM_IMAGES)


@pytest.mark.parametrize("devices", [None, [], {"cpu/float32": "x"}, {"cpu/float12": 4}])
def test_devices_that_do_not_say_a_dtype_are_one_difference(devices: Any, spoilt: Run) -> None:
    edit_json(spoilt.run.success, devices=devices)
    found = check_run(spoilt.run, sample=2)
    assert found.differences == [
        Difference("_SUCCESS", None, "devices", "shards by device/dtype", str(devices))
    ]
    assert found.sampled == 2


def test_a_plan_in_other_row_groups_is_a_difference_and_no_crash(spoilt: Run) -> None:
    path = Path(spoilt.run.path) / PLAN
    pq.write_table(pq.read_table(path), path, row_group_size=10)
    sign(spoilt, PLAN, NUM_IMAGES)
    (difference,) = check_run(spoilt.run).differences
    assert (difference.file, difference.what) == ("plan", "rows")


def test_probabilities_that_are_off_by_a_tenth_are_all_said(spoilt: Run) -> None:
    def edit(rows: pa.Table) -> pa.Table:
        place = rows.schema.get_field_index("prob_no_face")
        return rows.set_column(
            place, "prob_no_face", pc.add(rows["prob_no_face"], pa.scalar(0.1, pa.float32()))
        )

    before = forge(spoilt, edit)
    found = check_run(spoilt.run)
    ok = before.filter(pc.equal(before["status"], "ok"))
    refuted = [difference for difference in found.differences if " of " in difference.what]
    assert [difference.id for difference in refuted if "prob_no_face" in difference.what] == ok[
        "id"
    ].to_pylist()
    assert found.largest_difference == pytest.approx(0.1, abs=1e-6)
    assert found.bit_equal == found.rescored - len(ok) == 98 - len(ok)


def test_probabilities_within_two_hundredths_are_counted_and_no_difference(spoilt: Run) -> None:
    place, row = surest(spoilt)
    least = min(CLASSES, key=lambda name: row[f"prob_{name}"])
    forge(spoilt, setting(f"prob_{least}", {place: row[f"prob_{least}"] + 0.015}))
    found = check_run(spoilt.run)
    assert found.verified
    assert (found.rescored, found.bit_equal) == (98, 97)
    assert found.largest_difference == pytest.approx(0.015, abs=1e-6)


def test_an_untouched_run_verifies_with_every_probability_equal_to_the_last_bit(committed: Run) -> None:
    found = check_run(committed.run, seed=7)
    assert found == Verification(
        success_sha256=hashlib.sha256(committed.run.success.read_bytes()).hexdigest(),
        seed=7,
        files=6,
        rows=NUM_IMAGES,
        sampled=NUM_IMAGES,
        rescored=98,
        bit_equal=98,
        still_failing=4,
    )
    assert str(found).startswith("verified: 6 files, 102 images; ")
    assert "(--seed 7), 98 of them scored again: 98 equal to the last bit" in str(found)
    assert json.loads(json.dumps(found.as_dict()))["verified"] is True


def test_a_run_verifies_where_it_lies_and_what_is_amiss_there_is_said(staged_at: Run) -> None:
    staged_at.commit()
    assert verify_run(str(staged_at.run.path), sample=5).verified
    extra = _extra(staged_at, "scores/date=2026-10-02/more.parquet")
    (staged_at.run.path / FIRST).unlink()
    left_over = staged_at.run.scores / "date=2026-10-02" / ".part-000000000000.parquet.0a"
    left_over.write_bytes(b"cut off")
    found = check_run(staged_at.run, sample=0)
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
    found = check_run(made.run, sample=40)
    assert (found.verified, found.files, found.rows, found.sampled) == (True, 1 + 4 + 8, NUM_IMAGES, 40)
    later = "scores/date=2026-10-01/part-000000000064.parquet"
    moved = forge(made, lambda rows: rows.slice(1)).slice(0, 1)
    forge(made, lambda rows: pa.concat_tables([rows, moved]), later)
    number = moved["id"][0].as_py()
    assert check_run(made.run, sample=0).differences == [
        Difference(RANGE, number, "rows", "1", "0"),
        Difference(later, number, "rows", "0", "1"),
    ]


def test_one_seed_draws_the_same_images_and_another_others(spoilt: Run) -> None:
    for name in (FIRST, SECOND, "scores/date=2026-10-03/part-000000000000.parquet"):
        forge(spoilt, lambda rows: setting("sha256", dict.fromkeys(range(len(rows)), "0" * 64))(rows), name)
    drawn = [[d.id for d in check_run(spoilt.run, sample=10, seed=seed).differences] for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


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
    found = check_run(made.run)
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
    found = check_run(made.run)
    got = "none (the file is not there any more); --sample 0 checks the files alone"
    assert found.differences == [Difference(str(archive), None, "images read again", "6", got)]
    assert check_run(made.run, sample=0).verified


def test_another_checkpoint_is_said_and_a_moved_one_is_taken(
    spoilt: Run, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    other, moved = tmp_path / "other.safetensors", tmp_path / "moved.safetensors"
    save_checkpoint(other, make_card(), build("mobilenet_v3_small", len(CLASSES)).state_dict())
    shutil.copy(checkpoint.path, moved)
    digest = hashlib.sha256(other.read_bytes()).hexdigest()
    (difference,) = check_run(spoilt.run, checkpoint=str(other)).differences
    assert difference == Difference(str(other), None, "sha256 of the checkpoint", checkpoint.digest, digest)
    gone = str(tmp_path / "gone.safetensors")
    edit_json(spoilt.run.run_json, checkpoint=asdict(replace(spoilt.run.read_run().checkpoint, path=gone)))
    sign(spoilt, "run.json")
    (difference,) = check_run(spoilt.run).differences
    assert difference.file == gone
    assert "no such file; give --checkpoint" in difference.got
    found = check_run(spoilt.run, checkpoint=str(moved))
    assert found.verified and found.bit_equal == 98


@pytest.mark.parametrize("flags", [{"sample": -1}, {"seed": -1}])
def test_a_negative_number_is_refused(flags: dict[str, int], committed: Run) -> None:
    with pytest.raises(UsageError, match="-1: 0 or more expected"):
        check_run(committed.run, sample=flags.get("sample", 0), seed=flags.get("seed"))


def test_only_a_committed_run_can_be_verified(staged: Run, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run is there"):
        check_run(RunDir.at(str(tmp_path / "nothing")))
    with pytest.raises(UsageError, match="not finished"):
        check_run(staged.run)
    staged.commit()
    edit_json(staged.run.run_json, format_version=1)
    sign(staged, "run.json")
    with pytest.raises(UsageError, match="run format 1, 2 expected"):
        check_run(staged.run)
