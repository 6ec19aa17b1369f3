"""S3 through obstore, with the endpoint, region and credentials that botocore finds in the usual places.

obstore reads several times as fast as what is built on botocore. It refuses keys that are no tidy
paths (`a//b.jpg`, `./c.jpg`, control characters), and a whole listing with one of them in it: so
such keys go through botocore, and listings are asked for by presigned URLs.
"""

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree

import obstore
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError
from obstore import exceptions

from maskbatch.errors import RunFailedError, UsageError
from maskbatch.stores.base import (
    CHANGED,
    Info,
    RefusedError,
    ThrottledError,
    TooLargeError,
    TransientError,
    plain_etag,
)
from maskbatch.stores.retry import FIRST_TRIES, MAX_TRIES, keep_trying
from maskbatch.stores.uris import decode_name
from maskbatch.stores.web import Http

if TYPE_CHECKING:
    from obstore import GetOptions
from maskbatch.stores.s3_clients import make_boto_client, make_obstore_client


class Keys(NamedTuple):
    """One page of a bucket's listing."""

    keys: list[tuple[str, int, str | None]]
    """Key, size in bytes, etag."""
    folders: list[str]
    """Common prefixes, ending in `/`, where a delimiter was given."""
    token: str | None
    """What the next page is asked for with."""


def parse_page(content: bytes) -> Keys:
    """A page of ListObjectsV2, as the S3 API reference has it. Raises ParseError, ValueError."""
    root = ElementTree.fromstring(content)  # noqa: S314  the standard library's expat bounds expansion
    space = root.tag.rpartition("}")[0] + "}" if "}" in root.tag else ""
    decode = unquote_plus if root.findtext(f"{space}EncodingType") == "url" else str
    keys = []
    for item in root.iterfind(f"{space}Contents"):
        key, size = item.findtext(f"{space}Key"), item.findtext(f"{space}Size")
        if key is None or size is None:
            raise ValueError("a key without its name or size")
        keys.append((decode(key), int(size), plain_etag(item.findtext(f"{space}ETag"))))
    folders = [
        decode(item.findtext(f"{space}Prefix") or "") for item in root.iterfind(f"{space}CommonPrefixes")
    ]
    truncated = root.findtext(f"{space}IsTruncated")
    if truncated not in ("true", "false"):
        raise ValueError("no page of a listing")
    token = root.findtext(f"{space}NextContinuationToken") if truncated == "true" else None
    return Keys(keys, folders, token)


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
        self.boto = make_boto_client(bucket, options, timeout_s)
        self.client = make_obstore_client(bucket, options, self.boto, timeout_s)
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
            page = keep_trying(
                lambda: self._page(params), PATIENCE_S, MAX_TRIES if self.answered else FIRST_TRIES
            )
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
