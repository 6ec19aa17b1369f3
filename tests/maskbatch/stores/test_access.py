"""One store serves each bucket; one that cannot be opened is a sentence."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import pytest

from maskbatch.errors import UsageError
from maskbatch.stores import filesystem
from maskbatch.stores.access import Access
from maskbatch.stores.options import StorageOptions


def test_one_store_serves_a_bucket_and_others_have_their_own() -> None:
    table = {"key": "someone", "secret": "something", "region": "us-east-1"}
    tables = dict.fromkeys(("s3://bucket/", "s3://bucket/deep/er"), table)
    access = Access(options=StorageOptions(json.dumps(tables)))
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
