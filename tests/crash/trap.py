"""Stands before every call of one side that may change a disk: counts, kills, refuses."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import errno
import os
import signal
import threading
import time
from collections import Counter

from tests.crash.filter import answer, receive
from tests.crash.site import KILL, Site


class Trap:
    """One side of a session, over all the processes that it is one after the other.

    Attributes:
        struck: the site that broke it last, until it is told to wait for another one.
        struck_s: when that was.
    """

    def __init__(self) -> None:
        self.struck: Site | None = None
        self.struck_s = 0.0
        self._site: Site | None = None
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def expect(self, site: Site | None) -> tuple[Counter[str], Site | None]:
        """Count from anew, and wait for a site; return what was counted and struck until now."""
        with self._lock:
            before = self._counts, self.struck
            self._counts, self._site, self.struck = Counter(), site, None
        return before

    def watch(self, pid: int, listener: int) -> None:
        """Answer the calls of a process until it has ended."""
        thread = threading.Thread(target=self._watch, args=(pid, listener), daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """Return when all processes have ended."""
        for thread in self._threads:
            thread.join()

    def _watch(self, pid: int, listener: int) -> None:
        try:
            while (asked := receive(listener)) is not None:
                fault = self._fault(asked.call)
                if fault == KILL:
                    os.kill(pid, signal.SIGKILL)
                else:
                    answer(listener, asked, getattr(errno, fault) if fault else 0)
        finally:
            os.close(listener)

    def _fault(self, call: str) -> str:
        """Count a call; return what is to befall it."""
        if not call:
            return ""
        with self._lock:
            self._counts[call] += 1
            site = self._site
            if site is None or site.call != call:
                return ""
            over = self._counts[call] - site.when
            if over < 0 or (over and not site.lasting) or (over and site.fault == KILL):
                return ""
            if self.struck is None:
                self.struck, self.struck_s = site, time.monotonic()
            return site.fault
