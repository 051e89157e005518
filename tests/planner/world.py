"""A client's planner at work: real files, the real state, and a channel that misbehaves.

A scan fills batches, which are delivered as the protocol allows: up to six are under way,
headers go out in order, answers get lost, requests come twice or late, both ends are started
again. What goes wrong is drawn beforehand; when it is used up, all goes well.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.client.mirror import snapshot
from tests.planner.actions import Draw, Folder
from tests.planner.plans import Plan, check_plan, rows_of
from tests.planner.receivers import SERVER_ID, Place, Receiver
from twinfold.client.batch import Batch, BatchBuilder, Pending
from twinfold.client.comparison import compare_entries
from twinfold.client.dirty import DirtyScan, Names
from twinfold.client.files import FilePlanner
from twinfold.client.ignore import IgnoreRules
from twinfold.client.moves import MoveFinder
from twinfold.client.pieces import Stretch
from twinfold.client.problems import Problems
from twinfold.client.read import Reader, UnsettledError, read_again
from twinfold.client.scan import Scan
from twinfold.client.shortage import Shortage
from twinfold.client.source import Source
from twinfold.client.state import State
from twinfold.client.state_file import open_state
from twinfold.client.tools import Tools
from twinfold.client.uploads import Uploader
from twinfold.errors import LostPlaceError, StaleEpochError
from twinfold.model import Entry, PutFile
from twinfold.protocol import BatchAnswer

WINDOW = 6
QUIET_ROUNDS = 3
"""When nothing goes wrong any more, so many scans suffice; the last one says nothing."""

FAULTS = [*[""] * 12, "hold", "hold", "lose", "lose", "header first", "twice", "late", "late"]
FAULTS += ["stale", "client", "client", "server", "state", "meanwhile", "meanwhile"]


class ClientEndedError(Exception):
    """The client was killed; its next start goes on."""


class World:
    """A source, a client's state and a receiver.

    Args:
        folder: where everything lies.
        receiver: what is to become equal to the source.
        trouble: names of `FAULTS`, one for each moment at which something may go wrong.
        meanwhile: changes of the source while it is scanned.
        counts: is told what was done.
    """

    def __init__(
        self,
        folder: Path,
        receiver: Receiver,
        trouble: Sequence[str],
        meanwhile: Sequence[Draw],
        counts: Counter[str],
    ) -> None:
        self.root = folder / "source"
        self.root.mkdir()
        self.folder = Folder(self.root)
        self.receiver = receiver
        self.counts = counts
        self._trouble = list(reversed(trouble))
        self._meanwhile = list(meanwhile)
        self._state_path = folder / "state.sqlite"
        self._instances = 0
        self._old: list[tuple[int, int, Batch]] = []
        self._acknowledged: set[bytes] = set()
        self._placed: set[bytes] = set()
        self._kept: set[bytes] = set()
        self._use_bases = True
        self._is_broken_off = False
        self._start_client()

    def _start_client(self) -> None:
        self.state: State = open_state(self._state_path, os.fsencode(self.root))
        self._source = Source(os.fsencode(self.root), self.state)
        self._ignore = IgnoreRules([])
        self._begin_session()

    def _begin_session(self) -> None:
        """Find the place, as a client does at its start and when it was lost."""
        self._instances += 1
        self._place: Place = self.receiver.open_session(b"%d" % self._instances)
        self._pending = Pending(self.state)
        self._window: list[tuple[int, Batch, BatchAnswer | None]] = []
        self._done: list[tuple[int, Batch, BatchAnswer]] = []
        self._number = 0
        known = self.state.blob("server_id"), self.state.revision
        if known != (SERVER_ID, self._place.revision):
            self.counts["comparisons"] += 1
            groups: list[list[Entry] | int] = [self.receiver.entries(), self._place.revision]
            compare_entries(self.state, groups, SERVER_ID)

    def close(self) -> None:
        """Let go of everything."""
        self.state.close()
        self.receiver.close()

    def change(self, draws: Sequence[Draw]) -> None:
        """Change the source."""
        for draw in draws:
            self.folder.do(draw)

    def pass_once(self, *, only_names: bool = False) -> int:
        """Scan and deliver everything, whatever goes wrong; return how many changes were sent.

        A scan that was broken off is not repeated; it returns -1. The next one looks at
        everything, as that of a client does which has to find its place.
        """
        only_names = only_names and not self._is_broken_off
        self._is_broken_off = True
        self._kept |= self.receiver.kept()
        touched, self.folder = self.folder.touched, Folder(self.root)
        before = rows_of(self.state)
        plan = Plan(self._acknowledged.copy())
        meanwhile = len(self._meanwhile)
        try:
            scan = self._scan(touched.as_names() if only_names else None, plan)
            while self._window:
                self._progress()
        except ClientEndedError:
            self.counts["client restarts"] += 1
            self.state.close()
            self._start_client()
            return -1
        except LostPlaceError:
            self.counts["lost places"] += 1
            self._begin_session()
            return -1
        self._is_broken_off = False
        self._use_bases = True
        if len(self._meanwhile) == meanwhile:
            assert not scan.retry
            moves = check_plan(plan, before, self.root, all_is_seen=not only_names)
            self.counts["moves that had to be found"] += moves
            self.counts["plans checked"] += 1
        return len(plan.changes)

    def converge(self) -> None:
        """Scan until nothing is left to say, and check that all is equal then.

        Each fault may cost a scan.
        """
        rounds = len(self._trouble) + len(self._meanwhile) + QUIET_ROUNDS
        is_quiet = False
        while not is_quiet:
            to_come = len(self._meanwhile)
            # A change that comes after its place was scanned is for the next scan.
            is_quiet = self.pass_once() == 0 and len(self._meanwhile) == to_come
            rounds -= 1
            assert rounds > 0, "it does not come to an end"
        assert self.receiver.snapshot() == snapshot(self.root)
        lost = self._kept - self.receiver.kept()
        assert not lost, f"{len(lost)} contents that were acknowledged are gone"

    def _scan(self, names: Names | None, plan: Plan) -> Scan:
        stop = threading.Event()

        def send(batch: Batch) -> None:
            plan.add(batch)
            self._send(batch)

        builder = BatchBuilder(self.state, self._pending, send)
        problems = Problems(lambda _event: None)
        shortage, reader = Shortage(problems), Reader(stop)
        uploader = Uploader(self.state, builder, reader, shortage, self._use_bases)
        with self._source.open() as root:
            self._ignore.reload(root)
            moves = MoveFinder(root, self.state, self._pending)
            tools = Tools(
                root=root,
                state=self.state,
                pending=self._pending,
                builder=builder,
                files=FilePlanner(self.state, builder, reader, uploader, moves, shortage),
                moves=moves,
                problems=problems,
                ignore=self._ignore,
                watch=lambda _path, _fd: None,
                is_same_source=self._source.is_same,
                stop=stop,
            )
            if names is None:
                scan = Scan(tools)
                scan.scan_all()
                return scan
            dirty = DirtyScan(tools, names)
            dirty.scan_names()
            return dirty

    def _send(self, batch: Batch) -> None:
        """Take a batch from the scan as soon as there is room in the window."""
        number = 0
        if batch.changes:
            self._number += 1
            number = self._number
        self.counts["batches"] += 1
        self._window.append((number, batch, None))
        fault = self._progress()
        while len(self._window) >= WINDOW or (fault != "hold" and self._window):
            fault = self._progress()

    def _progress(self) -> str:
        """Bring the oldest batch one step further, or let something go wrong."""
        fault = self._trouble.pop() if self._trouble else ""
        if fault:
            self.counts[f"faults by kind/{fault}"] += 1
        if fault == "client":
            raise self._end_client(lose_state=False)
        if fault == "state":
            raise self._end_client(lose_state=True)
        if fault == "server":
            self.receiver.restart()
        elif fault == "meanwhile" and self._meanwhile:
            self.folder.do(self._meanwhile.pop())
        elif fault == "twice" and self._done:
            self._repeat()
        elif fault == "stale" and self._old:
            self._send_stale()
        elif fault == "late":
            self._deliver_unanswered()
        if self._window and fault not in ("hold", "late"):
            self._advance(fault)
        return fault

    def _advance(self, fault: str) -> None:
        """Deliver the oldest batch and acknowledge it, unless its answer is lost."""
        number, batch, answer = self._window[0]
        if answer is None:
            answer = self._deliver(number, batch, header_first=fault == "header first")
        if fault == "lose":
            self._window[0] = number, batch, None
            return
        del self._window[0]
        self._acknowledge(number, batch, answer)

    def _deliver_unanswered(self) -> None:
        """Deliver all that is in the window, in order; the answers come later."""
        for at, (number, batch, answer) in enumerate(self._window):
            if answer is None:
                self._window[at] = number, batch, self._deliver(number, batch)

    def _deliver(self, number: int, batch: Batch, *, header_first: bool = False) -> BatchAnswer:
        if not number:
            return BatchAnswer()
        pieces = {c: bytes(p) for c, p in batch.pieces.items() if not isinstance(p, Stretch)}
        answer = self._receive(number, batch, {} if header_first else pieces)
        rounds = 0
        while answer.revision is None:
            rounds += 1
            assert rounds < 5, "it does not say what it is waiting for"
            if answer.unknown_bases:
                self._use_bases = False
                raise LostPlaceError("an unknown base")
            asked = {chunk: self._piece(batch, chunk) for chunk in answer.missing}
            answer = self._receive(number, batch, asked)
        return answer

    def _receive(self, number: int, batch: Batch, pieces: dict[bytes, bytes]) -> BatchAnswer:
        return self.receiver.receive(self._place.epoch, number, batch.changes, pieces)

    def _piece(self, batch: Batch, chunk: bytes) -> bytes:
        """Return a chunk's bytes, read again where they were not kept."""
        piece = batch.pieces.get(chunk)
        if piece is None:
            raise LostPlaceError("the server lacks kept content")
        if not isinstance(piece, Stretch):
            return bytes(piece)
        assert chunk not in self._placed, "content is asked for that the server has"
        try:
            with self._source.open() as root:
                return read_again(root, piece.path, piece.offset, piece.size, chunk)
        except (OSError, UnsettledError) as error:
            raise LostPlaceError("a file changed before it was sent") from error

    def _acknowledge(self, number: int, batch: Batch, answer: BatchAnswer) -> None:
        assert not answer.refused
        effects = [effect for _, effect in batch.effects]
        self.state.acknowledge(effects, batch.pieces, answer.revision)
        self._pending.forget(batch)
        self._acknowledged.update(batch.pieces)
        # An upload that begins anew drops what it had: only what was put in place is there.
        self._placed.update(
            chunk.id for c in batch.changes if isinstance(c, PutFile) for chunk in c.chunks
        )
        if number:
            self._done.append((number, batch, answer))
            assert self.state.revision == answer.revision

    def _repeat(self) -> None:
        """A request of the last batch that was acknowledged comes once more."""
        number, batch, answer = self._done[-1]
        before = self.receiver.snapshot()
        assert self._receive(number, batch, {}) == answer
        assert self.receiver.snapshot() == before

    def _send_stale(self) -> None:
        """A request of an earlier epoch arrives only now."""
        epoch, number, batch = self._old[-1]
        before = self.receiver.snapshot()
        pieces = {c: bytes(p) for c, p in batch.pieces.items() if not isinstance(p, Stretch)}
        with pytest.raises(StaleEpochError):
            self.receiver.receive(epoch, number, batch.changes, pieces)
        assert self.receiver.snapshot() == before

    def _end_client(self, *, lose_state: bool) -> ClientEndedError:
        """Kill the client: what is under way may or may not have arrived."""
        self._old += [(self._place.epoch, n, batch) for n, batch, _ in self._window if n]
        if lose_state:
            self._acknowledged.clear()
            self.state.close()
            for ending in ("", "-wal", "-shm"):
                Path(f"{self._state_path}{ending}").unlink(missing_ok=True)
        return ClientEndedError()
