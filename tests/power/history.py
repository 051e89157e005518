"""What every path of a source was, change by change, and what was acknowledged when."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple

from tests.e2e.trees import Node, Tree

Version = Node | None
"""What a path was; None while there was nothing."""


class Ack(NamedTuple):
    """One answer that everything is durable.

    Attributes:
        asked: the number of changes made before the question.
        answered: the number of changes made before the answer.
    """

    asked: int
    answered: int


class History:
    """The versions of every path by the number of the change that made them.

    ``lock`` is held by whoever changes the source until the change is on record.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.answered = threading.Condition(self.lock)
        self.changes = 0
        self.acks: list[Ack] = []
        self._versions: dict[bytes, list[tuple[int, Version]]] = {}

    def note(self, versions: Iterable[tuple[bytes, Version]]) -> None:
        """Record what one change made of these paths."""
        with self.lock:
            self.changes += 1
            for path, version in versions:
                known = self._versions.setdefault(path, [])
                if not known or known[-1][1] != version:
                    known.append((self.changes, version))

    def note_ack(self, asked: int) -> None:
        """Record that everything before the change of that number is said to be durable."""
        with self.answered:
            self.acks.append(Ack(asked, self.changes))
            self.answered.notify_all()

    def now(self, path: bytes) -> Version:
        """Return what a path is."""
        known = self._versions.get(path)
        return known[-1][1] if known else None

    def paths(self) -> list[bytes]:
        """Return every path that ever was."""
        return list(self._versions)

    def below(self, path: bytes) -> list[bytes]:
        """Return the paths that are below a directory now, and the directory itself, first."""
        inside = (p for p in self._versions if p.startswith(path + b"/"))
        return [path, *(p for p in inside if self.now(p) is not None)]

    def window(self, path: bytes, first: int, last: int) -> list[Version]:
        """Return all that a path was from the end of one change to the end of another."""
        known = self._versions.get(path, [])
        before = [version for number, version in known if number <= first]
        return [
            before[-1] if before else None,
            *(version for number, version in known if first < number <= last),
        ]

    def alive(self, first: int, last: int) -> set[Node]:
        """Return all that any path was within that time."""
        every = (version for path in self._versions for version in self.window(path, first, last))
        return {version for version in every if version is not None}

    def alive_paths(self, number: int) -> list[bytes]:
        """Return the paths that were there after the change of that number."""
        return [path for path in self._versions if self.window(path, number, number)[0] is not None]

    def owners(self, digest: bytes) -> list[str]:
        """Return where some content was, and from which change on, for people to read."""
        return [
            f"{path!r} from change {number}"
            for path, versions in self._versions.items()
            for number, node in versions
            if node is not None and node.content == digest
        ]

    def contents(self, last: int) -> set[tuple[str, bytes]]:
        """Return (kind, content) of all that any path ever was until then."""
        return {(node.kind, node.content) for node in self.alive(0, last)}

    def stored(self, acks: Iterable[Ack]) -> set[bytes]:
        """Return digests of files that the destination must have held, by these answers.

        What was replaced between question and answer may have been passed over.
        """
        return {
            node.content
            for ack in acks
            for path in self._versions
            if len(window := self.window(path, *ack)) == 1
            and (node := window[0]) is not None
            and node.kind == "file"
        }


def faults_before_recovery(history: History, last: int, found: Tree) -> list[str]:
    """List what is not the whole content of something that the source had."""
    known = history.contents(last)
    return [
        f"{path!r}: a {node.kind} that the source never had"
        for path, node in found.items()
        if (node.kind, node.content) not in known
    ]


def faults_after_recovery(history: History, ack: Ack, last: int, found: Tree) -> list[str]:
    """List what is neither as acknowledged nor as the source had it later, until ``last``."""
    alive = history.alive(ack.asked, last)
    lines = []
    for path in sorted({*history.paths(), *found}):
        versions = history.window(path, ack.asked, last)
        fault = _fault(versions, alive, found.get(path))
        if fault:
            lines.append(f"{path!r}: {fault}")
    return lines


def _shown(versions: Iterable[Version]) -> str:
    return " | ".join(
        "nothing"
        if node is None
        else f"{node.kind} {node.mode:o} {node.mtime_ns} {node.content[:32].hex()}"
        for node in versions
    )


def _fault(versions: list[Version], alive: set[Node], there: Version) -> str:
    if there in versions:
        return ""
    if there is None:
        return f"missing; the source had {_shown(versions)}"
    if len(versions) == 1 and versions[0] is not None:
        return f"{_shown([there])}, acknowledged is {_shown(versions)}"
    if there.kind == "directory":
        # Its time and bits come after what was put into it.
        allowed = any(version is None or version.kind == "directory" for version in versions)
    else:
        # What a renamed directory holds can be seen at a path where the source never had it.
        allowed = None in versions and there in alive
    return "" if allowed else f"{_shown([there])}, the source had {_shown(versions)}"
