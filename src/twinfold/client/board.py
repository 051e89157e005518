"""What the client is doing now: totals since it was last in sync, told to listener and status."""

from __future__ import annotations

import os
import time

from twinfold.client.batch import Batch
from twinfold.client.effects import Insert
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
from twinfold.client.shortage import Shortage
from twinfold.client.source import UNMOUNTED
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
from twinfold.protocol import BatchAnswer, Refusal

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
        self.shortage = Shortage(self.problems)
        self.held_deletions = 0
        self.vain_batches = 0
        self._told_problems = 0
        self.is_in_sync = False
        self._held_reason = self._held_source = ""
        self._source = source
        self._server = server
        self._state = state
        self._listener = listener
        self._activity = "connecting"
        self._detail = ""
        self._in_sync_at: float | None = None
        self._owes_in_sync = True
        self._began_s = time.monotonic()
        self._files = self._size_bytes = self._reused_bytes = 0
        self._sent_bytes = self._sent_before = 0
        self._told_s = 0.0

    @property
    def owes_in_sync(self) -> bool:
        """Whether the two sides were not equal since the start, or since deletions were held."""
        return self._owes_in_sync

    @property
    def is_equal(self) -> bool:
        """Whether there is neither a problem nor anything that is held."""
        return not len(self.problems) and not self.held_deletions

    @property
    def has_other_problems(self) -> bool:
        """Whether there are more or fewer problems than when sync was reached last."""
        return len(self.problems) != self._told_problems

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
        if batch.changes and len(answer.refused) == len(batch.changes):
            self.vain_batches += 1
        refused = {refusal.index: refusal for refusal in answer.refused}
        if refused:
            self._note_refusals(batch, refused)
        done = [change for n, change in enumerate(batch.changes) if n not in refused]
        sizes_bytes = [change.size for change in done if isinstance(change, PutFile)]
        self._files += len(sizes_bytes)
        self._size_bytes += sum(sizes_bytes)
        for event in filter(None, map(applied, done)):
            self._listener(event)
        now_s = time.monotonic()
        if now_s - self._told_s >= _PROGRESS_EVERY_S:
            self._told_s = now_s
            self._tell_progress()

    def _note_refusals(self, batch: Batch, refused: dict[int, Refusal]) -> None:
        inserted = {i: effect.node for i, effect in batch.effects if isinstance(effect, Insert)}
        for index, refusal in refused.items():
            change = batch.changes[index]
            if isinstance(change, ExtendUpload):
                if refusal.again and change.left_bytes:
                    whole_bytes = change.offset + change.left_bytes
                    self.shortage.note_part(whole_bytes, refusal.reason)
            elif refusal.again:
                size_bytes = change.size if isinstance(change, PutFile) else 0
                self.shortage.note(change.path, size_bytes, refusal.reason)
            else:
                self.problems.note(change.path, refusal.reason)
                self.problems.refusals.note(change.path, inserted.get(index), refusal, self._state)

    def count_sent(self, total_bytes: int) -> None:
        """Take over how many bytes have left the client in request bodies."""
        self._sent_bytes = total_bytes

    def hold(self, deletions: int) -> None:
        """Tell of deletions that the guard holds back, once for each count."""
        if deletions and deletions != self.held_deletions:
            self._held_reason = (
                f"{deletions:,} of {self._state.entries:,} entries vanished at once; the"
                " destination keeps them. To let them go: twinfold release SOURCE, or"
                f" --max-delete {deletions} at the next start"
            )
            self.tell(Held(self._held_reason, deletions))
        self.held_deletions = deletions
        if deletions:
            self._activity, self._detail = "held", self._held_reason
            self._owes_in_sync = True

    def hold_source(self, reason: str) -> None:
        """Another folder stands in the source's place; with an empty reason none does."""
        self._held_source = reason

    def held(self) -> str:
        """Return what a person may release, and why it is held; empty if nothing is."""
        if self._held_source:
            return self._held_source
        if self.held_deletions:
            return self._held_reason
        unmounted = [p.path for p in self.problems.listed() if p.reason == UNMOUNTED]
        if not unmounted:
            return ""
        more = f" (and {len(unmounted) - 1} more)" if unmounted[1:] else ""
        return f"{display(unmounted[0])}{more} {UNMOUNTED}"

    def reach_sync(self) -> None:
        """Say that source and destination are equal, but for the problems."""
        self._tell_progress()
        self.is_in_sync = True
        self._owes_in_sync = False
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
        self._told_problems = event.problems
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
            self.held_deletions,
            self.held(),
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
