"""Members of a tar or zip as byte ranges, so that any worker reads any member with one request.

Nothing is ever extracted. Bytes from an archive are hostile: never believe a size that they claim.
What cannot be read becomes a status, and a damaged container gives one more row that says so.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from maskbatch.archives.entries import Entry, is_image
from maskbatch.archives.hidden import RULES, Rules
from maskbatch.errors import RunFailedError
from maskbatch.stores.uris import encode_name

READ_BYTES = 16 << 20
"""The most that one read asks of a store."""
LEAD = re.compile(r"(?:/+[?.]/+UNC/+|/+[?.]/+|/+|[A-Za-z]:/*|\./+)*")
"""What a name loses in front: `/`, `C:/`, `./`, and Windows' `//?/` and `//?/UNC/`."""
DOT_FOLDERS = re.compile(r"^(?:\./+)+")
DOTS = re.compile(r"(?:^|/)\.\.(?:/|$)")
NAMED_FOLDER = "data named like a folder"
UNSAFE = "its name has a '..', which leads out of its folder"


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """A tar, zip or Parquet file open for its index, and what was counted in it."""

    file: BinaryIO
    size: int
    uri: str
    """Percent-encoded."""
    relative: str
    """Its path below the archive argument."""
    version: str | None
    keep_column: str | None = None
    rules: Rules = RULES
    """What is left out by the members' names."""
    zip_encoding: str | None = None
    skipped: Counter[str] = field(default_factory=Counter)
    """What is not an image."""
    hidden: Counter[str] = field(default_factory=Counter)
    """What its name leaves out, by the rule."""
    notes: Counter[str] = field(default_factory=Counter)
    """What a person should know about it."""

    def read(self, offset: int, num_bytes: int) -> bytes:
        """At most `num_bytes` from `offset`, fewer at the end. Raises RunFailedError."""
        pieces, left = [], min(num_bytes, self.size - offset)
        try:
            if left > 0:
                self.file.seek(offset)
            while left > 0 and (piece := self.file.read(min(left, READ_BYTES))):
                pieces.append(piece)
                left -= len(piece)
        except OSError as error:
            raise RunFailedError(f"cannot read {self.uri}: {error}; run the same command again") from error
        return b"".join(pieces)

    def damage(self, why: str) -> Entry:
        """The row that stands for the unknown members."""
        return Entry(uri=self.uri, relative=self.relative, version=self.version, status="corrupt", error=why)

    def entry(self, uri: str, name: str, **place: Any) -> Entry:
        """An image inside this file, at `place`: its uri begins with `uri`, its path inside is `name`."""
        place |= {"inner": name, "container": self.uri, "version": self.version}
        return Entry(uri=f"{uri}::{self.uri}", relative=f"{self.relative}/{name}", **place)


def make_entry(
    container: Container, scheme: str, written: str, refusal: str | None, **place: Any
) -> Entry | None:
    """An image with its bytes at `place`, or refused for `refusal` or its name; counts what is no image.

    `written` is its name as the container has it.
    """
    name = plain_name(written)
    encoded = encode_name(name)
    if hidden := container.rules.find_hidden(encoded):
        container.hidden[hidden] += 1
        return None
    if not is_image(name):
        container.skipped[os.path.splitext(encoded)[1].lower() or "no extension"] += 1
        return None
    refusal = UNSAFE if DOTS.search(name) else refusal
    place = {"status": "unsupported", "error": refusal} if refusal else place
    own_name = DOT_FOLDERS.sub("", written, count=1)
    if own_name != name:
        own_name = encode_name(own_name).replace("\0", "%00")
        place["apart"] = f"{scheme}://{own_name}::{container.uri}"
    return container.entry(f"{scheme}://{encoded}", encoded, **place)


def plain_name(written: str) -> str:
    """A member's name as a path below its container, whatever system wrote it; empty for a folder.

    Nothing is ever extracted, and bytes are found by their offset, so a name can only mislead a reader.
    """
    name = written.partition("\0")[0].replace("\\", "/")
    name = name[cast("re.Match[str]", LEAD.match(name)).end() :]
    return "" if name.endswith("/") else name
