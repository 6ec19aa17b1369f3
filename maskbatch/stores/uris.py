"""Places: parsing and comparing URIs and paths, how names stand in a URI, and what may be read."""

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, unquote_to_bytes, urlsplit

import fsspec

from maskbatch.errors import UsageError

SCHEME = "file://"
ALIASES = {"s3a": "s3", "s3n": "s3", "local": "file"}
DEFAULT_PORTS = {"http": 80, "https": 443}
SIGNING = re.compile(
    r"x-(amz|goog)-|(signature|expires|awsaccesskeyid|googleaccessid|policy|key-pair-id|token)$"
)
AZURE_SIGNING = re.compile(r"(s[vkiretps]|sig|spr|sks|sktid|skoid|skt|ske|skv|srt|sdd)$")
"""Parameters of presigned URLs of S3, Google and Azure. They change with every signing."""
DOT_SEGMENT = re.compile(r"(^|[/\\])\.{1,2}(;[^/\\]*)?($|[/\\])")
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\\]|::")
UNSAFE_REASONS = {
    "::": "has `::`, which chains file systems; write %3A%3A for it in a file:// uri",
    "\\": "has a backslash; `/` expected",
}


Text = str | os.PathLike[str]
"""A path or URL as callers from Python write it."""
Texts = Text | Iterable[Text]


class Place(NamedTuple):
    """Where a URI or path points: equal for all its spellings if `locate` made it."""

    root: str
    """`file://`, `s3://bucket` or `https://host:8443`."""
    path: str
    """Starts with `/`. Names are decoded, except over http, where the path is as sent."""
    login: str = ""
    """`user:password@`."""
    query: str = ""
    """Over http, with its `?`."""

    def encode(self, path: str) -> str:
        """A path of this kind of place, as a URI writes it."""
        return path if self.root.startswith("http") else encode_name(path)

    @property
    def uri(self) -> str:
        """As the plan shows it: without secrets. A digest tells two queries apart."""
        pairs = [(name.lower(), value) for name, value in parse_qsl(self.query[1:], True)]
        azure = any(name == "sig" for name, _ in pairs)
        told = [p for p in pairs if not SIGNING.match(p[0]) and not (azure and AZURE_SIGNING.match(p[0]))]
        digest = blake2b(repr(told).encode(), digest_size=6).hexdigest()
        return self.root + self.encode(self.path) + (f"#{digest}" if told else "")

    @property
    def fetch(self) -> str | None:
        """The whole URI, if `uri` leaves some of it out."""
        if not self.login and not self.query:
            return None
        return self.root.replace("://", f"://{self.login}", 1) + self.encode(self.path) + self.query

    @property
    def folder(self) -> "Place":
        """The folder that holds it, with a `/` at its end."""
        return Place(self.root, self.path[: self.path.rindex("/") + 1], self.login)

    def covers(self, other: "Place") -> bool:
        """Whether `other` is this place or lies below it."""
        top = self.path.rstrip("/")
        return self.root == other.root and (other.path == top or other.path.startswith(f"{top}/"))


def list_texts(values: Texts) -> tuple[str, ...]:
    """Names of images, runs or settings as text; a single one needs no list around it."""
    several = (values,) if isinstance(values, str | os.PathLike) else values
    return tuple(os.fspath(value) for value in several)


def parse_argument(text: str) -> Place:
    """The place that a person typed: a path or a URL, taken literally. ValueError if `~name` is no user."""
    scheme, separator, rest = text.partition("://")
    scheme = usual_scheme(scheme)
    if separator and scheme != "file":
        return _parse_url(scheme, rest)
    return _local_place(str(expand_path(rest if separator else text)))


def expand_path(text: str) -> Path:
    """A typed path, absolute and without `~`; `..` and links stay. ValueError if `~name` is no user."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError("there is no such user; check the path") from error


def locate(text: str, folder: Place | None = None) -> Place:
    """The place, one for all spellings, of a manifest's URI or path in `folder`. Raises ValueError."""
    bad = UNSAFE.search(text)
    if bad:
        raise ValueError(UNSAFE_REASONS.get(bad[0], "has a control character"))
    scheme, rest = _split_scheme(text)
    if scheme is None:
        return _locate_path(text, folder)
    if scheme in DEFAULT_PORTS:
        return _locate_web(scheme, rest)
    authority = rest.removeprefix("//").partition("/")[0]
    if scheme == "file":
        if not rest.startswith("/") or (rest.startswith("//") and authority.lower() not in ("", "localhost")):
            raise ValueError("names no absolute path of this machine; file:///folder/name.jpg expected")
        return _local_place(os.fsdecode(decode_name(rest.removeprefix(f"//{authority}"))))
    if not rest.startswith("//") or not authority.rpartition("@")[2] or re.search(r"[?#%\s]", authority):
        raise ValueError(f"names no bucket or host; {scheme}://bucket/name.jpg expected")
    place = _parse_url(scheme, rest.removeprefix("//"))
    if DOT_SEGMENT.search(place.path):
        raise ValueError("has a `.` or `..` folder")
    if place.login:
        raise ValueError("holds credentials; give them by --storage-options")
    return place


def usual_scheme(scheme: str) -> str:
    """A scheme by its usual name: `s3` for `S3a`."""
    return ALIASES.get(scheme.lower(), scheme.lower())


def _parse_url(scheme: str, rest: str) -> Place:
    """`rest` is what follows `scheme://`."""
    is_web = scheme in DEFAULT_PORTS
    rest, mark, query = rest.partition("?") if is_web else (rest, "", "")
    authority, _, path = rest.partition("/")
    user, at, _ = authority.rpartition("@")
    login = user + at if is_web or ":" in user else ""  # in abfs://container@account it is no login
    return Place(f"{scheme}://{authority.removeprefix(login)}", f"/{path}", login, mark + query)


def _split_scheme(text: str) -> tuple[str | None, str]:
    """A URI's scheme by its usual name, and the rest; None for a path: a file may be called `cam:7.jpg`."""
    scheme, colon, rest = text.partition(":")
    scheme = usual_scheme(scheme)
    known = scheme in _protocols()
    if not known and "://" not in text:
        return None, text
    if not known or not colon:
        raise ValueError("has an unknown scheme; a path, or file://, s3://, gs:// or https:// expected")
    return scheme, rest


@lru_cache
def _protocols() -> frozenset[str]:
    return frozenset(fsspec.available_protocols())


def _locate_path(text: str, folder: Place | None) -> Place:
    if text.startswith("/"):
        return _local_place(text)
    if folder is None:
        raise ValueError("is not absolute")
    if folder.root == SCHEME:
        return _local_place(folder.path + text)
    if folder.root.startswith("http"):
        scheme, _, rest = (folder.fetch or folder.uri).partition(":")
        return _locate_web(scheme, rest + text)
    return Place(folder.root, _resolve_dots(folder.path + text), folder.login)


def _local_place(path: str) -> Place:
    if "\0" in path:
        raise ValueError("has a control character")
    return Place(SCHEME, posixpath.normpath("/" + path.lstrip("/")))


def _locate_web(scheme: str, rest: str) -> Place:
    parts = urlsplit(f"{scheme}:{rest}")
    host, port = parts.hostname or "", parts.port
    if not rest.startswith("//") or not re.fullmatch(r"[a-z0-9._-]+|[0-9a-f:]+", host):
        raise ValueError(f"names no host; {scheme}://host/name.jpg expected, the host in ASCII")
    root = f"{scheme}://" + (f"[{host}]" if ":" in host else host)
    root += "" if port in (None, DEFAULT_PORTS[scheme]) else f":{port}"
    path = _resolve_dots(re.sub(r"(?i)(?<=/)(\.|%2e){1,2}(?=/|$)", lambda dots: unquote(dots[0]), parts.path))
    plain = unquote(unquote(path))  # servers differ in what they make of `..%2f` or `%252e%252e/`
    if DOT_SEGMENT.search(plain) or "\0" in plain:
        raise ValueError("hides a `..` folder or a NUL behind percent signs")
    login = parts.netloc[: parts.netloc.rfind("@") + 1]
    return Place(root, path, login, f"?{parts.query}" if parts.query else "")


def _resolve_dots(path: str) -> str:
    """A path from `/` without `.` and `..`. All else stays, `//` too (RFC 3986, 5.2.4)."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            kept[-1:] = []
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept) + ("/" if kept and segments[-1] in (".", "..") else "")


def parse_prefix(prefix: str) -> Place:
    """The place of an --allow-prefix; one without a scheme is a path of this machine. Raises UsageError."""
    try:
        is_path = bool(prefix) and _split_scheme(prefix)[0] is None
        place = locate(str(Path(prefix).absolute()) if is_path else prefix)
    except ValueError as error:
        raise UsageError(f"--allow-prefix {redact(prefix)} {error}") from error
    if place.fetch:  # run.json would hold it
        raise UsageError(f"--allow-prefix {redact(prefix)} has a query or a password; leave it out")
    return place


def is_allowed(uri: str, prefixes: Sequence[str]) -> bool:
    """Whether `uri` lies at or below a prefix, whatever its spelling. Raises UsageError for a bad prefix."""
    bounds = [parse_prefix(prefix) for prefix in prefixes]
    try:
        place = locate(uri)
    except ValueError:
        return False
    return any(bound.covers(place) for bound in bounds)


def redact(text: str) -> str:
    """For a message: no query, no login, no control characters, 200 characters at most."""
    bare = re.sub(r"//[^/]*@", "//", re.split(r"[?#]", text)[0])
    return repr(bare if len(bare) <= 200 else f"{bare[:200]}...")[1:-1] or "(empty)"


def encode_name(name: str) -> str:
    """A file name as a URI writes it: percent-encoded only where it would be ambiguous or is not UTF-8."""
    name = re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", name).replace("::", "%3A%3A")
    return re.sub("[\udc80-\udcff]", lambda bad: f"%{os.fsencode(bad[0])[0]:02X}", name)


def decode_name(name: str) -> bytes:
    """The bytes of the name that `encode_name` encoded."""
    return unquote_to_bytes(name) if "%" in name else name.encode()


def local_path(uri: str) -> bytes:
    """The path of a `file://` URI of the plan, as the bytes that the system uses."""
    return decode_name(uri.removeprefix(SCHEME))
