"""Stores that fsspec opens: gs:// and az:// with their extras, memory:// ...

Only this module uses private names of fsspec, which tests/maskbatch/stores/test_internals.py checks.
"""

from collections.abc import Callable, Mapping
from typing import Any

from maskbatch.errors import UsageError
from maskbatch.stores.base import CHANGED, Info, RefusedError, TooLargeError, TransientError, plain_etag
from maskbatch.stores.uris import decode_name

VERSION_NAMES = ("ETag", "etag", "e_tag", "generation", "md5Hash", "last_modified", "mtime", "created")


class Fsspec:
    """A store that fsspec opens."""

    def __init__(self, root: str, options: Mapping[str, Any]) -> None:
        self.files = open_filesystem(root, options)

    def path(self, uri: str) -> str:
        """fsspec's path of a URI."""
        return str(self.files._strip_protocol(decode_name(uri).decode(errors="surrogateescape")))

    def info(self, uri: str) -> Info:
        info = self._try(lambda: self.files.info(self.path(uri)))
        if info["type"] == "directory":
            raise FileNotFoundError(uri)
        return fsspec_info(info)

    def read(self, uri: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        if span is None:
            data = self._try(lambda: self.files.cat_file(self.path(uri), 0, max_bytes + 1))
            if len(data) > max_bytes:
                raise TooLargeError
            return bytes(data)
        data = self._try(lambda: self.files.cat_file(self.path(uri), *span))
        if version and self.info(uri).version not in (None, version):
            raise RefusedError(CHANGED)
        return bytes(data)

    def _try(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except (FileNotFoundError, PermissionError):
            raise
        except (TimeoutError, ConnectionError) as error:
            raise TransientError("the store cannot be reached") from error
        except Exception as error:  # every file system has its own, and does not say which may heal
            names = ("status", "status_code", "code")  # of aiohttp, Azure, Google
            if any(str(getattr(error, name, None)) in ("401", "403") for name in names):
                raise PermissionError from error
            raise TransientError(f"the store's answer failed ({type(error).__name__})") from error


def open_filesystem(url: str, options: Mapping[str, Any]) -> Any:
    """fsspec's file system for a URL. Raises UsageError if it cannot be made."""
    import fsspec

    scheme = url.partition("://")[0]
    extra = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}.get(scheme)
    if scheme not in fsspec.available_protocols():
        raise UsageError(f"{scheme}://: Protocol not known; a path, s3://, gs:// or https:// expected")
    try:
        named = fsspec.get_filesystem_class(scheme)._get_kwargs_from_urls(url)  # such as Azure's account
        return fsspec.filesystem(scheme, **{"use_listings_cache": False, **named, **options})
    except ImportError as error:
        remedy = f"pip install 'maskbatch[{extra}]'" if extra else str(error)
        raise UsageError(f"{scheme}:// cannot be opened without its library; {remedy}") from error
    except Exception as error:  # credentials, most often; every file system has its own exception
        message = f"{scheme}://: {type(error).__name__}: {error}; mend the credentials or --storage-options"
        raise UsageError(message) from error


def list_paths(files: Any, folder: str, at_most: int | None) -> list[str]:
    """The paths directly below `folder` of a file system; of s3fs only the first `at_most`."""
    if hasattr(files, "_lsdir"):  # s3fs: if nothing is there, its `ls` lists the whole parent
        from fsspec.asyn import sync

        items = sync(files.loop, files._lsdir, folder, max_items=at_most)
        return [item["name"].rstrip("/") for item in items]
    return [path.rstrip("/") for path in files.ls(folder, detail=False)]


def fsspec_info(info: Mapping[str, Any]) -> Info:
    """Size and version from what fsspec lists; file systems call the version by various names."""
    version = next((str(info[name]) for name in VERSION_NAMES if info.get(name) is not None), None)
    return Info(int(info["size"] or 0), plain_etag(version))
