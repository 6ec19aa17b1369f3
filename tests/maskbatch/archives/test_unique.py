"""Every uri once."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskbatch.archives import unique as unique_module
from maskbatch.archives.entries import Entry
from maskbatch.archives.unique import keep_unique


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(1, 50))
def test_of_repeated_uris_the_first_is_kept(numbers: list[int], batch: int) -> None:
    stream = [Entry(uri=f"s3://b/{number}", relative=str(i)) for i, number in enumerate(numbers)]
    first = {entry.uri: entry for entry in reversed(stream)}
    skipped: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unique_module, "SPOOL_ENTRIES", batch)
        found = list(keep_unique(iter(stream), skipped))
    assert found == sorted(first.values(), key=lambda entry: int(entry.relative))
    assert skipped.total() == len(stream) - len(found)
