"""The interface of all stores, and how they fail. Threads share a store."""

from typing import NamedTuple, Protocol

CHANGED = "the file that holds it changed since it was planned"


class TransientError(Exception):
    """The request failed, but another try may help: a reset, a server error, a body that ends early."""


class ThrottledError(TransientError):
    """The store asks for fewer requests."""


class RefusedError(Exception):
    """The store refuses, and would again. The message becomes the image's error."""


class TooLargeError(Exception):
    """The file has more bytes than allowed; none are returned."""


class Info(NamedTuple):
    """A file, without reading it."""

    size: int
    version: str | None


class Store(Protocol):
    """One store. Every method takes a uri of the plan."""

    def info(self, uri: str) -> Info:
        """Size and version of a file. Raises FileNotFoundError."""

    def read(self, uri: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        """The whole file; or, if it is still of `version`, its bytes from span[0] to before span[1].

        Raises FileNotFoundError, PermissionError, RefusedError, TooLargeError, TransientError.
        """


def plain_etag(etag: str | None) -> str | None:
    """An etag without its quotes and the mark of a weak one."""
    return etag.removeprefix("W/").strip('"') if etag else None
