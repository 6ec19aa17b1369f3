"""S3: obstore reads objects; botocore finds endpoint, region and credentials, and signs all other requests.

obstore is the fastest reader (docs/benchmarks.md), but it refuses untidy keys (`a//b.jpg`, `./c.jpg`, control
characters) and every listing that has one, and its prefixes are whole folders. So presigned requests list the
buckets and read the untidy keys. Unlike requests, botocore's HTTP session sends such paths unchanged.

botocore's own `list_objects_v2` is too slow, mostly because it parses the times of the keys. Milliseconds for
1,000 keys from Ceph's gateway, in 16 threads on two busy cores (`python -m tests.benchmarks.plan --listing`):
presigned and parsed here 23, `list_objects_v2` 91 (times not parsed 50), s3fs.find 104, obstore.list 5.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree

import obstore
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ConnectTimeoutError, ReadTimeoutError
from obstore import exceptions

from maskbatch.errors import RunFailedError, UsageError
from maskbatch.stores import base
from maskbatch.stores.retry import FIRST_TRIES, MAX_TRIES, Answer, keep_trying
from maskbatch.stores.s3_clients import make_clients
from maskbatch.stores.uris import decode_name
from maskbatch.stores.web import read_body

if TYPE_CHECKING:
    from obstore import GetOptions

URL_LIFE_S = 3600
PATIENCE_S = 300.0
"""For one page of a listing, all tries."""
MAX_PAGE_BYTES = 2**26
"""Of a page of a listing, which has 1 MB, or of an error."""
UNTIDY = re.compile(r"(^|/)(\.{0,2})(/|$)|[\x00-\x1f\x7f]")
"""Keys that obstore refuses or reads as another key."""
OBSTORE_ERRORS = {403: PermissionError, 404: FileNotFoundError, 412: exceptions.PreconditionError}
BAD_CREDENTIALS = (
    "ExpiredToken", "TokenRefreshRequired", "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken",
    "RequestTimeTooSkewed",
)  # fmt: skip


class DeniedError(UsageError):
    """These credentials may not list a prefix."""


ARCHIVE_CLASSES = ("GLACIER", "DEEP_ARCHIVE")
"""Storage classes to restore first. The archive tiers of INTELLIGENT_TIERING are in no listing."""
RESTORE_FIRST = "restore it, then run the same command with --reuse"
RESTORE_STATUS = {"x-amz-optional-object-attributes": "RestoreStatus"}
NOTHING_ARCHIVED: Mapping[str, str] = MappingProxyType({})


class Keys(NamedTuple):
    """One page of a bucket's listing."""

    keys: list[tuple[str, int, str | None]]
    """Key, size in bytes, etag."""
    folders: list[str]
    """Common prefixes, ending in `/`, if the request has a delimiter."""
    token: str | None
    """Continuation token of the next page."""
    archived: Mapping[str, str] = NOTHING_ARCHIVED
    """The storage class of each key that can only be read after a restore."""


def parse_page(content: bytes) -> Keys:
    """Parse an answer of ListObjectsV2. Raises ParseError, ValueError. Source: the S3 API reference."""
    root = ElementTree.fromstring(content)  # noqa: S314  the standard library's expat bounds expansion
    space = root.tag.rpartition("}")[0] + "}" if "}" in root.tag else ""
    decode = unquote_plus if root.findtext(f"{space}EncodingType") == "url" else str
    keys, archived = [], {}
    for item in root.iterfind(f"{space}Contents"):
        key, size = item.findtext(f"{space}Key"), item.findtext(f"{space}Size")
        if key is None or size is None:
            raise ValueError("a key without its name or size")
        keys.append((decode(key), int(size), base.plain_etag(item.findtext(f"{space}ETag"))))
        storage = item.findtext(f"{space}StorageClass")
        if storage in ARCHIVE_CLASSES and not item.findtext(f"{space}RestoreStatus/{space}RestoreExpiryDate"):
            archived[decode(key)] = storage
    prefixes = root.iterfind(f"{space}CommonPrefixes/{space}Prefix")
    folders = [decode(item.text or "") for item in prefixes]
    truncated = root.findtext(f"{space}IsTruncated")
    if truncated not in ("true", "false"):
        raise ValueError("no page of a listing")
    token = root.findtext(f"{space}NextContinuationToken") if truncated == "true" else None
    return Keys(keys, folders, token, archived)


class S3:
    """One bucket. Nothing here retries but `list_page`: `fetch` must see a throttling store."""

    def __init__(self, bucket: str, options: Mapping[str, Any], timeout_s: float) -> None:
        self.bucket, self.timeout_s, self.answered = bucket, timeout_s, False
        self.client, self.signer, self.http = make_clients(bucket, options, timeout_s)
        self.requester_pays = bool(options.get("requester_pays"))

    def key(self, uri: str) -> str:
        """The key of a uri in this bucket."""
        return decode_name(uri.removeprefix(f"s3://{self.bucket}/")).decode(errors="surrogateescape")

    def info(self, uri: str) -> base.Info:
        key = self.key(uri)
        if UNTIDY.search(key):
            headers, _ = self._try(lambda: self._ask_untidy("head_object", key, None, None, 0))
            return base.Info(int(headers["Content-Length"]), base.plain_etag(headers["ETag"]))
        meta = self._try(lambda: obstore.head(self.client, key))
        return base.Info(meta["size"], base.plain_etag(meta["e_tag"]))

    def read(self, uri: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        key = self.key(uri)
        if UNTIDY.search(key):
            return self._try(lambda: self._ask_untidy("get_object", key, span, version, max_bytes)[1])
        return self._try(lambda: self._get(key, span, version, max_bytes))

    def list_page(self, **params: Any) -> Keys:
        """Read one page of a listing, with retries. Raises UsageError, RunFailedError."""
        try:
            tries = MAX_TRIES if self.answered else FIRST_TRIES
            page = keep_trying(lambda: self._page(params), PATIENCE_S, tries)
        except RunFailedError as error:  # no run has begun yet: the request is wrong
            raise UsageError(str(error)) from error
        except (base.TransientError, TimeoutError) as error:
            what = f"cannot list s3://{self.bucket} at {self.signer.meta.endpoint_url}: {error}"
            remedy = "check AWS_ENDPOINT_URL or --storage-options, or try again later"
            raise UsageError(f"{what}; {remedy}") from error
        self.answered = True
        return page

    def _get(self, key: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        options: GetOptions = {"range": span} if span else {}
        if span and version:
            options["if_match"] = f'"{version}"'
        found = obstore.get(self.client, key, options=options)
        if not span and found.meta["size"] > max_bytes:
            raise base.TooLargeError
        return bytes(found.bytes())

    def _ask_untidy(
        self, operation: str, key: str, span: tuple[int, int] | None, version: str | None, max_bytes: int
    ) -> tuple[Mapping[str, str], bytes]:
        """Headers and body of an answer. Raises what obstore raises."""
        headers = {"Range": f"bytes={span[0]}-{span[1] - 1}"} if span else {}
        if span and version:
            headers["If-Match"] = f'"{version}"'
        status, found, body = self._ask(operation, headers, max_bytes, Key=key)
        if status not in (200, 206):
            kind = OBSTORE_ERRORS.get(status, exceptions.GenericError)
            raise kind(f"status code: {status} {body.decode(errors='replace')}")
        return found, body

    def _page(self, params: dict[str, Any]) -> Keys:
        page = self._list(params, {})
        if page.archived:  # a listing says what is restored only if asked, which few stores but AWS know
            with suppress(UsageError):
                return self._list(params | {"OptionalObjectAttributes": ["RestoreStatus"]}, RESTORE_STATUS)
        return page

    def _list(self, params: dict[str, Any], headers: dict[str, str]) -> Keys:
        try:
            answer = self._ask("list_objects_v2", {**headers}, MAX_PAGE_BYTES, EncodingType="url", **params)
        except BotoCoreError as error:
            raise RunFailedError(f"s3://{self.bucket}: {error}; renew the credentials") from error
        status, _, body = answer
        if status in (301, 307, 400, 401, 403, 404):
            self._raise_if_hopeless(body.decode(errors="replace"))
            remedy = "check the URL and the region, and give these credentials s3:ListBucket"
            kind = DeniedError if status == 403 else UsageError
            raise kind(f"cannot list s3://{self.bucket}/{params['Prefix']}: it answers {status}; {remedy}")
        if status != 200:
            raise base.TransientError(f"it answers {status}")
        try:
            return parse_page(body)
        except (ElementTree.ParseError, KeyError, TypeError, ValueError) as error:
            raise base.TransientError("its answer is damaged") from error

    def _ask(
        self, operation: str, headers: dict[str, str], max_bytes: int, **params: Any
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a presigned request; status, headers and body of the answer.

        Raises BotoCoreError if it cannot be signed, TransientError, TimeoutError, TooLargeError.
        """
        if self.requester_pays:  # the URL is signed with the header
            params["RequestPayer"] = headers["x-amz-request-payer"] = "requester"
        params["Bucket"] = self.bucket
        url = self.signer.generate_presigned_url(operation, params, ExpiresIn=URL_LIFE_S)
        method = "HEAD" if operation == "head_object" else "GET"
        try:
            answer = self.http.send(AWSRequest(method, url, headers, stream_output=True).prepare())
        except (ConnectTimeoutError, ReadTimeoutError) as error:
            raise TimeoutError("the server did not answer in time") from error
        except BotoCoreError as error:
            raise base.TransientError("the server cannot be reached") from error
        with closing(answer.raw) as raw:
            most = max_bytes if answer.status_code < 300 else MAX_PAGE_BYTES
            return answer.status_code, answer.headers, read_body(raw, most, self.timeout_s)

    def _try(self, ask: Callable[[], Answer]) -> Answer:
        """`ask()`, with obstore's errors turned into those of `stores`."""
        try:
            return ask()
        except FileNotFoundError as error:
            self._raise_if_hopeless(str(error))
            raise
        except exceptions.PreconditionError as error:
            raise base.RefusedError(base.CHANGED) from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError) as error:
            self._raise_if_hopeless(str(error))
            if "<Code>InvalidObjectState<" in str(error):
                raise base.RefusedError(f"archived by its store; {RESTORE_FIRST}") from error
            raise PermissionError from error
        except (exceptions.BaseError, BotoCoreError) as error:
            text = str(error)
            self._raise_if_hopeless(text)
            if re.search(r"status code: (503|429)|SlowDown", text):
                raise base.ThrottledError("the store asks for fewer requests") from error
            # obstore shows its settings with every error, a `retry_timeout` among them.
            if "kind: Timeout" in text:
                raise TimeoutError("the store did not answer in time") from error
            raise base.TransientError("the store's answer failed") from error

    def _raise_if_hopeless(self, text: str) -> None:
        """Raise RunFailedError if no request of this run can succeed until the user fixes something."""
        code = next((code for code in BAD_CREDENTIALS if f"<Code>{code}<" in text), None)
        if code:
            what = f"s3://{self.bucket} refuses the credentials ({code})"
            raise RunFailedError(f"{what}; renew them, then run the same command")
        if "<Code>NoSuchBucket<" in text:
            what = f"s3://{self.bucket}: there is no such bucket"
            raise RunFailedError(f"{what}; check the URL and the endpoint")
