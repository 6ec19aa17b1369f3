"""When to try a request again."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from maskbatch.stores.base import TransientError

Answer = TypeVar("Answer")
MAX_TRIES = 12
FIRST_TRIES = 6
"""For the first request to a store, which may not exist: 2 s."""


def backoff_s(attempt: int) -> float:
    """Seconds to wait after failed `attempt` 0, 1, ...: exponential, with full jitter, 10 s at most.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(10.0, 0.1 * 2**attempt))  # noqa: S311


def keep_trying(ask: Callable[[], Answer], patience_s: float, tries: int = MAX_TRIES) -> Answer:
    """Call `ask` until it succeeds. Raises the last failure, or TimeoutError."""
    deadline = time.monotonic() + patience_s
    for attempt in range(tries):
        try:
            return ask()
        except (TransientError, TimeoutError) as error:
            if attempt + 1 == tries:
                raise
            wait_s = backoff_s(attempt)
            if time.monotonic() + wait_s > deadline:
                raise TimeoutError("the store did not answer in time") from error
        time.sleep(wait_s)
    raise AssertionError("unreachable")
