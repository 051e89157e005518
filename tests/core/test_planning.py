"""The pure comparison of a directory with what is known of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinfold.core.planning import (
    DIRECTORY,
    FILE,
    OTHER,
    SYMLINK,
    DeletionLimit,
    Facts,
    Known,
    ListedEntry,
    compare_directory,
    deletions_held,
    differs_in_attributes,
    is_racy,
)

FACTS = st.builds(
    Facts,
    st.sampled_from([OTHER, FILE, DIRECTORY, SYMLINK]),
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(-1, 1),
    st.integers(0, 1),
    st.integers(0, 2),
)
LISTING = st.dictionaries(st.sampled_from([b"a", b"b", b"c", b"d"]), FACTS)


def known_of(listing: dict[bytes, Facts]) -> dict[bytes, Known]:
    return {
        name: Known(node, tuple(facts), b"", b"", 0)
        for node, (name, facts) in enumerate(listing.items())
        if facts.kind != OTHER
    }


def entries_of(listing: dict[bytes, Facts]) -> list[ListedEntry]:
    return [(name, *facts) for name, facts in listing.items()]


@given(listing=LISTING, before=LISTING)
def test_every_name_is_planned_exactly_once(
    listing: dict[bytes, Facts], before: dict[bytes, Facts]
) -> None:
    """A listed name is the same, or in one of the lists; a known one is there or vanished."""
    known = known_of(before)
    found = compare_directory(entries_of(listing), known)
    named = [
        *(entry[0] for entry in found.fresh),
        *(name for name, _, _ in found.replaced + found.changed + found.directories),
        *found.others,
    ]
    assert len(named) == len(set(named))
    same = listing.keys() - set(named)
    assert all(known[name].facts == listing[name] for name in same)
    gone = {name for name, entry in known.items() if entry in found.vanished}
    there = {name for name, facts in listing.items() if facts.kind != OTHER}
    assert gone == known.keys() - there


@given(listing=LISTING)
def test_a_directory_equals_itself(listing: dict[bytes, Facts]) -> None:
    """Where nothing changed, only the directories are left to be visited."""
    found = compare_directory(entries_of(listing), known_of(listing))
    assert (found.fresh, found.replaced, found.changed, found.vanished) == ([], [], [], [])
    assert len(found.directories) == sum(f.kind == DIRECTORY for f in listing.values())


@pytest.mark.parametrize("field", Facts._fields[1:])
def test_any_different_fact_is_a_change(field: str) -> None:
    """Mode, size, mtime, ctime, device and inode: each alone makes a file be read again."""
    facts = Facts(FILE, 0o644, 1, 2, 3, 4, 5)
    known = {b"f": Known(1, tuple(facts), b"", b"", 0)}
    now = facts._replace(**{field: 99})
    assert compare_directory([(b"f", *now)], known).changed == [(b"f", now, known[b"f"])]


def test_attributes() -> None:
    """Mode and mtime are sent; a symlink has neither."""
    facts = Facts(FILE, 0o644, 1, 2, 3, 4, 5)
    known = Known(1, tuple(facts), b"", b"", 0)
    assert not differs_in_attributes(facts._replace(ctime_ns=9, inode=9), known)
    assert differs_in_attributes(facts._replace(mode=0), known)
    assert differs_in_attributes(facts._replace(mtime_ns=-1), known)
    assert not differs_in_attributes(facts._replace(kind=SYMLINK, mtime_ns=-1), known)


@pytest.mark.parametrize(
    ("deletions", "entries", "held"),
    [
        (1_000, 1_000, False),
        (1_001, 1_001, True),
        (1_001, 2_002, False),
        (1_002, 2_002, True),
        (50_000, 1_000_000, False),
    ],
)
def test_the_deletion_guard(deletions: int, entries: int, held: bool) -> None:
    """More than half of the entries, and more than a thousand of them."""
    assert deletions_held(deletions, entries, DeletionLimit()) is held


def test_racy_times() -> None:
    """A ctime of this tick, or of the future, proves nothing."""
    assert is_racy(100, 105, 10)
    assert is_racy(200, 105, 10)
    assert not is_racy(95, 105, 10)


@pytest.mark.parametrize(
    ("limit", "deletions", "held"),
    [
        (DeletionLimit(count=10), 10, False),
        (DeletionLimit(count=10), 11, True),
        (DeletionLimit(count=5_000), 5_000, False),
        (DeletionLimit(percent=5), 5, False),
        (DeletionLimit(percent=5), 6, True),
        (DeletionLimit(percent=100), 100, False),
    ],
)
def test_a_limit_of_deletions_replaces_the_default(
    limit: DeletionLimit, deletions: int, held: bool
) -> None:
    """A person may allow more than the default, or less, in numbers or as a part of 100 entries."""
    assert deletions_held(deletions, 100, limit) is held
