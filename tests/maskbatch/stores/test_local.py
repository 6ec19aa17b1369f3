"""Files of this machine."""

import os
from pathlib import Path

import pytest

from maskbatch.stores.base import Info, RefusedError, TooLargeError
from maskbatch.stores.local import Local
from maskbatch.stores.uris import SCHEME


@pytest.fixture
def file(tmp_path: Path) -> tuple[Path, str]:
    (tmp_path / "x.tar").write_bytes(b"0123456789")
    return tmp_path / "x.tar", f"{SCHEME}{tmp_path}/x.tar"


def test_a_local_file_is_read_whole_and_in_part(file: tuple[Path, str]) -> None:
    path, uri = file
    assert Local().info(uri) == Info(10, str(path.stat().st_mtime_ns))
    assert Local().read(uri, None, None, 10) == b"0123456789"
    assert Local().read(uri, (2, 5), Local().info(uri).version, 10) == b"234"
    with pytest.raises(TooLargeError):
        Local().read(uri, None, None, 9)
    with pytest.raises(FileNotFoundError):
        Local().read(f"{uri}x", None, None, 9)


def test_a_part_of_a_local_file_that_changed_is_refused(file: tuple[Path, str]) -> None:
    path, uri = file
    version = Local().info(uri).version
    path.write_bytes(b"9876543210")
    os.utime(path, ns=(7, 7))
    with pytest.raises(RefusedError, match="changed since it was planned"):
        Local().read(uri, (2, 5), version, 10)
    assert Local().read(uri, None, version, 10) == b"9876543210"
