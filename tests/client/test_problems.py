"""What is wrong is told once, and stays until it is over."""

from __future__ import annotations

from twinfold.client.events import Event, Problem
from twinfold.client.problems import Problems
from twinfold.client.shortage import PROBES, Shortage


def test_a_busy_name_is_not_told_again_by_each_full_scan() -> None:
    """A scan that finds it busy still confirms it."""
    told: list[Event] = []
    problems = Problems(told.append)
    problems.note(b"busy", "is busy")
    for _ in range(3):
        problems.begin_full_scan()
        problems.confirm(b"busy")
        problems.end_full_scan()
        problems.note(b"busy", "is busy")
    assert len(told) == 1


def test_a_refused_entry_stays_listed_while_it_is_tried_again() -> None:
    """Looking at its name, or at everything, does not take it off the list."""
    told: list[Event] = []
    problems = Problems(told.append)
    shortage = Shortage(problems)
    shortage.begin_cycle(everything=True)
    shortage.note(b"big", 100, "no room")
    shortage.end_cycle()
    for everything in (False, True, False):
        assert shortage.take() == [b"big"]
        shortage.begin_cycle(everything=everything)
        if everything:
            problems.begin_full_scan()
            problems.end_full_scan()
        problems.doubt(b"", [b"big"])
        problems.clear_doubted()
        shortage.note(b"big", 100, "no room")
        shortage.end_cycle()
        assert shortage.next_due_s() > 0
    assert len(told) == len(problems) == 1
    shortage.take()
    shortage.begin_cycle(everything=False)
    shortage.end_cycle()
    assert len(problems) == 0
    assert shortage.next_due_s() == float("inf")


def test_only_what_is_as_large_is_left_out() -> None:
    """A small file is offered although a large one was refused."""
    shortage = Shortage(Problems(lambda _event: None))
    shortage.begin_cycle(everything=True)
    assert not shortage.is_short_of(1 << 40)
    shortage.note(b"big", 1_000, "no room")
    assert shortage.is_short_of(1_000)
    assert not shortage.is_short_of(999)
    shortage.begin_cycle(everything=False)
    assert not shortage.is_short_of(1_000)


def test_a_few_are_offered_until_one_is_taken() -> None:
    """Then all the others are, at once."""
    shortage = Shortage(Problems(lambda _event: None))
    shortage.begin_cycle(everything=True)
    for number in range(3 * PROBES):
        shortage.note(b"%d" % number, 10, "no room")
    shortage.end_cycle()
    first = shortage.take()
    assert first is not None
    assert len(first) == PROBES
    shortage.begin_cycle(everything=False)
    for path in first:
        shortage.note(path, 10)
    shortage.end_cycle()
    second = shortage.take()
    assert second is not None
    assert not set(first) & set(second)
    shortage.begin_cycle(everything=False)
    for path in second[1:]:
        shortage.note(path, 10)
    shortage.end_cycle()
    assert shortage.next_due_s() <= 0
    rest = shortage.take()
    assert rest is not None
    assert len(rest) == 3 * PROBES - 1


def test_a_file_that_is_no_longer_read_says_why() -> None:
    """A part of it was refused; it is noted before the file itself could be."""
    problems = Problems(lambda _event: None)
    shortage = Shortage(problems)
    shortage.begin_cycle(everything=True)
    shortage.note_part(100, "there is no room")
    assert shortage.is_short_of(100)
    shortage.note(b"big", 100)
    assert problems.listed() == [Problem(b"big", "there is no room")]
