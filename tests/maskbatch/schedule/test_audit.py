import json
import shutil
import subprocess
import sys
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from maskbatch.cli.commands import audit
from maskbatch.config import read_toml
from maskbatch.errors import UsageError
from maskbatch.model.checkpoint import Checkpoint
from maskbatch.schedule.audit import audit_month
from maskbatch.schedule.nights import Schedule
from tests.maskbatch.samples import speckle, stage_run, write_files
from tests.maskbatch.schedule.places import ROOT, Place, values

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_cluster")]
MONTH = "2026-10"


@pytest.fixture(scope="module")
def audited(
    scored: tuple[Place, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Place, dict[str, Any]]:
    """The month of five days, of which three were nights."""
    base = tmp_path_factory.mktemp("audit") / "base"
    shutil.copytree(scored[0].base, base)
    place = Place(scored[0].archive, base, scored[0].toml)
    return place, audit_month(place.schedule(), MONTH, sample=30)


def test_a_month_carries_its_nights_over_scores_the_rest_and_verifies(
    audited: tuple[Place, dict[str, Any]],
) -> None:
    place, found = audited
    assert found["run"] == str(place.nights / MONTH) and found["rescored"]
    assert found["carried"] == 42 + 40 + 40 - 2  # the missing ones are looked for again
    assert found["overall"]["listed"] == 202
    assert found["verification"]["verified"] and found["verification"]["sampled"] == 30
    days = {path.name for path in (place.nights / MONTH / "scores").iterdir()}
    assert days == {f"date=2026-10-0{day}" for day in range(1, 6)}
    plan = values(place.nights / MONTH / "run.json")["plan"]
    assert (plan["since"], plan["until"]) == ("2026-10-01", "2026-11-01")
    report = values(place.nights / MONTH / "report" / "report.json")
    assert report["settings"]["expect"] == "12/h@06-22"
    assert found["exit_code"] == (4 if found["alerts"] else 0)


def test_the_bundle_holds_the_audit_and_the_sums_of_its_files(
    audited: tuple[Place, dict[str, Any]], tmp_path: Path
) -> None:
    place, found = audited
    assert found["bundle"] == str(place.nights / f"{MONTH}.audit.zip")
    with zipfile.ZipFile(found["bundle"]) as packed:
        assert packed.namelist() == sorted(packed.namelist())
        packed.extractall(tmp_path)
    folder = tmp_path / MONTH
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert checked.returncode == 0 and checked.stdout.count(": OK") == len(kept) - 1
    reported = {f"report/{path.name}" for path in (place.nights / MONTH / "report").iterdir()}
    assert kept == {"run.json", "_SUCCESS", "verification.json", "SHA256SUMS"} | reported
    assert {"report/report.html", "report/report.json", "report/by_day.parquet"} < kept
    assert values(folder / "verification.json") == found["verification"]
    assert (folder / "_SUCCESS").read_bytes() == (place.nights / MONTH / "_SUCCESS").read_bytes()


def test_called_again_it_scores_nothing_and_the_bundle_stays(
    audited: tuple[Place, dict[str, Any]], tmp_path: Path
) -> None:
    place, found = audited
    before = Path(found["bundle"]).read_bytes()
    assert audit_month(place.schedule(), MONTH, sample=5)["bundle"] == found["bundle"]
    assert Path(found["bundle"]).read_bytes() == before
    bundle = tmp_path / "kept" / "october.zip"
    done = subprocess.run(
        [sys.executable, "-m", "jobs.audit_month", place.archive, "--month", MONTH, "--base", place.base,
         "--config", place.toml, "--sample", "0", "--bundle", bundle, "--json"],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    again = json.loads(done.stdout)
    assert done.returncode == again["exit_code"] == found["exit_code"]
    assert not again["rescored"] and again["run"] == found["run"]
    assert again["verification"]["verified"] and again["verification"]["sampled"] == 0
    assert zipfile.is_zipfile(bundle) and again["bundle"] == str(bundle)
    assert not (place.nights / f"{MONTH}.v2").exists()
    assert "verified: " in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def whole(checkpoint: Checkpoint, tmp_path: Path) -> Schedule:
    """A month of two nights that are scored, of an archive that has more, and a cluster that is not there."""
    nights = ("2026-09-30", "2026-10-01", "2026-10-31", "2026-11-01")
    names = [f"gate-1/{night}/12{k:02d}00.jpg" for night in nights for k in range(9)]
    archive = write_files(tmp_path / "archive", {name: speckle(k) for k, name in enumerate(names)})
    layout = "{camera}/{captured_at:%Y-%m-%d/%H%M%S}.jpg"
    for since, until in (("2026-10-01", "2026-10-02"), ("2026-10-31", "2026-11-01")):
        night = tmp_path / "Europe" / "Paris" / since
        stage_run(night, archive, checkpoint, layout=layout, since=since, until=until).commit()
    toml = tmp_path / "nightly.toml"
    toml.write_text(
        f"layout = '{layout}'\ntimezone = 'Europe/Paris'\ncheckpoint = '{checkpoint.path}'\ndtype = 'float32'\n"
        "address = 'ray://127.0.0.1:9'\n"
    )
    return Schedule.of([str(archive)], str(tmp_path), read_toml(toml))


def test_a_month_that_its_nights_have_whole_needs_no_cluster(whole: Schedule) -> None:
    found = audit_month(whole, MONTH, sample=5)
    assert (found["carried"], found["overall"]["listed"]) == (18, 18)
    assert found["verification"]["verified"] and found["verification"]["sampled"] == 5


def test_an_unfinished_month_of_other_settings_goes_on_when_thrown_away(
    whole: Schedule, checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (archive,) = whole.values["archives"]
    month = {"since": "2026-10-01", "until": "2026-11-01", "layout": whole.values["layout"]}
    stage_run(tmp_path / "Europe" / "Paris" / MONTH, Path(archive), checkpoint, **month)

    def run(**flags: bool) -> int:
        toml = tmp_path / "nightly.toml"
        return audit(
            archives=[archive],
            month=MONTH,
            base=str(tmp_path),
            config_file=toml,
            sample=0,
            as_json=True,
            **flags,
        )

    with pytest.raises(UsageError, match="--fresh throws it away"):
        run()
    code, found = run(fresh=True), json.loads(capsys.readouterr().out)
    assert (code, found["carried"], found["overall"]["listed"]) == (found["exit_code"], 18, 18)


def test_a_difference_is_exit_code_1_and_stands_in_the_bundle(whole: Schedule) -> None:
    assert audit_month(whole, MONTH, sample=0)["exit_code"] in (0, 4)
    next(Path(whole.values["archives"][0]).glob("gate-1/2026-10-01/*")).unlink()
    found = audit_month(whole, MONTH, sample=18)
    assert found["exit_code"] == 1 and not found["rescored"]
    assert found["verification"]["num_differences"] == 1
    with zipfile.ZipFile(found["bundle"]) as packed:
        assert json.loads(packed.read(f"{MONTH}/verification.json")) == found["verification"]


def test_a_month_that_is_not_over_is_refused_with_the_day_it_can_be_audited(place: Place) -> None:
    schedule = place.schedule()
    today = schedule.today()
    after = (today.replace(day=1) + timedelta(days=31)).replace(day=1)
    with pytest.raises(UsageError, match=f"not over in Europe/Paris; audit it from {after} on"):
        audit_month(schedule, f"{today:%Y-%m}")
    for wrong in ("2026-13", "October", "2026-10-01"):
        with pytest.raises(UsageError, match=f"--month {wrong}: a month like 2026-10 expected"):
            audit_month(schedule, wrong)
