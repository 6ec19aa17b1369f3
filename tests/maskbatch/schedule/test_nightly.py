import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from maskbatch.cli.commands import nightly
from maskbatch.config import read_toml
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Checkpoint, open_checkpoint
from maskbatch.schedule.nightly import report_nights
from maskbatch.schedule.nights import DAY, Schedule
from tests.maskbatch.samples import Run, read_scores, speckle, stage_run, with_exif_time, write_files
from tests.maskbatch.schedule.places import FIRST_NIGHT, LAST_NIGHT, ROOT, Place, values

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_cluster", "no_plots")]


def test_each_night_is_its_local_day_and_the_worst_code_is_that_of_all(
    scored: tuple[Place, dict[str, Any]],
) -> None:
    place, found = scored
    assert [night["date"] for night in found["nights"]] == [f"2026-10-0{day}" for day in range(1, 4)]
    assert [night["exit_code"] for night in found["nights"]] == [3, 0, 0]
    assert found["exit_code"] == 3
    assert [night["overall"]["listed"] for night in found["nights"]] == [42, 40, 40]
    for night in found["nights"]:
        folder = Path(night["run"])
        assert folder == place.nights / night["date"]
        assert {path.name for path in (folder / "scores").iterdir()} == {f"date={night['date']}"}
        assert values(folder / "report" / "report.json")["settings"]["expect"] == "12/h@06-22"


def test_a_night_is_held_against_those_before_it(scored: tuple[Place, dict[str, Any]]) -> None:
    place, found = scored
    first, *later = found["nights"]
    assert "comparison" not in first and not (place.nights / "trailing" / "2026-10-01" / "report").exists()
    for k, night in enumerate(later, 1):
        before, itself = night["comparison"]["runs"]
        assert before["path"] == ", ".join(str(place.nights / f"2026-10-0{day}") for day in range(1, k + 1))
        assert itself["path"] == night["run"]
        trailing = values(place.nights / "trailing" / night["date"] / "report" / "report.json")
        assert len(trailing["runs"]) == k + 1
        written = values(place.nights / "trailing" / night["date"] / "alerts.json")
        assert written["alerts"] == night["alerts"] and written["exit_code"] == night["exit_code"]


def test_nothing_new_is_not_scored_again_and_returns_the_recorded_code(
    scored: tuple[Place, dict[str, Any]], place: Place
) -> None:
    before = place.made()
    found = report_nights(place.schedule(), FIRST_NIGHT, LAST_NIGHT)
    assert [night["rescored"] for night in found["nights"]] == [False] * 3
    assert [night["exit_code"] for night in found["nights"]] == [3, 0, 0]
    assert place.made() == before and len(before) == 3


def test_without_a_date_it_is_yesterday_and_since_goes_up_to_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Schedule, "today", lambda self: LAST_NIGHT + DAY)

    def nights(**flags: Any) -> list[str]:
        code = nightly(
            archives=[str(place.archive)],
            base=str(place.base),
            config_file=place.toml,
            alert_below=None,
            alert_by=None,
            as_json=True,
            **flags,
        )
        found = json.loads(capsys.readouterr().out)
        assert found["exit_code"] == code
        return [night["date"] for night in found["nights"]]

    assert nights() == ["2026-10-03"]
    assert nights(date="2026-10-01") == ["2026-10-01"]
    assert nights(since="2026-10-02") == ["2026-10-02", "2026-10-03"]
    for flags, said in (
        ({"date": "2026-10-04"}, "--date 2026-10-04: that day is not over; 2026-10-03 is the last"),
        ({"since": "2026-10-04"}, "--since 2026-10-04: that day is not over"),
        ({"since": "soon"}, "--since soon: a date like 2026-10-03 expected"),
        ({"date": "2026-10-01", "since": "2026-10-01"}, "give one of them"),
    ):
        with pytest.raises(UsageError, match=said):
            nights(**flags)


def test_a_job_of_a_cluster_joins_it_and_flags_win_over_the_file(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.toml.with_name("other.toml").write_text("address = 'ray://far:1'\nalert-below = 0.5\n")
    other = Place(place.archive, place.base, place.toml.with_name("other.toml"))
    assert other.schedule().values["address"] == "ray://far:1"
    assert other.schedule(alert_below=0.9).report_config.alert_below == 0.9
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert other.schedule().values["address"] == place.schedule().values["address"] == "auto"


def test_a_late_image_makes_the_next_version_which_counts_each_image_once(place: Place) -> None:
    late = place.archive / "north/gate-1/2026/10/02/235959.jpg"
    late.write_bytes(speckle(5))
    try:
        found = report_nights(place.schedule(), date(2026, 10, 2), date(2026, 10, 3))
    finally:
        late.unlink()
    second, third = found["nights"]
    assert [second["rescored"], third["rescored"]] == [True, False]
    assert second["run"] == str(place.nights / "2026-10-02.v2") and second["overall"]["listed"] == 41
    assert values(Path(second["run"]) / "_SUCCESS")["carried"] == 40
    assert third["comparison"]["runs"][0]["planned"] == 42 + 41
    trailing = values(place.nights / "trailing" / "2026-10-03" / "report" / "report.json")
    assert trailing["overall"][0]["listed"] == 42 + 41 + 40
    assert len(place.made()) == 4


def test_an_alert_is_the_exit_code_and_stands_in_a_file_and_a_sentence(place: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.nightly_report", place.archive, "--base", place.base, "--config", place.toml,
         "--date", "2026-10-02", "--alert-below", "1", "--by", "camera", "--json"],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    found = json.loads(done.stdout)
    (night,) = found["nights"]
    assert done.returncode == found["exit_code"] == night["exit_code"] == 4
    assert {alert["camera"] for alert in night["alerts"]} == {"gate-0", "gate-1"}
    assert values(place.nights / "trailing" / "2026-10-02" / "alerts.json")["alerts"] == night["alerts"]
    for alert in night["alerts"]:
        assert alert["kind"] == "compliance"
        assert f"2026-10-02: ALERT {alert['sentence']}." in done.stderr
    assert not night["rescored"] and "Traceback" not in done.stderr


def test_more_failures_than_allowed_beat_an_alert(place: Place) -> None:
    found = report_nights(place.schedule(alert_below=1.0), FIRST_NIGHT, FIRST_NIGHT)
    assert found["exit_code"] == 3 and found["nights"][0]["alerts"]


def test_a_night_without_an_image_is_an_alert_and_an_archive_without_any_an_error(place: Place) -> None:
    empty = date(2026, 10, 6)
    found = report_nights(place.schedule(), empty, empty)
    (alert,) = found["nights"][0]["alerts"]
    assert (found["exit_code"], alert["kind"]) == (4, "snapshots")
    assert "2026-10-06" in alert["sentence"]
    assert values(place.nights / "trailing" / "2026-10-06" / "alerts.json")["alerts"] == [alert]
    assert not list(place.nights.glob("2026-10-06*/run.json"))
    unmounted = Place(place.base.parent / "mount", place.base, place.toml)
    unmounted.archive.mkdir()
    found = report_nights(unmounted.schedule(), empty + DAY, empty + DAY)
    (alert,) = found["nights"][0]["alerts"]
    assert found["exit_code"] == 1 and "no image found" in alert["sentence"]
    assert values(place.nights / "trailing" / "2026-10-07" / "alerts.json")["exit_code"] == 1
    assert not (place.nights / "2026-10-07").exists()


def test_a_night_whose_images_were_deleted_since_stays_as_it_is(place: Place, tmp_path: Path) -> None:
    before = report_nights(place.schedule(), LAST_NIGHT, LAST_NIGHT)["nights"][0]
    kept = tmp_path / "kept"
    folders = list(place.archive.glob("north/*/2026/10/03"))
    for folder in folders:
        (kept / folder.parents[2].name).mkdir(parents=True)
        folder.rename(kept / folder.parents[2].name / "03")
    try:
        (after,) = report_nights(place.schedule(), LAST_NIGHT, LAST_NIGHT)["nights"]
    finally:
        for folder in folders:
            (kept / folder.parents[2].name / "03").rename(folder)
    assert len(folders) == 2 and after == before and not after["rescored"]


def test_a_night_that_fails_is_said_and_the_others_go_on(
    place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(place.nights / "2026-10-02")
    write_files(place.nights / "2026-10-02", {"notes.txt": b"somebody's own"})
    found = report_nights(place.schedule(alert_below=1.0), date(2026, 10, 2), date(2026, 10, 3))
    assert [night["exit_code"] for night in found["nights"]] == [2, 4]
    assert found["exit_code"] == 2
    assert f"2026-10-02: {found['nights'][0]['error']}" in capfd.readouterr().err


@pytest.fixture(scope="module")
def staged(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Four nights that are scored, the last one without a snapshot, and a cluster that is not there.

    One image says when it was taken by EXIF alone, and one not at all: both are in every night's run.
    """
    root = tmp_path_factory.mktemp("staged")
    nights = NIGHTS[:3]
    files = {f"gate-1/{night}/12{k:02d}00.jpg": speckle(k) for night in nights for k in range(9)}
    files |= {"extra/late.jpg": speckle(50), "extra/exif.jpg": with_exif_time("2026:10:02 12:00:00")}
    place = Place(write_files(root / "archive", files), root / "base", root / "nightly.toml")
    return stage_nights(place, checkpoint, LAYOUT, 4)


def stage_nights(place: Place, checkpoint: Checkpoint, layout: str, number: int) -> Place:
    for since, until in pairwise(NIGHTS[: number + 1]):
        limits = {"since": since, "until": until, "margin_days": 1, "allow_unknown_times": True}
        stage_run(place.nights / since, place.archive, checkpoint, layout=layout, **limits).commit()
    place.toml.write_text(
        f"layout = '{layout}'\ntimezone = 'Europe/Paris'\ncheckpoint = '{checkpoint.path}'\ndtype = 'float32'\n"
        "address = 'ray://127.0.0.1:9'\nallow-unknown-times = true\n"
    )
    return place


@pytest.fixture
def nights(staged: Place, tmp_path: Path) -> Place:
    """A copy of them, to be added to; the archive stays where it is."""
    shutil.copytree(staged.base, tmp_path / "base")
    return Place(staged.archive, tmp_path / "base", staged.toml)


def test_a_night_whose_faces_another_detector_found_is_held_against_none_of_the_others(
    tmp_path: Path,
) -> None:
    root = tmp_path / "scenes"
    files = {f"gate-1/{night}/12{k:02d}00.jpg": speckle(k) for night in NIGHTS[:2] for k in range(3)}
    place = Place(write_files(root / "archive", files), root / "base", root / "nightly.toml")
    for (since, until), detector in zip(pairwise(NIGHTS[:3]), (None, "yunet_n"), strict=True):
        limits = {"since": since, "until": until, "view": "scene", "detector": detector}
        stage_run(place.nights / since, place.archive, open_checkpoint(), layout=LAYOUT, **limits).commit()
    place.toml.write_text(
        f"layout = '{LAYOUT}'\ntimezone = 'Europe/Paris'\nview = 'scene'\ndetector = 'yunet_n'\n"
        "dtype = 'float32'\naddress = 'ray://127.0.0.1:9'\nmargin-days = 0\n"
    )
    found = report_nights(place.schedule(), FIRST_NIGHT + DAY, FIRST_NIGHT + DAY)
    assert not [alert for alert in found["nights"][0]["alerts"] if alert["kind"] == "comparison"]


def test_an_image_of_unknown_time_is_in_no_comparison_and_one_of_exif_in_that_of_its_night(
    nights: Place,
) -> None:
    found = report_nights(nights.schedule(), FIRST_NIGHT + DAY, LAST_NIGHT)
    assert [night["overall"]["listed"] for night in found["nights"]] == [11, 11]
    assert not [
        alert for night in found["nights"] for alert in night["alerts"] if alert["kind"] == "comparison"
    ]
    sides = [side["planned"] for night in found["nights"] for side in night["comparison"]["runs"]]
    assert sides == [9, 10, 19, 9]
    trailing = values(nights.nights / "trailing" / "2026-10-03" / "report" / "report.json")
    assert [row["listed"] for row in trailing["by_day"]] == [9, 10, 9]


def test_a_night_of_which_nothing_but_images_of_unknown_time_is_there_is_silent(nights: Place) -> None:
    silent = LAST_NIGHT + DAY
    (night,) = report_nights(nights.schedule(), silent, silent)["nights"]
    (alert,) = night["alerts"]
    assert (night["exit_code"], alert["kind"], night["overall"]["listed"]) == (4, "snapshots", 2)
    assert "comparison" not in night


def cut_run_json(night: Path) -> Path:
    os.truncate(night / "run.json", 40)
    return night / "run.json"


def spoil_rows(night: Path) -> Path:
    path = next((night / "scores").rglob("*.parquet"))
    path.write_bytes(b"x" * path.stat().st_size)
    return path


@pytest.mark.parametrize("damage", [cut_run_json, spoil_rows])
def test_a_damaged_night_is_named_and_left_out_and_silences_no_later_one(
    nights: Place, damage: Callable[[Path], Path]
) -> None:
    damaged = damage(nights.nights / "2026-10-01")
    (night,) = report_nights(nights.schedule(alert_below=1.0), LAST_NIGHT, LAST_NIGHT)["nights"]
    alerts = {alert["kind"]: alert["sentence"] for alert in night["alerts"]}
    assert night["exit_code"] == 4 and alerts.keys() == {"compliance", "comparison"}
    assert alerts["comparison"].startswith(f"compared without the night of 2026-10-01: {damaged}")
    assert night["comparison"]["runs"][0]["path"] == str(nights.nights / "2026-10-02")
    assert values(nights.nights / "trailing" / "2026-10-03" / "alerts.json")["alerts"] == night["alerts"]


def test_nights_that_do_not_add_up_are_an_alert_beside_those_of_the_night(nights: Place) -> None:
    shutil.copytree(nights.nights / "2026-10-01", nights.nights / "2026-09-30")
    (night,) = report_nights(nights.schedule(alert_below=1.0), LAST_NIGHT, LAST_NIGHT)["nights"]
    assert [alert["kind"] for alert in night["alerts"]] == ["compliance", "comparison"]
    assert "9 of its images are in another run too" in night["alerts"][1]["sentence"]
    assert night["exit_code"] == 4 and "comparison" not in night


def test_a_night_of_which_some_images_were_deleted_is_not_replaced_by_what_came_late(nights: Place) -> None:
    late = nights.archive / "gate-1/2026-10-02/235900.jpg"
    deleted = late.with_name("120000.jpg")
    kept = deleted.read_bytes()
    deleted.unlink()
    late.write_bytes(speckle(70))
    try:
        (night,) = report_nights(nights.schedule(), date(2026, 10, 2), date(2026, 10, 2))["nights"]
    finally:
        late.unlink()
        deleted.write_bytes(kept)
    assert night["run"] == str(nights.nights / "2026-10-02") and not night["rescored"]
    assert night["overall"]["listed"] == 11


def test_a_night_stands_when_every_dated_folder_was_deleted(checkpoint: Checkpoint, tmp_path: Path) -> None:
    files = {f"{NIGHTS[0]}/gate-1_12000{k}.jpg": speckle(k) for k in range(3)}
    files[f"{NIGHTS[0]}/gate-1_120009.jpg"] = b"broken"
    archive = write_files(tmp_path / "archive", files)
    place = Place(archive / "{date:%Y-%m-%d}", tmp_path / "base", tmp_path / "nightly.toml")
    stage_nights(place, checkpoint, "{captured_at:%Y-%m-%d}/{camera}_*.jpg", 1)
    shutil.rmtree(archive / NIGHTS[0])
    (night,) = report_nights(place.schedule(), FIRST_NIGHT, FIRST_NIGHT)["nights"]
    assert (night["exit_code"], night["overall"]["listed"], night["rescored"]) == (3, 4, False)


def test_a_path_of_the_neighbouring_day_is_looked_into(
    checkpoint: Checkpoint, ray_with_a_logical_gpu: None, tmp_path: Path
) -> None:
    times = ("02/gate-1_2026-10-02T120000", "01/gate-1_2026-10-02T003000", "01/gate-1_2026-10-01T233000")
    write_files(tmp_path / "a", {f"2026-10-{name}.jpg": speckle(k) for k, name in enumerate(times)})
    toml = tmp_path / "nightly.toml"
    layout = "*/{camera}_{captured_at:%Y-%m-%dT%H%M%S}.jpg"
    toml.write_text(f"layout = '{layout}'\ntimezone = 'Asia/Tokyo'\ncheckpoint = '{checkpoint.path}'\n")
    schedule = Schedule.of([f"{tmp_path}/a/{{date:%Y-%m-%d}}"], str(tmp_path), read_toml(toml))
    found = report_nights(schedule, date(2026, 10, 2), date(2026, 10, 2))
    assert found["nights"][0]["overall"]["listed"] == 2
    assert (tmp_path / "Asia" / "Tokyo" / "2026-10-02" / "_SUCCESS").exists()


def test_a_camera_that_falls_in_one_night_is_an_alert(checkpoint: Checkpoint, tmp_path: Path) -> None:
    pool = write_files(tmp_path / "pool", {f"{k:03d}.jpg": speckle(k) for k in range(160)})
    sorted_out = stage_run(tmp_path / "sorted", pool, checkpoint, layout=None)
    labels: dict[str, list[bytes]] = defaultdict(list)
    for uri, label in zip(*sorted_rows(sorted_out), strict=True):
        labels[label].append((pool / uri.rpartition("/")[2]).read_bytes())
    good, bad = labels["with_mask"], labels["without_mask"] or labels["incorrect_mask"]
    files = {}
    for night in range(21):
        for camera in ("gate-1", "gate-2", "gate-3"):
            failing = 28 if night == 20 and camera == "gate-2" else 1 + night % 3
            for k in range(30):
                chosen = bad if k < failing else good
                files[f"{camera}/{NIGHTS[night]}/12{k:02d}00.jpg"] = chosen[k % len(chosen)]
    place = Place(write_files(tmp_path / "archive", files), tmp_path, tmp_path / "nightly.toml")
    schedule = stage_nights(place, checkpoint, LAYOUT, 21).schedule()
    quiet, last = map(date.fromisoformat, NIGHTS[19:21])
    assert report_nights(schedule, quiet, quiet)["exit_code"] == 0
    found = report_nights(schedule, last, last)
    (alert,) = found["nights"][0]["alerts"]
    assert (found["exit_code"], alert["kind"], alert["camera"]) == (4, "fall", "gate-2")
    assert alert["rate"] < 0.1 < 0.9 < alert["before"]


NIGHTS = [f"2026-10-{day:02d}" for day in range(1, 23)]
LAYOUT = "{camera}/{captured_at:%Y-%m-%d/%H%M%S}.jpg"


def sorted_rows(run: Run) -> tuple[list[str], list[str]]:
    run.commit()
    rows = read_scores(run.run)
    return rows["uri"].to_pylist(), rows["label"].to_pylist()
