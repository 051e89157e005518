"""Threads of simulated processes, one of which runs at a time; a seed decides which, and the time.

Threads are real, but each waits at its gate until the one that runs hands over. It does so where
it would wait, and at other *choice points*. When none can go on, the clock jumps to the earliest
time that one waits for.
"""

from __future__ import annotations

import random
import sys
import threading
import traceback
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable
from hashlib import blake2b
from mmap import mmap

_STALL_CHANCE = 0.01
_LONGEST_STALL_NS = 200_000_000
_LONGEST_STEP_NS = 40_000
_MOST_STEPS = 1_000_000


class StuckError(Exception):
    """The simulated system does not come to an end."""


class Process:
    """A program that can be killed: its threads then never run again."""

    def __init__(self, name: str, is_doomed: Callable[[], bool] = lambda: False) -> None:
        self.name = name
        self.is_doomed = is_doomed
        self.is_alive = True
        self.error: BaseException | None = None
        self.tracebacks: list[str] = []


class Thread:
    """A thread of a process: it can run if it waits for nothing."""

    def __init__(self, number: int, name: str, process: Process) -> None:
        self.number = number
        self.name = name
        self.process = process
        self.gate = allocate_lock()
        self.gate.acquire()
        self.is_waiting = False
        self.is_woken = False
        self.has_ended = False
        self.due_ns: int | None = None
        self.is_ready: Callable[[], bool] | None = None

    def can_run(self, now_ns: int) -> bool:
        """Tell whether it is this thread's turn as soon as it is chosen."""
        if not self.is_waiting or self.is_woken:
            return True
        if self.due_ns is not None and self.due_ns <= now_ns:
            return True
        return self.is_ready is not None and self.is_ready()


class Scheduler:
    """Hands the one turn from thread to thread.

    Args:
        rng: decides.
        clock: the time in ns since 1970 is kept in its first 8 bytes, for other processes as well.
        keeps_trace: remember what happened as text, too, not only its digest.

    Attributes:
        now_ns: the time since 1970.
        main: the thread that made this one; `StuckError` is raised in it when nothing goes on.
        trace: what happened, if it is kept.
        steps: how often the turn could have gone to another thread.
    """

    def __init__(self, rng: random.Random, clock: mmap, keeps_trace: bool) -> None:
        self.rng = rng
        self.trace: list[str] = []
        self._keeps_trace = keeps_trace
        self._digest = blake2b(digest_size=16)
        self._clock = clock
        self._began_ns = self.now_ns = int.from_bytes(clock[:8], "little")
        self._threads: list[Thread] = []
        self._by_ident: dict[int, Thread] = {}
        self._count = 0
        self.steps = 0
        self.main = self._add("main", Process("user"))
        self._by_ident[threading.get_ident()] = self.main
        self.failure: str | None = None

    @property
    def current(self) -> Thread:
        """The thread that runs now."""
        return self._by_ident[threading.get_ident()]

    @property
    def elapsed_s(self) -> float:
        """Simulated seconds since the beginning."""
        return (self.now_ns - self._began_ns) / 1e9

    @property
    def digest(self) -> str:
        """What tells this run from all others."""
        return self._digest.hexdigest()

    def note(self, *what: object) -> None:
        """Put something on the trace."""
        line = f"{self.elapsed_s:.6f} {' '.join(map(str, what))}"
        self._digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
        if self._keeps_trace:
            self.trace.append(line)

    def spawn(self, name: str, process: Process, work: Callable[[], object]) -> Thread:
        """Start a thread; it runs when it is chosen."""
        thread = self._add(name, process)

        def run() -> None:
            # What `threading.Thread` does for whoever measures or debugs.
            sys.settrace(threading.gettrace())
            self._by_ident[threading.get_ident()] = thread
            thread.gate.acquire()
            try:
                work()
            except BaseException as error:  # noqa: BLE001
                process.error = process.error or error
                self.note(process.name, name, "raised", type(error).__name__, error)
                if self._keeps_trace:
                    self.trace += traceback.format_exc().splitlines()
            thread.has_ended = True
            if thread in self._threads:
                self._threads.remove(thread)
            self._hand_over(thread)

        start_new_thread(run, ())
        return thread

    def switch(self) -> None:
        """Be a choice point: another thread may run first."""
        self._pass(None, None, waits=False)

    def stall(self) -> None:
        """Be a choice point at which this thread may also rest for a while."""
        if self.rng.random() < _STALL_CHANCE:
            self.sleep(self.rng.randrange(_LONGEST_STALL_NS) / 1e9)
        else:
            self.switch()

    def block(self, due_ns: int | None, is_ready: Callable[[], bool] | None = None) -> None:
        """Wait until woken, ``is_ready``, or the time is up."""
        self._pass(due_ns, is_ready, waits=True)

    def sleep(self, duration_s: float) -> None:
        """Wait for a simulated time."""
        due_ns = self.now_ns + max(0, int(duration_s * 1e9))
        while self.now_ns < due_ns:
            self.block(due_ns)

    def wake(self, thread: Thread) -> None:
        """Have a thread go on that waits, or the next time that it would."""
        thread.is_woken = True

    def kill(self, process: Process) -> None:
        """End a process here and now, whatever it does."""
        process.is_alive = False
        self._threads = [thread for thread in self._threads if thread.process is not process]

    def _add(self, name: str, process: Process) -> Thread:
        self._count += 1
        thread = Thread(self._count, name, process)
        self._threads.append(thread)
        return thread

    def _pass(
        self, due_ns: int | None, is_ready: Callable[[], bool] | None, *, waits: bool
    ) -> None:
        thread = self.current
        thread.is_waiting, thread.due_ns, thread.is_ready = waits, due_ns, is_ready
        self._hand_over(thread)
        thread.is_waiting = False
        if waits:
            thread.is_woken = False
        if thread is self.main and self.failure is not None:
            raise StuckError(self.failure)

    def _hand_over(self, thread: Thread) -> None:
        self.steps += 1
        self._advance(self.now_ns + self.rng.randrange(_LONGEST_STEP_NS))
        chosen = self._choose()
        if chosen is thread:
            return
        self._digest.update(b"%d " % chosen.number)
        chosen.gate.release()
        if not thread.has_ended:
            thread.gate.acquire()

    def _choose(self) -> Thread:
        for process in {thread.process.name: thread.process for thread in self._threads}.values():
            if process.is_alive and process.is_doomed():
                self.kill(process)
                self.note(process.name, "is gone")
        if self.steps > _MOST_STEPS:
            self.failure = f"{_MOST_STEPS} steps are not enough"
            return self.main
        while True:
            ready = [thread for thread in self._threads if thread.can_run(self.now_ns)]
            if ready:
                return ready[self.rng.randrange(len(ready))]
            times = [thread.due_ns for thread in self._threads if thread.due_ns is not None]
            if not times:
                self.failure = "all wait for ever"
                return self.main
            self._advance(max(self.now_ns, min(times)))

    def _advance(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self._clock[:8] = now_ns.to_bytes(8, "little")
