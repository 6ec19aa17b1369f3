"""Directories of tags, in all four forms, whole and not."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskbatch.decode.directory import (
    FORMS,
    MAX_ENTRIES,
    Form,
    find_first,
    read_directory,
    read_numbers,
)


@pytest.mark.parametrize("is_big", [False, True])
def test_a_file_that_pillow_wrote_is_read(is_big: bool) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (300, 200)).save(sink, "TIFF", big_tiff=is_big)
    data = sink.getvalue()
    form = FORMS[data[:4]]
    found = read_directory(data, find_first(data, form), form)
    tags = {entry.tag: read_numbers(data, entry, form, 9) for entry in found.entries}
    assert form.is_big == is_big
    assert (tags[256], tags[257], tags[258]) == ((300,), (200,), (8, 8, 8))
    assert (len(found.entries), found.next_at) == (found.num_entries, 0)


@pytest.mark.parametrize(("start", "form"), FORMS.items())
def test_every_form_says_where_values_stand(start: bytes, form: Form) -> None:
    order, first = form.order, 16 if form.is_big else 8
    at = struct.pack(order + ("Q" if form.is_big else "I"), first)
    head = start + (struct.pack(order + "HH", 8, 0) if form.is_big else b"") + at
    entry_form, size = (order + "HHQQ", 20) if form.is_big else (order + "HHII", 12)
    values_at = first + 200
    entry = struct.pack(entry_form, 273, 4, 3, values_at)
    body = struct.pack(order + ("Q" if form.is_big else "H"), 1) + entry
    data = (head + body + struct.pack(order + ("Q" if form.is_big else "I"), 77)).ljust(values_at, b"\0")
    data += struct.pack(order + "III", 5, 6, 7)
    found = read_directory(data, find_first(data, form), form)
    assert (found.num_entries, found.next_at, len(body) - size) == (1, 77, 8 if form.is_big else 2)
    assert read_numbers(data, found.entries[0], form, 2) == (5, 6)
    assert read_numbers(data[:-1], found.entries[0], form, 2) == (), "one of its values is not there"


@given(st.sampled_from(sorted(FORMS)), st.binary(max_size=200), st.integers(0, 2**64))
def test_no_bytes_raise(start: bytes, rest: bytes, at: int) -> None:
    data, form = start + rest, FORMS[start]
    for place in (find_first(data, form), at):
        for entry in read_directory(data, place, form).entries:
            read_numbers(data, entry, form, 5)


def test_a_directory_is_read_as_far_as_it_is_there_and_bounded() -> None:
    entry = struct.pack("<HHII", 270, 4, 1, 5)
    many = struct.pack("<H", 3_000) + entry * 3_000
    assert len(read_directory(many, 0, Form("<")).entries) == MAX_ENTRIES
    cut = read_directory(many[:40], 0, Form("<"))
    assert (len(cut.entries), cut.num_entries, cut.next_at) == (3, 3_000, 0)
