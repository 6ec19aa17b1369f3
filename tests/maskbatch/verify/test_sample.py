"""A row against the same image scored again."""

import pytest

from maskbatch.schema import MAY_HEAL
from maskbatch.verify.result import Difference, Verification
from maskbatch.verify.sample import _compare


@pytest.mark.parametrize(("gap", "differs"), [(0.0, False), (0.019, False), (0.021, True), (0.3, True)])
def test_another_label_is_a_difference_unless_the_two_best_are_close(gap: float, differs: bool) -> None:
    probs = {"prob_a": 0.35 + gap / 2, "prob_b": 0.35 - gap / 2, "prob_c": 0.3}
    row = {"file": "f", "id": 3, "uri": "u", "status": "ok", "sha256": "x", "label": "a", **probs}
    found = Verification(success_sha256="", seed=0)
    _compare({**row, "label": "b"}, row, ("a", "b", "c"), found)
    assert found.differences == ([Difference("f", 3, "label of u", "b", "a")] if differs else [])


@pytest.mark.parametrize("status", MAY_HEAL)
def test_a_failure_that_may_heal_is_counted_and_no_difference(status: str) -> None:
    old = dict.fromkeys(("file", "id", "uri", "sha256", "error")) | {"status": status}
    found = Verification(success_sha256="", seed=0)
    for now in ("ok", "corrupt", "read_error"):
        _compare(old, old | {"status": now}, (), found)
    assert (found.sampled, found.healed, found.still_failing, found.verified) == (3, 1, 2, True)
    assert "2 failed in the run, and do so still. 1 failed in the run, and can be read now." in str(found)
