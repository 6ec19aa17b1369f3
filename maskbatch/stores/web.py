"""Files of web servers: presigned URLs and manifests of http:// and https://."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

import requests
import urllib3
from requests.adapters import HTTPAdapter

from maskbatch.stores.base import (
    CHANGED,
    Info,
    RefusedError,
    ThrottledError,
    TooLargeError,
    TransientError,
    plain_etag,
)

REDIRECTS = 5


CHUNK_BYTES = 2**18


MAX_ANSWER_BYTES = 2**26
"""Of what is no file: a page of a listing has 1 MB."""


def _version(answer: Any) -> str | None:
    """Changes with the file: its etag, or else when it was written."""
    return plain_etag(answer.headers.get("ETag")) or answer.headers.get("Last-Modified")


def _check_range(answer: Any, span: tuple[int, int], version: str | None) -> None:
    if answer.status_code != 206:
        raise RefusedError("the server does not serve ranges")
    if version and _version(answer) not in (None, version):
        raise RefusedError(CHANGED)
    if not answer.headers.get("Content-Range", "").startswith(f"bytes {span[0]}-{span[1] - 1}/"):
        raise TransientError("the server sent another range than was asked for")


class Http:
    """Web servers. User-info in the URL is sent as basic authentication."""

    def __init__(self, allowed: Callable[[str], bool], timeout_s: float) -> None:
        self.allowed, self.timeout_s = allowed, timeout_s
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=64))

    def info(self, uri: str) -> Info:
        with self._get(uri, {"Accept-Encoding": "identity", "Range": "bytes=0-0"}) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if answer.status_code != 206 or not total.isdecimal():
                raise RefusedError("the server does not serve ranges")
            return Info(int(total), _version(answer))

    def read(self, uri: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        headers = {"Accept-Encoding": "identity"}
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
            max_bytes = span[1] - span[0]
        with self._get(uri, headers) as answer:
            if span is not None:
                _check_range(answer, span, version)
            return self._body(answer, max_bytes)

    def _body(self, answer: Any, max_bytes: int) -> bytes:
        began, data = time.monotonic(), bytearray()
        try:
            while chunk := answer.raw.read1(CHUNK_BYTES, decode_content=True):  # however little has come
                data += chunk
                if len(data) > max_bytes:
                    raise TooLargeError
                if time.monotonic() - began > self.timeout_s:
                    raise TimeoutError("the server did not answer in time")
        except urllib3.exceptions.TimeoutError as error:
            raise TimeoutError("the server did not answer in time") from error
        except urllib3.exceptions.HTTPError as error:
            raise TransientError("the server's answer ended early") from error
        return bytes(data)

    def ask(self, uri: str) -> tuple[int, bytes]:
        """Status and body of the answer to a plain GET. Raises TransientError, RefusedError, TimeoutError."""
        with self._send(uri, {}) as answer:
            return answer.status_code, self._body(answer, MAX_ANSWER_BYTES)

    def _send(self, uri: str, headers: dict[str, str]) -> Any:
        try:
            return self.session.get(
                uri, headers=headers, stream=True, allow_redirects=False, timeout=(10, self.timeout_s)
            )
        except requests.exceptions.Timeout as error:
            raise TimeoutError("the server did not answer in time") from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
            raise RefusedError("its URL cannot be used") from error
        except requests.exceptions.RequestException as error:
            raise TransientError("the server cannot be reached") from error

    def _get(self, uri: str, headers: dict[str, str]) -> Any:
        for _ in range(REDIRECTS + 1):
            answer = self._send(uri, headers)
            if not answer.is_redirect:
                self._check(answer)
                return answer
            answer.close()
            uri = urljoin(uri, answer.headers["location"])
            if not self.allowed(uri):
                raise RefusedError("it redirects to a place outside the allowed prefixes")
        raise RefusedError("it redirects without end")

    def _check(self, answer: Any) -> None:
        code = answer.status_code
        if code in (200, 206):
            return
        answer.close()
        if code in (404, 410):
            raise FileNotFoundError
        if code in (401, 403):
            raise PermissionError
        if code in (429, 503):
            raise ThrottledError("the server asks for fewer requests")
        if code == 408 or code >= 500:
            raise TransientError(f"the server answered {code}")
        raise RefusedError(f"the server answered {code}")
