"""The clients of a bucket: region, endpoint and credentials from the usual places."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from obstore.store import S3Store

from maskbatch.errors import UsageError

CONNECT = timedelta(seconds=10)


def make_boto_client(bucket: str, options: Mapping[str, Any], timeout_s: float) -> Any:
    """botocore's client: the usual places of profile, region, endpoint and credentials."""
    region = options.get("client_kwargs", {}).get("region_name")
    config = Config(
        signature_version=UNSIGNED if options.get("anon") else "s3v4",
        s3={"addressing_style": "auto"},
        connect_timeout=min(timeout_s, CONNECT.total_seconds()),
        read_timeout=timeout_s,
        retries={"total_max_attempts": 1},  # `fetch` must see a throttling store
    )
    try:
        session = botocore.session.Session(profile=options.get("profile"))
        region = region or session.get_config_variable("region")
        make = partial(
            session.create_client,
            "s3",
            endpoint_url=options.get("endpoint_url"),
            aws_access_key_id=options.get("key"),
            aws_secret_access_key=options.get("secret"),
            aws_session_token=options.get("token"),
            config=config,
        )
        boto = make(region_name=region or "us-east-1")
        if not (options.get("anon") or options.get("key") or session.get_credentials()):
            message = (
                f"s3://{bucket}: no credentials found; set AWS_PROFILE or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or say anon = true for it in --storage-options"
            )
            raise UsageError(message)
        if region is None and boto.meta.endpoint_url.endswith(".amazonaws.com"):
            boto = make(region_name=_bucket_region(boto, bucket))
    except (BotoCoreError, ValueError) as error:
        raise UsageError(f"s3://{bucket}: {error}; mend the profile or --storage-options") from error
    return boto


def _bucket_region(boto: Any, bucket: str) -> str:
    """The region that S3 names for a bucket, also in its refusals."""
    try:
        answer = boto.head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region", boto.meta.region_name))


def make_obstore_client(bucket: str, options: Mapping[str, Any], boto: Any, timeout_s: float) -> S3Store:
    timeout = timedelta(seconds=timeout_s)
    settings: dict[str, Any] = {"region": boto.meta.region_name}
    if not boto.meta.endpoint_url.endswith(".amazonaws.com"):
        settings["endpoint"] = boto.meta.endpoint_url
    if options.get("requester_pays"):
        settings["request_payer"] = True
    if options.get("anon"):
        settings["skip_signature"] = True
    else:
        settings["credential_provider"] = _credentials(boto)
    return S3Store(
        bucket,
        **settings,
        client_options={"allow_http": True, "timeout": timeout, "connect_timeout": min(timeout, CONNECT)},
        retry_config={"max_retries": 0},
    )


def _credentials(boto: Any) -> Callable[[], dict[str, Any]]:
    """What obstore calls for credentials: those of botocore's chain, which renews them."""
    found = boto._request_signer._credentials

    def credentials() -> dict[str, Any]:
        frozen = found.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=10),
        }

    return credentials
