"""Making staged batches durable and visible.

In this order, each step of which may be repeated after a crash:

1. all staged content of the batches to the disk (one sync for all of them);
2. their changes and *intents* into the index, durably: from here on they will happen;
3. the intents' steps: renames into the tree and into the attic, attributes;
4. the acknowledgement.

Intents are forgotten only after a later sync has made their steps durable. After a crash
`recover` performs them again; a step whose object is not where it was has been done.
All of this runs in one thread.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from twinfold.core import session as rules
from twinfold.core.session import FolderSession
from twinfold.errors import DestinationError
from twinfold.model import ExtendUpload, Kind, MakeDirectory, MakeSymlink, PutFile
from twinfold.protocol import OpenSession, Refusal
from twinfold.server.apply import Application
from twinfold.server.barred import Barred
from twinfold.server.lack import lack_of
from twinfold.server.staged import StagedBatch, StagedChange
from twinfold.storage.interface import (
    ATTIC,
    DOOMED_PREFIX,
    DoubtfulIndexError,
    Forest,
    Found,
    Index,
    IndexTransaction,
    Node,
    Performed,
    Refused,
    Staging,
    Step,
)

_MOST_OPEN_STEPS = 2_000
_MOST_REFUSED_DIRECTORIES = 10_000


class Committer:
    """The one writer of the index and of the forest."""

    def __init__(
        self,
        index: Index,
        staging: Staging,
        forest: Forest,
        forest_lock: AbstractContextManager[object],
        now_ns: Callable[[], int],
        check_place: Callable[[], None] = lambda: None,
    ) -> None:
        self._check_place = check_place
        self._index = index
        self._staging = staging
        self._forest = forest
        self._forest_lock = forest_lock
        self._now_ns = now_ns
        self._unsettled: list[Performed] = []
        self._open_steps = 0
        self._steps_failed = False
        self._sync_failed = False
        self._barred = Barred()
        self._refused_directories: dict[bytes, None] = {}

    @property
    def is_settled(self) -> bool:
        """Tell whether nothing is left for `settle` to do."""
        return not self._open_steps

    def recover(self) -> None:
        """Bring the forest to where the index says it is, after whatever happened.

        Raises:
            OSError: the disk does not let us; the steps stay recorded.
        """
        steps = self._index.intents()
        if steps:
            self._open_steps = len(steps)
            with self._forest_lock:
                self._perform(steps, again=True)
            self.settle()
        self._steps_failed = False

    def drop_suspects(self) -> None:
        """After a failed sync, throw away what is staged: the system may have lost its bytes.

        It is asked for and written anew. Called when no batch is under way.

        Raises:
            OSError: the disk does not let us.
        """
        if self._sync_failed:
            for node, name in self._index.staged():
                self.forget_upload(node, name)
            self._sync_failed = False

    def finish_steps(self) -> None:
        """Make sure that what was committed is also visible.

        Raises:
            OSError: the disk does not let us.
        """
        if self._steps_failed:
            self.recover()

    def discard_leftovers(self) -> None:
        """Drop staged objects that belong to no upload; call after `recover`."""
        kept = {name for _, name in self._index.staged()}
        self._staging.discard(name for name in self._staging.names() if name not in kept)

    def open_session(
        self, request: OpenSession, address: str = "", *, active: bool
    ) -> FolderSession:
        """Make a client the folder's writer, durably; return its session.

        Raises:
            RefusedError: another client is.
        """
        before = self._index.session()
        session = rules.open_session(
            before,
            request.client_id,
            request.instance,
            request.name,
            address=address,
            earlier=request.earlier,
            take_over=request.take_over,
            active=active,
        )
        if session.epoch != before.epoch:
            self._barred.clear()
        if session != before:
            self._refused_directories.clear()
            with self._index.transaction() as work:
                work.save_session(session)
        return session

    def commit(self, batches: Sequence[StagedBatch]) -> tuple[int, dict[int, list[Refusal]]]:
        """Make these batches, the next in order, durable and visible.

        Returns:
            The folder's revision before them, and by number of a batch the changes that the
            file system does not take.

        Raises:
            ProtocolError: a change cannot be applied; none of the batches took effect.
            DestinationError: the destination is not where it was.
            OSError: the disk does not let us. Either none of the batches took effect, or
                they are decided and `recover` goes on with them.
        """
        if self._sync_failed:
            raise OSError(errno.EIO, "what was staged before a sync failed has to go first")
        self._check_place()
        self.finish_steps()
        session = self._index.session()
        durable_before = self._flush(batches)
        with self._forest_lock:
            try:
                with self._index.transaction() as work:
                    if durable_before:
                        self._settle_in(work)
                    application = Application(
                        work, self._now_ns(), self._barred, self._refused_directories
                    )
                    for batch in batches:
                        application.apply(batch)
                    steps = application.steps()
                    work.add_intents(steps)
                    work.save_session(rules.commit_batches(session, len(batches)))
            except DoubtfulIndexError:
                # Should we end now, the next start may find it committed.
                _decide(batches)
                raise
            _decide(batches)
            if durable_before:
                self._forget_settled()
            self._open_steps += len(steps)
            refused = self._perform(steps, again=False)
        with contextlib.suppress(OSError):
            self._staging.discard(application.unused)
        if refused or self._open_steps > _MOST_OPEN_STEPS:
            self.settle()
        self._remember_refused(application.refused_directories(refused))
        return session.revision, application.refusals(refused)

    def _remember_refused(self, directories: Sequence[bytes]) -> None:
        """What comes later below these is refused as well, until they are made again."""
        self._refused_directories.update(dict.fromkeys(directories))
        while len(self._refused_directories) > _MOST_REFUSED_DIRECTORIES:
            del self._refused_directories[next(iter(self._refused_directories))]

    def _flush(self, batches: Sequence[StagedBatch]) -> bool:
        files: dict[bytes, None] = {}
        filled: list[bytes] = []
        others = 0
        for batch in batches:
            for staged in batch.changes:
                if staged.is_in_directory or staged.refusal is not None:
                    continue
                change = staged.change
                if isinstance(change, PutFile):
                    files[staged.name] = None
                    if change.upload or not staged.inode:
                        staged.inode = self._staging.finish_file(
                            staged.name, change.size, change.mode, change.mtime_ns
                        )
                elif isinstance(change, ExtendUpload):
                    files[staged.name] = None
                elif isinstance(change, MakeDirectory | MakeSymlink):
                    self._create(staged, change)
                    others += 1
                    if staged.is_filled:
                        filled.append(staged.name)
        if not files and not others:
            return False
        try:
            return self._staging.flush(list(files), filled, others)
        except OSError:
            self._sync_failed = True
            raise

    def _create(self, staged: StagedChange, change: MakeDirectory | MakeSymlink) -> None:
        if staged.inode:
            return
        try:
            if isinstance(change, MakeDirectory):
                staged.inode = self._staging.create_directory(staged.name)
            else:
                staged.inode = self._staging.create_symlink(staged.name, change.target)
        except OSError as error:
            staged.refusal = lack_of(error)
            if staged.refusal is None:
                raise

    def _perform(self, steps: Sequence[Step], *, again: bool) -> list[Refused]:
        self._steps_failed = True
        try:
            done = self._forest.perform(steps, self._index.location, again=again)
        except (OSError, DestinationError):
            if again:
                raise
            done = self._forest.perform(self._index.intents(), self._index.location, again=True)
        self._steps_failed = False
        self._unsettled.append(done)
        return done.refused

    def settle(self) -> None:
        """Make the steps done so far durable and forget their intents.

        Raises:
            OSError: the disk does not let us.
        """
        self.finish_steps()
        if not self._open_steps:
            return
        try:
            self._staging.flush_all()
        except OSError:
            # The next sync may succeed without having written what this one lost.
            self._steps_failed = True
            raise
        with self._index.transaction() as work:
            self._settle_in(work)
        self._forget_settled()

    def _forget_settled(self) -> None:
        refused = [refused for performed in self._unsettled for refused in performed.refused]
        self._unsettled.clear()
        self._open_steps = 0
        for entry in refused:
            if entry.kept_as.startswith(DOOMED_PREFIX):
                # What cannot be deleted now is when the attic is thinned out.
                with contextlib.suppress(OSError):
                    self._forest.purge(entry.kept_as)

    def _settle_in(self, work: IndexTransaction) -> None:
        work.clear_intents()
        for performed in self._unsettled:
            work.set_identities(performed.identities)
            for refused in performed.refused:
                work.forget(refused.node)
            for found in performed.found:
                self._record_found(work, found)

    def _record_found(self, work: IndexTransaction, found: Found) -> None:
        if work.child(ATTIC, found.name) is not None:
            return
        node = Node(work.new_id(), ATTIC, found.name, Kind.FILE, 0, 0, 0, b"", b"", 0, 0)
        work.save(node, moved=True)
        work.add_to_attic(node.id, found.location.name, self._now_ns())

    def adjust(self, decide: Callable[[IndexTransaction], Sequence[Step]]) -> None:
        """Change index and forest together, with nothing else in flight.

        Args:
            decide: changes the index and returns the steps; called with the forest at rest.

        Raises:
            OSError: the disk does not let us. Either nothing took effect, or it is decided
                and `recover` goes on with it.
        """
        self.settle()
        with self._forest_lock:
            with self._index.transaction() as work:
                steps = decide(work)
                if steps:
                    work.add_intents(steps)
            if steps:
                self._open_steps += len(steps)
                self._perform(steps, again=False)

    def begin_purge(self, kept: Sequence[tuple[int, bytes]]) -> list[bytes]:
        """Take (node, name) out of the attic for good; return the names to purge them by.

        Raises:
            OSError, DestinationError: the disk does not let us; all stays as it is then.
        """
        self.settle()
        with self._forest_lock, contextlib.ExitStack() as undo:
            for _, name in kept:
                with contextlib.suppress(FileNotFoundError):
                    self._forest.rename_in_attic(name, DOOMED_PREFIX + name)
                    undo.callback(self._forest.rename_in_attic, DOOMED_PREFIX + name, name)
            with self._index.transaction() as work:
                for node, _ in kept:
                    work.forget(node)
            undo.pop_all()
        return [DOOMED_PREFIX + name for _, name in kept]

    def forget_upload(self, node_id: int, name: bytes) -> None:
        """Drop an upload that nobody goes on with."""
        self._staging.discard([name])
        with self._index.transaction() as work:
            work.forget(node_id)


def _decide(batches: Sequence[StagedBatch]) -> None:
    for batch in batches:
        batch.is_decided = True
