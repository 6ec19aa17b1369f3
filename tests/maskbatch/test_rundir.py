import errno
import json
import os
from pathlib import Path

import pytest

from maskbatch.errors import RunFailedError, UsageError
from maskbatch.rundir import RunDir, whole, write_json


def test_a_whole_file_appears_only_when_its_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x"
    with whole(path) as partial:
        partial.write_text("a")
        assert not path.exists()
    with pytest.raises(KeyError), whole(path) as partial:
        partial.write_text("b")
        raise KeyError
    assert path.read_text() == "a"
    assert list(path.parent.iterdir()) == [path]


def test_an_exclusive_file_is_made_once(tmp_path: Path) -> None:
    write_json(tmp_path / "x", {"a": 1}, exclusive=True)
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "x", {"a": 2}, exclusive=True)
    write_json(tmp_path / "y", {"b": 1, "a": 1})
    write_json(tmp_path / "y", {"b": 2, "a": 3})
    assert json.loads((tmp_path / "x").read_text()) == {"a": 1}
    assert (tmp_path / "y").read_text() == '{\n  "a": 3,\n  "b": 2\n}\n'
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.ENOSPC, RunFailedError), (errno.EROFS, RunFailedError), (errno.EIO, RunFailedError)],
)
def test_a_full_or_read_only_disk_is_a_run_that_failed(
    tmp_path: Path, code: int, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match=os.strerror(code)), whole(tmp_path / "x") as partial:
        partial.touch()
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_is_an_absolute_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunDir.at("run") == RunDir.at(f"file://{tmp_path}/run") == RunDir(tmp_path / "run")
    (tmp_path / "file").touch()
    for out, why in (("s3://bucket/run", "only a local folder"), ("file", "a file stands there")):
        with pytest.raises(UsageError, match=why):
            RunDir.at(out)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("run.json", "{", "not readable as JSON"),
        ("run.json", '{"format_version": 99}', "run format 99, 1 expected"),
        ("run.json", "{}", "run format None"),
        ("photo.jpg", "", "not empty and holds no run"),
    ],
)
def test_a_folder_that_holds_no_readable_run_is_refused(
    tmp_path: Path, name: str, content: str, why: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=why):
        RunDir(tmp_path).read_run()


@pytest.mark.parametrize(
    "name",
    # What a start that was killed leaves.
    [None, "_lease.json", ".run.json.0123abcd", "._lease.json.0123abcd"],
)
def test_a_folder_without_a_run_can_take_one(tmp_path: Path, name: str | None) -> None:
    if name:
        (tmp_path / name).touch()
    assert RunDir(tmp_path).read_run() is None
    assert RunDir(tmp_path / "nowhere").read_run() is None
    assert RunDir(tmp_path).read_success() is None


def test_clear_throws_the_run_away_and_keeps_the_lease_and_what_people_corrected(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for folder in (run.plan, run.staging, run.scores, run.report, tmp_path / "corrections"):
        folder.mkdir()
        (folder / "x").touch()
    run.lease.touch()
    write_json(run.run_json, {"format_version": 1})
    run.clear()
    assert {path.name for path in tmp_path.iterdir()} == {"_lease.json", "corrections"}
