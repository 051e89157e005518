"""Opened again, then made anew, then left alone for a while."""

from __future__ import annotations

from twinfold.core.relapse import CALM_S, Relapses, Remedy


def test_it_is_made_anew_once_and_only_when_it_does_not_help_to_open_it_again() -> None:
    """What was made anew is not made anew again: then something else is at fault."""
    relapses = Relapses()
    remedies = [relapses.note(1.0) for _ in range(20)]
    assert remedies[:4] == [Remedy(False, 0), Remedy(True, 0), Remedy(False, 5), Remedy(False, 10)]
    assert not any(remedy.renew for remedy in remedies[2:])
    assert remedies[-1].pause_s == 60


def test_damage_after_a_calm_is_a_new_one() -> None:
    """A disk that failed for a moment a day ago says nothing of now."""
    relapses = Relapses()
    assert [relapses.note(CALM_S) for _ in range(3)] == [Remedy(False, 0)] * 3
    assert relapses.note(0) == Remedy(True, 0)
