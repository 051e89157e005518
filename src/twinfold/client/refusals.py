"""What the server refused: an entry is not sent again before that may help."""

from __future__ import annotations

import msgspec

from twinfold.client.effects import Node
from twinfold.client.state import State
from twinfold.core.paths import join, split
from twinfold.core.planning import DIRECTORY, Facts
from twinfold.protocol import Refusal

MAX_REFUSALS = 10_000
"""What is beyond is sent, and refused, in every scan of everything."""


class _Refused(msgspec.Struct, frozen=True):
    """``blocker`` is the path of the entry that has the name at the destination, if one has."""

    facts: tuple[int, ...] | None
    reason: str
    blocker: bytes


class Refusals:
    """Remembers refused entries by path.

    One that collides with another is sent again when that one has left the destination; one
    that is refused for itself, when it has changed; all of them in a new session.
    """

    def __init__(self) -> None:
        self._refused: dict[bytes, _Refused] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is refused."""
        return not self._refused

    def note(self, path: bytes, node: Node | None, refusal: Refusal, state: State) -> None:
        """The server refused the entry at ``path``, of which ``node`` was to be remembered."""
        if len(self._refused) >= MAX_REFUSALS:
            return
        blocker = join(split(path)[0], refusal.other) if refusal.other else b""
        if blocker and state.find(blocker) is None:
            blocker = b""
        facts = _compared(node.kind, node.inode, node.size, node.mtime_ns) if node else None
        self._refused[path] = _Refused(facts, refusal.reason, blocker)

    def reason(self, path: bytes, facts: Facts) -> str | None:
        """Return why the entry is not to be sent now, None if it is."""
        refused = self._refused.get(path)
        if refused is None:
            return None
        now = _compared(facts.kind, facts.inode, facts.size, facts.mtime_ns)
        if refused.blocker or refused.facts in (None, now):
            return refused.reason
        del self._refused[path]
        return None

    def release(self, state: State) -> list[bytes]:
        """Return the paths whose name is free at the destination now; they may be sent again."""
        free = [
            path
            for path, refused in self._refused.items()
            if refused.blocker and state.find(refused.blocker) is None
        ]
        for path in free:
            del self._refused[path]
        return free

    def clear(self) -> None:
        """Everything may be sent again."""
        self._refused.clear()


def _compared(kind: int, inode: int, size: int, mtime_ns: int) -> tuple[int, ...]:
    """Return what tells another entry; a directory is the same whatever comes into it."""
    return (kind, inode) if kind == DIRECTORY else (kind, inode, size, mtime_ns)
