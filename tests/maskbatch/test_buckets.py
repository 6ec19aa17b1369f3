import hashlib

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.buckets import find_repeated, hash_digests, hash_texts

few = st.lists(st.sampled_from([0, 1, 2**58, 2**58 - 1, 2**63, 2**64 - 1, 77]), max_size=8)


@given(st.lists(few, max_size=5))
def test_what_comes_twice_is_found_in_one_part_or_across_parts(parts: list[list[int]]) -> None:
    values = [value for part in parts for value in part]
    found = find_repeated(np.array(part, np.uint64) for part in parts)
    assert found.tolist() == sorted({value for value in values if values.count(value) > 1})


def test_a_digest_becomes_its_first_sixteen_hexadecimal_digits() -> None:
    digests = [hashlib.sha256(bytes([k])).hexdigest() for k in range(50)]
    column = pa.chunked_array([pa.array(digests[:20]).slice(3), pa.array([None, *digests[20:]])])
    expected = [int(text[:16], 16) for text in digests[3:20]] + [0] + [int(t[:16], 16) for t in digests[20:]]
    assert hash_digests(column).tolist() == expected
    assert hash_digests(pa.chunked_array([pa.nulls(2, pa.string())])).tolist() == [0, 0]
    assert len(hash_digests(pa.chunked_array([], pa.string()))) == 0


def test_texts_have_the_same_hash_whenever_they_are_equal() -> None:
    texts = pa.chunked_array([["a", "b"], ["a"]])
    one, two, three = hash_texts(texts)
    assert one == three != two
