"""A server and a live client, real processes both, that many examples use one after another."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import itertools
import os
import time
from collections import Counter
from pathlib import Path

from tests.e2e.harness import LIMIT_S, Pair, Running
from tests.e2e.trees import Tree, differences, snapshot
from tests.model.folder import IGNORED, ModelledFolder, compare_with_model, without_ignored
from twinfold import wiring
from twinfold.client.events import Status
from twinfold.core.paths import is_within
from twinfold.errors import TwinfoldError

_IGNORE = f"*{os.fsdecode(IGNORED)}"


class Hall:
    """One pair at work; a new one after an example that went wrong."""

    def __init__(self, base: Path, counts: Counter[str]) -> None:
        self._base = base
        self.counts = counts
        self._numbers = itertools.count()
        self._pair: Pair | None = None

    @property
    def pair(self) -> Pair:
        """The pair at work."""
        if self._pair is None:
            self._pair = Pair(self._base / f"pair-{next(self._numbers)}")
            self._pair.start_server()
            self.start_client()
        return self._pair

    def start_client(self) -> None:
        """Start the live client."""
        assert self._pair is not None
        self._pair.start_client("--ignore", _IGNORE)

    def folder(self) -> ModelledFolder:
        """Return a new folder in the source."""
        return ModelledFolder(self.pair.source / f"run-{next(self._numbers)}", self.counts)

    def end_client(self, *, kill: bool) -> None:
        """End the client and start it again."""
        self.counts["kills" if kill else "restarts"] += 1
        self._end(self.pair.client, kill)
        self.start_client()

    def end_server(self, *, kill: bool) -> None:
        """End the server and start it again on its port."""
        self.counts["kills" if kill else "restarts"] += 1
        self._end(self.pair.server, kill)
        self.pair.restart_server()

    def _end(self, running: Running, kill: bool) -> None:
        if kill:
            running.kill()
        else:
            assert running.terminate()[0] == 0, running.describe()

    def wait(self) -> Status:
        """Do what ``twinfold wait`` does, when the client answers."""
        self.counts["waits"] += 1
        pair = self.pair
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            try:
                return wiring.wait(pair.client_state, os.fsencode(pair.source), LIMIT_S)
            except TwinfoldError:
                # It was started just now.
                assert pair.client.alive, pair.client.describe()
                assert time.monotonic() < deadline_s, pair.client.describe()
                time.sleep(0.02)

    def check(self, folder: ModelledFolder) -> None:
        """Check after a `wait` that all three say the same."""
        status = self.wait()
        assert status.in_sync, self._told([str(status)], folder)
        source, dest = self._trees(folder)
        self.counts["comparisons"] += 1
        found = differences(without_ignored(source), dest)
        found += compare_with_model(dest, folder.expected())
        assert not found, self._told(found, folder)
        below = os.fsencode(folder.root.name) + b"/"
        told = {p.path.removeprefix(below) for p in status.problems if p.path.startswith(below)}
        assert told == folder.problems(), self._told([f"{told} was told"], folder)

    def converge(self, folder: ModelledFolder) -> None:
        """Return when the client has brought everything by itself, by watching alone."""
        self.counts["convergences by watching alone"] += 1
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            mark = self.pair.client.mark()
            source, dest = self._trees(folder)
            found = differences(without_ignored(source), dest)
            if not found:
                return
            left_s = deadline_s - time.monotonic()
            assert left_s > 0, self._told(found, folder)
            try:
                self.pair.client.expect("in_sync", since=mark, timeout_s=min(left_s, 2.0))
            except AssertionError:
                assert self.pair.client.alive, self._told(found, folder)

    def _trees(self, folder: ModelledFolder) -> tuple[Tree, Tree]:
        """Return what there is in the folder at both ends."""
        source, dest = (_look(top, folder.root.name) for top in (self.pair.source, self.pair.dest))
        return source, dest

    def _told(self, found: list[str], folder: ModelledFolder) -> str:
        pair = self.pair
        lines = [*found, "What was done:", *folder.log]
        lines += ["client: " + pair.client.describe(), "server: " + pair.server.describe()]
        return "\n".join(lines)

    def give_up(self) -> None:
        """The next example gets another pair; this one has shown what it had to show."""
        pair, self._pair = self._pair, None
        if pair is not None:
            pair.close()


def _look(top: Path, name: str) -> Tree:
    below = os.fsencode(name)
    try:
        # All of it: only at its top is the server's own folder left out.
        found = snapshot(top)
    except (FileNotFoundError, NotADirectoryError):
        # It changes just now.
        return {}
    return {p[len(below) + 1 :]: n for p, n in found.items() if is_within(p, below)}
