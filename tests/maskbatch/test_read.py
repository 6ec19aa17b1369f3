import os
from pathlib import Path

import pytest

from maskbatch.archive import SCHEME, encode_name
from maskbatch.read import READ_THREADS, Encoded, read_image, read_images


def uri(path: Path) -> str:
    return SCHEME + encode_name(str(path))


@pytest.mark.parametrize(
    "name", ["x.jpg", "a b.jpg", "100%41.jpg", "x::y.jpg", "new\nline.jpg", "é日.jpg", "\udcff.jpg"]
)
def test_a_file_is_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"bytes")
    assert read_image(uri(tmp_path / name), 100) == Encoded(b"bytes", num_bytes=5)


def test_a_missing_file_and_a_dangling_link_are_missing(tmp_path: Path) -> None:
    os.symlink("nowhere", tmp_path / "link.jpg")
    for name in ("gone.jpg", "link.jpg", "no/folder.jpg"):
        found = read_image(uri(tmp_path / name), 100)
        assert (found.status, found.data) == ("missing", None)


def test_a_folder_and_a_link_to_itself_are_read_errors_with_the_systems_reason(tmp_path: Path) -> None:
    os.symlink("loop.jpg", tmp_path / "loop.jpg")
    for path, reason in (
        (tmp_path, "Is a directory"),
        (tmp_path / "loop.jpg", "Too many levels of symbolic links"),
    ):
        assert read_image(uri(path), 100) == Encoded(None, "read_error", reason)


@pytest.mark.parametrize(
    ("size", "status"), [(0, "ok"), (100, "ok"), (101, "too_large"), (5000, "too_large")]
)
def test_a_file_of_more_than_max_bytes_is_too_large(tmp_path: Path, size: int, status: str) -> None:
    (tmp_path / "x.jpg").write_bytes(b"x" * size)
    found = read_image(uri(tmp_path / "x.jpg"), 100)
    assert (found.status, found.data is None) == (status, status != "ok")


@pytest.mark.parametrize("count", [0, 1, READ_THREADS, 3 * READ_THREADS + 1])
def test_images_come_in_the_order_asked_for(tmp_path: Path, count: int) -> None:
    paths = [tmp_path / f"{k}.jpg" for k in range(count)]
    for path in paths[::2]:
        path.write_bytes(path.name.encode())
    found = list(read_images([uri(path) for path in paths], 100))
    assert [item.data for item in found] == [
        path.name.encode() if k % 2 == 0 else None for k, path in enumerate(paths)
    ]
