import errno
import json
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
from botocore.exceptions import EndpointConnectionError

from maskbatch.errors import RunFailedError, UsageError
from maskbatch.runs.directory import RunDir
from maskbatch.stores.files import (
    Location,
    list_names,
    locate_folder,
    open_file,
    remove_tree,
    write_json,
    write_whole,
)
from maskbatch.stores.options import StorageOptions

SECRET = "b2Zmc2hvcmU"
OPTIONS = StorageOptions(json.dumps({"s3://bucket/": {"key": "someone", "secret": SECRET}}))


def test_a_whole_file_appears_only_when_its_block_ends_well(root: Location) -> None:
    path = root / "new" / "x"
    with write_whole(path) as partial:
        partial.write_text("a")
        assert not path.exists()
    with pytest.raises(KeyError), write_whole(path) as partial:
        partial.write_text("b")
        raise KeyError
    assert path.read_text() == "a"
    assert list_names(path.parent) == ["x"]


def test_an_exclusive_file_is_made_once(root: Location) -> None:
    write_json(root / "x", {"a": 1}, exclusive=True)
    with pytest.raises(FileExistsError):
        write_json(root / "x", {"a": 2}, exclusive=True)
    write_json(root / "y", {"b": 1, "a": 1})
    write_json(root / "y", {"b": 2, "a": 3})
    assert json.loads((root / "x").read_text()) == {"a": 1}
    assert (root / "y").read_text() == '{\n  "a": 3,\n  "b": 2\n}\n'
    assert list_names(root) == ["x", "y"]


def test_a_store_that_refuses_a_put_is_a_run_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    path = locate_folder("memory://refusing/run/x")
    for error in (PermissionError("Access Denied"), EndpointConnectionError(endpoint_url="http://away")):
        monkeypatch.setattr(path.fs, "pipe_file", Mock(side_effect=error))
        with pytest.raises(RunFailedError, match=r"cannot write memory://refusing/run/x: .*(Denied|away)"):
            write_json(path, {})
        monkeypatch.setattr(path.fs, "rm", Mock(side_effect=error))
        with pytest.raises(RunFailedError, match=r"cannot remove memory://refusing/run/x: .*(Denied|away)"):
            remove_tree(path)
    assert not path.exists()


def test_a_tree_is_removed_with_all_below_it_and_may_be_gone_already(root: Location) -> None:
    for name in ("a/b/c", "a/d", "ab"):
        write_json(root / name, {})
    remove_tree(root / "a")
    remove_tree(root / "a")
    assert list_names(root) == ["ab"]
    assert list_names(root / "a") == list_names(root / "ab" / "c") == []


def test_a_file_is_read_in_ranges(root: Location) -> None:
    with write_whole(root / "x") as partial:
        partial.write_bytes(bytes(range(100)))
    with open_file(root / "x") as file:
        file.seek(90)
        assert file.read(5) == bytes(range(90, 95))


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.ENOSPC, RunFailedError), (errno.EROFS, RunFailedError), (errno.EIO, RunFailedError)],
)
def test_a_full_or_read_only_disk_is_a_run_that_failed(
    tmp_path: Path, code: int, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=os.strerror(code)), write_whole(tmp_path / "x") as partial:
        partial.touch()
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


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
    run.clear()
    assert list_names(root) == ["_lease.json", "corrections"]
