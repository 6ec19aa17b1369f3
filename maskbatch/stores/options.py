"""Credentials and endpoints by URL prefix, from the file of --storage-options."""

import json
import tomllib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from maskbatch.errors import UsageError

S3_OPTIONS = ("endpoint_url", "region", "profile", "anon", "requester_pays", "key", "secret", "token")
"""What --storage-options may say for s3://; elsewhere the names are those of the fsspec file system."""


S3_FLAGS = ("anon", "requester_pays")


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """Credentials and endpoints by URL prefix, from --storage-options; never shown, logged or written."""

    content: str = field(default="{}", repr=False)
    """JSON of prefix -> options."""

    @classmethod
    def from_toml(cls, path: Path) -> "StorageOptions":
        """From a TOML file of one table a URL prefix. Raises UsageError, which quotes no value of it."""
        remedy = 'a table for each URL prefix expected, such as ["s3://bucket/"] with endpoint_url = "..."'
        try:
            values = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--storage-options {path}: cannot be read: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"--storage-options {path}: is no TOML; {remedy}") from error
        for prefix, options in values.items():
            if "://" not in prefix or not isinstance(options, dict):
                raise UsageError(f"--storage-options {path}: {prefix!r} is no table of a prefix; {remedy}")
            unknown = sorted(set(options) - set(S3_OPTIONS)) if prefix.startswith("s3") else []
            if unknown:
                known = f"one of {', '.join(S3_OPTIONS)} expected"
                raise UsageError(f"--storage-options {path}: {unknown[0]!r} is not known; {known}")
            kinds = {name: bool if name in S3_FLAGS else str for name in S3_OPTIONS}
            wrong = [n for n, v in options.items() if prefix.startswith("s3") and type(v) is not kinds[n]]
            if wrong:
                expected = "true or false" if kinds[wrong[0]] is bool else "a string"
                raise UsageError(f"--storage-options {path}: {wrong[0]} of {prefix!r}: {expected} expected")
        try:
            return cls(json.dumps(values))
        except TypeError as error:  # TOML has dates
            raise UsageError(f"--storage-options {path}: has a value that is no option; {remedy}") from error

    def of(self, url: str) -> dict[str, Any]:
        """The options of the longest prefix of `url`, by fsspec's names for its file system."""
        chosen = dict(_tables(self.content).get(self.prefix(url), {}))
        region = chosen.pop("region", None) if url.startswith("s3://") else None
        if region:
            chosen["client_kwargs"] = {"region_name": region}
        return chosen

    def prefix(self, url: str) -> str:
        """The longest prefix of `url` that has options, or ''."""
        fitting = [p for p in _tables(self.content) if f"{url}/".startswith(f"{p.rstrip('/')}/")]
        return max(fitting, key=len, default="")


@lru_cache(maxsize=4)
def _tables(content: str) -> dict[str, dict[str, Any]]:
    values: dict[str, dict[str, Any]] = json.loads(content)
    return values


NO_OPTIONS = StorageOptions()
