"""Folders with a server and a client at work on them."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Pair


def remove(folder: Path) -> None:
    """Remove a test's folder, its read-only directories too."""
    for directory, _, _ in os.walk(folder):
        os.chmod(directory, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """A source and a destination of the test's own; nothing is started yet."""
    made = Pair(tmp_path / "pair")
    yield made
    made.close()
    remove(tmp_path)


class Stage:
    """One live pair that many tests use one after the other, in a folder each."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._numbers = itertools.count()
        self._pair: Pair | None = None

    def next_name(self) -> str:
        """Return a name that no test has used."""
        return f"case-{next(self._numbers)}"

    def pair(self) -> Pair:
        """Return the pair at work; a new one if the last test has broken it."""
        if self._pair is None or not (self._pair.server.alive and self._pair.client.alive):
            self.close()
            self._pair = Pair(self._base / f"pair-{next(self._numbers)}")
            self._pair.start()
        return self._pair

    def close(self) -> None:
        """End the pair."""
        last, self._pair = self._pair, None
        if last is not None:
            last.close()


class Live:
    """A folder of a test's own in a live pair."""

    def __init__(self, pair: Pair, name: str) -> None:
        self.pair = pair
        self.name = name
        self.folder = pair.source / name
        self.mirror = pair.dest / name
        self.folder.mkdir()

    def converge(self) -> None:
        """Return when the client has made this folder equal by itself."""
        self.pair.converge(self.name)


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The live pair of this run of tests."""
    base = tmp_path_factory.mktemp("stage")
    made = Stage(base)
    yield made
    made.close()
    remove(base)


@pytest.fixture
def live(stage: Stage) -> Live:
    """A new folder in a pair that is live and in sync."""
    return Live(stage.pair(), stage.next_name())
