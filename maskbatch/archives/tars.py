"""The index of a tar in one pass, a sample at a time: headers, and small `.json` or `.cls` beside images."""

import json
import os
import re
import shlex
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from maskbatch.archives.columns import read_time
from maskbatch.archives.entries import Entry
from maskbatch.archives.members import NAMED_FOLDER, Container, make_entry, plain_name
from maskbatch.errors import UsageError

MAX_HEADER_BYTES = 1 << 20
"""The longest PAX header or GNU long name to read; real ones have a few KiB."""
MAX_SIDECAR_BYTES = 64 << 10
MAX_SAMPLE_IMAGES = 64
"""Images of one key that may wait for a sidecar behind them."""
BLOCK = tarfile.BLOCKSIZE
END_BYTES = 128 * BLOCK
"""How far behind a tar's end to look for another one: the longest usual record."""
PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
EXTENSION_TYPES = (*PAX_TYPES, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
SPARSE_KEYS = {b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.size"}
PAX_KEYS = {b"path", b"size", b"GNU.sparse.name", *SPARSE_KEYS}
"""What to keep of a PAX header, so that no number of keys fills the memory."""
PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]{1,1000})=")
NO_END = "tar without an end mark (perhaps cut off between two members)"
COMPRESSIONS = {
    "gzip": (re.compile(rb"\x1f\x8b\x08"), (".tar.gz", ".tgz")),
    "bzip2": (re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"), (".tar.bz2", ".tbz2", ".tbz")),
    "xz": (re.compile(rb"\xfd7zXZ\0"), (".tar.xz", ".txz")),
    "zstd": (re.compile(rb"\x28\xb5\x2f\xfd"), (".tar.zst", ".tzst")),
}


def explain_compression(name: str, head: bytes) -> str | None:
    """Why a compressed tar, known by its first bytes or else by its name, cannot be used; None for others."""
    for tool, (magic, extensions) in COMPRESSIONS.items():
        extension = next((end for end in extensions if name.lower().endswith(end)), None)
        if magic.match(head) if head else extension:
            stem = name[: -len(extension)] if extension else f"{os.path.splitext(name)[0]}.plain"
            command = f"{tool} -dc {shlex.quote(name)} > {shlex.quote(f'{stem}.tar')}"
            what = f"a tar compressed with {tool} has no ranges to read"
            return f"{name}: {what}; make it a plain one: {command}"
    return None


class _TarMember(NamedTuple):
    name: str
    """As a path below the tar."""
    written: str
    offset: int
    """Of its first byte, after all its headers."""
    size: int
    refusal: str | None
    """Why it is not an ordinary file."""

    @property
    def key(self) -> str:
        """WebDataset's key: the path up to the first dot of the file's name."""
        folder, slash, base = self.name.rpartition("/")
        return folder + slash + base[:1] + base[1:].partition(".")[0]


def list_tar(container: Container) -> Iterator[Entry]:
    """Every image of a tar, in its order. Counts the rest. Raises RunFailedError; UsageError if compressed.

    `.json` and `.cls` members with the key of an image give it columns, as in WebDataset.
    """
    head = container.read(0, BLOCK)
    if sentence := explain_compression(container.relative, head):
        raise UsageError(sentence)
    is_empty = not head.strip(b"\0") and 0 < container.size <= END_BYTES
    if not is_empty and not _is_header(head):
        yield container.damage("this is no tar")
        return
    members = _TarMembers(container)
    for key, sample in groupby(members, lambda member: member.key):
        yield from _sample_entries(container, key, sample)
    if (after := members.damaged_after) is not None:
        yield container.damage(f"the tar is damaged after byte {after}; members behind it are not known")


class _TarMembers:
    """The files of a tar, header by header.

    tarfile parses single headers. It does not follow them: TarFile takes a damaged header for the end,
    recurses once for each extension header and allocates whatever size one claims.
    """

    def __init__(self, container: Container) -> None:
        self.damaged_after: int | None = None
        """The first byte without a sound member; set at the end."""
        self._container = container

    def __iter__(self) -> Iterator[_TarMember]:
        sound = 0
        try:
            while step := self._next(sound):
                member, end = step
                if member.name:
                    yield member
                elif member.size:
                    self._container.skipped[NAMED_FOLDER] += 1
                if member.offset + member.size > self._container.size:
                    raise tarfile.ReadError
                sound = end
        except tarfile.TarError:
            self.damaged_after = sound

    def _next(self, at: int) -> tuple[_TarMember, int] | None:
        """The member whose first header is at `at`, and where the next begins; None at the end."""
        container, start, long_name, pax = self._container, at, None, dict[bytes, bytes]()
        while True:
            block = container.read(at, BLOCK)
            if not block and at == start:
                container.notes[NO_END] += 1
            if not block.strip(b"\0"):
                if at > start or self._goes_on(at + BLOCK):
                    raise tarfile.ReadError
                return None
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            at += BLOCK
            if info.size < 0:
                raise tarfile.ReadError
            if info.type not in EXTENSION_TYPES:
                return self._member(info, block, at, long_name, pax)
            if info.size > min(MAX_HEADER_BYTES, container.size - at):
                raise tarfile.ReadError
            if info.type in PAX_TYPES:
                pax |= _pax_records(container.read(at, info.size))
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                long_name = container.read(at, info.size).partition(b"\0")[0]
            at += _padded(info.size)

    def _member(
        self, info: tarfile.TarInfo, block: bytes, at: int, long_name: bytes | None, pax: dict[bytes, bytes]
    ) -> tuple[_TarMember, int]:
        raw_name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or long_name
        name = raw_name.decode("utf-8", "surrogateescape") if raw_name else info.name
        refusal = None if info.isreg() else "not a regular file"
        if info.issym() or info.islnk():
            refusal = "a link, not a file of its own"
        elif info.type == tarfile.GNUTYPE_SPARSE or not SPARSE_KEYS.isdisjoint(pax):
            refusal = "a sparse file; pack it again without --sparse"
        more = info.type == tarfile.GNUTYPE_SPARSE and block[482]
        while more:
            block = self._container.read(at, BLOCK)
            if len(block) < BLOCK:
                raise tarfile.ReadError
            at, more = at + BLOCK, block[504]
        text = pax.get(b"size", b"%d" % info.size)
        if not re.fullmatch(rb"\d{1,30}", text):
            raise tarfile.ReadError
        size = int(text) if info.isreg() or info.type not in tarfile.SUPPORTED_TYPES else 0
        plain = plain_name(name + "/" if info.isdir() else name)
        return _TarMember(plain, name, at, size, refusal), at + _padded(size)

    def _goes_on(self, at: int) -> bool:
        """Whether the zero block before `at` is not the end: a lone one, or between two tars in one file."""
        rest = self._container.read(at, END_BYTES)
        zeros = len(rest) - len(rest.lstrip(b"\0"))
        start = zeros // BLOCK * BLOCK
        return zeros < len(rest) and (start == 0 or _is_header(rest[start : start + BLOCK]))


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """The records of a PAX header, `LENGTH KEY=VALUE\\n` each. Raises ReadError for anything else."""
    records, at, data = {}, 0, data.rstrip(b"\0")
    while at < len(data):
        match = PAX_RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or end <= match.end() or data[end - 1 : end] != b"\n":
            raise tarfile.ReadError
        if match[2] in PAX_KEYS:
            records[match[2]] = data[match.end() : end - 1]
        at = end
    return records


def _sample_entries(container: Container, key: str, sample: Iterator[_TarMember]) -> Iterator[Entry]:
    """The images of consecutive members with one key, with the columns from their sidecars."""
    images: list[Entry] = []
    columns: dict[str, Any] = {}
    sidecars: Counter[str] = Counter()
    has_image = False
    for member in sample:
        suffix = member.name[len(key) :].lower()
        is_sidecar = suffix == ".json" or (suffix == ".cls" and container.keep_column == "cls")
        if is_sidecar and not container.rules.find_hidden(member.name):
            values = _sidecar(container, member, suffix)
            if values is None:
                container.skipped[f"unreadable {suffix}"] += 1
            else:
                sidecars[suffix] += 1
                columns |= values
            continue
        place: dict[str, Any] = {"offset": member.offset, "length": member.size, "num_bytes": member.size}
        if member.offset + member.size > container.size:
            place = {"status": "truncated", "error": "the tar ends inside this member"}
        entry = make_entry(container, "tar", member.written, member.refusal, **place)
        if entry is not None:
            images.append(entry)
            has_image = True
        if len(images) == MAX_SAMPLE_IMAGES:
            yield from (replace(image, **columns) for image in images)
            images.clear()
    yield from (replace(image, **columns) if columns else image for image in images)
    if not has_image:
        container.skipped.update(sidecars)


def _sidecar(container: Container, member: _TarMember, suffix: str) -> dict[str, Any] | None:
    """The fields of an entry from a sidecar; None if it cannot be read."""
    if member.refusal or member.size > MAX_SIDECAR_BYTES:
        return None
    data = container.read(member.offset, member.size)
    try:
        text = data.decode()
        values = json.loads(text) if suffix == ".json" else {"cls": text}
    except (ValueError, RecursionError):
        return None
    if len(data) < member.size or not isinstance(values, dict):
        return None
    named = {"site": "site", "camera": "camera", "kept": container.keep_column}
    fields: dict[str, Any] = {field: _text(values.get(key)) for field, key in named.items()}
    fields |= read_time(values.get("captured_at"), container.notes)
    return {field: value for field, value in fields.items() if value is not None}


def _text(value: object) -> str | None:
    """A JSON value as the text of a column; None for nothing, an object or a list."""
    if value is None or isinstance(value, (dict, list)):
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "replace").decode().strip() or None
