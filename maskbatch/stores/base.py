"""What every store answers, and how it fails: all are called from threads."""

from typing import NamedTuple, Protocol


class TransientError(Exception):
    """The request failed in a way that may heal: a reset, a server error, a body that ends early."""


class ThrottledError(TransientError):
    """The store asks for fewer requests."""


class RefusedError(Exception):
    """The store answered, and another try would give the same; the message becomes the image's error."""


class TooLargeError(Exception):
    """The file has more bytes than allowed; none was read."""


class Info(NamedTuple):
    """What a store says of a file without reading it."""

    size: int
    version: str | None


class Store(Protocol):
    """One store. Every method takes a uri as the plan has it."""

    def info(self, uri: str) -> Info:
        """Size and version of a file. Raises FileNotFoundError."""

    def read(self, uri: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        """The whole file, or its bytes from span[0] to before span[1].

        With a span, a file that is not of `version` any more is a RefusedError.
        Raises FileNotFoundError, PermissionError, RefusedError, TooLargeError, TransientError.
        """


CHANGED = "the file that holds it changed since it was planned"


def plain_etag(etag: str | None) -> str | None:
    """An etag without its quotes, and without the mark of a weak one."""
    return etag.removeprefix("W/").strip('"') if etag else None
