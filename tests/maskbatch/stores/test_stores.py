import json
import logging
import os
import pickle
import pprint
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest

from maskbatch.errors import UsageError
from maskbatch.stores import filesystem
from maskbatch.stores.access import Access
from maskbatch.stores.base import Info, RefusedError, TooLargeError, TransientError, plain_etag
from maskbatch.stores.filesystem import fsspec_info
from maskbatch.stores.local import Local
from maskbatch.stores.options import NO_OPTIONS, StorageOptions
from maskbatch.stores.uris import SCHEME

SECRET = "hunter2-TOP"
TOML = f"""
["s3://"]
region = "eu-central-1"
["s3://bucket/"]
endpoint_url = "http://127.0.0.1:9"
key = "{SECRET}-key"
secret = "{SECRET}"
["s3://bucket/deep/er"]
anon = true
region = "us-east-1"
["gs://bucket"]
token = "{SECRET}"
"""


@pytest.fixture
def options(tmp_path: Path) -> StorageOptions:
    (tmp_path / "options.toml").write_text(TOML)
    return StorageOptions.from_toml(tmp_path / "options.toml")


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("s3://bucket/x.jpg", "s3://bucket/"),
        ("s3://bucket", "s3://bucket/"),
        ("s3://bucket2/x.jpg", "s3://"),
        ("s3://bucket/deep/x.jpg", "s3://bucket/"),
        ("s3://bucket/deep/er/x.jpg", "s3://bucket/deep/er"),
        ("s3://bucket/deep/ernest.jpg", "s3://bucket/"),
        ("gs://bucket/x", "gs://bucket"),
        ("gs://bucketeer/x", ""),
        ("https://host/x", ""),
    ],
)
def test_the_longest_prefix_counts(options: StorageOptions, url: str, prefix: str) -> None:
    assert options.prefix(url) == prefix
    assert bool(options.of(url)) == bool(prefix)


def test_options_have_the_names_that_the_file_system_knows(options: StorageOptions) -> None:
    assert options.of("s3://other/x") == {"client_kwargs": {"region_name": "eu-central-1"}}
    assert options.of("gs://bucket/x") == {"token": SECRET}
    assert options.of("s3://bucket/deep/er")["anon"] is True
    assert NO_OPTIONS.of("s3://bucket") == {}


@pytest.mark.parametrize(
    "show",
    [
        repr, str, "{}".format, "{!r}".format, pprint.pformat, lambda value: json.dumps(value, default=str),
        lambda value: f"{Access(options=value)} {Access(options=value).options!r}",
        lambda value: str(ValueError(value)),
    ],
)  # fmt: skip
def test_options_are_never_shown(options: StorageOptions, show: Any) -> None:
    shown = show(options)
    assert "StorageOptions" in shown
    assert SECRET not in shown


def test_options_are_never_logged_and_reach_a_worker_whole(
    options: StorageOptions, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("maskbatch").debug("%s %r", options, Access(options=options))
    assert "StorageOptions" in caplog.text
    assert SECRET not in caplog.text
    assert pickle.loads(pickle.dumps(options)).of("s3://bucket")["secret"] == SECRET


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'["s3://b/"]\nsecret = "{SECRET}', "is no TOML"),
        (f'["s3://b/"]\nsecret = {SECRET}', "is no TOML"),
        (f'secret = "{SECRET}"', "'secret' is no table of a prefix"),
        (f'[s3]\nsecret = "{SECRET}"', "'s3' is no table of a prefix"),
        (f'"s3://b" = "{SECRET}"', "'s3://b' is no table of a prefix"),
        (f'["s3://b"]\naws_secret = "{SECRET}"', "'aws_secret' is not known; one of endpoint_url"),
        (f'["gs://b"]\ntoken = "{SECRET}"\nsince = 2026-01-01', "has a value that is no option"),
    ],
)
def test_a_file_of_options_that_cannot_be_used_is_one_sentence_that_quotes_no_value(
    tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "options.toml").write_text(text)
    with pytest.raises(UsageError) as refused:
        StorageOptions.from_toml(tmp_path / "options.toml")
    message = str(refused.value)
    assert expected in message
    assert message.startswith(f"--storage-options {tmp_path}/options.toml: ")
    assert SECRET not in message and "\n" not in message


@pytest.mark.parametrize(("data", "why"), [(None, "No such file"), (b"\xff\xfe", "decode")])
def test_a_file_of_options_that_cannot_be_read_is_named(tmp_path: Path, data: bytes | None, why: str) -> None:
    if data is not None:
        (tmp_path / "options.toml").write_bytes(data)
    with pytest.raises(UsageError, match=f"cannot be read: .*{why}"):
        StorageOptions.from_toml(tmp_path / "options.toml")


def test_one_store_serves_a_bucket_and_others_have_their_own(options: StorageOptions) -> None:
    access = Access(options=options)
    assert access.store("s3://bucket/a.jpg") is access.store("s3://bucket/b/c.jpg")
    assert access.store("s3://bucket/a.jpg") is not access.store("s3://bucket/deep/er/c.jpg")
    assert access.store("file:///a") is access.store("file:///b/c")


def test_threads_that_ask_at_once_get_one_store(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def slow(scheme: str, options: Any) -> Any:
        made.append(scheme)
        time.sleep(0.05)
        return fsspec.filesystem("memory")

    monkeypatch.setattr(filesystem, "open_filesystem", slow)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(Access(max_requests=9).store, [f"other://b/{k}" for k in range(8)]))
    assert made == ["other://b/"]
    assert len(set(map(id, found))) == 1


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("nonsense://b/x", "nonsense://: Protocol not known; a path, s3://"),
        ("gs://b/x", r"without its library; pip install 'maskbatch\[gcs\]'"),
        ("abfs://b/x", r"without its library; pip install 'maskbatch\[azure\]'"),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_sentence(
    uri: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("gcsfs", "adlfs"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=expected) as refused:
        Access().store(uri)
    assert "\n" not in str(refused.value)


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
