"""What all programs that are compared have in common."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import Sample, run_timed, used, wait_childless
from tests.e2e.harness import environment
from tests.e2e.trees import Tree


class Contender(ABC):
    """A program that makes its destination equal to a source by one command.

    Attributes:
        name: how it is chosen and shown.
        program: the command that has to be installed.
        is_repeatable: a second run brings changes over; else it is for a first copy only.
    """

    name: str
    program: str
    is_repeatable = True
    version_word = "--version"

    def __init__(self, base: Path) -> None:
        self.base = base / self.name
        self.dest = self.base / "dest"
        self.log = base / f"{self.name}.log"

    @property
    def server_pid(self) -> int | None:
        """The server's process, if there is one."""
        return None

    @property
    def port(self) -> int | None:
        """Where the server listens, if there is one."""
        return None

    def open(self) -> None:
        """Make an empty destination, and start a server on it where there is one."""
        self.dest.mkdir(parents=True)

    def close(self) -> None:
        """End the server and put the destination out of the way."""
        self._put_away()

    @abstractmethod
    def words(self, source: Path, port: int | None) -> list[str]:
        """Return the command that syncs ``source``, through a port where there is a server."""

    def version(self) -> str:
        """Return what the program says of its version."""
        told = subprocess.run(
            [self.program, self.version_word], capture_output=True, text=True, check=True
        )
        return (told.stdout or told.stderr).partition("\n")[0]

    @contextmanager
    def made(self) -> Iterator[Path]:
        """Give the folder that is to be equal to the source."""
        yield self.dest

    def comparable(self, tree: Tree) -> Tree:
        """Return what of a tree this program is held to."""
        return tree

    def sync(self, source: Path, port: int | None = None) -> Sample:
        """Make the destination equal to the source and measure it."""
        words, server = self.words(source, port or self.port), self.server_pid
        if server is None:
            return Sample(*run_timed(words, self._environment(), self.log))
        before = used(server)
        seconds, client = run_timed(words, self._environment(), self.log)
        wait_childless(server)
        return Sample(seconds, client, used(server).since(before))

    def _environment(self) -> dict[str, str]:
        return environment(self.base / "client-state")

    def _put_away(self) -> None:
        """Keep what was made until the end of the benchmark.

        ext4 without a journal does not hand out an inode again for minutes after it was freed,
        and looks at each of them in turn: what is made after a big deletion takes many times
        as long.
        """
        number = len(list(self.base.parent.glob(f"{self.name}.ended-*")))
        self.base.rename(self.base.with_name(f"{self.name}.ended-{number}"))
