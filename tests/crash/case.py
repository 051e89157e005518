"""One session of both sides, broken at one or two sites, and everything that must hold then."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.crash.script import Script
from tests.crash.site import COUNT, KILL, Site, read_counts
from tests.e2e.fixtures import remove
from tests.e2e.harness import LIMIT_S, STOP_LIMIT_S, Pair, Running
from tests.e2e.trees import Tree, snapshot
from twinfold.client.control import NotRunningError, ask_wait

assert sys.platform != "win32"

WAIT_S = 2.0
RELIEF_AFTER_S = 2.5
"""How long a lasting error is left in place once it was seen."""

PAUSE_S = 0.02


class Case(NamedTuple):
    """A session and where it breaks; ``again`` breaks the same side as it starts again."""

    site: Site
    seed: int
    again: Site | None = None

    @property
    def replay(self) -> str:
        """The command that does it again."""
        words = f"python -m tests.crash {self.site.words} --seed {self.seed}"
        if self.again is not None:
            words += f" --again {self.again.call}:{self.again.when}"
        return words


class Session:
    """A server and a live client that are broken and started again while the script goes on.

    Attributes:
        struck: the sites that were reached.
    """

    def __init__(self, base: Path, case: Case) -> None:
        self.pair = Pair(base / "pair")
        self.pair.env = {"TWINFOLD_DEBUG": ""}
        self.struck: list[Site] = []
        self._script = Script(self.pair.source, case.seed)
        self._sites = [site for site in (case.site, case.again) if site is not None]
        self._side = case.site.side
        self._traced: Site | None = None
        self._log = base / "trace"
        self._known = {snapshot_of_empty()}
        self._arrived: dict[bytes, bytes] = {}
        self._settled: Tree = {}
        self._seen_s: float | None = None
        self._is_relieved = False
        self._gave_way = 0

    def run(self) -> None:
        """Go through the whole script.

        Raises:
            AssertionError: a promise was broken.
        """
        for stage in self._script.stages:
            stage()
            source = snapshot(self.pair.source)
            self._known |= {(node.kind, node.content) for node in source.values()}
            self._settle(source)
        self._finish()

    def _settle(self, source: Tree) -> None:
        """Return when the client says that all is durable; check that it is true."""
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            assert time.monotonic() < deadline_s, self._describe()
            self._revive(source)
            self._relieve()
            if self._says_in_sync():
                break
            time.sleep(PAUSE_S)
        found = snapshot(self.pair.dest)
        assert found == source, (self.pair.differences(), self._describe())
        self._settled = source
        self._remember(found)

    def _says_in_sync(self) -> bool:
        asking = ask_wait(self.pair.client_state, os.fsencode(self.pair.source), WAIT_S)
        try:
            status = asyncio.run(asking)
        except NotRunningError:
            return False
        return status.in_sync and not status.problems

    def _revive(self, source: Tree) -> None:
        """Start what does not run, the broken side at its next site."""
        for side in ("server", "client"):
            running = self._running(side)
            if running is not None and running.alive:
                continue
            if running is not None:
                self._judge_end(side, running, source)
            self._start(side)
            if not self.pair.server.alive:
                return

    def _running(self, side: str) -> Running | None:
        try:
            return self.pair.server if side == "server" else self.pair.client
        except AssertionError:
            return None

    def _start(self, side: str) -> None:
        prefix: list[str] = []
        if side == self._side and self._sites:
            self._traced = self._sites.pop(0)
            self._log.unlink(missing_ok=True)
            self._seen_s, self._is_relieved = None, False
            prefix = self._traced.prefix(self._log)
        if side == "client":
            self.pair.client_prefix = prefix
            self.pair.start_client()
            return
        self.pair.server_prefix = prefix
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
        self._note_gave_way(running)
        site, self._traced = self._traced, None
        assert site is not None, f"the {side} ended by itself: {running.describe()}"
        assert side == site.side, f"the {side} ended by itself: {running.describe()}"
        self.struck.append(site)
        assert "Traceback" not in told, told
        if site.fault == KILL or self._is_relieved:
            assert code == -9, running.describe()
        else:
            assert code == 1, running.describe()
            # Where it cannot write any more, it cannot say so either.
            is_mute = site.call == "write" and not told
            assert is_mute or len(told.splitlines()) == 1, told
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
        site = self._traced
        if site is None or site.fault in (KILL, COUNT):
            return
        if self._seen_s is None:
            if self._log.exists() and "(INJECTED)" in self._log.read_text("utf-8", "replace"):
                self._seen_s = time.monotonic()
        elif site.lasting and time.monotonic() - self._seen_s > RELIEF_AFTER_S:
            self._is_relieved = True
            running = self._running(site.side)
            assert running is not None
            running.kill()

    def _note_gave_way(self, running: Running) -> None:
        # Refused for want of room, content is offered again, and old content makes room for it.
        self._gave_way += sum(event["entries"] for event in running.events("attic_gave_way"))

    def _remember(self, found: Tree) -> None:
        self._arrived |= {node.content: path for path, node in found.items() if node.kind == "file"}

    def _finish(self) -> None:
        """End both sides; nothing that ever stood in DEST is lost, nothing is left in staging."""
        for running in (self.pair.client, self.pair.server):
            if running.alive:
                code, _ = running.terminate()
                assert code == 0 or self._traced is not None, running.describe()
            assert "Traceback" not in running.errors, running.errors
            self._note_gave_way(running)
        if self._traced is not None and self._seen_s:
            self.struck.append(self._traced)
        own = self.pair.dest / ".twinfold"
        kept = {n.content for n in snapshot(own / "attic").values() if n.kind == "file"}
        kept |= {n.content for n in snapshot(self.pair.dest).values() if n.kind == "file"}
        lost = [self._arrived[content] for content in self._arrived.keys() - kept]
        assert len(lost) <= self._gave_way, f"neither in the tree nor in the attic: {lost}"
        assert snapshot(self.pair.dest) == snapshot(self.pair.source)
        if os.listdir(own / "staging"):
            # What a failed request had begun goes with the next start at the latest.
            self.pair.server_prefix = []
            self.pair.restart_server().terminate()
        left = os.listdir(own / "staging")
        assert not left, f"left in staging: {left}"

    def _describe(self) -> str:
        sides = [running.describe() for running in (self.pair.server, self.pair.client)]
        return f"still not in sync, {self.struck}: {sides}"


def snapshot_of_empty() -> tuple[str, bytes]:
    """Return what an empty file is known by: each file begins as one."""
    from blake3 import blake3

    return "file", blake3(b"").digest()


@contextmanager
def session(base: Path, case: Case) -> Iterator[Session]:
    """A session in a folder of its own, which is removed with all that runs in it."""
    base.mkdir()
    made = Session(base, case)
    try:
        yield made
    finally:
        try:
            made.pair.close()
        finally:
            remove(base)


def run_case(base: Path, case: Case) -> list[Site]:
    """Run a case in a new folder; return the sites that were reached.

    Raises:
        AssertionError: a promise was broken.
    """
    with session(base, case) as made:
        made.run()
        return made.struck


def count_sites(base: Path, side: str) -> dict[str, int]:
    """Run an unbroken session; return how often the busiest thread of a side makes each call."""
    with session(base, Case(Site(side, "", 0, COUNT), 0)) as made:
        made.run()
        return read_counts(base / "trace")
