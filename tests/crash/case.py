"""One session of both sides, broken at some sites, and everything that must hold then."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from tests.crash.asking import says_in_sync
from tests.crash.launching import Launcher
from tests.crash.script import Script
from tests.crash.site import KILL, NO_ROOM, SIDES, Site
from tests.e2e.fixtures import remove
from tests.e2e.harness import LIMIT_S, STOP_LIMIT_S, Pair, Running
from tests.e2e.trees import Tree, snapshot

END = "end"
"""The stage in which both sides are told to stop."""

_PAUSE_S = 0.01
_RELIEF_AFTER_S = 0.5
"""How long a lasting error is left in place once it was seen."""

_EMPTY = ("file", blake3(b"").digest())
"""What each file begins as."""


class Case(NamedTuple):
    """A session and where it breaks.

    Of several sites in one stage on one side, each later one breaks the side as it starts again.
    """

    seed: int
    sites: tuple[Site, ...]

    @property
    def replay(self) -> str:
        """The command that does it again."""
        sites = " ".join(site.text for site in self.sites)
        return f"python -m tests.crash --seed {self.seed} {sites}"


class Session:
    """A server and a live client that are broken and started again while the script goes on.

    Attributes:
        pair: the two.
        struck: the sites that were reached.
        counts: how often each side makes each call in each stage, as far as it was not broken.
    """

    def __init__(self, base: Path, case: Case, launcher: Launcher) -> None:
        self.pair = Pair(base / "pair")
        self.pair.env = {"TWINFOLD_DEBUG": ""}
        self.pair.launches = {side: launcher.launch(side) for side in SIDES}
        self.struck: list[Site] = []
        self.counts: dict[tuple[str, str], Counter[str]] = {}
        self._script = Script(self.pair.source, case.seed)
        self._traps = launcher.traps
        self._to_come = list(case.sites)
        self._stage = ""
        self._befell: dict[str, Site] = {}
        self._relieved: set[str] = set()
        self._stopped: set[str] = set()
        self._known = {_EMPTY}
        self._arrived: dict[bytes, bytes] = {}
        self._settled: Tree = {}
        self._gave_way = 0
        self._may_be_untold = False

    def run(self) -> None:
        """Go through the whole script.

        Raises:
            AssertionError: a promise was broken.
        """
        for stage, act in self._script.stages.items():
            self._begin(stage)
            act()
            source = snapshot(self.pair.source)
            self._known |= {(node.kind, node.content) for node in source.values()}
            self._settle(source)
        self._begin(END)
        while not self._stop():
            self._settle(source)
        self._begin("")
        self._check_all()

    def _begin(self, stage: str) -> None:
        """Count from anew; arm the first site of each side."""
        before, self._stage = self._stage, stage
        for side in self._traps:
            counts = self._arm(side)
            if before:
                self.counts[before, side] = counts

    def _arm(self, side: str) -> Counter[str]:
        """Wait for the next site of a side; return what was counted until now."""
        counts, struck = self._traps[side].expect(self._next_site(side))
        if struck is not None:
            self.struck.append(struck)
            self._befell[side] = struck
        return counts

    def _next_site(self, side: str) -> Site | None:
        for site in self._to_come:
            if (site.stage, site.side) == (self._stage, side):
                self._to_come.remove(site)
                return site
        return None

    def _settle(self, source: Tree) -> None:
        """Return when the client says that all is durable; check that it is true."""
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            assert time.monotonic() < deadline_s, self._describe()
            self._revive(source)
            if asyncio.run(says_in_sync(self.pair, self._relieve)):
                break
            time.sleep(_PAUSE_S)
        found = snapshot(self.pair.dest)
        assert found == source, (self.pair.differences(), self._describe())
        self._settled = source
        self._remember(found)

    def _revive(self, source: Tree) -> None:
        """Start what does not run, a broken side at its next site."""
        for side in SIDES:
            running = self._running(side)
            if running is not None and running.alive:
                continue
            if running is not None and side not in self._stopped:
                self._judge_end(side, running, source)
            self._stopped.discard(side)
            self._start(side)
            if not self.pair.server.alive:
                return

    def _running(self, side: str) -> Running | None:
        try:
            return self.pair.server if side == "server" else self.pair.client
        except AssertionError:
            return None

    def _start(self, side: str) -> None:
        if side == "client":
            self.pair.start_client()
            return
        try:
            if self.pair.invite:
                self.pair.restart_server()
            else:
                self.pair.start_server()
        except AssertionError:
            # Its output may end a moment before it does; what still runs then is stuck.
            self.pair.server.wait_exit(STOP_LIMIT_S)

    def _judge_end(self, side: str, running: Running, source: Tree) -> None:
        """A side has ended: only where it was broken, as it should, with the tree as it should."""
        code, told = running.wait_exit(), running.errors
        if side in self._traps:
            self._arm(side)
        self._note_told(running)
        site = self._befell.pop(side, None)
        assert site is not None, f"the {side} ended by itself: {running.describe()}"
        assert "Traceback" not in told, told
        if site.fault == KILL:
            assert code == -9, running.describe()
        elif code == -9 and side in self._relieved:
            # Out of room, it may have let old content go without living to tell.
            self._may_be_untold |= side == "server" and site.fault in NO_ROOM
        else:
            assert code == 1, running.describe()
            # Where it cannot write any more, it cannot say so either.
            is_mute = site.call == "write" and not told
            assert is_mute or len(told.splitlines()) == 1, told
        self._relieved.discard(side)
        if side == "server" and self.pair.dest.exists():
            self._look_at_once(source)

    def _look_at_once(self, source: Tree) -> None:
        """DEST as it stands: whole versions only, and among them what was acknowledged."""
        found = snapshot(self.pair.dest)
        for path, node in found.items():
            known = node.kind == "directory" or (node.kind, node.content) in self._known
            assert known, f"{path!r} is no version that the source had"
        for path, node in self._settled.items():
            if node.kind != "directory" and source.get(path) == node:
                assert found.get(path) == node, f"{path!r} was acknowledged: {found.get(path)}"
        self._remember(found)

    def _relieve(self) -> None:
        """End a lasting error some time after it was seen, as a killed and repaired machine."""
        for side, trap in self._traps.items():
            site = trap.struck
            if site is None or not site.lasting or side in self._relieved:
                continue
            if time.monotonic() - trap.struck_s > _RELIEF_AFTER_S:
                self._relieved.add(side)
                running = self._running(side)
                assert running is not None
                running.process.kill()

    def _note_told(self, running: Running) -> None:
        """Take in what a side that has ended has said."""
        if all(site.fault == KILL for site in self.struck):
            texts = [str(event["text"]) for event in running.events("message")]
            drift = [text for text in texts if "by something else" in text]
            assert not drift, f"what a kill left behind is taken for drift: {drift}"
        # Refused for want of room, content is offered again, and old content makes room for it.
        self._gave_way += sum(event["entries"] for event in running.events("attic_gave_way"))

    def _remember(self, found: Tree) -> None:
        self._arrived |= {node.content: path for path, node in found.items() if node.kind == "file"}

    def _stop(self) -> bool:
        """Tell both sides to end; tell whether they did so unbroken."""
        for side in reversed(SIDES):
            running = self._running(side)
            assert running is not None
            if not self._end(running):
                self._stopped.add(side)
                assert "Traceback" not in running.errors, running.errors
                self._note_told(running)
        return self._stopped == set(SIDES)

    def _end(self, running: Running) -> int:
        """Tell a side to end; return its exit code."""
        deadline_s = time.monotonic() + LIMIT_S
        running.process.send_signal(signal.SIGTERM)
        while running.alive:
            assert time.monotonic() < deadline_s, running.describe()
            time.sleep(_PAUSE_S)
            self._relieve()
        return running.wait_exit()

    def _check_all(self) -> None:
        """Nothing that ever stood in DEST is lost, nothing is left in staging."""
        own = self.pair.dest / ".twinfold"
        kept = {n.content for n in snapshot(own / "attic").values() if n.kind == "file"}
        kept |= {n.content for n in snapshot(self.pair.dest).values() if n.kind == "file"}
        lost = [self._arrived[content] for content in self._arrived.keys() - kept]
        is_told = len(lost) <= self._gave_way or self._may_be_untold
        assert is_told, f"neither in the tree nor in the attic: {lost}"
        assert snapshot(self.pair.dest) == snapshot(self.pair.source)
        if os.listdir(own / "staging"):
            # What a failed request had begun goes with the next start at the latest.
            self.pair.restart_server().terminate()
        left = os.listdir(own / "staging")
        assert not left, f"left in staging: {left}"

    def _describe(self) -> str:
        sides = [running.describe() for running in (self.pair.server, self.pair.client)]
        return f"still not in sync, {self.struck}: {sides}"


class Ended(NamedTuple):
    """A session that kept all promises: the sites that were reached, and `Session.counts`."""

    struck: Sequence[Site]
    counts: dict[tuple[str, str], Counter[str]]


def run_case(base: Path, case: Case) -> Ended:
    """Run a case in a new folder, which is removed with all that runs in it.

    Raises:
        AssertionError: a promise was broken.
    """
    base.mkdir()
    with Launcher(trapped=True) as launcher:
        session = Session(base, case, launcher)
        try:
            session.run()
            return Ended(session.struck, session.counts)
        finally:
            try:
                session.pair.close()
            finally:
                remove(base)
