"""Tars, zips and manifests that the tests of archives/ share."""

import io
import random
import struct
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from hypothesis import strategies as st

from maskbatch.archives.entries import Entry
from maskbatch.archives.manifest import Manifest
from maskbatch.archives.members import Container
from maskbatch.archives.tars import list_tar
from maskbatch.archives.zips import extract_member, list_zip
from maskbatch.stores.uris import encode_name, local_path

JPEG = bytes(random.Random(5).randbytes(3000))
LIMIT = 1 << 20
ENTRIES = {"tar": list_tar, "zip": list_zip}
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\\:/"), min_size=1, max_size=120
)
CONTENTS = st.dictionaries(NAMES.map(lambda name: f"d/_{name}.jpg"), st.binary(max_size=2000), max_size=6)


class Store(io.BytesIO):
    """A remote file: it refuses reads of more than 64 MiB, and remembers what was read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[int] = []

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > 64 << 20:
            raise OSError(f"{size} bytes in one read")
        self.reads.append(size)
        return super().read(size)


def container(data: bytes, kind: str = "tar", name: str = "days/1.tar", keep: str | None = None) -> Container:
    uri = f"s3://b/days/1.{kind}"
    return Container(file=Store(data), size=len(data), uri=uri, relative=name, version="v1", keep_column=keep)


def index(
    data: bytes, kind: str = "tar", keep_column: str | None = None
) -> tuple[list[Entry], dict[str, int]]:
    source = container(data, kind, keep=keep_column)
    return list(ENTRIES[kind](source)), dict(source.skipped)


def fetch(data: bytes, entry: Entry, max_bytes: int = LIMIT) -> bytes:
    assert entry.offset is not None and entry.length is not None
    part = data[entry.offset : entry.offset + entry.length]
    return extract_member(part, entry.uri, entry.encoding, entry.num_bytes, max_bytes)


def info(name: str, **fields: Any) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(member, field, value)
    return member


Item = tuple[str | tarfile.TarInfo, bytes]


def make_tar(*items: Item, format: int = tarfile.PAX_FORMAT, **options: Any) -> bytes:  # noqa: A002
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format, **options) as tar:
        for name, data in items:
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    """A tar header whose size field says whatever it is told."""
    field = b"%011o\0" % size if 0 <= size < 8**11 else bytes([0x80 if size >= 0 else 0xFF])
    field = field if len(field) == 12 else field + (size % 256**11).to_bytes(11, "big")
    block = bytearray(
        struct.pack("100s8s8s8s12s12s8sc", name, *[b"0000644\0"] * 3, field, b"0" * 11, b" " * 8, kind)
    )
    block += bytes(512 - len(block))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def make_zip(*items: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in items:
            archive.writestr(name, data)
    return file.getvalue()


class Pipe(io.RawIOBase):
    """A file that cannot seek, so that zipfile writes data descriptors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


@contextmanager
def at_most(num_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < num_bytes
    finally:
        tracemalloc.stop()


class Files(dict[str, bytes]):
    """A store of objects by uri; what is not in it is looked for on the disk."""

    def open(self, uri: str) -> BinaryIO:
        if uri in self:
            return io.BytesIO(self[uri])
        if not uri.startswith("file://"):
            raise FileNotFoundError(uri)
        return open(local_path(uri), "rb")


def manifest_at(
    uri: str | Path,
    allow: Iterable[str] = (),
    keep: str | None = None,
    files: Files | None = None,
    relative: str | None = None,
    encoding: str | None = None,
) -> Manifest:
    uri = f"file://{encode_name(str(uri))}" if isinstance(uri, Path) else uri
    return Manifest(
        uri=uri,
        relative=uri.rsplit("/", 1)[-1] if relative is None else relative,
        open_file=(files or Files()).open,
        allow_prefix=list(allow),
        keep_column=keep,
        encoding=encoding,
        skipped=Counter(),
        notes=Counter(),
    )
