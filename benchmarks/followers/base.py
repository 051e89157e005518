"""What all programs that follow a source have in common."""

from __future__ import annotations

import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import descendants, peak_bytes, used
from tests.e2e.harness import environment
from tests.e2e.trees import Tree


class Follower(ABC):
    """A program that keeps a destination equal to a source while it runs.

    Attributes:
        name: how it is chosen and shown.
        program: the command that has to be installed.
        own_names: what it puts at the top of the source and the destination for itself.
    """

    name: str
    program: str
    version_words: tuple[str, ...] = ("--version",)
    own_names: tuple[bytes, ...] = ()

    def __init__(self, base: Path) -> None:
        self.base = base / f"{self.name}-live"
        self.dest = self.base / "dest"
        self.log = base / f"{self.name}-live.log"

    @abstractmethod
    @contextmanager
    def following(self, source: Path) -> Iterator[Roles]:
        """Run; give the processes once the destination is equal; end them."""

    def version(self) -> str:
        """Return what the program says of its version."""
        told = subprocess.run(
            [self.program, *self.version_words], capture_output=True, text=True, check=True
        )
        return (told.stdout or told.stderr).partition("\n")[0]

    def comparable(self, tree: Tree) -> Tree:
        """Return what of a tree this program is held to."""
        return tree

    def start(self, words: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        """Start one of the program's processes."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                list(map(str, words)), env=environment(self.base), stdout=log, stderr=log
            )

    @contextmanager
    def started(self, words: Sequence[str | Path]) -> Iterator[int]:
        """Run a process for as long as the block lasts; give its id."""
        process = self.start(words)
        try:
            yield process.pid
        finally:
            process.terminate()
            process.wait()


class Roles:
    """The processes of both sides, and what they have used.

    Args:
        pids: by role, ``client`` or ``server``.
    """

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds of each so far, with those of its children."""
        return {role: sum(used(pid).total_s for pid in pids) for role, pids in self._all()}

    def peaks_bytes(self) -> dict[str, int]:
        """Return the highest memory use of each so far, with that of its running children."""
        return {role: sum(map(peak_bytes, pids)) for role, pids in self._all()}

    def _all(self) -> list[tuple[str, list[int]]]:
        return [(role, descendants([pid])) for role, pid in self._pids.items()]

    def idle(self, duration_s: float) -> dict[str, float]:
        """Return the share of a core that each uses while nothing changes."""
        before = self.cpu_s()
        time.sleep(duration_s)
        return {role: (spent - before[role]) / duration_s for role, spent in self.cpu_s().items()}
