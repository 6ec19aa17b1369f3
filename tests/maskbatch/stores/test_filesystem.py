"""Stores that fsspec opens."""

import uuid
from dataclasses import replace
from typing import Any

import fsspec
import pytest

from maskbatch.stores.access import Access
from maskbatch.stores.base import Info, RefusedError, TooLargeError, TransientError, plain_etag
from maskbatch.stores.filesystem import fsspec_info

SECRET = "hunter2-TOP"


@pytest.fixture
def memory() -> tuple[Any, str]:
    prefix = uuid.uuid4().hex
    files = fsspec.filesystem("memory")
    files.pipe(f"/{prefix}/a b/%41.jpg", b"0123456789")
    return files, f"memory://{prefix}/a b/%2541.jpg"


def test_any_other_store_is_read_whole_and_in_part(memory: tuple[Any, str]) -> None:
    _, uri = memory
    store = Access().store(uri)
    size, version = store.info(uri)
    assert size == 10 and version
    assert store.read(uri, None, None, 10) == b"0123456789"
    assert store.read(uri, (2, 5), version, 10) == b"234"
    with pytest.raises(TooLargeError):
        store.read(uri, None, None, 9)
    for absent in (f"{uri}x", uri.rpartition("/")[0]):  # a folder is no file
        with pytest.raises(FileNotFoundError):
            store.info(absent)


def test_a_part_of_a_file_that_changed_in_any_other_store_is_refused(memory: tuple[Any, str]) -> None:
    files, uri = memory
    store = Access().store(uri)
    version = store.info(uri).version
    files.pipe(uri.replace("%25", "%"), b"9876543210")
    with pytest.raises(RefusedError, match="changed since it was planned"):
        store.read(uri, (2, 5), version, 10)
    assert store.read(uri, None, version, 10) == b"9876543210"


def test_what_another_store_fails_with_may_heal_and_what_it_says_is_not_repeated(
    memory: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files, uri = memory
    store = replace(Access(), request_timeout_s=7.0).store(uri)

    def fail(error: Exception) -> Any:
        def cat_file(*args: object) -> bytes:
            raise error

        monkeypatch.setattr(type(files), "cat_file", staticmethod(cat_file))
        return store.read(uri, None, None, 9)

    for error in (ValueError(SECRET), ConnectionResetError(SECRET), TimeoutError(SECRET)):
        with pytest.raises(TransientError) as raised:
            fail(error)
        assert SECRET not in str(raised.value)
    with pytest.raises(PermissionError):
        fail(PermissionError())


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"size": 3, "ETag": '"abc"', "mtime": 5}, Info(3, "abc")),
        ({"size": 3, "etag": 'W/"abc"'}, Info(3, "abc")),
        ({"size": None, "mtime": 5.5}, Info(0, "5.5")),
        ({"size": 3, "ETag": None, "generation": 7}, Info(3, "7")),
        ({"size": 3}, Info(3, None)),
    ],
)
def test_a_version_is_whatever_the_store_calls_it(info: dict[str, Any], expected: Info) -> None:
    assert fsspec_info(info) == expected


def test_an_etag_has_no_quotes() -> None:
    assert [plain_etag(etag) for etag in ('"a"', 'W/"a"', "a", None, "")] == ["a", "a", "a", None, None]
