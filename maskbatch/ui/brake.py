"""Slows down failed passwords, by address and in all; in memory, as long as the server runs.

An attempt waits for its turn before its password is looked at, so that the right one gets in a little later,
and only where too many wait is an attempt refused.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

FREE = 3
"""Failures of an address before its attempts must wait: 1 s, then 2, 4, 8 ..."""
LONGEST_S = 20.0
"""At most so long between two attempts of one address."""
PATIENCE_S = 30.0
"""An attempt that had to wait longer is refused."""
BURST = 30
"""Failures of all addresses together before they must wait too, except those that got in before."""
EACH_S = 2.0
"""Then one failure in so long, of all together: 43,200 guesses a day."""
FORGET_S = 900.0
"""Failures of an address that was quiet for so long are forgotten."""
MAX_ADDRESSES = 10_000


@dataclass(slots=True)
class Attempts:
    """What one address has tried."""

    last: float
    failures: int = 0
    free_at: float = 0.0
    """When its next attempt may be looked at."""
    passed: bool = False
    """Whether it once gave the right password."""


class Brake:
    """When an attempt may be looked at."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: dict[str, Attempts] = {}
        self._all_free_at = 0.0

    def reserve(self, address: str) -> float | None:
        """Seconds that this attempt must wait; None where it is refused."""
        now = self._clock()
        own = self._find(_name(address), now)
        at = max(now, own.free_at)
        if not own.passed:
            at = max(at, self._all_free_at - BURST * EACH_S)
        if at - now > PATIENCE_S:
            return None
        own.failures += 1  # until it is known to be right
        if own.failures >= FREE:
            own.free_at = at + min(2.0 ** (own.failures - FREE), LONGEST_S)
        if not own.passed:
            self._all_free_at = max(now, self._all_free_at) + EACH_S
        return at - now

    def accept(self, address: str) -> None:
        """The attempt gave the right password."""
        own = self._find(_name(address), self._clock())
        if not own.passed:
            self._all_free_at -= EACH_S
        own.failures, own.free_at, own.passed = 0, 0.0, True

    def _find(self, name: str, now: float) -> Attempts:
        """What an address tried lately; of too many, those that were quiet for longest are forgotten."""
        if len(self._of) >= MAX_ADDRESSES:
            by_age = sorted(self._of.items(), key=lambda item: (item[1].passed, item[1].last))
            self._of = dict(by_age[MAX_ADDRESSES // 2 :])
        own = self._of.setdefault(name, Attempts(now))
        if now - own.last > FORGET_S:
            own.failures = 0
        own.last = now
        return own


def _name(address: str) -> str:
    """The address, or of IPv6 the network of one household, which has 2^64 of them."""
    try:
        known = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((known, 64), strict=False)) if isinstance(known, IPv6Address) else address
