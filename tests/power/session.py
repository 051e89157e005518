"""A live pair on a disk of its own, whose power is cut again and again while it works."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import asyncio
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.e2e.harness import LIMIT_S, Pair
from tests.power.changing import ChangingSource
from tests.power.disks import Disk, Disks
from tests.power.history import Ack
from twinfold.client.control import NotRunningError, ask_wait

SOCKETS = shutil.ignore_patterns("*.sock")
_LONGEST_PAUSE_S = 0.8
_SOON_AFTER_S = (0.0, 0.001, 0.01, 0.03, 0.1)
_BETWEEN_WAITS_S = 0.02


class Cut(NamedTuple):
    """A disk as it was at one instant.

    Attributes:
        image: the copy of the disk.
        acks: every answer that had come before that instant.
        last: the number of changes that had been made to the source by then.
        state: the state of a client that lives on; None if it is on the disk, too.
    """

    image: Path
    acks: list[Ack]
    last: int
    state: Path | None

    @property
    def ack(self) -> Ack:
        """The latest answer."""
        return max(self.acks, default=Ack(0, 0))


class Session:
    """A server on a disk and a client of a source that changes until the session is closed.

    Attributes:
        cuts: what was copied, in order.
    """

    def __init__(self, pair: Pair, disk: Disk, source: ChangingSource, state: Path) -> None:
        self.pair = pair
        self.disk = disk
        self.source = source
        self.cuts: list[Cut] = []
        self.error: Exception | None = None
        self._state = state
        self._stopped = threading.Event()
        self._asking = threading.Thread(target=self._ask)

    def start(self) -> None:
        """Begin to change the source, and to ask when it is durable."""
        self.source.start()
        self._asking.start()

    def stop(self) -> None:
        """Leave the source as it is."""
        self._stopped.set()
        self.source.stop()
        self._asking.join()

    def cut(self, chances: random.Random, *, may_keep_state: bool) -> None:
        """Copy the disk at a random instant, often one that comes soon after an answer."""
        history = self.source.history
        time.sleep(chances.random() * _LONGEST_PAUSE_S)
        # The first one is rarely as early as in the first sync.
        if chances.random() < (0.6 if self.cuts else 0.9):
            with history.answered:
                had = len(history.acks)
                history.answered.wait_for(lambda: len(history.acks) > had or self.failed, LIMIT_S)
            time.sleep(chances.choice(_SOON_AFTER_S))
        with history.lock:
            acks = list(history.acks)
        image = self.disk.copy(f"cut-{len(self.cuts)}")
        with history.lock:
            last = history.changes
        on_disk = may_keep_state and chances.random() < 0.5
        state = None if on_disk else self.pair.base / "client-state"
        self.cuts.append(Cut(image, acks, last, state))

    @property
    def failed(self) -> bool:
        """Whether the session cannot go on."""
        return self.error is not None or self.source.error is not None

    def check(self) -> None:
        """Raise what went wrong in the session itself."""
        for error in (self.source.error, self.error):
            if error is not None:
                raise error
        assert self.pair.server.alive, self.pair.server.describe()
        assert self.pair.client.alive, self.pair.client.describe()

    def _ask(self) -> None:
        try:
            while not self._stopped.wait(_BETWEEN_WAITS_S):
                self._ask_once()
        except Exception as error:  # noqa: BLE001 - `check` raises it
            self.error = error

    def _ask_once(self) -> None:
        history = self.source.history
        with history.lock:
            asked = history.changes
        try:
            waiting = ask_wait(self._state, bytes(self.pair.source), LIMIT_S)
            status = asyncio.run(waiting)
        except NotRunningError:
            if not self.pair.client.alive:
                raise
            return
        assert status.in_sync, status
        history.note_ack(asked)


@contextmanager
def live_session(
    disks: Disks,
    kind: str,
    work: Path,
    chances: random.Random,
    *,
    state_on_disk: bool,
    cached: bool,
) -> Iterator[Session]:
    """Start both sides on a new disk for as long as the block lasts."""
    pair = Pair(work)
    kitchen = work / "kitchen"
    kitchen.mkdir()
    source = ChangingSource(pair.source, kitchen, chances)
    with disks.new(kind, cached=cached) as disk, ExitStack() as cleanup:
        pair.dest = disk.folder / "dest"
        if state_on_disk:
            pair.client_state = disk.folder / "state"
        cleanup.callback(pair.close)
        pair.start_server()
        pair.start_client()
        session = Session(pair, disk, source, pair.client_state)
        session.start()
        cleanup.callback(session.stop)
        yield session
        session.stop()
        pair.client.terminate()
        pair.server.kill()
        if state_on_disk:
            # A client that was too slow to begin has none yet.
            pair.client_state.mkdir(exist_ok=True)
            shutil.copytree(pair.client_state, work / "client-state", ignore=SOCKETS)
