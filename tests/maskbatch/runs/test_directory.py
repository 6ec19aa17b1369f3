import json
from pathlib import Path
from unittest.mock import Mock

import pytest
from botocore.exceptions import EndpointConnectionError

from maskbatch.errors import UsageError
from maskbatch.runs.directory import RunDir
from maskbatch.stores.files import (
    Location,
    list_names,
    locate_folder,
    no_check,
    write_json,
)
from maskbatch.stores.options import StorageOptions

SECRET = "b2Zmc2hvcmU"
OPTIONS = StorageOptions(json.dumps({"s3://bucket/": {"key": "someone", "secret": SECRET}}))


def test_a_run_directory_is_an_absolute_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunDir.at("run") == RunDir.at(f"file://{tmp_path}/run") == RunDir(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="a file stands there"):
        RunDir.at("file")


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("nowhere://bucket/run", "Protocol not known"),
        ("gs://bucket/run", "maskbatch.gcs."),
        ("s3://bucket/run[1]", "cannot stand in its URL"),
        (f"s3://key:{SECRET}@bucket/run", "credentials go to --storage-options"),
    ],
)
def test_a_url_that_can_be_no_run_directory_is_refused(out: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as refused:
        RunDir.at(out)
    assert SECRET not in str(refused.value)


def test_a_store_that_cannot_be_seen_is_refused_without_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    path = locate_folder("s3://bucket/run/", OPTIONS)
    error = EndpointConnectionError(endpoint_url="http://away")
    monkeypatch.setattr(path.fs, "exists", Mock(side_effect=error))
    with pytest.raises(UsageError, match=r"s3://bucket/run cannot be seen: .*http://away"):
        RunDir.at("s3://bucket/run", OPTIONS)


def test_a_run_in_a_store_is_shown_by_its_plain_url() -> None:
    run = RunDir(locate_folder("s3://bucket/run/", OPTIONS))
    assert str(run.scores) == "s3://bucket/run/scores"
    assert SECRET not in repr(run) + repr(run.path) + str(run.path.fs)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("run.json", "{", "not readable as JSON"),
        ("run.json", '{"format_version": 99}', "run format 99, 2 expected"),
        ("run.json", "{}", "run format None"),
        ("photo.jpg", "", "not empty and holds no run"),
    ],
)
def test_a_folder_that_holds_no_readable_run_is_refused(
    root: Location, name: str, content: str, why: str
) -> None:
    (root / name).write_text(content)
    with pytest.raises(UsageError, match=why):
        RunDir(root).read_run()


@pytest.mark.parametrize(
    "name",
    # What a start that was killed leaves.
    [None, "_lease.json", ".run.json.0123abcd", "._lease.json.0123abcd"],
)
def test_a_folder_without_a_run_can_take_one(root: Location, name: str | None) -> None:
    if name:
        (root / name).touch()
    assert RunDir(root).read_run() is None
    assert RunDir(root / "nowhere").read_run() is None
    assert RunDir(root).read_success() is None


def test_clear_throws_the_run_away_and_keeps_the_lease_and_what_people_corrected(root: Location) -> None:
    run = RunDir(root)
    for part in (run.plan, run.staging, run.scores, run.report, root / "corrections"):
        write_json(part / "x", {})
    run.lease.touch()
    write_json(run.run_json, {"format_version": 2})
    run.clear(no_check)
    assert list_names(root) == ["_lease.json", "corrections"]
