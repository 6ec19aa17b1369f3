"""Files of web servers, by http:// and https:// URLs, presigned ones too."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

import requests
import urllib3
from requests.adapters import HTTPAdapter

from maskbatch.stores import base

REDIRECTS = 5
CHUNK_BYTES = 2**18


def read_body(raw: Any, max_bytes: int, timeout_s: float) -> bytes:
    """The body of urllib3's answer `raw`, whole. Raises TooLargeError, TimeoutError, TransientError."""
    began, data = time.monotonic(), bytearray()
    if (raw.length_remaining or 0) > max_bytes:
        raise base.TooLargeError
    try:
        while chunk := raw.read1(CHUNK_BYTES, decode_content=True):  # returns whatever has arrived
            data += chunk
            if len(data) > max_bytes:
                raise base.TooLargeError
            if time.monotonic() - began > timeout_s:
                raise TimeoutError("the server did not answer in time")
    except urllib3.exceptions.TimeoutError as error:
        raise TimeoutError("the server did not answer in time") from error
    except urllib3.exceptions.HTTPError as error:
        raise base.TransientError("the server's answer ended early") from error
    if raw.length_remaining:  # botocore's session does not check it
        raise base.TransientError("the server's answer ended early")
    return bytes(data)


def _version(answer: Any) -> str | None:
    """Changes with the file: its etag, or else its time of change."""
    return base.plain_etag(answer.headers.get("ETag")) or answer.headers.get("Last-Modified")


def _check_range(answer: Any, span: tuple[int, int], version: str | None) -> None:
    if answer.status_code != 206:
        raise base.RefusedError("the server does not serve ranges")
    if version and _version(answer) not in (None, version):
        raise base.RefusedError(base.CHANGED)
    if not answer.headers.get("Content-Range", "").startswith(f"bytes {span[0]}-{span[1] - 1}/"):
        raise base.TransientError("the server sent another range than was asked for")


class Http:
    """Web servers. User info in a URL becomes basic authentication; `allowed` checks every redirect."""

    def __init__(self, allowed: Callable[[str], bool], timeout_s: float) -> None:
        self.allowed, self.timeout_s = allowed, timeout_s
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=64))

    def info(self, uri: str) -> base.Info:
        with self._get(uri, {"Accept-Encoding": "identity", "Range": "bytes=0-0"}) as answer:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if answer.status_code != 206 or not total.isdecimal():
                raise base.RefusedError("the server does not serve ranges")
            return base.Info(int(total), _version(answer))

    def read(self, uri: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        headers = {"Accept-Encoding": "identity"}
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
            max_bytes = span[1] - span[0]
        with self._get(uri, headers) as answer:
            if span is not None:
                _check_range(answer, span, version)
            return read_body(answer.raw, max_bytes, self.timeout_s)

    def _get(self, uri: str, headers: dict[str, str]) -> Any:
        for _ in range(REDIRECTS + 1):
            answer = self._send(uri, headers)
            if not answer.is_redirect:
                self._check(answer)
                return answer
            answer.close()
            uri = urljoin(uri, answer.headers["location"])
            if not self.allowed(uri):
                raise base.RefusedError("it redirects to a place outside the allowed prefixes")
        raise base.RefusedError("it redirects without end")

    def _send(self, uri: str, headers: dict[str, str]) -> Any:
        limits = 10, self.timeout_s
        try:
            return self.session.get(uri, headers=headers, stream=True, allow_redirects=False, timeout=limits)
        except requests.exceptions.Timeout as error:
            raise TimeoutError("the server did not answer in time") from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
            raise base.RefusedError("its URL cannot be used") from error
        except requests.exceptions.RequestException as error:
            raise base.TransientError("the server cannot be reached") from error

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
            raise base.ThrottledError("the server asks for fewer requests")
        if code == 408 or code >= 500:
            raise base.TransientError(f"the server answered {code}")
        raise base.RefusedError(f"the server answered {code}")
