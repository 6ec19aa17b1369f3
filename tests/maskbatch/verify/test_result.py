"""What a check found."""

from maskbatch.verify.result import KEPT, Difference, Verification


def test_all_differences_are_counted_and_the_first_hundred_kept() -> None:
    found = Verification(success_sha256="", seed=0)
    for first in (0, 90):
        found.add(90, (Difference("f", first + k, "uri", "a", "b") for k in range(90)))
    assert (found.num_differences, [d.id for d in found.differences]) == (180, list(range(KEPT)))
