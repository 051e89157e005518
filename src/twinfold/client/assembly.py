"""A client put together from its parts."""

from __future__ import annotations

import os
import socket

from twinfold.client.board import Board
from twinfold.client.connection import Connection, RateLimit
from twinfold.client.events import Listener
from twinfold.client.identity import Identity
from twinfold.client.link import Link
from twinfold.client.state import State
from twinfold.client.sync import Synchroniser
from twinfold.client.waiters import Waiters
from twinfold.config import ClientSettings
from twinfold.core.paths import display


def assemble(
    settings: ClientSettings,
    state: State,
    waiters: Waiters,
    listener: Listener,
    *,
    patient: bool,
) -> Synchroniser:
    """Return a client whose connection is still to be entered."""
    connection = Connection(settings.address, RateLimit(settings.limit_bytes_per_s))
    board = Board(settings.source, connection.url, state, listener)
    link = Link(
        connection,
        Identity(state),
        _name(settings.source),
        board.tell,
        take_over=settings.take_over,
        patient=patient,
    )
    return Synchroniser(settings, state, link, board, waiters)


def _name(source: bytes) -> str:
    """Return what the server calls this client: the same after its state was lost."""
    return f"{socket.gethostname()}:{display(os.path.realpath(source))}"
