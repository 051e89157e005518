"""How long things are kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from twinfold.core.retention import SteadyClock, expires_before_ns

TIMES = st.integers(0, 1 << 62)


@given(TIMES, TIMES, st.lists(st.integers(0, 1 << 40)))
def test_the_clock_goes_on_by_the_monotonic_one(
    wall: int, monotonic: int, steps: list[int]
) -> None:
    """It starts at the wall clock's time, and a jump of that does not hurry it."""
    clock = SteadyClock(wall, monotonic)
    now = 0
    for step in steps:
        now += step
        assert clock.at(monotonic + now) == wall + now


@given(TIMES, st.integers(0, 1 << 30))
def test_nothing_expires_within_its_time(removed: int, keep_s: int) -> None:
    """What left at a time is kept for so long, and not a nanosecond longer."""
    end = removed + keep_s * 1_000_000_000
    assert not removed < expires_before_ns(end, keep_s)
    assert removed < expires_before_ns(end + 1, keep_s)
