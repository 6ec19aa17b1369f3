"""Members of a tar or zip as byte ranges of it, so that any worker reads any member with one request.

Indexing a tar reads its headers only (and small `.json` or `.cls` members beside images), in one
pass that holds one sample; a zip's directory is read whole. Nothing is ever extracted.

Bytes from an archive are hostile: no size that they claim is allocated or believed, what cannot be
read becomes a status, and a tar that is damaged somewhere yields one more row that says so.
"""

import bisect
import json
import os
import re
import shlex
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from typing import IO, Any, BinaryIO, NamedTuple, cast

from maskbatch.clock import parse_time
from maskbatch.entries import Entry, encode_name, is_image
from maskbatch.errors import RunFailedError, UsageError

READ_BYTES = 16 << 20
"""The most that one read asks of a store."""
MAX_HEADER_BYTES = 1 << 20
"""The longest PAX header or GNU long name that is read; real ones have a few KiB."""
MAX_SIDECAR_BYTES = 64 << 10
MAX_DIRECTORY_BYTES = 512 << 20
"""The longest directory of a zip, about five million members."""
MAX_SAMPLE_IMAGES = 64
"""Images of one key that wait for a sidecar behind them."""

BLOCK = tarfile.BLOCKSIZE
END_BYTES = 128 * BLOCK  # how far behind a tar's end another one is looked for: the longest usual record
PAX_TYPES = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
EXTENSION_TYPES = (*PAX_TYPES, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
SPARSE_KEYS = {b"GNU.sparse.major", b"GNU.sparse.map", b"GNU.sparse.size"}
PAX_KEYS = {b"path", b"size", b"GNU.sparse.name", *SPARSE_KEYS}
"""What is kept of a PAX header, so that no number of them fills the memory."""
PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]{1,1000})=")
COMPRESSIONS = {
    "gzip": (re.compile(rb"\x1f\x8b\x08"), (".tar.gz", ".tgz")),
    "bzip2": (re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"), (".tar.bz2", ".tbz2", ".tbz")),
    "xz": (re.compile(rb"\xfd7zXZ\0"), (".tar.xz", ".txz")),
    "zstd": (re.compile(rb"\x28\xb5\x2f\xfd"), (".tar.zst", ".tzst")),
}
END_RECORD_BYTES = 22 + (1 << 16)  # of a zip, with its comment: where zipfile looks for it
LOCAL_HEADER = struct.Struct("<4s5H3L2H")
ZIP_ENCODINGS = {zipfile.ZIP_STORED: "raw", zipfile.ZIP_DEFLATED: "deflate"}
ZIP_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}
UNSAFE_NAME = re.compile(r"/|[A-Za-z]:|(.*/)?\.\.(/|$)|.*[\\\0]", re.DOTALL)
UNSAFE = "its name is absolute, or has a '..', a drive letter, a backslash or a NUL"


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """A tar or zip open for its index."""

    file: BinaryIO
    size: int
    uri: str
    """Percent-encoded, such as `s3://bucket/2026-10.tar`."""
    relative: str
    """Its path below the archive argument."""
    version: str | None

    def read(self, offset: int, num_bytes: int) -> bytes:
        """At most `num_bytes` from `offset`, fewer at the end. Raises RunFailedError where reading fails."""
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

    def damage(self, error: str) -> Entry:
        """The row that stands for members nobody knows of."""
        return Entry(
            uri=self.uri, relative=self.relative, version=self.version, status="corrupt", error=error
        )


class MemberError(Exception):
    """A member's bytes are not what they should be; `status` is too_large, corrupt or truncated."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


def _entry(
    container: Container, scheme: str, name: str, skipped: Counter[str], refusal: str | None, **place: Any
) -> Entry | None:
    """The entry of a file called `name`; None, and counted, where it is no image.

    `place` is where its bytes are, unless it is refused for its name or for `refusal`.
    """
    encoded = encode_name(name)
    if _is_apple_double(name):
        skipped["AppleDouble"] += 1
        return None
    if not is_image(name):
        skipped[os.path.splitext(encoded)[1].lower() or "no extension"] += 1
        return None
    refusal = UNSAFE if UNSAFE_NAME.match(name) else refusal
    return Entry(
        uri=f"{scheme}://{encoded}::{container.uri}",
        relative=f"{container.relative}/{encoded}",
        inner=encoded,
        container=container.uri,
        version=container.version,
        **({"status": "unsupported", "error": refusal} if refusal else place),
    )


def _is_apple_double(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith("._")


def _plain(name: str) -> str:
    """A member's name without a leading `./`; empty for a folder."""
    return "" if name.endswith("/") else re.sub(r"^(\./+)+", "", name)


def compressed(name: str, head: bytes) -> str | None:
    """Why a tar with these first bytes, or without any this name, cannot be used, and what to do; or None."""
    for tool, (magic, extensions) in COMPRESSIONS.items():
        extension = next((end for end in extensions if name.lower().endswith(end)), None)
        if magic.match(head) if head else extension:
            stem = name[: -len(extension)] if extension else f"{os.path.splitext(name)[0]}.plain"
            plain = f"{stem}.tar"
            command = f"{tool} -dc {shlex.quote(name)} > {shlex.quote(plain)}"
            return (
                f"{name}: a tar compressed with {tool} has no ranges to read; make it a plain one: {command}"
            )
    return None


class _TarMember(NamedTuple):
    name: str
    offset: int
    """Of its first byte, behind all its headers."""
    size: int
    refusal: str | None
    """Why it is no ordinary file."""

    @property
    def key(self) -> str:
        """WebDataset's: the path up to the first dot of the file's name."""
        folder, slash, base = self.name.rpartition("/")
        return folder + slash + base[:1] + base[1:].partition(".")[0]


def tar_entries(
    container: Container, skipped: Counter[str], keep_column: str | None = None
) -> Iterator[Entry]:
    """Every image of an uncompressed tar, in its order; the rest is counted in `skipped`.

    `.json` and `.cls` members beside an image with the same key give it columns, as in WebDataset.
    Raises UsageError for a compressed tar, RunFailedError where reading fails.
    """
    head = container.read(0, BLOCK)
    if sentence := compressed(container.relative, head):
        raise UsageError(sentence)
    is_empty = not head.strip(b"\0") and 0 < container.size <= END_BYTES
    if not is_empty and not _is_header(head):
        yield container.damage("this is no tar")
        return
    members = _TarMembers(container)
    for key, sample in groupby(members, lambda member: member.key):
        yield from _sample_entries(container, key, sample, skipped, keep_column)
    if members.damaged_after is not None:
        yield container.damage(
            f"the tar is damaged after byte {members.damaged_after}; members behind it are not known"
        )


class _TarMembers:
    """The files of a tar, header by header.

    Parsing single headers is tarfile's; following them is not, because TarFile takes a damaged header
    for the end, recurses once for each extension header and allocates whatever size one claims.
    """

    def __init__(self, container: Container) -> None:
        self.damaged_after: int | None = None
        """Set at the end: the first byte that no sound member was found at."""
        self._container = container

    def __iter__(self) -> Iterator[_TarMember]:
        sound = 0
        try:
            while found := self._next(sound):
                member, behind = found
                if member.name:
                    yield member
                if member.offset + member.size > self._container.size:
                    raise tarfile.ReadError
                sound = behind
        except tarfile.TarError:
            self.damaged_after = sound

    def _next(self, at: int) -> tuple[_TarMember, int] | None:
        """The member whose first header is at `at`, and where the next begins; None at the end."""
        container, start, long_name, pax = self._container, at, None, dict[bytes, bytes]()
        while True:
            block = container.read(at, BLOCK)
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
        return _TarMember(_plain(name + "/" if info.isdir() else name), at, size, refusal), at + _padded(size)

    def _goes_on(self, at: int) -> bool:
        """Whether a zero block before `at` is not the end: a lone one, or one of several tars in a row."""
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


def _sample_entries(
    container: Container,
    key: str,
    sample: Iterator[_TarMember],
    skipped: Counter[str],
    keep_column: str | None,
) -> Iterator[Entry]:
    """The images of consecutive members with one key, with the columns that its sidecars give."""
    images: list[Entry] = []
    columns: dict[str, Any] = {}
    sidecars: Counter[str] = Counter()
    has_image = False
    for member in sample:
        suffix = member.name[len(key) :].lower()
        is_sidecar = suffix == ".json" or (suffix == ".cls" and keep_column == "cls")
        if is_sidecar and not _is_apple_double(member.name):
            found = _sidecar(container, member, suffix, keep_column)
            if found is None:
                skipped[f"unreadable {suffix}"] += 1
            else:
                sidecars[suffix] += 1
                columns |= found
            continue
        place: dict[str, Any] = {"offset": member.offset, "length": member.size, "num_bytes": member.size}
        if member.offset + member.size > container.size:
            place = {"status": "truncated", "error": "the tar ends inside this member"}
        entry = _entry(container, "tar", member.name, skipped, member.refusal, **place)
        if entry is not None:
            images.append(entry)
            has_image = True
        if len(images) == MAX_SAMPLE_IMAGES:
            yield from (replace(image, **columns) for image in images)
            images.clear()
    yield from (replace(image, **columns) if columns else image for image in images)
    if not has_image:
        skipped.update(sidecars)


def _sidecar(
    container: Container, member: _TarMember, suffix: str, keep_column: str | None
) -> dict[str, Any] | None:
    """The fields of an entry that a sidecar gives; None where it cannot be read."""
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
    named = {"site": "site", "camera": "camera", "kept": keep_column}
    fields: dict[str, Any] = {field: _text(values.get(key)) for field, key in named.items()}
    fields["time"] = parse_time(values.get("captured_at"))
    return {field: value for field, value in fields.items() if value is not None}


def _text(value: object) -> str | None:
    """A JSON value as a column's text; None for nothing, an object or a list."""
    if value is None or isinstance(value, (dict, list)):
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "replace").decode().strip() or None


class _ZipWindow:
    """The file that zipfile reads a directory through; it gives no more than a believable one."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = (0, self._at, self._container.size)[whence] + offset
        if at < 0:
            raise OSError("a seek before the file's begin")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def read(self, num_bytes: int = -1) -> bytes:
        left = max(self._container.size - self._at, 0)
        num_bytes = min(num_bytes, left) if num_bytes >= 0 else left
        if num_bytes > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile
        data = self._container.read(self._at, num_bytes)
        self._at += len(data)
        return data


def zip_entries(
    container: Container, skipped: Counter[str], keep_column: str | None = None
) -> Iterator[Entry]:
    """Every image of a zip, in the order of its bytes; the rest is counted in `skipped`.

    A range begins at the member's local header and ends at the next one's: only the header itself
    says where the data begins, and `member_bytes` reads it. Raises RunFailedError where reading fails.
    """
    try:
        archive = zipfile.ZipFile(cast(IO[bytes], _ZipWindow(container)))
    except (
        zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, IndexError, OSError, struct.error,
    ):  # fmt: skip
        yield container.damage("this is no zip, or its directory is damaged")
        return
    members = sorted(archive.infolist(), key=lambda info: info.header_offset)
    bounds = sorted({archive.start_dir, *(info.header_offset for info in members)})
    for info in members:
        name = _zip_name(info)
        if name:
            place = _zip_place(info, bounds, archive.start_dir)
            entry = _entry(container, "zip", name, skipped, _zip_refusal(info), **place)
            if entry is not None:
                yield entry
    tail = container.read(max(container.size - END_RECORD_BYTES, 0), END_RECORD_BYTES)
    (promised,) = struct.unpack_from("<H", tail, tail.rfind(b"PK\5\6") + 10)
    if promised not in (len(members) & 0xFFFF, 0xFFFF):
        yield container.damage("the zip's directory is damaged; not all its members are known")


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The whole name, as UTF-8 wherever it can be: macOS and old zip tools write it without its flag."""
    name: str = info.orig_filename
    if not info.flag_bits & 0x800:
        with suppress(UnicodeError):  # then it is as DOS wrote it
            name = name.encode("cp437").decode()
    return _plain(name)


def _zip_place(info: zipfile.ZipInfo, bounds: list[int], start_dir: int) -> dict[str, Any]:
    offset, room = info.header_offset, start_dir - info.header_offset - LOCAL_HEADER.size
    # Deflate makes 1,032 bytes of one at most.
    if offset < 0 or info.compress_size > room or info.file_size > 1032 * info.compress_size:
        return {"status": "corrupt", "error": "the zip's directory contradicts itself about this member"}
    until = bounds[bisect.bisect_right(bounds, offset)]
    longest = LOCAL_HEADER.size + 2 * 65_535 + info.compress_size + 24
    encoding = ZIP_ENCODINGS.get(info.compress_type, "raw")
    length = min(until - offset, longest)
    return {"offset": offset, "length": length, "encoding": encoding, "num_bytes": info.file_size}


def _zip_refusal(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "a link, not a file of its own"
    if kind not in (0, stat.S_IFREG):
        return "not a regular file"
    if info.volume:
        return "in another part of a split zip; join the parts with zip -s 0 --out"
    if info.flag_bits & 1:
        return "encrypted"
    if info.compress_type not in ZIP_ENCODINGS:
        method = ZIP_METHODS.get(info.compress_type, f"method {info.compress_type}")
        return f"compressed with {method}; only stored and deflated members are read"
    return None


def member_bytes(data: bytes, uri: str, encoding: str, num_bytes: int | None, max_bytes: int) -> bytes:
    """The member whose range of its container is `data`; `encoding` and `num_bytes` as in its Entry.

    Never makes more than `max_bytes` + 1 bytes. Every member of a zip has a `num_bytes`. Raises MemberError.
    """
    is_tar = uri.startswith("tar://")
    size = num_bytes or 0
    if max(size, len(data) if is_tar else 0) > max_bytes:
        raise MemberError("too_large", f"more than the {max_bytes:,} bytes allowed")
    if len(data) < (size if is_tar else LOCAL_HEADER.size):
        raise MemberError("truncated", f"the {'tar' if is_tar else 'zip'} ends inside this member")
    if is_tar:
        return data
    signature, _, flags, method, _, _, header_crc, _, _, *lengths = LOCAL_HEADER.unpack_from(data)
    if signature != b"PK\3\4":
        raise MemberError("corrupt", "no member begins where the zip's directory says")
    if flags & 1 or ZIP_ENCODINGS.get(method) != encoding:
        raise MemberError("corrupt", "its header contradicts the zip's directory")
    body = memoryview(data)[LOCAL_HEADER.size + sum(lengths) :]
    image, rest = _inflate(body, size) if encoding == "deflate" else (bytes(body[:size]), bytes(body[size:]))
    if len(image) < size:
        raise MemberError("truncated", "the zip ends inside this member")
    sums = [header_crc]
    if flags & 8:  # the checksum follows the data, behind a signature or not
        sums += [sum_ for (sum_,) in struct.iter_unpack("<L", rest[: min(len(rest), 8) // 4 * 4])]
    if zlib.crc32(image) not in sums:
        raise MemberError("corrupt", "its checksum differs")
    return image


def _inflate(body: memoryview, size: int) -> tuple[bytes, bytes]:
    """The deflated bytes that `body` begins with, and what follows them."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        image = inflater.decompress(body, size + 1)
    except zlib.error as error:
        raise MemberError("corrupt", "the compressed data is damaged") from error
    if not inflater.eof and len(image) <= size:
        raise MemberError("truncated", "the compressed data ends early")
    if len(image) != size:
        raise MemberError("corrupt", "its size differs from the zip's directory")
    return image, inflater.unused_data
