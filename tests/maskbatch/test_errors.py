import pickle

import pytest

from maskbatch.errors import (
    ImageError,
    MaskbatchError,
    NoImagesError,
    RunFailedError,
    RunLockedError,
    UsageError,
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(MaskbatchError, 1), (UsageError, 2), (NoImagesError, 2), (RunLockedError, 5), (RunFailedError, 1)],
)
def test_errors_cross_processes_with_their_exit_code(kind: type[MaskbatchError], code: int) -> None:
    error = pickle.loads(pickle.dumps(kind("what, where; what to do")))
    assert (type(error), str(error), error.exit_code) == (kind, "what, where; what to do", code)


def test_a_bad_image_error_crosses_processes_too() -> None:
    error = pickle.loads(pickle.dumps(ImageError("corrupt", "why")))
    assert (error.status, error.message) == ("corrupt", "why")
