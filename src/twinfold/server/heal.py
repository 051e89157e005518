"""Setting right what something else changed in the destination.

Whatever was found in a place that is not its own goes to the attic. Attributes are given
again. What is missing then is forgotten by the index, in one step with the session's end, so
that the client finds another revision than its own and sends it again. A ctime shows whether a
file was touched since it got its attributes; of a directory only the index says what they were,
and an index can be damaged, so the client is asked to compare these, too.

All of this runs in the committing thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from twinfold.core import session as rules
from twinfold.model import Kind
from twinfold.server.commit import Committer
from twinfold.server.differences import (
    Case,
    Suspect,
    describe,
    differs,
    is_another,
    is_untouched,
)
from twinfold.storage.interface import (
    ATTIC,
    TREE,
    UNREAD,
    Attributes,
    Forest,
    Index,
    IndexTransaction,
    Location,
    Looked,
    Node,
    Rename,
    Step,
)

_MOST_ACCEPTED = 100_000


class Outcome(NamedTuple):
    """What became of some cases.

    ``kept`` are nodes now in the attic, ``lost`` the cases whose entry the tree no longer has,
    ``unproven`` directories that got the attributes which the index alone vouches for, ``again``
    those that changed meanwhile, ``found`` the cases that were set right.
    """

    kept: list[Node]
    lost: list[Case]
    unproven: list[Case]
    again: list[Suspect]
    found: list[Case]


class Healer:
    """Looks with nothing in flight, and acts."""

    def __init__(
        self, index: Index, forest: Forest, committer: Committer, now_ns: Callable[[], int]
    ) -> None:
        self._index = index
        self._forest = forest
        self._committer = committer
        self._now_ns = now_ns
        self._accepted: dict[int, tuple[Node, Looked]] = {}

    def confirm(self, suspects: Sequence[Suspect]) -> list[Case]:
        """Return those that differ although all steps are done, or are to be read anyway.

        Raises:
            OSError: the disk does not let us.
        """
        self._committer.settle()
        cases = []
        for suspect in suspects:
            names = self._names(suspect)
            if names is None:
                continue
            node = self._index.child(suspect.directory, suspect.name)
            looked = self._forest.look_at(TREE, names)
            if self._is_case(suspect, node, looked):
                cases.append(Case(suspect, names, node, looked))
        return cases

    def _is_case(self, suspect: Suspect, node: Node | None, looked: Looked | None) -> bool:
        if node is None or looked is None:
            return (node is None) != (looked is None)
        if self._accepted.get(node.id) == (node, looked):
            return False
        return suspect.deep or (differs(node, looked) and not is_untouched(node, looked))

    def _names(self, suspect: Suspect) -> list[bytes] | None:
        """Return the names that lead to a suspect; None if it is not in the tree any more."""
        if not suspect.directory:
            return []
        located = self._index.locate(suspect.directory)
        if located is None or located[0] != TREE:
            return None
        return [*located[1], suspect.name]

    def set_right(self, cases: Sequence[Case]) -> Outcome:
        """Take to the attic what is not as it should be, and give attributes again.

        Raises:
            OSError: the disk does not let us.
        """
        outcome = Outcome([], [], [], [], [])
        repaired: list[int] = []

        def decide(work: IndexTransaction) -> list[Step]:
            decision = _Decision(work, self._forest, self._now_ns(), outcome)
            for case in cases:
                decision.take(case)
            repaired.extend(decision.repaired)
            return decision.steps()

        self._committer.adjust(decide)
        if repaired:
            self._committer.settle()
            accepted = self._accept(repaired)
            outcome.unproven[:] = [
                case for case in outcome.unproven if case.node and case.node.id not in accepted
            ]
        return outcome

    def _accept(self, nodes: Sequence[int]) -> set[int]:
        """Learn what the file system made of attributes that it cannot hold as they are.

        Returns:
            The nodes whose attributes are such.
        """
        accepted: set[int] = set()
        for node_id in nodes:
            node, located = self._index.node(node_id), self._index.locate(node_id)
            if node is None or located is None:
                continue
            looked = self._forest.look_at(*located)
            if looked is not None and differs(node, looked):
                if len(self._accepted) >= _MOST_ACCEPTED:
                    self._accepted.clear()
                self._accepted[node_id] = node, looked
                accepted.add(node_id)
        return accepted

    def forget(self, lost: Sequence[Case], unproven: Sequence[Case]) -> list[bytes]:
        """Forget entries that the tree does not have, and end the session's epoch.

        Returns:
            The paths of those that are still not there; if there are none, of those unproven.

        Raises:
            OSError: the disk does not let us.
        """
        paths: list[bytes] = []

        def decide(work: IndexTransaction) -> list[Step]:
            directories: dict[int, None] = {}
            for case in lost:
                node = work.child(case.suspect.directory, case.suspect.name)
                if node is None or self._forest.look_at(TREE, case.names) is not None:
                    continue
                paths.append(case.path)
                directories[node.parent] = None
                work.forget(node.id)
            if not paths:
                paths.extend(case.path for case in unproven)
            if paths:
                session = rules.drift(self._index.session(), len(paths), self._now_ns())
                work.save_session(session)
            return _attributes_of(work, directories)

        self._committer.adjust(decide)
        return paths


class _Decision:
    """Decides over cases in one transaction, each looked at once more."""

    def __init__(
        self, work: IndexTransaction, forest: Forest, now_ns: int, outcome: Outcome
    ) -> None:
        self._work = work
        self._forest = forest
        self._now_ns = now_ns
        self._outcome = outcome
        self._steps: list[Step] = []
        self._directories: dict[int, None] = {}
        self.repaired: list[int] = []

    def steps(self) -> list[Step]:
        """Return the steps of all that was decided; directories get their attributes last."""
        return [*self._steps, *_attributes_of(self._work, self._directories)]

    def take(self, case: Case) -> None:
        """Decide over one case."""
        directory, name, _ = case.suspect
        node = self._work.child(directory, name)
        looked = self._forest.look_at(TREE, case.names)
        if node != case.node:
            self._outcome.again.append(case.suspect)
            return
        case = case._replace(content=case.content if looked == case.looked else None)
        case = case._replace(looked=looked)
        if looked is None:
            if node is not None:
                self._outcome.lost.append(case)
                self._outcome.found.append(case)
            return
        if node is None or is_another(node, looked):
            self._set_aside(case, looked)
        elif node.kind is not Kind.FILE:
            self._repair(case, node, looked)
        elif case.content is None:
            self._outcome.again.append(case.suspect)
        elif not case.content:
            self._set_aside(case, looked)
        else:
            self._repair(case, node, looked)

    def _set_aside(self, case: Case, looked: Looked) -> None:
        node_id = self._work.new_id()
        name = b"%d" % node_id
        kind = looked.kind or Kind.FILE
        node = Node(
            node_id,
            ATTIC,
            name,
            kind,
            looked.mode,
            looked.mtime_ns,
            looked.size if looked.kind is Kind.FILE else 0,
            UNREAD if looked.kind in (Kind.FILE, Kind.DIRECTORY) else b"",
            looked.target,
            looked.inode,
            0,
        )
        self._work.save(node, moved=True)
        self._work.add_to_attic(node_id, case.path, self._now_ns)
        source = Location(case.suspect.directory, case.suspect.name)
        self._steps.append(Rename(node_id, kind, looked.inode, source, Location(ATTIC, name)))
        self._directories[case.suspect.directory] = None
        self._outcome.found.append(case)
        if looked.kind in (Kind.FILE, Kind.DIRECTORY):
            self._outcome.kept.append(node)
        if case.node is not None:
            self._outcome.lost.append(case)

    def _repair(self, case: Case, node: Node, looked: Looked) -> None:
        if node.inode != looked.inode and node.kind is not Kind.FILE:
            node = msgspec.structs.replace(node, inode=looked.inode)
            self._work.save(node, moved=False)
        if node.kind is Kind.DIRECTORY:
            self._directories[node.id] = None
            self.repaired.append(node.id)
            if describe(case):
                self._outcome.unproven.append(case)
        elif node.kind is Kind.FILE and differs(node, looked) and not is_untouched(node, looked):
            location = Location(node.parent, node.name)
            self._steps.append(Attributes(node.id, Kind.FILE, location, node.mode, node.mtime_ns))
            self.repaired.append(node.id)
        if describe(case):
            self._outcome.found.append(case)


def _attributes_of(work: IndexTransaction, directories: dict[int, None]) -> list[Step]:
    steps: list[Step] = []
    for node_id in directories:
        node = work.node(node_id)
        if node is not None:
            location = Location(node.parent, node.name)
            steps.append(Attributes(node.id, Kind.DIRECTORY, location, node.mode, node.mtime_ns))
    return steps
