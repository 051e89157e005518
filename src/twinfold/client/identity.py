"""Who this client is to the server, and how a copy of its state is recognised.

Each time that a client asks to be the folder's writer it does so as a new *instance*, which its
state holds before the server can know it. So a server whose last writer has this client's id,
but an instance that its state does not hold, has heard from a copy of the state.
"""

from __future__ import annotations

import os

from twinfold.client.state import State

_SIZE_BYTES = 16
_MOST_ASKED = 64


class Identity:
    """The client's id, which lasts as long as its state, and its instances."""

    def __init__(self, state: State) -> None:
        self.client_id = state.blob("client_id")
        self._state = state

    def begin(self) -> tuple[bytes, list[bytes]]:
        """Return a new instance, and those of before that the server may know; it is durable."""
        kept = self._state.blob("instances")
        asked = [kept[at : at + _SIZE_BYTES] for at in range(0, len(kept), _SIZE_BYTES)]
        # The first one is known to the server for sure.
        asked = asked[:1] + asked[1:][-_MOST_ASKED:]
        instance = os.urandom(_SIZE_BYTES)
        self._state.keep_durably(instances=b"".join([*asked, instance]))
        return instance, asked

    def confirm(self, instance: bytes) -> None:
        """The server knows this instance: it has forgotten those of before."""
        self._state.keep(instances=instance)
