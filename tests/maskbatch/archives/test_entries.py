import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.archives.entries import is_image
from maskbatch.stores.uris import SCHEME, decode_name, encode_name, local_path

names = st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & set(b"\0/"))


@given(names)
def test_any_file_name_survives_the_way_into_a_uri_and_back(name: bytes) -> None:
    encoded = encode_name(os.fsdecode(name))
    assert local_path(f"{SCHEME}/{encoded}") == b"/" + name
    assert decode_name(encoded) == name
    assert "::" not in encoded
    encoded.encode()


@given(names, names)
def test_two_names_never_become_one_uri(one: bytes, other: bytes) -> None:
    same = encode_name(os.fsdecode(one)) == encode_name(os.fsdecode(other))
    assert same == (one == other)


@pytest.mark.parametrize("name", ["gate 7.jpg", "100%.jpg", "%zz.jpg", "日本.jpg", "a:b.jpg"])
def test_a_name_without_ambiguity_stands_as_it_is(name: str) -> None:
    assert encode_name(name) == name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x.jpg", True),
        ("X.JPEG", True),
        ("a/b.tiff", True),
        (".jpg", False),
        ("x.jpg.txt", False),
        ("x", False),
    ],
)
def test_an_image_is_known_by_its_extension(name: str, expected: bool) -> None:
    assert is_image(name) is expected
