"""One writer a folder, its batches in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinfold.core.session import (
    FolderSession,
    check_epoch,
    commit_batches,
    is_committed,
    open_session,
)
from twinfold.errors import RefusedError, StaleEpochError

OWNED = FolderSession(5, 70, 3, b"client", b"process", "name")


@pytest.mark.parametrize(
    ("client", "instance", "name", "take_over", "active", "epoch"),
    [
        (b"client", b"process", "name", False, True, 5),
        (b"client", b"next", "name", False, True, 6),
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
