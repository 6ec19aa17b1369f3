"""Storage options: by URL prefix, checked, and shown nowhere."""

import json
import logging
import pickle
import pprint
from pathlib import Path
from typing import Any

import pytest

from maskbatch.errors import UsageError
from maskbatch.stores.access import Access
from maskbatch.stores.options import NO_OPTIONS, StorageOptions

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
["S3a://other/"]
region = "eu-west-3"
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
    assert options.of("s3://third/x") == {"client_kwargs": {"region_name": "eu-central-1"}}
    assert options.of("s3://other/x") == {"client_kwargs": {"region_name": "eu-west-3"}}
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
