"""What the next scan looks at."""

from __future__ import annotations

from twinfold.client.agenda import Agenda
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
