"""The index of a zip from its directory, and a member's bytes from its range."""

import bisect
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any, cast

from maskbatch.archives.entries import Entry
from maskbatch.archives.members import NAMED_FOLDER, Container, make_entry, plain_name
from maskbatch.errors import ImageError

MAX_DIRECTORY_BYTES = 512 << 20
"""The longest directory of a zip, about five million members."""
END_RECORD_BYTES = 22 + (1 << 16)
"""With the comment: how far back zipfile looks for the record."""
LOCAL_HEADER = struct.Struct("<4s5H3L2H")
FIELD = struct.Struct("<2H")
UNICODE_PATH = 0x7075
ZIP_ENCODINGS = {zipfile.ZIP_STORED: "raw", zipfile.ZIP_DEFLATED: "deflate"}
ZIP_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}


class _ZipWindow:
    """The file that zipfile reads a directory from. It refuses to read an unbelievably long one."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = (0, self._at, self._container.size)[whence] + offset
        if self._at < 0:
            raise OSError("a seek before the file's begin")
        return self._at

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


def list_zip(container: Container) -> Iterator[Entry]:
    """Every image of a zip, in the order of its bytes. Counts the rest. Raises RunFailedError.

    A range goes from a member's local header to the next one: only the header says where the data begins.
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
        name = _zip_name(info, container)
        if plain_name(name):
            place = _zip_place(info, bounds, archive.start_dir)
            entry = make_entry(container, "zip", name, _zip_refusal(info), **place)
            if entry is not None:
                yield entry
        elif info.file_size:
            container.skipped[NAMED_FOLDER] += 1
    tail = container.read(max(container.size - END_RECORD_BYTES, 0), END_RECORD_BYTES)
    (promised,) = struct.unpack_from("<H", tail, tail.rfind(b"PK\5\6") + 10)
    if promised not in (len(members) & 0xFFFF, 0xFFFF):
        yield container.damage("the zip's directory is damaged; not all its members are known")


def _zip_name(info: zipfile.ZipInfo, container: Container) -> str:
    """The whole name; in --zip-encoding, UTF-8 or DOS's own encoding where the zip does not say which."""
    if info.flag_bits & 0x800:
        return info.orig_filename
    data = info.orig_filename.encode("cp437")
    named = _unicode_path(info.extra, data)
    if named is not None:
        return named
    for encoding in filter(None, (container.zip_encoding, "utf-8")):  # macOS and old tools do not flag UTF-8
        with suppress(UnicodeError, LookupError):
            name = data.decode(encoding)
            name.encode()  # half a surrogate pair is no text
            return name
        container.notes[f"member name not in {encoding} (see --zip-encoding)"] += 1
    return info.orig_filename


def _unicode_path(extra: bytes, name: bytes) -> str | None:
    """The name from Info-ZIP's Unicode Path field, if it belongs to `name`. Source: APPNOTE.TXT 4.6.9."""
    while len(extra) >= FIELD.size:
        kind, length = FIELD.unpack_from(extra)
        data, extra = extra[FIELD.size :][:length], extra[FIELD.size + length :]
        if kind == UNICODE_PATH and data[:5] == struct.pack("<BL", 1, zlib.crc32(name)):
            with suppress(UnicodeError):
                return data[5:].decode()
    return None


def _zip_place(info: zipfile.ZipInfo, bounds: list[int], start_dir: int) -> dict[str, Any]:
    offset, room = info.header_offset, start_dir - info.header_offset - LOCAL_HEADER.size
    # One byte of Deflate becomes 1,032 at most.
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


def extract_member(data: bytes, uri: str, encoding: str, num_bytes: int | None, max_bytes: int) -> bytes:
    """The member of a tar or zip from its range `data`; `encoding` and `num_bytes` as in its Entry.

    Never allocates more than `max_bytes` + 1. Every member of a zip has a `num_bytes`. Raises ImageError.
    """
    is_tar = uri.startswith("tar://")
    size = num_bytes or 0
    if max(size, len(data) if is_tar else 0) > max_bytes:
        raise ImageError("too_large", f"more than the {max_bytes:,} bytes allowed")
    if len(data) < (size if is_tar else LOCAL_HEADER.size):
        raise ImageError("truncated", f"the {'tar' if is_tar else 'zip'} ends inside this member")
    if is_tar:
        return data
    signature, _, flags, method, _, _, header_crc, _, _, *lengths = LOCAL_HEADER.unpack_from(data)
    if signature != b"PK\3\4":
        raise ImageError("corrupt", "no member begins where the zip's directory says")
    if flags & 1 or ZIP_ENCODINGS.get(method) != encoding:
        raise ImageError("corrupt", "its header contradicts the zip's directory")
    body = memoryview(data)[LOCAL_HEADER.size + sum(lengths) :]
    image, rest = _inflate(body, size) if encoding == "deflate" else (bytes(body[:size]), bytes(body[size:]))
    if len(image) < size:
        raise ImageError("truncated", "the zip ends inside this member")
    sums = [header_crc]
    if flags & 8:  # the checksum follows the data, behind a signature or not
        sums += [sum_ for (sum_,) in struct.iter_unpack("<L", rest[: min(len(rest), 8) // 4 * 4])]
    if zlib.crc32(image) not in sums:
        raise ImageError("corrupt", "its checksum differs")
    return image


def _inflate(body: memoryview, size: int) -> tuple[bytes, bytes]:
    """The deflated bytes that `body` begins with, and what follows them."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        image = inflater.decompress(body, size + 1)
    except zlib.error as error:
        raise ImageError("corrupt", "the compressed data is damaged") from error
    if not inflater.eof and len(image) <= size:
        raise ImageError("truncated", "the compressed data ends early")
    if len(image) != size:
        raise ImageError("corrupt", "its size differs from the zip's directory")
    return image, inflater.unused_data
