"""The whole path on a real embedded Ray, by the command line and in this process."""

import json
import shutil
from pathlib import Path

import pytest

from maskbatch import runner
from maskbatch.config import JobConfig, PlanConfig
from maskbatch.errors import UsageError
from maskbatch.runs.directory import RunDir
from maskbatch.runs.lease import Lease
from tests.conftest import LAYOUT, Cli, table_of

SPOILT = {"truncated": 2, "unsupported": 2}


@pytest.fixture(scope="session")
def undisturbed(
    archive: Path,
    small_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
    ray_with_a_logical_gpu: None,
) -> Path:
    """A run of `archive` that nothing disturbed, in one stage on the CPU."""
    return score(archive, small_checkpoint, tmp_path_factory.mktemp("run") / "out", gpus_per_worker=2)


def score(archive: Path, checkpoint: Path, out: Path, layout: str = LAYOUT, **job: float) -> Path:
    runner.score_archive(
        PlanConfig(archives=(str(archive),), layout=layout),
        str(out),
        job=JobConfig(**job),  # type: ignore[arg-type]
        checkpoint=str(checkpoint),
    )
    return out


def test_every_image_is_accounted_for(undisturbed: Path, archive: Path) -> None:
    success = json.loads((undisturbed / "_SUCCESS").read_text())
    table = table_of(undisturbed)
    assert table["id"].to_pylist() == list(range(200))
    assert success["planned"] == 200 == sum(success["statuses"].values())
    assert success["statuses"] == {"ok": 196, **SPOILT}
    assert {uri.removeprefix("file://") for uri in table["uri"].to_pylist()} == {
        str(path) for path in archive.rglob("*.jpg")
    }
    assert not (undisturbed / "staging").exists()
    assert not (undisturbed / "_lease.json").exists()


def test_the_report_counts_what_was_committed(undisturbed: Path) -> None:
    report = json.loads((undisturbed / "report" / "report.json").read_text())
    table = table_of(undisturbed)
    overall = report["overall"][0]
    assert overall["listed"] == 200
    assert overall["failed_truncated"] == 2
    labels = table["label"].to_pylist()
    assert overall["num_with_mask"] == labels.count("with_mask")
    assert overall["assessed"] == labels.count("with_mask") + labels.count("without_mask")
    assert len(report["by_camera_day"]) == 10


def test_a_gpu_stage_of_its_own_gives_the_identical_table(
    undisturbed: Path, archive: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    two_stages = score(archive, small_checkpoint, tmp_path / "out", gpus_per_worker=0.5)
    assert table_of(two_stages).equals(table_of(undisturbed))


def test_a_model_that_changes_under_a_run_stops_it_with_its_name(
    archive: Path,
    small_checkpoint: Path,
    tmp_path: Path,
    ray_with_a_logical_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.write_bytes(small_checkpoint.read_bytes())
    opened = runner.open_networks(str(mine), None, "face")
    monkeypatch.setattr(runner, "open_networks", lambda *_: opened)
    mine.write_bytes(mine.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(UsageError, match=r"checkpoint .*mine.safetensors changed while the run"):
        score(archive, mine, tmp_path / "out", gpus_per_worker=2)


KILL = "import os, signal\ndef kill(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
MOMENTS = {
    "while planning": """
from maskbatch.plan import build, table
from maskbatch.runs import request
rows = build.plan_rows
def half(*args):
    for k, row in enumerate(rows(*args)):
        if k == 100: kill()
        yield row
table.GROUP_ROWS, table.FILE_ROWS, request.plan_rows = 16, 64, half
""",
    "while scoring": """
from maskbatch import runner
score = runner.score_shards
def score_one(cluster, work, shards):
    yield next(score(cluster, work, shards))
    kill()
runner.score_shards = score_one
""",
    "while committing": """
from maskbatch.runs import commit
commit.write_json = kill
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_and_called_again_gives_the_identical_table(
    moment: str,
    cli: Cli,
    archive: Path,
    small_checkpoint: Path,
    undisturbed: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    command = ("score", archive, "--out", out, "--checkpoint", small_checkpoint, "--layout", LAYOUT)
    killed = cli(*command, script=KILL + MOMENTS[moment])
    assert killed.returncode == -9, killed.stderr
    assert (out / "_lease.json").exists()
    assert not (out / "_SUCCESS").exists()
    staged = {path.name: path.stat().st_mtime_ns for path in (out / "staging").glob("0*.parquet")}
    assert bool(staged) == (moment != "while planning")
    score(archive, small_checkpoint, out, gpus_per_worker=2)
    assert table_of(out).equals(table_of(undisturbed))
    printed = capfd.readouterr().err
    assert ("shards are staged" in printed) == bool(staged)
    if moment == "while committing":
        assert "score:" not in printed


def test_a_finished_run_answers_at_once_and_guards_itself(
    cli: Cli, undisturbed: Path, archive: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    command = ["score", archive, "--out", undisturbed, "--checkpoint", small_checkpoint, "--layout", LAYOUT]
    before = (undisturbed / "_SUCCESS").read_bytes()
    again = cli(*command, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["rescored"] is False
    assert "was finished before" in again.stderr
    for flags, named in {
        ("--limit", "5"): "limit 5 instead of None",
        ("--max-pixels", "1000"): "max_pixels 1000 instead of 89478485",
        ("--dtype", "float32"): "dtype float32 instead of auto",
    }.items():
        refused = cli(*command, *flags)
        assert refused.returncode == 2
        assert named in refused.stderr
        assert "name another --out" in refused.stderr
    other = cli("score", archive, "--out", undisturbed, "--layout", LAYOUT)
    assert other.returncode == 2 and "checkpoint" in other.stderr
    elsewhere = cli(
        "score", tmp_path, "--out", undisturbed, "--checkpoint", small_checkpoint, "--layout", LAYOUT
    )
    assert elsewhere.returncode == 2 and "archives" in elsewhere.stderr
    fresh = cli(*command, "--fresh")
    assert fresh.returncode == 2 and "never thrown away" in fresh.stderr
    assert (undisturbed / "_SUCCESS").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_says_that_nothing_is_lost(
    name: str, cli: Cli, archive: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    """SIGTERM too, for which Ray has a handler of its own that aborts."""
    stop = MOMENTS["while scoring"].replace("kill()", f"os.kill(os.getpid(), signal.{name})")
    command = (
        "score",
        archive,
        "--out",
        tmp_path / "out",
        "--checkpoint",
        small_checkpoint,
        "--layout",
        LAYOUT,
    )
    stopped = cli(*command, "--json", script=KILL + stop)
    assert stopped.returncode == 130, stopped.stderr
    assert "stopping; once more stops it at once" in stopped.stderr
    assert "interrupted; a run keeps what is scored" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert stopped.stdout == ""
    assert list((tmp_path / "out" / "staging").glob("0*.parquet"))
    assert not (tmp_path / "out" / "_lease.json").exists()


def test_a_second_driver_is_refused(cli: Cli, archive: Path, tmp_path: Path) -> None:
    with Lease(RunDir.at(str(tmp_path / "out"))):
        refused = cli("score", archive, "--out", tmp_path / "out", "--layout", LAYOUT)
    assert refused.returncode == 5
    assert "is in use by process" in refused.stderr


@pytest.mark.slow
def test_the_command_line_plans_scores_resumes_and_says_what_failed(
    cli: Cli, archive: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a run"
    planned = cli("plan", archive, "--out", out, "--layout", LAYOUT)
    assert planned.returncode == 0, planned.stderr
    assert "Planned 200 images" in planned.stdout
    assert "1 .txt" in planned.stdout and "1 Thumbs.db" in planned.stdout
    done = cli(
        "score",
        archive,
        "--out",
        out,
        "--layout",
        LAYOUT,
        "--checkpoint",
        small_checkpoint,
        "--max-error-rate",
        0.01,
    )
    assert done.returncode == 3, done.stderr
    assert "listed before" in done.stderr
    assert "Listed 200 = ok 196 + unsupported 2 + truncated 2" in done.stdout
    assert "more than --max-error-rate 0.01 allows" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ray" not in done.stderr.replace("waiting for Ray to start", "").lower().replace("array", "")
    again = cli("score", archive, "--out", out, "--layout", LAYOUT, "--checkpoint", small_checkpoint)
    assert again.returncode == 3
    report = cli("report", out, "--json")
    assert report.returncode == 0
    assert json.loads(report.stdout)["overall"]["listed"] == 200


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["score", "nowhere", "--out", "x"], 2, "no such folder or file"),
        (["plan", "s3://", "--dry-run"], 2, "archive s3://: names nothing"),
        (["plan", "nonsense://bucket/x", "--dry-run"], 2, "nonsense://: Protocol not known"),
        (["plan", "https://host/x.csv?token=1", "--dry-run"], 2, "a URL with a query or a password"),
        (["plan", "{date:%Y}", "--dry-run"], 2, "needs --since and --until"),
        (["plan", "x.tar.gz", "--dry-run"], 2, "no such folder or file"),
        (
            ["plan", ".", "--dry-run", "--storage-options", "no.toml"],
            2,
            "--storage-options no.toml: cannot be read",
        ),
        (["plan", ".", "--dry-run", "--keep-column", "status"], 2, "the tables have a column of that name"),
        (["score", ".", "--out", "s3://a:b@bucket/x"], 2, "credentials go to --storage-options"),
        (["plan", "."], 2, "--out OUT is missing"),
        (["plan", "--frobnicate"], 2, "No such option"),
        (["frobnicate"], 2, "No such command"),
        (["score", ".", "--out", "x", "--batch-size", "0"], 2, "--batch-size 0: 1 to 4096 expected"),
        (["score", ".", "--out", "x", "--checkpoint", "no.safetensors"], 2, "no such file"),
        (["plan", ".", "--dry-run", "--timezone", "Mars/Olympus"], 2, "no such zone"),
        (["plan", ".", "--dry-run", "--since", "yesterday"], 2, "--since yesterday: a date like"),
        (["report", "nowhere"], 2, "no run is there"),
        (["plan", ".", "--out", "/proc/x"], 1, "cannot write"),
        (["plan", ".", "--dry-run", "--config", "no.toml"], 2, "--config no.toml: no such file"),
    ],
)
def test_a_mistake_is_one_sentence_and_an_exit_code(
    cli_here: Cli, arguments: list[str], code: int, message: str
) -> None:
    result = cli_here(*arguments)
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_config_file_gives_flags_and_flags_win(cli: Cli, archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "month.toml"
    file.write_text(f"layout = '{LAYOUT}'\nlimit = 7\ncamera = ['gate-1']\n")
    by_file = json.loads(cli("plan", archive, "--dry-run", "--json", "--config", file).stdout)
    assert by_file["listing"]["num_images"] == 7
    assert list(by_file["listing"]["cameras"]) == ["north/gate-1"]
    by_flag = json.loads(cli("plan", archive, "--dry-run", "--json", "--config", file, "--limit", 9).stdout)
    assert by_flag["listing"]["num_images"] == 9
    file.write_text("limits = 7\n")
    wrong = cli("plan", archive, "--dry-run", "--config", file)
    assert wrong.returncode == 2 and "'limits' is no setting" in wrong.stderr


def test_an_unfinished_run_can_be_thrown_away(archive: Path, small_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    runner.plan_archive(PlanConfig(archives=(str(archive),), layout=LAYOUT, limit=9), str(out))
    wanted = PlanConfig(archives=(str(archive),), layout=LAYOUT)
    with pytest.raises(UsageError, match="limit None instead of 9; --fresh"):
        runner.plan_archive(wanted, str(out))
    assert runner.plan_archive(wanted, str(out), fresh=True).num_images == 200


def test_a_folder_that_holds_something_else_is_not_touched(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match=r"is not empty and holds no run \(found 'thesis.txt'\)"):
        runner.plan_archive(PlanConfig(archives=(str(archive),)), str(tmp_path), fresh=True)
    assert (tmp_path / "thesis.txt").exists()


def test_a_report_warns_a_check_finds_damage_and_two_runs_are_compared(
    undisturbed: Path, archive: Path, small_checkpoint: Path, tmp_path: Path, cli: Cli
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(undisturbed, mine)
    settings = (mine / "run.json").read_text()
    other = settings.replace('"compliant": [\n        "with_mask"', '"compliant": [\n        "without_mask"')
    (mine / "run.json").write_text(other)
    alert = cli("report", mine, "--alert-below", 0.999, "--by", "site", "--exclude", "dark,frozen", "--json")
    (mine / "run.json").write_text(settings)
    assert alert.returncode == 4, alert.stderr
    assert [a["site"] for a in json.loads(alert.stdout)["alerts"] if a["kind"] == "compliance"] == ["north"]
    assert json.loads((mine / "report" / "alerts.json").read_text())["settings"]["alert_by"] == "site"
    sound = cli("verify", mine, "--sample", 20, "--seed", 7)
    assert sound.returncode == 0, sound.stderr
    assert sound.stdout.startswith("verified: ")
    victim = next((mine / "scores").rglob("*.parquet"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    damaged = cli("verify", mine, "--sample", 0)
    assert damaged.returncode == 1
    assert f"{victim.relative_to(mine)}: sha256: expected " in damaged.stdout
    layout = "{captured_at:%Y/%m/%d/%H%M%S}.jpg"
    half = score(archive / "north" / "gate-1", small_checkpoint, tmp_path / "half", layout, gpus_per_worker=2)
    compared = cli("compare", undisturbed, half)
    assert compared.returncode == 0, compared.stderr
    assert "100 images are in both" in compared.stdout
    assert "difference +0.0 points" in compared.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("report", "nowhere"), "no run is there"),
        (("report", "RUN", "--exclude", "fog"), "--exclude fog: frozen, duplicate, static_face, dark"),
        (
            ("report", "RUN", "--expect", "often"),
            "--expect often: snapshots per time expected, such as 1/5min",
        ),
        (("report", "RUN", "--by", "camera"), "give it too"),
        (("report", "RUN", "--alert-below", "95"), "--alert-below 95"),
        (
            ("report", "RUN", "--alert-below", "0.9", "--by", "mood"),
            "--by mood: one of overall, site, camera, day",
        ),
        (("verify", "RUN", "--sample", "-1"), "--sample -1"),
        (("compare", "RUN", "RUN"), "are the same run"),
    ],
)
def test_what_cannot_be_asked_of_a_finished_run_is_one_sentence(
    undisturbed: Path, cli_here: Cli, arguments: tuple[str, ...], says: str
) -> None:
    before = (undisturbed / "report" / "report.json").read_bytes()
    result = cli_here(*[undisturbed if argument == "RUN" else argument for argument in arguments])
    assert result.returncode == 2, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("maskbatch: ")
    assert says in last
    assert (undisturbed / "report" / "report.json").read_bytes() == before
