"""A whole run by the command line whose archive and OUT lie on a real S3 server, undisturbed and not."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskbatch.model.checkpoint import open_checkpoint
from maskbatch.runs.directory import RunDir
from maskbatch.stores.options import StorageOptions
from tests.conftest import Cli
from tests.fault_proxy import Faults, fault_proxy
from tests.maskbatch.samples import LAYOUT, Run, read_scores, stage_run, write_month
from tests.s3_server import S3Server
from tests.store.conftest import ClientFactory
from tests.test_end_to_end import KILL, MOMENTS


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, small_checkpoint: Path) -> Run:
    """A committed run of an archive on this machine."""
    month = write_month(tmp_path_factory.mktemp("month") / "month")
    (month / "south" / "gone.jpg").unlink()  # a link to nothing, which no bucket has
    out = tmp_path_factory.mktemp("local") / "run"
    run = stage_run(out, month, open_checkpoint(str(small_checkpoint)))
    run.commit()
    return run


def table_of(run: RunDir, archive: str) -> pa.Table:
    """Every committed row, with uris below the archive."""
    table = read_scores(run)
    uris = [uri.removeprefix(f"{archive}/") for uri in table["uri"].to_pylist()]
    assert not any("://" in uri for uri in uris)
    return table.set_column(table.schema.get_field_index("uri"), "uri", pa.array(uris))


@pytest.fixture
def uploaded(local: Run, bucket: str, s3_client: ClientFactory) -> str:
    """The same archive in a bucket."""
    client, root = s3_client(), Path(local.work.archives[0])
    paths = [path for path in root.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as pool:
        keys = [f"month/{path.relative_to(root)}" for path in paths]
        list(pool.map(lambda k, p: client.put_object(Bucket=bucket, Key=k, Body=p.read_bytes()), keys, paths))
    return f"s3://{bucket}/month"


Tables = dict[str, dict[str, Any]]
Score = Callable[..., Any]


@pytest.fixture
def score(
    cli: Cli, uploaded: str, bucket: str, small_checkpoint: Path, tmp_path: Path, s3: S3Server
) -> Score:
    """Run `maskbatch score` on the bucket's archive, into the bucket; `archive` overrides its options."""

    def run(script: str = "", **archive: str) -> Any:
        access = {"endpoint_url": s3.endpoint, "key": s3.access_key, "secret": s3.secret_key}
        tables = {"s3://": access, uploaded: access | archive}
        lines = [
            line
            for prefix, table in tables.items()
            for line in (f'["{prefix}"]', *(f'{name} = "{value}"' for name, value in table.items()))
        ]
        (tmp_path / "options.toml").write_text("\n".join(lines))
        return cli(
            "score", uploaded, "--out", f"s3://{bucket}/run", "--storage-options", "options.toml", "--json",
            "--checkpoint", small_checkpoint, "--layout", LAYOUT, "--timezone", "Europe/Paris",
            "--dtype", "float32", "--request-timeout-s", "2", script=script,
        )  # fmt: skip

    return run


@pytest.fixture
def run(bucket: str, s3: S3Server) -> Callable[[], RunDir]:
    access = {"endpoint_url": s3.endpoint, "key": s3.access_key, "secret": s3.secret_key}
    return lambda: RunDir.at(f"s3://{bucket}/run", StorageOptions(json.dumps({"s3://": access})))


def everything(client: Any, bucket: str, prefix: str) -> dict[str, str]:
    """What stands in every object, Parquet files as their rows and their footers."""
    found = {}
    for item in client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        data = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        text = data.decode("latin-1")
        if item["Key"].endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(data))
            text += f"{table.to_pylist()}{table.schema.metadata}"
        found[item["Key"]] = text
    return found


def test_a_run_on_s3_gives_the_table_of_a_local_one_and_keeps_no_secret(
    local: Run, score: Score, run: Callable[[], RunDir], uploaded: str, bucket: str, s3: S3Server,
    s3_client: ClientFactory,
) -> None:  # fmt: skip
    done = score()
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["planned"] == local.work.num_images == sum(summary["statuses"].values())
    here = table_of(local.run, f"file://{local.work.archives[0]}")
    assert table_of(run(), uploaded).equals(here)
    objects = everything(s3_client(), bucket, "run/")
    assert {name.split("/")[1] for name in objects} == {"run.json", "plan", "scores", "_SUCCESS", "report"}
    shown = "".join(objects.values()) + done.stdout + done.stderr
    assert s3.secret_key not in shown and s3.access_key not in shown
    again = score()
    assert again.returncode == 0 and json.loads(again.stdout)["rescored"] is False


@pytest.mark.slow
def test_a_run_on_s3_killed_and_called_again_gives_the_identical_table(
    local: Run, score: Score, run: Callable[[], RunDir], uploaded: str, bucket: str, s3_client: ClientFactory
) -> None:
    killed = score(script=KILL + MOMENTS["while scoring"])
    assert killed.returncode == -9, killed.stderr
    names = everything(s3_client(), bucket, "run/")
    assert "run/_lease.json" in names and "run/_SUCCESS" not in names
    assert any(name.startswith("run/staging/0") for name in names)
    done = score()
    assert done.returncode == 0, done.stderr
    assert "shards are staged" in done.stderr
    here = table_of(local.run, f"file://{local.work.archives[0]}")
    assert table_of(run(), uploaded).equals(here)


@pytest.mark.slow
def test_a_run_whose_archive_fails_now_and_then_gives_the_identical_table(
    local: Run, score: Score, run: Callable[[], RunDir], uploaded: str, s3: S3Server
) -> None:
    with fault_proxy(s3.endpoint, Faults(rate=0.1, stall_s=4, seed=11)) as proxy:
        done = score(endpoint_url=proxy.endpoint)
        assert sum(proxy.counts().values()) >= 5
    assert done.returncode == 0, done.stderr
    here = table_of(local.run, f"file://{local.work.archives[0]}")
    assert table_of(run(), uploaded).equals(here)
