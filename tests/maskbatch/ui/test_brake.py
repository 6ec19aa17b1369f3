"""Failed passwords slow down, by address and in all, and the right one gets in soon."""

from hypothesis import given
from hypothesis import strategies as st

from maskbatch.ui.brake import BURST, EACH_S, FREE, LONGEST_S, MAX_ADDRESSES, PATIENCE_S, Brake


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def try_in_turn(brake: Brake, clock: Clock, address: str) -> float:
    """Wait as one attempt must, and fail; the seconds."""
    wait_s = brake.reserve(address)
    assert wait_s is not None
    clock.now += wait_s
    return wait_s


def test_each_failure_of_an_address_makes_its_next_attempt_wait_longer() -> None:
    clock = Clock()
    brake = Brake(clock)
    waits = [try_in_turn(brake, clock, "192.0.2.1") for _ in range(10)]
    assert waits == [0.0] * FREE + [1, 2, 4, 8, 16, LONGEST_S, LONGEST_S]
    assert brake.reserve("192.0.2.2") == 0  # another address does not wait
    brake.accept("192.0.2.1")
    assert brake.reserve("192.0.2.1") == 0


def test_attempts_at_the_same_moment_wait_for_one_another_and_too_many_are_refused() -> None:
    brake = Brake(Clock())
    waits = [brake.reserve("192.0.2.1") for _ in range(50)]
    taken = [wait for wait in waits if wait is not None]
    assert taken == sorted(taken) and len(taken) < 10 and max(taken) <= PATIENCE_S
    assert waits[-1] is None


@given(st.integers(2, 40), st.sampled_from(["10.0.{}.{}", "2001:db8:{:x}:{:x}::1"]))
def test_many_addresses_together_are_bounded_and_whoever_got_in_before_is_not(rounds: int, form: str) -> None:
    clock = Clock()
    brake = Brake(clock)
    brake.reserve("198.51.100.7")
    brake.accept("198.51.100.7")
    looked_at, began = 0, clock.now
    for k in range(rounds * 10):
        clock.now += 0.05
        wait_s = brake.reserve(form.format(k // 200, k % 200))
        looked_at += wait_s is not None and clock.now + wait_s <= began + rounds
    assert looked_at <= BURST + rounds / EACH_S + 1
    assert brake.reserve("198.51.100.7") == 0


def test_a_new_address_gets_in_soon_after_an_attack_ends() -> None:
    clock = Clock()
    brake = Brake(clock)
    for k in range(5_000):
        brake.reserve(f"10.0.{k // 200}.{k % 200}")
    assert brake.reserve("198.51.100.7") is None
    clock.now += 60
    assert brake.reserve("198.51.100.7") == 0


def test_the_addresses_of_one_ipv6_network_are_one() -> None:
    brake = Brake(Clock())
    waits = [brake.reserve(f"2001:db8::{k:x}") for k in range(1, 6)]
    assert waits == [0, 0, 0, 1, 3]


def test_what_is_remembered_is_bounded() -> None:
    clock = Clock()
    brake = Brake(clock)
    for k in range(3 * MAX_ADDRESSES):
        clock.now += 3
        brake.reserve(f"10.{k // 40_000}.{k // 200 % 200}.{k % 200}")
    assert len(brake._of) <= MAX_ADDRESSES
