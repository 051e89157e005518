"""What the client tells whoever watches it: the screen, ``--json``, ``status``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

EXIT_EQUAL = 0
EXIT_NOT_EQUAL = 3
EXIT_INTERRUPTED = 130
"""A client that was to run once was stopped before it was through."""


class Connecting(msgspec.Struct, frozen=True):
    """A session with the server is being opened."""

    url: str


class Connected(msgspec.Struct, frozen=True):
    """The session with the server stands."""

    url: str


class Drifted(msgspec.Struct, frozen=True):
    """Something else changed the destination; what it lost is sent again."""

    reason: str


class Waiting(msgspec.Struct, frozen=True):
    """The server cannot be used now; the next try is in ``retry_in_s`` seconds."""

    reason: str
    retry_in_s: float


class Comparing(msgspec.Struct, frozen=True):
    """The state does not match the server's revision: all entries are compared."""

    entries: int


class Scanning(msgspec.Struct, frozen=True):
    """The whole source is being scanned."""


class Counted(msgspec.Struct, frozen=True):
    """How much a first sync will have to look at; known some time after it began."""

    files: int
    size_bytes: int


class Progress(msgspec.Struct, frozen=True):
    """Totals of the work since the last `InSync`: acknowledged files and bytes.

    ``sent_bytes`` counts request bodies, ``reused_bytes`` content that the server took
    from what it already held.
    """

    files: int
    size_bytes: int
    sent_bytes: int
    reused_bytes: int


class Applied(msgspec.Struct, frozen=True):
    """A change is durable at the server. ``source`` is set for moves only."""

    verb: Literal["put", "mkdir", "symlink", "move", "delete", "attributes"]
    path: bytes
    source: bytes | None = None


class Problem(msgspec.Struct, frozen=True):
    """An entry that cannot be synchronised now, and why."""

    path: bytes
    reason: str


class Held(msgspec.Struct, frozen=True):
    """Deletions are held back."""

    reason: str
    deletions: int


class InSync(msgspec.Struct, frozen=True):
    """Source and destination are equal, but for the problems reported."""

    files: int
    size_bytes: int
    sent_bytes: int
    reused_bytes: int
    seconds: float
    problems: int


Event = (
    Connecting
    | Connected
    | Waiting
    | Drifted
    | Comparing
    | Scanning
    | Counted
    | Progress
    | Applied
    | Problem
    | Held
    | InSync
)

Listener = Callable[[Event], None]


class Status(msgspec.Struct, frozen=True):
    """What a running client answers to ``twinfold status`` and ``twinfold wait``.

    ``activity`` is one of ``connecting``, ``waiting``, ``comparing``, ``scanning``,
    ``syncing``, ``held``, ``live``; ``in_sync_at`` is in seconds since 1970. ``held`` says what
    a person may release, and why it is held; empty if nothing is.
    """

    source: str
    server: str
    pid: int
    activity: str
    detail: str
    files: int
    size_bytes: int
    sent_bytes: int
    reused_bytes: int
    problems: list[Problem]
    in_sync_at: float | None
    in_sync: bool
    held_deletions: int = 0
    held: str = ""


class VerifyProgress(msgspec.Struct, frozen=True, tag="progress"):
    """How much each end has read again so far."""

    source_files: int = 0
    source_bytes: int = 0
    destination_files: int = 0
    destination_bytes: int = 0


class Differing(msgspec.Struct, frozen=True):
    """An entry that `verify` found to differ: where, in what, and what becomes of it."""

    path: bytes
    at: Literal["source", "destination"]
    what: list[str]
    reason: str


class Verified(msgspec.Struct, frozen=True, tag="verified"):
    """What ``twinfold verify`` found; ``files`` and ``size_bytes`` were read at the source."""

    status: Status
    differences: list[Differing]
    files: int
    size_bytes: int
    seconds: float


class VerifyFailed(msgspec.Struct, frozen=True, tag="failed"):
    """Why ``twinfold verify`` could not be done."""

    reason: str


VerifyLine = VerifyProgress | Verified | VerifyFailed
