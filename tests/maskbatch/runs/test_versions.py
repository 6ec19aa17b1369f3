"""Which directory a run's versions lie in, and which of them a command takes."""

from pathlib import Path

import pytest

from maskbatch.config import PlanConfig
from maskbatch.errors import UsageError
from maskbatch.runs.committed import open_together
from maskbatch.runs.directory import RunDir
from maskbatch.runs.records import RunSettings
from maskbatch.runs.versions import choose_versions, find_latest, find_next, list_versions
from maskbatch.stores.files import Location, remove_tree, write_json
from tests.maskbatch.samples import NOW, Run, edit_json


def begin(path: Location, *, replaces: str | None = None, done: bool = True) -> RunDir:
    run = RunDir(path)
    config = PlanConfig(archives=("/archive",))
    settings = RunSettings(created_at=NOW, plan=config, versions={}, replaces=replaces)
    write_json(run.run_json, settings.to_json())
    if done:
        write_json(run.success, {"planned": 0})
    return run


def paths(runs: list[RunDir]) -> list[str]:
    return [str(run.path) for run in runs]


def test_the_next_version_is_the_next_number_and_an_unfinished_one_is_gone_on_with(root: Location) -> None:
    first = RunDir(root / "run")
    assert list_versions(first) == []
    assert find_next(first) == (first, None)
    begin(first.path, done=False)
    assert find_next(first) == (first, None)
    begin(first.path)
    second, replaced = find_next(first)
    assert (second.path.name, replaced) == ("run.v2", first)
    begin(second.path, replaces="run", done=False)
    assert find_next(first) == (second, first)
    begin(second.path, replaces="run")
    third, replaced = find_next(first)
    assert (third.path.name, replaced) == ("run.v3", second)


def test_versions_are_found_from_each_of_them(root: Location) -> None:
    runs = [
        begin(root / "run"),
        begin(root / "run.v2", replaces="run"),
        begin(root / "run.v3", replaces="run.v2"),
    ]
    for run in runs:
        assert paths(list_versions(run)) == paths(runs)
        assert str(find_latest(run).path) == str(runs[-1].path)


def test_a_run_that_is_only_called_like_a_version_is_none(root: Location) -> None:
    first, own = begin(root / "model"), begin(root / "model.v2")
    assert paths(list_versions(own)) == [str(own.path)]
    assert str(find_latest(first).path) == str(first.path)
    third, replaced = find_next(first)
    assert (third.path.name, replaced and replaced.path.name) == ("model.v3", "model")
    begin(third.path, replaces="model")
    assert paths(list_versions(first)) == [str(first.path), str(third.path)]


@pytest.mark.parametrize("lost", ["run", "run.v2"])
def test_a_version_that_was_thrown_away_leaves_the_newest_in_its_place(root: Location, lost: str) -> None:
    begin(root / "run")
    for number in (2, 3):
        begin(root / f"run.v{number}", replaces="run" if number == 2 else "run.v2")
    remove_tree(root / lost)
    assert find_latest(RunDir(root / "run")).path.name == "run.v3"
    assert find_next(RunDir(root / "run"))[0].path.name == "run.v4"
    assert find_next(RunDir(root / "run.v3"))[0].path.name == "run.v4"


def test_the_latest_is_finished_and_where_none_is_it_is_said(root: Location) -> None:
    first = begin(root / "run")
    begin(root / "run.v2", replaces="run", done=False)
    assert find_latest(first).path == first.path
    with pytest.raises(UsageError, match=r"no finished run is there; make one with `maskbatch score"):
        find_latest(RunDir(root / "other"))


def test_a_command_takes_what_is_named_and_says_what_is_newer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = begin(tmp_path / "run"), begin(tmp_path / "run.v2", replaces="run")
    assert choose_versions([first], take_latest=False) == [first]
    assert f"{first.path} is superseded by {second.path}; --latest takes that one" in capsys.readouterr().err
    assert choose_versions([first, second], take_latest=False) == [first, second]
    assert choose_versions([first, second, first], take_latest=True) == [second]
    assert capsys.readouterr().err == ""


def test_only_the_newest_version_is_reported(
    committed: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = committed.copy(tmp_path / "run").run
    for number, replaced in ((2, "run"), (10, "run.v9")):
        run = committed.copy(tmp_path / f"run.v{number}").run
        edit_json(run.run_json, replaces=replaced)
    runs = [first, RunDir(tmp_path / "run.v10"), RunDir(tmp_path / "run.v2")]
    assert [one.run for one in open_together(runs)] == runs[1:2]
    said = capsys.readouterr().err
    assert "run is left out" in said and "run.v2 is left out" in said
