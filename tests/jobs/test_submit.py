"""submit.py against a real cluster of one node, through the real Jobs API; the token is asked for throughout."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import ray
from ray.job_submission import JobDetails

from jobs import jobserver, preflight, submit
from maskbatch.errors import MaskbatchError, RunFailedError, UsageError
from tests.conftest import table_of
from tests.jobs.conftest import TOKEN, Head, Line, PictureServer, wait_for
from tests.serving import serving

slow = pytest.mark.slow
Finished = "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="session")
def web_archive(
    pictures: PictureServer, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[object]:
    """What scores 200 pictures of the web server in seven shards, without its --out."""
    path = tmp_path_factory.mktemp("manifest") / "pictures.csv"
    names = (f"{pictures.url}{number:03d}.jpg" for number in range(len(pictures.files)))
    path.write_text("\n".join(["uri", *names, ""]))
    return [path, "--allow-prefix", pictures.url, "--checkpoint", small_checkpoint]


@pytest.fixture(scope="session")
def undisturbed(
    head: Head, web_archive: list[object], pictures: PictureServer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Finished]:
    """A run that ended by itself, and what its follower printed, whose connection was cut meanwhile."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    host, port = head.address.removeprefix("http://").split(":")
    pictures.gate.clear()
    line = Line((host, int(port)))
    try:
        follower = head.start(
            "--follow", "score", *web_archive, "--out", out, RAY_API_SERVER_ADDRESS=line.address
        )
        wait_for(
            lambda: follower.poll() is not None or list(out.glob("staging/*.parquet")), "the first shard"
        )
        assert line.cut() > 0
        pictures.gate.set()
        printed, said = follower.communicate(timeout=300)
    finally:
        line.close()
        follower.kill()
    return out, subprocess.CompletedProcess(follower.args, follower.returncode, printed, said)


@slow
def test_a_submitted_job_joins_the_cluster_and_is_followed_to_its_end(
    undisturbed: tuple[Path, Finished],
) -> None:
    out, follower = undisturbed
    assert follower.returncode == 0, follower.stderr + follower.stdout
    assert json.loads((out / "run.json").read_text())["job"]["address"] == "auto"
    assert json.loads((out / "_SUCCESS").read_text())["planned"] == 200
    assert "score: 200 images in" in follower.stdout


@slow
def test_a_cut_connection_costs_the_follower_nothing_and_repeats_nothing(
    undisturbed: tuple[Path, Finished],
) -> None:
    _, follower = undisturbed
    assert follower.stdout.count("Running entrypoint") == follower.stdout.count("plan: 200 images in") == 1


@slow
def test_the_exit_code_is_the_jobs_own_also_when_it_is_submitted_again(
    head: Head, archive: Path, small_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "eight.toml").write_text("limit = 8")  # of which one is spoilt
    sent = ["--include", "eight.toml", "--follow"]
    job = [
        "score",
        archive,
        "--config",
        "eight.toml",
        "--checkpoint",
        small_checkpoint,
        "--out",
        tmp_path / "run",
    ]
    first = head.submit(*sent, *job, folder=tmp_path)
    assert first.returncode == 3, first.stderr + first.stdout
    again = head.submit(*sent, *job, folder=tmp_path)
    assert again.returncode == 3, again.stderr + again.stdout
    assert "nothing was scored again" in again.stdout
    (before,) = (line for line in again.stderr.splitlines() if "begun" in line)
    assert "finished, many images failed (3), begun" in before
    assert before.endswith("; run again")


@slow
def test_a_stopped_job_goes_on_when_it_is_submitted_again_and_its_table_is_identical(
    head: Head,
    web_archive: list[object],
    pictures: PictureServer,
    undisturbed: tuple[Path, Finished],
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    job = ["score", *web_archive, "--out", out]
    pictures.gate.clear()

    assert head.submit(*job).returncode == 0  # not followed: submit ends, the job goes on
    (begun,) = [
        line for line in head.submit("list").stdout.splitlines() if "RUNNING" in line or "PENDING" in line
    ]
    name = begun.split()[0]
    wait_for(lambda: list(out.glob("staging/*.parquet")), "the first shard")

    follower = head.start("--follow", *job)
    assert "nothing was sent" in follower.stderr.readline()
    follower.stdout.readline()
    follower.send_signal(signal.SIGINT)
    assert "detached" in follower.communicate(timeout=300)[1]
    assert follower.returncode == 130
    assert "RUNNING" in head.submit("status", name).stdout

    stopped = head.submit("stop", name)
    assert stopped.stderr.startswith(f"stopping {name}")
    assert "STOPPED" in stopped.stdout
    assert not (out / "_lease.json").exists()
    assert head.submit("logs", name, "--follow").returncode == 130

    pictures.gate.set()
    resumed = head.submit("--follow", *job)
    assert resumed.returncode == 0, resumed.stderr + resumed.stdout
    assert "the next attempt goes on from there" in resumed.stderr
    assert f"{name}-2: " in resumed.stderr
    assert re.search(r"resume: [1-6] of 7 shards are staged", resumed.stdout)
    assert table_of(out).equals(table_of(undisturbed[0]))


def client(head: Head, monkeypatch: pytest.MonkeyPatch) -> jobserver.Client:
    """In this process, where Ray does not ask for tokens."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", head.address)
    return jobserver.Client(head.address, headers={"Authorization": f"Bearer {TOKEN}"})


@slow
def test_a_job_that_died_before_it_began_says_why(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {"working_dir": "gcs://_ray_pkg_nothing.zip"}
    client(head, monkeypatch).submit_job(entrypoint="true", submission_id="maskbatch-dead", runtime_env=gone)
    failed = head.submit("logs", "maskbatch-dead", "--follow")
    assert failed.returncode == 1
    assert "maskbatch-dead FAILED: runtime_env setup failed" in failed.stderr


@slow
def test_of_two_that_submit_at_the_same_moment_one_attaches(
    head: Head, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = client(head, monkeypatch)
    for _ in range(2):
        submit.send(mine, "maskbatch-twice", "sleep 1; exit 4", submit.sent_files(settings()), None)
    assert head.submit("logs", "maskbatch-twice", "--follow").returncode == 4
    assert [job.submission_id for job in mine.list_jobs()].count("maskbatch-twice") == 1
    assert submit.last_attempt(mine, "maskbatch-twice")[0] == 1


@slow
def test_an_unknown_job_is_named(head: Head) -> None:
    for command in ("status", "logs", "stop"):
        refused = head.submit(command, "maskbatch-score-0")
        assert refused.returncode == 2
        assert "Job maskbatch-score-0 does not exist on the cluster" in refused.stderr


@slow
def test_a_missing_and_a_wrong_token_are_told_apart(head: Head, tmp_path: Path) -> None:
    wrong = head.submit("list", RAY_AUTH_TOKEN="another")
    missing = head.submit("list", RAY_AUTH_MODE="", RAY_AUTH_TOKEN="", HOME=str(tmp_path))
    none_found = head.submit("list", RAY_AUTH_TOKEN="", HOME=str(tmp_path))
    assert wrong.returncode == missing.returncode == none_found.returncode == 2
    assert "takes another token" in wrong.stderr
    assert "asks for a token" in missing.stderr
    assert "asks for a token" in none_found.stderr


@pytest.mark.parametrize(
    ("status", "code", "said", "done"),
    [
        ("SUCCEEDED", 0, "SUCCEEDED, exit code 0", True),
        ("FAILED", 3, "finished, many images failed (3)", True),
        ("FAILED", 4, "finished, alert (4)", True),
        ("FAILED", 1, "FAILED, exit code 1", False),
        ("STOPPED", None, "STOPPED", False),
    ],
)
def test_a_job_that_did_its_work_is_not_called_failed(
    status: str, code: int | None, said: str, done: bool
) -> None:
    job = JobDetails(
        type="SUBMISSION", submission_id="maskbatch-a", entrypoint="-", status=status,
        start_time=1_790_000_000_000, driver_exit_code=code,
    )  # fmt: skip
    assert jobserver.line(job) == f"maskbatch-a {said}, begun 2026-09-21 14:13:20 UTC"
    assert jobserver.finished(job) is done


class Answer(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        asked_version = self.path == "/api/version"
        self.wfile.write(self.server.body if asked_version else b"[]")  # type: ignore[attr-defined]


@pytest.fixture
def stub() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Answer)
    with serving(server):
        yield server


def refusal(address: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere.invalid")
    with pytest.raises(MaskbatchError) as refused:
        jobserver.connect(address)
    return refused.value.exit_code, str(refused.value)


def test_another_version_of_ray_is_refused(stub: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.body = json.dumps({"version": "4", "ray_version": "2.9.0"}).encode()
    code, said = refusal(f"http://127.0.0.1:{stub.server_port}", monkeypatch)
    assert code == 2
    assert f"runs Ray 2.9.0, and this is Ray {ray.__version__}" in said


def test_a_cluster_without_jobs_says_so(
    stub: HTTPServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    stub.body = json.dumps({"version": "4", "ray_version": ray.__version__}).encode()
    submit.app(["--address", f"http://127.0.0.1:{stub.server_port}", "list"], standalone_mode=False)
    assert capsys.readouterr().out == "no jobs\n"


def test_what_is_no_cluster_is_refused(stub: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    stub.body = b"<html>hello</html>"
    code, said = refusal(f"http://127.0.0.1:{stub.server_port}", monkeypatch)
    assert (code, "no Ray dashboard" in said) == (2, True)
    code, said = refusal("127.0.0.1:8265", monkeypatch)
    assert (code, "dashboard's URL expected" in said) == (2, True)


def test_a_cluster_that_does_not_answer_may_be_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = refusal("http://127.0.0.1:9", monkeypatch)
    assert code == 1
    assert "no Ray cluster answers at http://127.0.0.1:9; forward its port" in said


@slow
def test_a_follower_gives_up_on_a_cluster_that_is_gone_and_says_so(
    head: Head, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = client(head, monkeypatch)
    monkeypatch.setattr(mine, "_address", "http://127.0.0.1:9")
    monkeypatch.setattr(jobserver, "GIVE_UP_S", 4.0)
    with pytest.raises(RunFailedError, match="no Ray cluster answers"):
        jobserver.follow(mine, "maskbatch-any")
    assert "maskbatch-any goes on, trying again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["s3://a", "--out", "runs/x"], "folder every node sees"),
        (["s3://a", "--out=runs/x"], "folder every node sees"),
        (["--config", "night.toml"], "add --include night.toml"),
        (["--storage-options", "stores.toml"], "no credentials are sent"),
    ],
)
def test_a_path_that_the_cluster_cannot_have_is_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        submit.check_paths(arguments, {})


def test_paths_that_the_cluster_has_are_passed() -> None:
    submit.check_paths(
        ["s3://a", "--out", "s3://b", "--config", "night.toml", "--camera", "x"], {"night.toml"}
    )
    submit.check_paths(["--out", "/mnt/runs", "--storage-options", "/etc/stores.toml"], {})


def settings(**values: object) -> submit.Settings:
    return submit.Settings(**{"address": "", "follow": False, "include": (), "requirements": None, **values})


def test_what_is_sent_is_the_code_alone_and_the_same_each_time(tmp_path: Path) -> None:
    files = submit.sent_files(settings())
    tops = {name.split("/")[0] for name in files}
    assert tops == {"jobs", "maskbatch", "pyproject.toml", "requirements.lock"}
    assert "maskbatch/model/checkpoints/default.safetensors" in files
    first = submit.package(files, tmp_path).read_bytes()
    assert submit.package(files, tmp_path).read_bytes() == first


def test_a_file_is_sent_under_the_path_it_has_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("mine/night.toml").write_text("limit = 3")
    assert "mine/night.toml" in submit.sent_files(settings(include=[Path("mine")]))
    with pytest.raises(UsageError, match="below the current folder"):
        submit.sent_files(settings(include=[tmp_path / "mine"]))


def test_more_than_ray_takes_is_refused_before_it_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "MAX_UPLOAD_BYTES", 1 << 20)
    with pytest.raises(UsageError, match="Ray takes 1"):
        submit.package(submit.sent_files(settings()), tmp_path)


def test_an_id_follows_from_the_name_and_arguments_alone() -> None:
    night = submit.submission_id("nightly", ["s3://a", "--date", "2026-11-20"])
    assert night.startswith("maskbatch-nightly-2026-11-20-")
    assert night == submit.submission_id("nightly", ["s3://a", "--date", "2026-11-20"])
    others = (["s3://a", "--date", "2026-11-21"], ["s3://a--date", "2026-11-20"], ["s3://b"])
    assert len({night, *(submit.submission_id("nightly", other) for other in others)}) == 4
    assert submit.submission_id("nightly", ["s3://a"]).startswith(f"maskbatch-nightly-{date.today()}-")


def test_a_node_prepared_as_pinned_passes_and_another_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pins = preflight.pinned()
    assert {"ray", "torch", "pyarrow"} <= pins.keys()
    assert preflight.differences(pins) == []
    monkeypatch.setattr(preflight, "pinned", lambda: {"ray": ["1.0"], "unheard-of": ["2.0"]})
    with pytest.raises(SystemExit, match="2"):
        preflight.main()
    said = capsys.readouterr().err
    assert "(pinned: 1.0)" in said
    assert "unheard-of missing (pinned: 2.0)" in said
