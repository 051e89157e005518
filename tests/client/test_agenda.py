"""What the next scan looks at."""

from __future__ import annotations

from twinfold.client.agenda import BUSY_AFTER_TRIES, MAX_RETRIES, Agenda
from twinfold.client.watch import Dirty


def dirty(*names: bytes) -> Dirty:
    return Dirty(names={b"": set(names)})


def test_a_busy_name_is_left_to_its_time_whatever_the_events_say() -> None:
    """A file that is written all the time is not read again with every event, others are."""
    agenda = Agenda()
    agenda.take()
    agenda.add(dirty(b"busy", b"calm"))
    agenda.take()
    agenda.settle({b"": {b"busy"}})
    agenda.add(dirty(b"busy", b"calm"))
    work = agenda.take()
    assert work is not None
    assert work.names == {b"": {b"calm"}}
    assert agenda.is_settling


def test_a_full_scan_looks_at_busy_names_too() -> None:
    """Where everything is looked at, nothing is left out."""
    agenda = Agenda()
    agenda.take()
    agenda.settle({b"": {b"busy"}})
    agenda.full = True
    assert agenda.take() is None
    assert not agenda.is_settling


MANY = {b"": {b"%d" % number for number in range(MAX_RETRIES + 1)}}


def test_more_busy_names_than_are_kept_do_not_make_it_spin() -> None:
    """Everything is scanned again, but after a while that grows; then they count as busy."""
    agenda = Agenda()
    waits_s = []
    for attempt in range(1, BUSY_AFTER_TRIES + 1):
        agenda.full = True
        assert agenda.take() is None
        busy = agenda.settle(MANY)
        assert not agenda.is_due
        waits_s.append(agenda.next_due_s())
        assert agenda.is_settling == (attempt < BUSY_AFTER_TRIES)
        assert len(busy) == (0 if agenda.is_settling else MAX_RETRIES + 1)
    assert waits_s == sorted(waits_s)
    agenda.add(dirty(b"calm"))
    work = agenda.take()
    assert work is not None
    agenda.settle({})
    assert 0 < agenda.next_due_s() < float("inf")
    agenda.full = True
    agenda.take()
    agenda.settle({})
    assert agenda.next_due_s() == float("inf")
    assert not agenda.is_settling
