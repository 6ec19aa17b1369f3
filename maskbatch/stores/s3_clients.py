"""The clients of a bucket: region, endpoint and credentials from the usual places."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies
from obstore.store import S3Store

from maskbatch.errors import UsageError


def make_clients(
    bucket: str, options: Mapping[str, Any], timeout_s: float
) -> tuple[S3Store, Any, URLLib3Session]:
    """obstore's client, and botocore's to sign with and session to send with. Raises UsageError.

    Profile, region, endpoint and credentials come from `options`, else from where the AWS tools look.
    """
    connect_s = min(timeout_s, 10.0)
    try:
        session = botocore.session.Session(profile=options.get("profile"))
        signer = _signer(session, bucket, options, (connect_s, timeout_s))
        http = URLLib3Session(
            verify=session.get_config_variable("ca_bundle") or True,
            proxies=get_environ_proxies(signer.meta.endpoint_url),
            timeout=(connect_s, timeout_s),
            max_pool_connections=64,
        )
    except (BotoCoreError, ValueError) as error:
        raise UsageError(f"s3://{bucket}: {error}; mend the profile or --storage-options") from error
    settings: dict[str, Any] = {"region": signer.meta.region_name}
    if not signer.meta.endpoint_url.endswith(".amazonaws.com"):
        settings["endpoint"] = signer.meta.endpoint_url
    if options.get("requester_pays"):
        settings["request_payer"] = True
    if options.get("anon"):
        settings["skip_signature"] = True
    else:
        settings["credential_provider"] = _credentials(session, options)
    timeouts = {"timeout": timedelta(seconds=timeout_s), "connect_timeout": timedelta(seconds=connect_s)}
    settings["client_options"] = {"allow_http": True, **timeouts}
    return S3Store(bucket, **settings, retry_config={"max_retries": 0}), signer, http


def _signer(session: Any, bucket: str, options: Mapping[str, Any], timeouts: tuple[float, float]) -> Any:
    config = Config(
        signature_version=UNSIGNED if options.get("anon") else "s3v4",
        s3={"addressing_style": "auto"},
        connect_timeout=timeouts[0],
        read_timeout=timeouts[1],
        retries={"total_max_attempts": 1},
    )
    make = partial(
        session.create_client,
        "s3",
        endpoint_url=options.get("endpoint_url"),
        aws_access_key_id=options.get("key"),
        aws_secret_access_key=options.get("secret"),
        aws_session_token=options.get("token"),
        config=config,
    )
    region = options.get("client_kwargs", {}).get("region_name") or session.get_config_variable("region")
    signer = make(region_name=region or "us-east-1")
    if not (options.get("anon") or options.get("key") or session.get_credentials()):
        raise UsageError(
            f"s3://{bucket}: no credentials found; set AWS_PROFILE or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or say anon = true for it in --storage-options"
        )
    if region is None and signer.meta.endpoint_url.endswith(".amazonaws.com"):
        signer = make(region_name=_bucket_region(signer, bucket))
    return signer


def _bucket_region(client: Any, bucket: str) -> str:
    """The region that S3 names for a bucket, also if it refuses the request."""
    try:
        answer = client.head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region", client.meta.region_name))


def _credentials(session: Any, options: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
    """What obstore calls for credentials: the given ones, or the session's, which botocore renews."""
    given = options.get("key"), options.get("secret"), options.get("token")
    source = Credentials(*given) if given[0] else session.get_credentials()

    def credentials() -> dict[str, Any]:
        frozen = source.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=10),
        }

    return credentials
