"""A real S3 server for the tests of this folder, each marked `store`."""

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.s3_server import INSTALL, S3Server, missing_programs, s3_server

Client = Any  # boto3 makes its classes as it runs
ClientFactory = Callable[..., Client]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("store")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One store for the session; without its programs the tests are skipped, in CI they fail."""
    if missing := missing_programs():
        reason = f"needs {', '.join(missing)}: {INSTALL}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_client(s3: S3Server) -> Iterator[ClientFactory]:
    """Makes boto3 clients that try once; takes what boto3.client takes."""
    clients = []

    def make(**changes: object) -> Client:
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30)
        settings = {
            "endpoint_url": s3.endpoint,
            "aws_access_key_id": s3.access_key,
            "aws_secret_access_key": s3.secret_key,
            "region_name": "us-east-1",
            "config": config,
        }
        clients.append(boto3.client("s3", **(settings | changes)))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def bucket(s3_client: ClientFactory) -> str:
    """The name of a fresh, empty bucket."""
    name = f"test-{uuid.uuid4()}"
    s3_client().create_bucket(Bucket=name)
    return name
