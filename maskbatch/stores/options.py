"""Credentials and endpoints by URL prefix, from the file of --storage-options."""

import json
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from maskbatch.errors import UsageError
from maskbatch.stores.uris import usual_scheme

S3_OPTIONS = ("endpoint_url", "region", "profile", "anon", "requester_pays", "key", "secret", "token")
"""Options for s3://. Elsewhere the fsspec file system has its own names."""
S3_FLAGS = ("anon", "requester_pays")


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """Credentials and endpoints by URL prefix. Never shown, logged or written."""

    content: str = field(default="{}", repr=False)
    """JSON of prefix -> options."""

    @classmethod
    def from_toml(cls, path: Path) -> "StorageOptions":
        """From a TOML file with one table for each URL prefix. Raises UsageError, which quotes no value."""
        where = f"--storage-options {path}:"
        remedy = 'a table for each URL prefix expected, such as ["s3://bucket/"] with endpoint_url = "..."'
        try:
            values = tomllib.loads(path.read_text())
            content = json.dumps({_rename(prefix): options for prefix, options in values.items()})
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{where} cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"{where} is no TOML; {remedy}") from error
        except TypeError as error:  # TOML has dates
            raise UsageError(f"{where} has a value that is no option; {remedy}") from error
        for prefix, options in values.items():
            if "://" not in prefix or not isinstance(options, dict):
                raise UsageError(f"{where} {prefix!r} is no table of a prefix; {remedy}")
            for name, value in options.items() if prefix.startswith("s3") else ():
                if name not in S3_OPTIONS:
                    known = f"one of {', '.join(S3_OPTIONS)} expected"
                    raise UsageError(f"{where} {name!r} is not known; {known}")
                if type(value) is not (bool if name in S3_FLAGS else str):
                    expected = "true or false" if name in S3_FLAGS else "a string"
                    raise UsageError(f"{where} {name} of {prefix!r}: {expected} expected")
        return cls(content)

    def of(self, url: str) -> dict[str, Any]:
        """The options of the longest prefix of `url`, by the names of its fsspec file system."""
        chosen = dict(_tables(self.content).get(self.prefix(url), {}))
        region = chosen.pop("region", None) if url.startswith("s3://") else None
        if region:
            chosen["client_kwargs"] = {"region_name": region}
        return chosen

    def prefix(self, url: str) -> str:
        """The longest prefix of `url` that has options, or an empty string."""
        fitting = [p for p in _tables(self.content) if f"{url}/".startswith(f"{p.rstrip('/')}/")]
        return max(fitting, key=len, default="")


def _rename(prefix: str) -> str:
    """A prefix with the usual name of its scheme, as URLs have it where they are compared with it."""
    scheme, separator, rest = prefix.partition("://")
    return usual_scheme(scheme) + separator + rest if separator else prefix


@lru_cache(maxsize=4)
def _tables(content: str) -> dict[str, dict[str, Any]]:
    return dict(json.loads(content))


NO_OPTIONS = StorageOptions()
