"""A small part of `make torture`, every time."""

import random
from pathlib import Path

from tests.torture import mutations
from tests.torture.table import Promise


def test_damaged_pictures_of_every_format_become_rows(tmp_path: Path) -> None:
    promises = list(mutations.mutate(tmp_path, random.Random(7), 1_000))
    assert sum(promise.broke for promise in promises) == 0, promises
    assert "corrupt" in promises[0].found


def test_a_promise_is_a_line_of_the_table() -> None:
    assert (
        str(Promise("Nothing is lost", 50_000, 0, "22 kinds"))
        == "| Nothing is lost | 50,000 | 0 | 22 kinds |"
    )
