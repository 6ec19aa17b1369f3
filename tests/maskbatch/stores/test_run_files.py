"""Files of a run directory are whole or not there, in a folder and in a store."""

import errno
import json
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
from botocore.exceptions import EndpointConnectionError

from maskbatch.errors import RunFailedError
from maskbatch.stores.files import (
    Location,
    list_names,
    locate_folder,
    open_file,
    remove_tree,
    write_json,
    write_whole,
)


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


def test_a_folder_keeps_its_dots_so_that_a_link_leads_where_the_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "deep")
    monkeypatch.chdir(tmp_path)
    for text in ("link/../run", f"FILE://{tmp_path}/link/../run"):
        assert locate_folder(text).resolve() == tmp_path / "a" / "run"


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
