"""What the server tells whoever watches it: the banner, the screen, ``--json``."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from twinfold.config import ServerAddress


class Listening(msgspec.Struct, frozen=True):
    """The server takes requests at ``address`` and keeps ``destination`` (absolute)."""

    address: ServerAddress
    destination: bytes
    server_id: bytes


class SessionOpened(msgspec.Struct, frozen=True):
    """A client became the folder's writer; ``client`` is the name it gives itself.

    ``replaced`` is the name of the writer before, if that was another client.
    """

    client: str
    address: str = ""
    replaced: str = ""


class Committed(msgspec.Struct, frozen=True):
    """A batch is durable: so many changes, and so many bytes of file content in them."""

    revision: int
    changes: int
    size_bytes: int


class AtticGaveWay(msgspec.Struct, frozen=True):
    """Room ran low: so many of the attic's oldest entries are gone for good, and their bytes."""

    entries: int
    size_bytes: int


class Message(msgspec.Struct, frozen=True):
    """Something that the person who runs the server should read."""

    text: str


class Indexing(msgspec.Struct, frozen=True):
    """What DEST held already is being read: so much of it so far, or, in the end, in all."""

    files: int
    size_bytes: int
    is_done: bool = False


Event = SessionOpened | Committed | AtticGaveWay | Message | Indexing

Listener = Callable[[Event], None]
