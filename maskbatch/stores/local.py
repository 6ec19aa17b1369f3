"""Files of this machine, and mounts."""

import os

from maskbatch.stores.base import CHANGED, Info, RefusedError, TooLargeError
from maskbatch.stores.uris import local_path


class Local:
    """The store of this machine's files."""

    def info(self, uri: str) -> Info:
        found = os.stat(local_path(uri))  # noqa: PTH116  bytes
        return Info(found.st_size, str(found.st_mtime_ns))

    def read(self, uri: str, span: tuple[int, int] | None, version: str | None, max_bytes: int) -> bytes:
        try:
            with open(local_path(uri), "rb") as file:
                if span is None:
                    data = file.read(max_bytes + 1)
                    if len(data) > max_bytes:
                        raise TooLargeError
                    return data
                if version and str(os.fstat(file.fileno()).st_mtime_ns) != version:
                    raise RefusedError(CHANGED)
                return os.pread(file.fileno(), span[1] - span[0], span[0])
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            raise RefusedError(error.strerror or type(error).__name__) from error
