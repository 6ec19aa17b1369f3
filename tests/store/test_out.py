"""A run directory on a real S3 server: what a local folder gives for nothing must hold there too."""

import json
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.cloudpickle as cloudpickle
from s3fs.core import S3File

from maskbatch.errors import RunFailedError, RunLockedError, UsageError
from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.plan.table import GROUP_ROWS, read_plan, write_plan
from maskbatch.progress import Step
from maskbatch.report.make import make_report
from maskbatch.review import corrections
from maskbatch.review.pictures import read_pictures
from maskbatch.review.queue import read_queue
from maskbatch.runs.committed import open_committed
from maskbatch.runs.directory import RunDir
from maskbatch.runs.lease import Lease, read_lease
from maskbatch.runs.staging import Staged, count_staged, read_staged, shard_path, write_shard
from maskbatch.stores.files import list_names, no_check, remove_tree, write_json, write_whole
from maskbatch.stores.options import StorageOptions
from tests.fault_proxy import Faults, fault_proxy
from tests.maskbatch.samples import Run, read_scores, stage_run, write_month
from tests.s3_server import S3Server
from tests.store.conftest import ClientFactory

ONE_TRY = {"retries": {"total_max_attempts": 1}}


def options_for(s3: S3Server, **changes: Any) -> StorageOptions:
    access = {"endpoint_url": s3.endpoint, "key": s3.access_key, "secret": s3.secret_key}
    return StorageOptions(json.dumps({"s3://": access | changes}))


@pytest.fixture
def options(s3: S3Server) -> StorageOptions:
    return options_for(s3)


@pytest.fixture
def run(bucket: str, options: StorageOptions) -> RunDir:
    return RunDir.at(f"s3://{bucket}/october/run", options)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Run:
    """A run whose every shard is staged, on this machine."""
    month = write_month(tmp_path_factory.mktemp("month"))
    return stage_run(tmp_path_factory.mktemp("local") / "run", month, open_checkpoint(str(small_checkpoint)))


def put(s3_client: ClientFactory, bucket: str, *keys: str) -> None:
    client = s3_client()
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"")


def test_only_one_of_many_holders_takes_the_lease(
    run: RunDir, options: StorageOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    def take(_: int) -> Lease | None:
        try:
            return Lease(RunDir.at(str(run.path), options)).__enter__()
        except RunLockedError:
            return None

    with ThreadPoolExecutor(8) as pool:
        held = [lease for lease in pool.map(take, range(8)) if lease]
    assert len(held) == 1
    assert (read_lease(run) or {})["owner"] == held[0].owner
    held[0].__exit__(None, None, None)
    with Lease(run):
        pass
    assert list_names(run.path) == []
    assert "exclusive creation" not in capsys.readouterr().err


def test_only_one_of_many_writers_makes_an_exclusive_object(run: RunDir) -> None:
    def write(number: int) -> bool:
        try:
            write_json(run.success, {"writer": number}, exclusive=True)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(write, range(8)))
    assert made.count(True) == 1
    assert json.loads(run.success.read_bytes()) == {"writer": made.index(True)}


def test_an_answer_that_was_lost_costs_no_one_his_lease_or_his_file(
    s3: S3Server, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    faults = Faults(rate=0.4, kinds=("reset",), methods=("PUT",), seed=1)
    with fault_proxy(s3.endpoint, faults) as proxy:
        options = options_for(s3, endpoint_url=proxy.endpoint)
        for number in range(8):
            run = RunDir.at(f"s3://{bucket}/{number}", options)
            with Lease(run):
                write_shard(run.staging, 0, pa.table({"region": [0], "status": ["ok"]}), "cpu", "run")
            assert list_names(run.path) == ["staging"]
            assert count_staged(run.staging, "run").shards == {0}
        assert proxy.counts()["reset"] > 5
    assert "exclusive creation" not in capsys.readouterr().err


def test_what_failed_in_its_block_leaves_nothing(run: RunDir) -> None:
    with pytest.raises(KeyError), write_whole(run.path / "x") as partial:
        partial.write_text("half")
        raise KeyError
    assert list_names(run.path) == []


def test_staged_shards_are_found_and_read(run: RunDir) -> None:
    tables = {shard: pa.table({"id": [shard], "region": [0], "status": ["ok"]}) for shard in (0, 1, 5)}
    for shard, table in tables.items():
        write_shard(run.staging, shard, table, "cpu/float32", "run")
    (run.staging / "00000001.parquet").write_bytes(b"PAR1")
    assert count_staged(run.staging, "run") == Staged({0, 5}, Counter(ok=2), Counter({"cpu/float32": 2}))
    assert read_staged(shard_path(run.staging, 5)).equals(tables[5])
    remove_tree(run.staging)
    remove_tree(run.staging)
    assert count_staged(run.staging, "run") == Staged()


def test_more_than_a_page_of_names_is_listed_and_removed(
    run: RunDir, bucket: str, s3_client: ClientFactory
) -> None:
    client = s3_client()
    with ThreadPoolExecutor(16) as pool:
        keys = [f"october/run/staging/{i:08d}.parquet" for i in range(1_050)]
        list(pool.map(lambda key: client.put_object(Bucket=bucket, Key=key, Body=b""), keys))
    assert len(list_names(run.staging)) == 1_050
    remove_tree(run.staging)
    assert list_names(run.path) == []


def test_a_run_in_s3_commits_and_reports_what_a_local_one_does(
    local: Run, run: RunDir, options: StorageOptions, tmp_path: Path
) -> None:
    here, there = local.copy(tmp_path / "run"), local.copy(run.path, options)
    assert there.commit().files == here.commit().files
    assert read_scores(there.run).equals(read_scores(here.run))
    ours, theirs = make_report([there.run], there.run.report), make_report([here.run], here.run.report)
    assert ours.overall == theirs.overall
    for name in list_names(here.run.report):
        if name.endswith(".parquet") and name != "review.parquet":  # which names the run
            assert (run.report / name).read_bytes() == (here.run.report / name).read_bytes()
    assert there.commit() == run.read_success()  # again: nothing is touched
    with pytest.raises(UsageError, match="is committed and is never thrown away"):
        run.clear(no_check)


def test_what_workers_are_sent_opens_the_run_and_shows_no_secret(
    local: Run, run: RunDir, options: StorageOptions, s3: S3Server
) -> None:
    work = local.copy(run.path, options).work
    sent = cloudpickle.loads(cloudpickle.dumps(work))
    assert read_plan(sent.run.plan, 0, 5).num_rows == 5
    assert s3.secret_key not in repr(sent) + repr(sent.run)


def test_a_plan_is_read_by_the_row_group_and_anew_when_it_was_written_anew(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[int] = []
    fetch = S3File._fetch_range

    def counted(file: S3File, start: int, stop: int) -> Any:
        fetched.append(stop - start)
        return fetch(file, start, stop)

    monkeypatch.setattr(S3File, "_fetch_range", counted)
    for tag in ("first", "second"):
        uris = (f"s3://b/{tag}{uuid.uuid4()}" for _ in range(4 * GROUP_ROWS))
        rows = ({"id": i, "uri": uri, "encoding": "raw"} for i, uri in enumerate(uris))
        write_plan(run.plan, rows, Step("plan", None, "images"))
        fetched.clear()
        for start in range(GROUP_ROWS, GROUP_ROWS + 256, 64):
            found = read_plan(run.plan, start, start + 64)
            assert found["id"].to_pylist() == list(range(start, start + 64))
            assert all(uri.startswith(f"s3://b/{tag}") for uri in found["uri"].to_pylist())
        assert 0 < len(fetched) <= 3
        assert sum(fetched) < (run.plan / list_names(run.plan)[0]).stat().st_size / 2
    found = read_plan(run.plan, GROUP_ROWS - 2, GROUP_ROWS + 2)
    assert found["id"].to_pylist() == list(range(GROUP_ROWS - 2, GROUP_ROWS + 2))


def test_markers_of_a_folder_hold_no_run_and_other_objects_refuse_one(
    run: RunDir, bucket: str, s3_client: ClientFactory
) -> None:
    assert run.read_run() is None
    put(s3_client, bucket, "october/run/", "october/run", "october/other.jpg", "october/running/x")
    assert run.read_run() is None
    put(s3_client, bucket, "october/run/photo.jpg")
    with pytest.raises(UsageError, match=r"is not empty and holds no run \(found 'photo.jpg'\)"):
        run.read_run()
    write_json(run.run_json, {"format_version": 2})
    run.clear(no_check)
    assert list_names(run.path) == ["photo.jpg"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"secret": "another"}, "Forbidden"),
        ({"key": "nobody"}, "Forbidden"),
        ({"endpoint_url": "http://127.0.0.1:9", "config_kwargs": ONE_TRY}, "Could not connect"),
    ],
)
def test_a_store_that_does_not_let_us_in_is_bad_usage(
    s3: S3Server, bucket: str, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(UsageError, match=f"s3://{bucket}/run cannot be seen: {why}") as refused:
        RunDir.at(f"s3://{bucket}/run", options_for(s3, **changes))
    assert s3.secret_key not in str(refused.value)


def test_a_bucket_that_is_not_there_is_named(options: StorageOptions) -> None:
    run = RunDir.at("s3://no-such-bucket/run", options)
    assert run.read_run() is None
    with pytest.raises(
        RunFailedError, match=r"cannot write s3://no-such-bucket/run/_lease.json: NoSuchBucket"
    ):
        Lease(run).__enter__()


def test_people_judge_a_run_in_a_store_and_its_report_says_what_they_said(
    local: Run, bucket: str, options: StorageOptions
) -> None:
    made = local.copy(RunDir.at(f"s3://{bucket}/october/judged", options).path, options)
    made.commit()
    make_report([made.run], made.run.report)
    queue = read_queue(made.run.report).to_pylist()

    def judge(row: dict[str, Any]) -> None:
        said = {name: row[name] for name in ("uri", "sha256", "label", "stratum", "probability")}
        corrections.write_judgement(
            made.run.corrections, {**said, "region": 0, "was": row["label"], "by": "ann"}
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(judge, queue))
    judged = make_report([made.run], made.run.report).values["judged"]
    assert judged["num_judged"] == len(queue)
    assert judged["error_rate"] == {"value": 0, "low": 0, "high": 0}
    assert next(read_pictures(open_committed(made.run), queue[:1], options, 64)).jpeg
