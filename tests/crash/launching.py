"""How the sides of a session are started: fast, and with a trap before the calls of each."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import atexit
import functools
from pathlib import Path
from types import TracebackType
from typing import IO

from tests.crash.nursery import Newborn, Nursery
from tests.crash.site import SIDES
from tests.crash.trap import Trap
from tests.e2e.harness import Launch


@functools.cache
def _nursery() -> Nursery:
    """The one of this process."""
    nursery = Nursery()
    atexit.register(nursery.close)
    return nursery


class Launcher:
    """Starts both sides of one session; its block ends after they have.

    Attributes:
        traps: of each side, if they are to be trapped.
    """

    def __init__(self, *, trapped: bool) -> None:
        self.traps = {side: Trap() for side in SIDES} if trapped else {}

    def __enter__(self) -> Launcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for trap in self.traps.values():
            trap.close()

    def launch(self, side: str) -> Launch:
        """Return what starts a side."""
        trap = self.traps.get(side)

        def start(words: list[str | Path], env: dict[str, str], errors: IO[bytes]) -> Newborn:
            trapped = trap is not None
            born, listener = _nursery().start([*map(str, words)], env, errors, trapped=trapped)
            if trap is not None:
                trap.watch(born.pid, listener)
            return born

        return start
