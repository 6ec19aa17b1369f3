"""S3 through obstore, with the endpoint, region and credentials that botocore finds in the usual places.

obstore reads several times as fast as what is built on botocore. It refuses keys that are no tidy
paths (`a//b.jpg`, `./c.jpg`, control characters), and a whole listing with one of them in it: so
such keys go through botocore, and listings are asked for by presigned URLs.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import botocore.session
import obstore
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError
from obstore import exceptions
from obstore.store import S3Store

from maskbatch.entries import decode_name
from maskbatch.errors import RunFailedError, UsageError
from maskbatch.fetch import FIRST_TRIES, MAX_TRIES, tried
from maskbatch.s3_listing import Keys, parse_page
from maskbatch.stores import (
    CHANGED,
    Info,
    RefusedError,
    ThrottledError,
    TooLargeError,
    TransientError,
    plain_etag,
)
from maskbatch.web import Http

if TYPE_CHECKING:
    from obstore import GetOptions

CONNECT = timedelta(seconds=10)
URL_LIFE_S = 3600
PATIENCE_S = 300.0
"""With one page of a listing, all tries."""
UNTIDY = re.compile(r"(^|/)(\.{0,2})(/|$)|[\x00-\x1f\x7f]")
"""Keys that obstore refuses or reads as another key."""
BAD_CREDENTIALS = (
    "ExpiredToken", "TokenRefreshRequired", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken",
    "RequestTimeTooSkewed",
)  # fmt: skip


class S3:
    """One bucket. obstore's own retries are off: `fetch` must see a throttling store."""

    def __init__(self, bucket: str, options: Mapping[str, Any], timeout_s: float) -> None:
        self.bucket = bucket
        self.boto = _boto_client(bucket, options, timeout_s)
        self.client = _obstore_client(bucket, options, self.boto, timeout_s)
        self.answered = False
        self.payer = {"RequestPayer": "requester"} if options.get("requester_pays") else {}
        self.web = Http(lambda uri: False, timeout_s)
        if self.payer:
            self.web.session.headers["x-amz-request-payer"] = "requester"

    def key(self, uri: str) -> str:
        """The key of a uri in this bucket."""
        return decode_name(uri.removeprefix(f"s3://{self.bucket}/")).decode(errors="surrogateescape")

    def info(self, uri: str) -> Info:
        key = self.key(uri)
        if UNTIDY.search(key):
            found = self._try(lambda: self.boto.head_object(Bucket=self.bucket, Key=key, **self.payer))
            return Info(found["ContentLength"], plain_etag(found["ETag"]))
        meta = self._try(lambda: obstore.head(self.client, key))
        return Info(meta["size"], plain_etag(meta["e_tag"]))

    def read(self, uri: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        key = self.key(uri)
        get = self._get_untidy if UNTIDY.search(key) else self._get
        data: bytes = self._try(lambda: get(key, span, version, max_bytes))
        return data

    def _get(self, key: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        if span is None:
            found = obstore.get(self.client, key)
            if found.meta["size"] > max_bytes:
                raise TooLargeError
        else:
            options: GetOptions = {"range": span}
            if version:
                options["if_match"] = f'"{version}"'
            found = obstore.get(self.client, key, options=options)
        return bytes(found.bytes())

    def _get_untidy(
        self, key: str, span: tuple[int, int] | None, version: str | None, max_bytes: int
    ) -> bytes:
        part = {}
        if span is not None:
            part["Range"] = f"bytes={span[0]}-{span[1] - 1}"
            if version:
                part["IfMatch"] = f'"{version}"'
        found = self.boto.get_object(Bucket=self.bucket, Key=key, **part, **self.payer)
        if found["ContentLength"] > max_bytes:
            raise TooLargeError
        return bytes(found["Body"].read())

    def _try(self, ask: Callable[[], Any]) -> Any:
        """`ask()`, with obstore's errors as those of `stores`."""
        try:
            return ask()
        except FileNotFoundError as error:
            self._refuse(str(error))
            raise
        except exceptions.PreconditionError as error:
            raise RefusedError(CHANGED) from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError) as error:
            self._refuse(str(error))
            raise PermissionError from error
        except ClientError as error:
            code = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            self._refuse(f"<Code>{error.response.get('Error', {}).get('Code')}<")
            if code == 404:
                raise FileNotFoundError from error
            if code == 403:
                raise PermissionError from error
            if code == 412:
                raise RefusedError(CHANGED) from error
            if code in (429, 503):
                raise ThrottledError("the store asks for fewer requests") from error
            raise TransientError("the store's answer failed") from error
        except (exceptions.BaseError, BotoCoreError) as error:
            text = str(error)
            self._refuse(text)
            if re.search(r"status code: (503|429)|SlowDown", text):
                raise ThrottledError("the store asks for fewer requests") from error
            # obstore shows its settings with every error, a `retry_timeout` among them.
            if "kind: Timeout" in text or isinstance(error, (ConnectTimeoutError, ReadTimeoutError)):
                raise TimeoutError("the store did not answer in time") from error
            raise TransientError("the store's answer failed") from error

    def _refuse(self, text: str) -> None:
        """Raises RunFailedError where no request of this run can work until somebody mends something."""
        code = next((code for code in BAD_CREDENTIALS if f"<Code>{code}<" in text), None)
        if code:
            what = f"s3://{self.bucket} refuses the credentials ({code}); renew them"
            raise RunFailedError(f"{what}, then run the same command")
        if "<Code>NoSuchBucket<" in text:
            raise RunFailedError(
                f"s3://{self.bucket}: there is no such bucket; check the URL and the endpoint"
            )

    def _url(self, operation: str, **params: Any) -> str:
        try:
            url: str = self.boto.generate_presigned_url(
                operation, {"Bucket": self.bucket, **self.payer, **params}, ExpiresIn=URL_LIFE_S
            )
        except BotoCoreError as error:
            raise RunFailedError(f"s3://{self.bucket}: {error}; renew the credentials") from error
        return url

    def page(self, **params: Any) -> Keys:
        """One page of a listing, tried again while that may help. Raises UsageError, RunFailedError."""
        try:
            page = tried(lambda: self._page(params), PATIENCE_S, MAX_TRIES if self.answered else FIRST_TRIES)
        except RunFailedError as error:  # nothing has begun yet: the request is wrong
            raise UsageError(str(error)) from error
        except (TransientError, RefusedError, TimeoutError) as error:
            what = f"cannot list s3://{self.bucket} at {self.boto.meta.endpoint_url}: {error}"
            remedy = "check AWS_ENDPOINT_URL or --storage-options, or try again later"
            raise UsageError(f"{what}; {remedy}") from error
        self.answered = True
        return page

    def _page(self, params: dict[str, Any]) -> Keys:
        status, answer = self.web.ask(self._url("list_objects_v2", EncodingType="url", **params))
        if status in (301, 307, 400, 401, 403, 404):
            self._refuse(answer.decode(errors="replace"))
            remedy = "check the URL and the region, and give these credentials s3:ListBucket"
            raise UsageError(f"cannot list s3://{self.bucket}: it answers {status}; {remedy}")
        if status != 200:
            raise TransientError(f"it answers {status}")
        try:
            return parse_page(answer)
        except (ElementTree.ParseError, KeyError, TypeError, ValueError) as error:
            raise TransientError("its answer is damaged") from error


def _boto_client(bucket: str, options: Mapping[str, Any], timeout_s: float) -> Any:
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


def _obstore_client(bucket: str, options: Mapping[str, Any], boto: Any, timeout_s: float) -> S3Store:
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
