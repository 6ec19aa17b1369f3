import random
import tarfile
import zipfile
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.archives.members import NAMED_FOLDER, plain_name
from maskbatch.archives.unique import keep_first, keep_unique
from maskbatch.errors import ImageError, RunFailedError, UsageError
from maskbatch.stores.uris import encode_name
from tests.maskbatch.containers import ENTRIES, JPEG, Item, Pipe, container, fetch, index, make_tar, make_zip


def test_a_store_that_fails_is_not_taken_for_damage() -> None:
    for kind, data in {"tar": make_tar(("a.jpg", JPEG)), "zip": make_zip(("a.jpg", JPEG))}.items():
        source = container(data, kind)
        source.file.close = lambda: None  # type: ignore[method-assign]

        def fail(size: int = -1) -> bytes:
            raise OSError("connection reset")

        source.file.read = fail  # type: ignore[method-assign, assignment]
        with pytest.raises(RunFailedError, match=r"cannot read s3://b/days/1\.\w+: connection reset"):
            list(ENTRIES[kind](source))


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("a\\b\\1.jpg", "a/b/1.jpg"), ("/a/1.jpg", "a/1.jpg"), ("\\a\\1.jpg", "a/1.jpg"), ("//a//1.jpg", "a//1.jpg"),
        ("./a/1.jpg", "a/1.jpg"), (".\\a\\1.jpg", "a/1.jpg"), ("/./a/1.jpg", "a/1.jpg"), ("a/./1.jpg", "a/./1.jpg"),
        ("C:\\a\\1.jpg", "a/1.jpg"), ("c:/a/1.jpg", "a/1.jpg"), ("D:1.jpg", "1.jpg"), ("./C:\\1.jpg", "1.jpg"),
        ("\\\\server\\share\\1.jpg", "server/share/1.jpg"), ("\\\\?\\C:\\a\\1.jpg", "a/1.jpg"),
        ("\\\\?\\UNC\\server\\share\\1.jpg", "server/share/1.jpg"), ("\\\\.\\C:\\1.jpg", "1.jpg"), ("a:b/1.jpg", "b/1.jpg"),
        ("10:30:00.jpg", "10:30:00.jpg"), ("a\\", ""), ("/", ""), ("C:\\", ""), ("", ""), ("a.jpg\0.txt", "a.jpg"),
    ],
)  # fmt: skip
def test_a_name_is_a_path_below_its_container_whatever_system_wrote_it(written: str, name: str) -> None:
    assert plain_name(written) == name == plain_name(name)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("tar", "zip") for name in ("b.jpg/", "a.jpg\\", "a/")] + [("zip", "\0.jpgx")],
)
def test_a_member_that_has_data_but_a_folder_s_name_is_counted(kind: str, name: str) -> None:
    data = {"tar": make_tar, "zip": make_zip}[kind](("1.jpg", b"1"), (name.replace("\0", "~"), b"xx"))
    entries, found = index(data.replace(b"~", b"\0"), kind)
    assert [entry.inner for entry in entries] == ["1.jpg"]
    assert found == {NAMED_FOLDER: 1}


PLAIN = st.lists(st.sampled_from(["a", "b", "é", "x y"]), min_size=1, max_size=3)
LEADS = st.sampled_from(["", "/", "C:/", "c:/", "//", "//?/C:/", "//?/UNC/"])


@given(
    st.lists(st.tuples(LEADS, PLAIN, st.sampled_from("/\\")), min_size=1, max_size=8),
    st.sampled_from(["tar", "zip"]),
)
def test_members_that_read_as_one_name_are_told_apart_and_keep_their_bytes(
    names: list[tuple[str, list[str], str]], kind: str
) -> None:
    written = dict.fromkeys(f"{lead}{'/'.join(parts)}.jpg".replace("/", sign) for lead, parts, sign in names)
    files = [(name, b"%d" % i) for i, name in enumerate(written)]
    data = {"tar": make_tar, "zip": make_zip}[kind](*files)
    entries, _ = index(data, kind)
    for keep in (keep_unique, keep_first):
        kept = list(keep(iter(entries), skipped := Counter[str]()))
        assert [fetch(data, entry) for entry in kept] == [content for _, content in files]
        assert len({entry.uri for entry in kept}) == len(files) and not skipped
        assert [entry.inner for entry in kept] == [encode_name(plain_name(name)) for name in written]


def fuzz_seeds() -> dict[str, list[bytes]]:
    pipe = Pipe()
    with (
        zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive,  # type: ignore[arg-type]
        archive.open("é.jpg", "w", force_zip64=True) as file,
    ):
        file.write(b"mask" * 50)
    items: list[Item] = [
        ("a.jpg", b"x" * 700),
        ("é" * 120 + ".jpg", b"y"),
        ("b.json", b'{"site": "n"}'),
        ("b.jpg", b""),
    ]
    return {
        "tar": [make_tar(*items, format=form) for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)],
        "zip": [make_zip(("a.jpg", b"mask" * 50), ("b.jpg", JPEG[:50])), bytes(pipe.data)],
    }


def mend(data: bytearray) -> None:
    """Make the header that a mutation hit pass its checksum, so that the rest of the parser is reached."""
    for at in range(0, len(data) - 511, 512):
        block = data[at : at + 512]
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(block)


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_flipped_bytes_never_raise_anything_else(kind: str) -> None:
    chance = random.Random(11)
    statuses: Counter[str | None] = Counter()
    for data in fuzz_seeds()[kind]:
        for _ in range(1500):
            bad = bytearray(data[: chance.choice([len(data)] * 4 + [chance.randrange(len(data))])])
            for _ in range(chance.choice([1, 1, 2, 5, 20])):
                if bad:
                    bad[chance.randrange(min(len(bad), 6000))] = chance.choice(
                        [0, 255, 128, 48, 57, chance.randrange(256)]
                    )
            if chance.random() < 0.7 and kind == "tar":
                mend(bad)
            try:
                entries, _ = index(bytes(bad), kind, "cls")
            except UsageError:
                continue
            for entry in entries:
                entry.uri.encode(), entry.relative.encode()
                status = entry.status
                if status is None:
                    assert entry.offset is not None and entry.length is not None
                    assert 0 <= entry.offset <= entry.offset + entry.length <= len(bad)
                    try:
                        assert len(fetch(bytes(bad), entry)) == entry.num_bytes
                    except ImageError as error:
                        status = error.status
                statuses[status] += 1
    assert {None, "corrupt", "unsupported", "truncated"} <= set(statuses)
