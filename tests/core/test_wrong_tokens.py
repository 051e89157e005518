"""Wrong tokens make the next wrong answer wait, for each address by itself, in little memory."""

from __future__ import annotations

import pytest

from twinfold.core.wrong_tokens import (
    FORGOTTEN_AFTER_S,
    FREE_TRIES,
    LAST_DELAY_S,
    MOST_ADDRESSES,
    WrongTokens,
)


def test_a_few_are_free_and_more_take_longer_and_longer() -> None:
    """Up to a limit; from another address the first ones are free again."""
    wrong = WrongTokens()
    delays = [wrong.note("192.0.2.1", 0.0) for _ in range(100)]
    assert delays[:FREE_TRIES] == [0.0] * FREE_TRIES
    assert delays[FREE_TRIES] > 0
    assert delays == sorted(delays)
    assert delays[-1] == LAST_DELAY_S
    assert wrong.note("192.0.2.2", 0.0) == 0


def test_after_a_while_it_is_forgotten() -> None:
    """Not while it goes on."""
    wrong = WrongTokens()
    for second in range(0, int(3 * FORGOTTEN_AFTER_S), 300):
        last = wrong.note("192.0.2.1", float(second))
    assert last > 0
    assert wrong.note("192.0.2.1", second + FORGOTTEN_AFTER_S + 1) == 0


@pytest.mark.parametrize(
    ("other", "same"),
    [("2001:db8:0:1:ffff::9", True), ("2001:db8:0:2::1", False), ("192.0.2.1", False)],
)
def test_one_network_of_ipv6_counts_as_one_address(other: str, same: bool) -> None:
    """Who has one address of it has them all."""
    wrong = WrongTokens()
    for _ in range(FREE_TRIES):
        wrong.note("2001:db8:0:1::1", 0.0)
    assert (wrong.note(other, 0.0) > 0) is same


def test_memory_is_bounded() -> None:
    """Who erred longest ago is forgotten first."""
    wrong = WrongTokens()
    for _ in range(FREE_TRIES):
        wrong.note("first", 0.0)
        wrong.note("busy", 0.0)
    for number in range(MOST_ADDRESSES):
        wrong.note(f"other {number}", 0.0)
        if number == MOST_ADDRESSES // 2:
            wrong.note("busy", 0.0)
    assert len(wrong) <= MOST_ADDRESSES
    assert wrong.note("first", 0.0) == 0
    assert wrong.note("busy", 0.0) > 0


def test_what_is_no_address_counts_too() -> None:
    """A name, or nothing, where the address is not known."""
    wrong = WrongTokens()
    assert [wrong.note("", 0.0) > 0 for _ in range(FREE_TRIES + 1)][-1]
