import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from maskbatch.config import ReportConfig
from maskbatch.errors import ALERT, DONE, RunFailedError, UsageError
from maskbatch.model.checkpoint import Checkpoint
from maskbatch.report import figures
from maskbatch.report.figures import LIST_TABLES
from maskbatch.report.make import make_report, report_runs
from maskbatch.report.tables import GROUPINGS
from maskbatch.runs.directory import RunDir
from maskbatch.stores.files import Location, list_names
from tests.maskbatch.report.test_tables import COUNTS
from tests.maskbatch.samples import CLASSES, Run, edit_json, speckle, stage_run, with_exif_time, write_files

FILES = {
    "report.json", "report.html", "alerts.json",
    *(f"{name}.parquet" for name in (*GROUPINGS, *LIST_TABLES, "cells", "review", "queue", "corrections")),
}  # fmt: skip


def test_the_report_counts_the_committed_rows(committed: Run, tmp_path: Path) -> None:
    overall = make_report([committed.run], tmp_path).overall
    rows = ds.dataset(committed.run.scores, partitioning="hive").to_table().to_pylist()
    assert overall["listed"] == len(rows)
    assert overall["scored"] == sum(row["status"] == "ok" for row in rows)
    assert overall["compliant"] == sum(row["label"] == "with_mask" for row in rows)
    assert overall["assessed"] == sum(row["label"] not in (None, "no_face") for row in rows)
    assert overall["num_review"] == sum(row["needs_review"] for row in rows)


def test_the_json_equals_the_parquet_tables(committed: Run, tmp_path: Path) -> None:
    report = make_report([committed.run], tmp_path)
    values = json.loads((tmp_path / "report.json").read_text())
    for name in GROUPINGS:
        assert pq.read_table(tmp_path / f"{name}.parquet").to_pylist() == values[name] == report.values[name]
    assert values["classes"] == list(CLASSES)
    assert len(values["by_camera"]) > 2
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_a_run_in_a_store_gives_the_report_of_a_local_one(
    committed: Run, root: Location, tmp_path: Path
) -> None:
    local = make_report([committed.run], tmp_path / "report")
    made = committed.copy(root / "run").run
    report = make_report([made], made.report)
    assert report.tables.keys() == local.tables.keys()
    assert report.overall == local.overall
    assert report.values["runs"][0]["path"] == str(made.path)
    assert list_names(made.report) == list_names(tmp_path / "report")
    for name in ("cells", *GROUPINGS, *LIST_TABLES):
        path = made.report / f"{name}.parquet"
        assert path.read_bytes() == (tmp_path / "report" / path.name).read_bytes()


def test_several_runs_add_up_unless_they_share_images(
    month: Path, checkpoint: Checkpoint, committed: Run, tmp_path: Path
) -> None:
    made = [stage_run(tmp_path / name, month, checkpoint, camera=(name,)) for name in ("gate-1", "dock")]
    for run in made:
        run.commit()
    parts = [make_report([run.run], tmp_path / "part").overall for run in made]
    both = make_report([run.run for run in made], tmp_path / "both")
    for name in COUNTS:
        assert both.overall[name] == sum(part[name] for part in parts)
    assert both.overall["listed"] == 66
    with pytest.raises(UsageError, match="102 of its images are in another run too"):
        make_report([committed.run, committed.copy(tmp_path / "copy").run], tmp_path / "twice")


def test_a_run_that_a_gpu_decoded_says_so_and_adds_up_with_others(
    month: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    made = [stage_run(tmp_path / name, month, checkpoint, camera=(name,)) for name in ("gate-1", "dock")]
    for run in made:
        run.commit()
    score = json.loads(made[0].run.run_json.read_bytes())["score"]
    edit_json(made[0].run.run_json, score=score | {"decoder": "gpu"})
    report = make_report([run.run for run in made], tmp_path / "both")
    assert report.overall["listed"] == 66
    said = {str(run["path"]): run.get("decoder") for run in report.values["runs"]}
    assert said == {str(made[0].run.path): "gpu", str(made[1].run.path): None}
    page = (tmp_path / "both" / "report.html").read_text()
    assert page.count("<dt>Decoder</dt>") == 1
    assert page.count("<dt>Checkpoint</dt>") == 2


def test_only_a_committed_run_is_reported(staged_at: Run, root: Location) -> None:
    with pytest.raises(UsageError, match="not finished"):
        make_report([staged_at.run], root / "report")
    with pytest.raises(UsageError, match="no run is there"):
        make_report([RunDir(root / "nowhere")], root / "report")
    assert list_names(root / "report") == []


def test_runs_of_different_classes_do_not_add_up(committed: Run, tmp_path: Path) -> None:
    other = committed.copy(tmp_path / "other").run
    checkpoint = json.loads(other.run_json.read_bytes())["checkpoint"]
    checkpoint["card"]["compliant"] = ["with_mask", "incorrect_mask"]
    edit_json(other.run_json, checkpoint=checkpoint)
    with pytest.raises(UsageError, match="do not add up"):
        make_report([committed.run, other], tmp_path / "report")


def test_a_folder_that_is_no_run_is_called_so_whatever_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UsageError, match="no run is there; make one"):
        make_report([RunDir.at(str(tmp_path))], tmp_path / "report")


@pytest.fixture(scope="module")
def nightly(tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint) -> tuple[Run, list[Run]]:
    """A run of twelve nights, and a run of each of them, of two cameras and a picture that comes twice."""
    root = tmp_path_factory.mktemp("nightly")
    files = {
        f"north/gate-{k % 2}/2026-10-{day:02d}/{6 + k:02d}0000.jpg": speckle(100 * day + k)
        for day in range(1, 13)
        for k in range(8)
    }
    files["north/gate-1/2026-10-05/235959.jpg"] = speckle(101)
    archive = write_files(root / "archive", files)
    days = [f"2026-10-{day:02d}" for day in range(1, 14)]
    runs = [stage_run(root / "month", archive, checkpoint)]
    runs += [
        stage_run(root / day, archive, checkpoint, since=day, until=until) for day, until in pairwise(days)
    ]
    for run in runs:
        run.commit()
    return runs[0], runs[1:]


def test_a_month_of_nightly_runs_gives_the_report_of_one_run_of_the_month(
    nightly: tuple[Run, list[Run]], tmp_path: Path
) -> None:
    month, nights = nightly
    config = ReportConfig(exclude=("duplicate",), alert_below=0.9, alert_by="camera")
    one = make_report([month.run], tmp_path / "one", config)
    shuffled = [run.run for run in (*nights[5:], *nights[:5])]
    together = make_report(shuffled, tmp_path / "together", config)
    own = ("runs", "made_at", "review")
    for name in one.values:
        if name not in own:
            assert together.values[name] == one.values[name], name
    assert one.values["quality"]["by_camera"][1]["duplicate"] == 1
    assert one.values["drift"]["tests"], "twelve nights are enough to be tested"
    for name in (*GROUPINGS, *LIST_TABLES, "cells"):
        paths = [tmp_path / folder / f"{name}.parquet" for folder in ("one", "together")]
        assert paths[0].read_bytes() == paths[1].read_bytes(), name
    rows = [report.values["review"]["candidates"] for report in (one, together)]
    assert [row["uri"] for row in rows[0]] == [row["uri"] for row in rows[1]]


def test_runs_are_reported_by_their_paths(nightly: tuple[Run, list[Run]], tmp_path: Path) -> None:
    first, second, newer = (
        night.copy(tmp_path / name).run
        for night, name in zip((*nightly[1][:2], nightly[1][0]), ("1", "2", "1.v2"), strict=True)
    )
    edit_json(newer.run_json, replaces=str(first.path))
    report = report_runs([str(first.path)])
    assert report.folder == first.report
    assert json.loads((first.report / "report.json").read_text()) == report.values
    assert report_runs([str(first.path)], latest=True).folder == newer.report
    both = report_runs([str(first.path), str(second.path)], str(tmp_path / "both"))
    assert (both.folder, both.overall["listed"]) == (tmp_path / "both", 16)
    with pytest.raises(UsageError, match="--out is missing"):
        report_runs([str(first.path), str(second.path)])
    with pytest.raises(UsageError, match="a run is there"):
        report_runs([str(first.path)], str(second.path))


def test_nights_of_an_archive_with_images_of_unknown_time_add_up_by_their_own_days(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    files = {
        f"north/gate-1/2026-10-{day:02d}/{6 + k:02d}0000.jpg": speckle(100 * day + k)
        for day in (1, 2, 3)
        for k in range(3)
    }
    files |= {"extra/late.jpg": speckle(0), "extra/exif.jpg": with_exif_time("2026:10:02 12:00:00")}
    archive = write_files(tmp_path / "archive", files)
    runs = []
    for since, until in pairwise([None, "2026-10-02", "2026-10-03", "2026-10-04"]):
        run = stage_run(tmp_path / f"{until}", archive, checkpoint, since=since, until=until)
        assert run.commit().planned == 5
        runs.append(run.run)
    with pytest.raises(UsageError, match="2 of its images are in another run too"):
        make_report(runs, tmp_path / "refused")
    report = make_report(runs, tmp_path / "report", ReportConfig(own_days=True))
    assert report.values["settings"]["own_days"]
    assert [(row["date"], row["listed"]) for row in report.values["by_day"]] == [
        ("2026-10-01", 3), ("2026-10-02", 4), ("2026-10-03", 3),
    ]  # fmt: skip
    late = stage_run(tmp_path / "late", archive, checkpoint, since="2026-10-04", until="2026-10-05")
    late.commit()
    with pytest.raises(UsageError, match="late: no image there is of a day that was asked for"):
        make_report([late.run], tmp_path / "none", ReportConfig(own_days=True))
    assert (
        make_report([*runs, late.run], tmp_path / "all", ReportConfig(own_days=True)).overall["listed"] == 10
    )


def test_both_figures_are_given_where_images_are_left_out(
    nightly: tuple[Run, list[Run]], tmp_path: Path
) -> None:
    report = make_report([nightly[0].run], tmp_path, ReportConfig(exclude=("duplicate", "frozen")))
    (everything,) = report.values["everything"]
    assert (report.overall["excluded"], everything["excluded"]) == (1, 0)
    assert report.overall["listed"] == everything["listed"] == 97
    assert sum(report.overall[f"num_{name}"] for name in CLASSES) == 96


def test_an_alert_is_written_and_gives_its_exit_code(nightly: tuple[Run, list[Run]], tmp_path: Path) -> None:
    quiet = make_report([nightly[0].run], tmp_path / "quiet")
    assert (quiet.exit_code, json.loads((tmp_path / "quiet" / "alerts.json").read_text())["alerts"]) == (
        DONE,
        [],
    )
    high = quiet.overall["compliance_high"]
    fired = make_report([nightly[0].run], tmp_path / "fired", ReportConfig(alert_below=min(1.0, high + 0.01)))
    assert fired.exit_code == ALERT
    (alert,) = json.loads((tmp_path / "fired" / "alerts.json").read_text())["alerts"]
    assert alert["kind"] == "compliance"
    assert alert["sentence"] in (tmp_path / "fired" / "report.html").read_text()
    with pytest.raises(
        UsageError, match=r"--corrected: these rates cannot be corrected, a class has only 10"
    ):
        make_report([nightly[0].run], tmp_path / "no", ReportConfig(alert_below=0.9, alert_corrected=True))
    assert not (tmp_path / "no").exists()


def test_folders_that_could_not_be_read_alert_and_stand_in_success_and_on_the_page(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["north/a/2026-10-01/080000.jpg", "closed/b/2026-10-01/080000.jpg", "@eaDir/x.jpg"]
    archive = write_files(tmp_path / "archive", {name: speckle(i) for i, name in enumerate(names)})
    scandir = os.scandir

    def refuse(folder: Any) -> Any:
        if str(folder).endswith("/closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    made = stage_run(tmp_path / "run", archive, checkpoint, skip_unreadable=True)
    assert made.commit().unreadable == made.run.read_success().unreadable == 1
    report = make_report([made.run], tmp_path / "report")
    assert report.exit_code == ALERT
    (alert,) = json.loads((tmp_path / "report" / "alerts.json").read_text())["alerts"]
    what = f"1 folder could not be read ({archive}/closed/), so their images are in no rate"
    assert (alert["kind"], alert["sentence"]) == ("unreadable", what)
    page = (tmp_path / "report" / "report.html").read_text()
    assert what in page and "<dt>Not readable</dt>" in page and "<code>@eaDir</code>" in page


def test_pictures_of_people_are_shown_only_when_asked_for(
    nightly: tuple[Run, list[Run]], tmp_path: Path
) -> None:
    make_report([nightly[0].run], tmp_path / "plain")
    make_report([nightly[0].run], tmp_path / "shown", ReportConfig(thumbnails=True))
    plain, shown = ((tmp_path / name / "report.html").read_text() for name in ("plain", "shown"))
    assert "image/jpeg" not in plain
    assert shown.count("image/jpeg") == 24


@pytest.mark.parametrize("kind", ["one image", "all failed", "no time"])
def test_a_run_with_hardly_anything_to_say_has_a_report(
    kind: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    data = b"no image" if kind == "all failed" else speckle(3)
    day = "1980-10-03" if kind == "no time" else "2026-10-03"  # nobody believes the first
    run = stage_run(
        tmp_path / "run",
        write_files(tmp_path / "archive", {f"north/gate-1/{day}/080000.jpg": data}),
        checkpoint,
    )
    run.commit(max_error_rate=1)
    report = make_report([run.run], run.run.report, ReportConfig(exclude=("frozen",), expect="1/h"))
    assert report.overall["listed"] == 1
    assert report.overall["scored"] == (kind != "all failed")
    page = (run.run.report / "report.html").read_text()
    assert "None" not in page
    assert "nan" not in page.lower().replace("inanc", "")


def test_thumbnails_of_an_archive_that_is_gone_are_said_to_be_unreachable(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    files = {f"north/gate-1/2026-10-03/08000{k}.jpg": speckle(k) for k in range(3)}
    archive = write_files(tmp_path / "archive", files)
    run = stage_run(tmp_path / "run", archive, checkpoint)
    run.commit()
    first, *others = make_report([run.run], run.run.report).values["review"]["candidates"]
    (archive / first["uri"].rpartition("/archive/")[2]).unlink()
    make_report([run.run], run.run.report, ReportConfig(thumbnails=True))
    page = (run.run.report / "report.html").read_text()
    assert page.count("image/jpeg") == len(others) > 0
    assert "unreachable" in page


def test_images_whose_label_people_do_not_see_when_they_judge_are_not_shown_with_it(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    files = {f"north/gate-1/2026-10-03/08000{k}.jpg": speckle(k) for k in range(3)}
    run = stage_run(tmp_path / "run", write_files(tmp_path / "archive", files), checkpoint)
    run.commit()
    report = make_report([run.run], run.run.report)
    queue = report.tables["queue"].to_pylist()
    assert len({row["stratum"] for row in queue}) == 2
    shown = {row["uri"] for row in report.values["review"]["candidates"]}
    assert shown == {row["uri"] for row in queue if row["stratum"] == "uncertain"}


def test_where_the_report_cannot_be_written_it_is_said_how_it_can(
    nightly: tuple[Run, list[Run]], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFailedError, match=r"cannot write .*`maskbatch report RUN\.\.\. --out DIR`"):
        make_report([nightly[0].run], tmp_path / "file" / "report")


def test_thumbnails_come_from_the_rows_of_a_parquet_file_in_whatever_order_they_are_ranked(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    images = pa.table({"image": [speckle(k) for k in range(40)], "time": list(range(40))})
    pq.write_table(images, tmp_path / "images.parquet")
    run = stage_run(tmp_path / "run", tmp_path / "images.parquet", checkpoint, layout=None)
    run.commit()
    report = make_report([run.run], run.run.report, ReportConfig(thumbnails=True))
    ids = [row["id"] for row in report.values["review"]["candidates"]]
    assert ids != sorted(ids)
    assert (run.run.report / "report.html").read_text().count("image/jpeg") == 24


def test_a_fleet_has_every_camera_day_in_its_parquet_file_and_the_busiest_in_the_page(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        f"north/gate-{camera}/2026-10-0{day}/08000{k}.jpg": speckle(camera * 9 + day * 3 + k)
        for camera in range(3)
        for day in (1, 2)
        for k in range(camera + 1)
    }
    run = stage_run(tmp_path / "run", write_files(tmp_path / "archive", files), checkpoint)
    run.commit()
    monkeypatch.setattr(figures, "MAPPED_CAMERAS", 2)
    report = make_report([run.run], run.run.report)
    days = pq.read_table(run.run.report / "by_camera_day.parquet")
    assert days.num_rows == 6
    assert len(report.values["by_camera_day"]) == 4
    assert len(report.values["by_camera"]) == 3


def test_figures_do_not_depend_on_which_run_is_named_first(
    nightly: tuple[Run, list[Run]], tmp_path: Path
) -> None:
    runs = [run.run for run in nightly[1][:3]]
    one = make_report(runs, tmp_path / "one").values
    other = make_report(runs[::-1], tmp_path / "other").values
    assert {**one, "made_at": ""} == {**other, "made_at": ""}


@pytest.mark.parametrize("name", ["run.json", "_SUCCESS"])
@pytest.mark.parametrize(
    "values", ["{}", "[]", '{"format_version": 1, "planned": -1, "statuses": {}, "files": [{}]}', "{"]
)
def test_a_damaged_run_is_named_in_one_sentence(
    committed: Run, tmp_path: Path, name: str, values: str
) -> None:
    run = committed.copy(tmp_path / "run").run
    (tmp_path / "run" / name).write_text(values)
    with pytest.raises(UsageError, match=name):
        make_report([run], tmp_path / "report")


@pytest.mark.parametrize(
    ("part", "key"), [("plan", "timezone"), ("checkpoint", "digest"), ("checkpoint", "card")]
)
def test_settings_that_lack_a_part_are_named(committed: Run, tmp_path: Path, part: str, key: str) -> None:
    run = committed.copy(tmp_path / "run").run
    values = json.loads(run.run_json.read_bytes())[part]
    del values[key]
    edit_json(run.run_json, **{part: values})
    with pytest.raises(UsageError, match=rf"run\.json is damaged: it lacks '{key}'"):
        make_report([run], tmp_path / "report")


def test_a_scores_file_of_another_size_is_not_reported(committed: Run, tmp_path: Path) -> None:
    run = committed.copy(tmp_path / "run").run
    path = next((tmp_path / "run" / "scores").rglob("*.parquet"))
    table = pq.read_table(path, partitioning=None)
    labels = pa.array(["with_mask"] * len(table))
    pq.write_table(table.set_column(table.column_names.index("label"), "label", labels), path)
    with pytest.raises(UsageError, match=r"bytes, [\d,]+ were committed; restore it"):
        make_report([run], tmp_path / "report")
