"""Who a client is to the server, across its processes and their ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from twinfold.client.identity import Identity
from twinfold.client.state import State
from twinfold.client.state_file import open_state
from twinfold.core.session import FolderSession, open_session


class Server:
    """What a server remembers of its writer."""

    def __init__(self) -> None:
        self.session = FolderSession()

    def open(self, identity: Identity, instance: bytes, earlier: list[bytes]) -> None:
        self.session = open_session(
            self.session,
            identity.client_id,
            instance,
            "name",
            earlier=earlier,
            take_over=False,
            active=True,
        )


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(tmp_path / "state.sqlite", b"/source")
    yield state
    state.close()


@pytest.mark.parametrize("arrives", [True, False], ids=["lost answers", "lost requests"])
@pytest.mark.parametrize("failures", [1, 3, 100])
def test_a_client_is_let_in_after_any_number_of_failed_starts(
    state: State, arrives: bool, failures: int
) -> None:
    """Whether or not the server learnt of the instances whose answers never came."""
    server = Server()
    first = Identity(state)
    instance, earlier = first.begin()
    server.open(first, instance, earlier)
    first.confirm(instance)
    for _ in range(failures):
        identity = Identity(state)
        instance, earlier = identity.begin()
        if arrives:
            server.open(identity, instance, earlier)
    last = Identity(state)
    instance, earlier = last.begin()
    assert len(earlier) <= 66
    server.open(last, instance, earlier)
    last.confirm(instance)
    assert last.begin()[1] == [instance]
