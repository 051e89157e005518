"""One writer a folder, its batches in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinfold.core.session import (
    FolderSession,
    begin,
    check_epoch,
    commit_batches,
    drift,
    is_committed,
    open_session,
)
from twinfold.errors import RefusedError, StaleEpochError

OWNED = FolderSession(5, 70, 3, b"client", b"process", "name")


@pytest.mark.parametrize(
    ("client", "instance", "name", "take_over", "active", "epoch"),
    [
        (b"client", b"process", "name", False, True, 5),
        (b"client", b"next", "name", False, False, 6),
        (b"other", b"x", "name", False, False, 6),
        (b"other", b"x", "name", False, True, None),
        (b"other", b"x", "else", False, False, None),
        (b"other", b"x", "else", True, True, 6),
    ],
)
def test_who_gets_the_folder(
    client: bytes, instance: bytes, name: str, take_over: bool, active: bool, epoch: int | None
) -> None:
    """The same process goes on; the same source begins anew; others need to take over."""
    if epoch is None:
        with pytest.raises(RefusedError, match="--take-over"):
            open_session(OWNED, client, instance, name, take_over=take_over, active=active)
        return
    session = open_session(OWNED, client, instance, name, take_over=take_over, active=active)
    assert (session.epoch, session.revision) == (epoch, 70)
    assert session.committed == (3 if epoch == 5 else 0)
    assert (session.client_id, session.instance, session.name) == (client, instance, name)


@pytest.mark.parametrize(
    ("name", "earlier", "active", "allowed"),
    [
        ("name", [b"process"], True, True),
        ("renamed", [b"older", b"process"], True, True),
        ("name", [b"older"], False, True),
        ("name", [b"older"], True, False),
        ("elsewhere", [b"older"], False, False),
        ("elsewhere", [], False, False),
    ],
)
def test_a_copied_state_is_recognised(
    name: str, earlier: list[bytes], active: bool, allowed: bool
) -> None:
    """By the writer's instance: the state that was the writer has it, a copy of it does not."""
    if allowed:
        session = open_session(
            OWNED, b"client", b"next", name, earlier=earlier, take_over=False, active=active
        )
        assert session.epoch == 6
        with pytest.raises(StaleEpochError, match="a copy"):
            check_epoch(session, 5)
        return
    with pytest.raises(RefusedError, match="copied: name uses it") as refused:
        open_session(
            OWNED, b"client", b"next", name, earlier=earlier, take_over=False, active=active
        )
    assert refused.value.code == "copied"


def test_who_is_refused_learns_who_has_the_folder() -> None:
    """By name and by address, the last one known."""
    roamed = open_session(
        OWNED, b"client", b"process", "name", address="192.0.2.7", take_over=False, active=True
    )
    assert roamed.epoch == OWNED.epoch
    with pytest.raises(RefusedError, match=r"kept for name at 192\.0\.2\.7"):
        open_session(roamed, b"other", b"x", "else", take_over=False, active=False)
    taken = open_session(
        roamed, b"other", b"x", "else", address="192.0.2.8", take_over=True, active=True
    )
    with pytest.raises(StaleEpochError, match=r"taken over by else at 192\.0\.2\.8"):
        check_epoch(taken, 5)


def test_a_folder_without_a_writer_is_anyones() -> None:
    """The first client gets it; its epoch is a new one."""
    assert open_session(FolderSession(9, 4), b"c", b"i", "n", take_over=False, active=True) == (
        FolderSession(10, 4, 0, b"c", b"i", "n")
    )


def test_other_epochs_are_fenced_off() -> None:
    """Older ones, and ones that never were."""
    check_epoch(OWNED, 5)
    for epoch in (0, 4, 6):
        with pytest.raises(StaleEpochError):
            check_epoch(OWNED, epoch)


@given(st.lists(st.integers(1, 8)))
def test_groups_make_no_difference(groups: list[int]) -> None:
    """Revision and number grow by one a batch, and what is done stays done."""
    session = OWNED
    for count in groups:
        assert not is_committed(session, session.committed + 1)
        session = commit_batches(session, count)
        assert is_committed(session, session.committed)
    assert session.revision - OWNED.revision == session.committed - OWNED.committed == sum(groups)
    assert session.epoch == OWNED.epoch


@given(st.integers(0, 1_000), st.integers(1, 10**9))
def test_no_revision_of_a_lost_history_comes_again(batches: int, later_ns: int) -> None:
    """Also not if the index is lost, or an older one put back, within a second of a drift."""
    now_ns = 1_795_000_000_000_000_000
    kept = commit_batches(begin(now_ns - 10**9), 5)
    now_ns += batches * 10_000
    lost = commit_batches(drift(kept, 1, now_ns - batches * 10_000), batches)
    for again in (drift(kept, 1, now_ns + later_ns + 512), begin(now_ns + later_ns + 512)):
        assert again.revision > lost.revision
        assert again.epoch > lost.epoch
