"""What the client is doing now: totals since it was last in sync, told to listener and status."""

from __future__ import annotations

import os
import time

from twinfold.client.batch import Batch
from twinfold.client.events import (
    Applied,
    Comparing,
    Connected,
    Connecting,
    Event,
    Held,
    InSync,
    Listener,
    Progress,
    Scanning,
    Status,
    Waiting,
)
from twinfold.client.problems import Problems
from twinfold.client.state import State
from twinfold.core.paths import display
from twinfold.model import (
    Change,
    Delete,
    ExtendUpload,
    MakeDirectory,
    MakeSymlink,
    Move,
    PutFile,
)
from twinfold.protocol import BatchAnswer

_PROGRESS_EVERY_S = 0.1

_ACTIVITIES: dict[type, str] = {
    Connecting: "connecting",
    Waiting: "waiting",
    Comparing: "comparing",
    Scanning: "scanning",
    Held: "held",
    InSync: "live",
}


class Board:
    """Keeps count and passes events on.

    Args:
        source: the source, as it is shown.
        server: the server's address.
        state: has the totals of what is acknowledged.
        listener: gets every event.
    """

    def __init__(self, source: bytes, server: str, state: State, listener: Listener) -> None:
        self.problems = Problems(listener)
        self.held_deletions = 0
        self.is_in_sync = False
        self._source = source
        self._server = server
        self._state = state
        self._listener = listener
        self._activity = "connecting"
        self._detail = ""
        self._in_sync_at: float | None = None
        self._began_s = time.monotonic()
        self._files = self._size_bytes = self._reused_bytes = 0
        self._sent_bytes = self._sent_before = 0
        self._told_s = 0.0

    @property
    def never_in_sync(self) -> bool:
        """Whether the two sides were not equal yet since the start."""
        return self._in_sync_at is None

    def tell(self, event: Event) -> None:
        """Pass an event on, and remember what it says about the client's activity."""
        if isinstance(event, Connected):
            self._activity = "live" if self.is_in_sync else "syncing"
        self._activity = _ACTIVITIES.get(type(event), self._activity)
        self._detail = event.reason if isinstance(event, (Waiting, Held)) else ""
        self._listener(event)

    def begin_work(self) -> None:
        """The client looks at something: it is not known to be in sync until it has."""
        if self.is_in_sync:
            self.is_in_sync = False
            self._began_s = time.monotonic()
        self._activity, self._detail = "syncing", ""

    def acknowledged(self, batch: Batch, answer: BatchAnswer, content_bytes: int) -> None:
        """Count a batch that is durable at the server, and tell of its changes."""
        self._activity, self._detail = "syncing", ""
        self._reused_bytes += max(0, batch.content_bytes - content_bytes)
        refused = {refusal.index: refusal.reason for refusal in answer.refused}
        for index, change in enumerate(batch.changes):
            if index in refused:
                self.problems.note(_path(change), refused[index])
                continue
            if isinstance(change, PutFile):
                self._files += 1
                self._size_bytes += change.size
            event = applied(change)
            if event is not None:
                self._listener(event)
        now_s = time.monotonic()
        if now_s - self._told_s >= _PROGRESS_EVERY_S:
            self._told_s = now_s
            self._tell_progress()

    def count_sent(self, total_bytes: int) -> None:
        """Take over how many bytes have left the client in request bodies."""
        self._sent_bytes = total_bytes

    def hold(self, deletions: int) -> None:
        """Tell of deletions that the guard holds back, once for each count."""
        if deletions and deletions != self.held_deletions:
            reason = (
                f"{deletions} of {self._state.entries} entries vanished at once; nothing is"
                " deleted at the destination until they are back, or the client is started"
                f" again with --max-delete {deletions}"
            )
            self.tell(Held(reason, deletions))
        self.held_deletions = deletions
        if deletions:
            self._activity = "held"

    def reach_sync(self) -> None:
        """Say that source and destination are equal, but for the problems."""
        self._tell_progress()
        self.is_in_sync = True
        self._in_sync_at = time.time()
        seconds = time.monotonic() - self._began_s
        event = InSync(
            self._state.files,
            self._state.size_bytes,
            self._sent_bytes - self._sent_before,
            self._reused_bytes,
            seconds,
            len(self.problems),
        )
        self._files = self._size_bytes = self._reused_bytes = 0
        self._sent_before = self._sent_bytes
        self.tell(event)

    def remain_in_sync(self) -> None:
        """A look around found nothing to do."""
        self.is_in_sync = True
        self._in_sync_at = time.time()
        self._activity = "live"

    def status(self) -> Status:
        """Return what ``twinfold status`` shows."""
        return Status(
            display(self._source),
            self._server,
            os.getpid(),
            self._activity,
            self._detail,
            self._state.files,
            self._state.size_bytes,
            self._sent_bytes - self._sent_before,
            self._reused_bytes,
            self.problems.listed(),
            self._in_sync_at,
            self.is_in_sync,
        )

    def _tell_progress(self) -> None:
        sent = self._sent_bytes - self._sent_before
        self._listener(Progress(self._files, self._size_bytes, sent, self._reused_bytes))


def applied(change: Change) -> Applied | None:
    """Return the event that tells of a change; none for a part of a big file."""
    if isinstance(change, PutFile):
        return Applied("put", change.path)
    if isinstance(change, MakeDirectory):
        return Applied("mkdir", change.path)
    if isinstance(change, MakeSymlink):
        return Applied("symlink", change.path)
    if isinstance(change, Move):
        return Applied("move", change.path, change.source)
    if isinstance(change, Delete):
        return Applied("delete", change.path)
    if isinstance(change, ExtendUpload):
        return None
    return Applied("attributes", change.path)


def _path(change: Change) -> bytes:
    return b"" if isinstance(change, ExtendUpload) else change.path
