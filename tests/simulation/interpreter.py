"""Time, threads, locks and randomness of the interpreter, replaced by simulated ones.

For a process of its own: nothing is put back. `prepare` has to come before the product is
imported, `install` before it runs.
"""

from __future__ import annotations

import concurrent.futures
import concurrent.futures.thread
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

from tests.simulation.schedule import Scheduler, Thread

_scheduler: Scheduler | None = None

_TOUCHING = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.symlink"}
_TOUCHING |= {"os.truncate", "os.utime", "os.chmod", "os.listdir", "os.scandir"}


def current() -> Scheduler:
    """Return the scheduler of this process."""
    if _scheduler is None:
        raise AssertionError("there is no simulation yet")
    return _scheduler


class Lock:
    """In place of `threading.Lock`: who has to wait hands over."""

    def __init__(self) -> None:
        self._is_held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._is_held:
            self._is_held = True
            return True
        if not blocking or timeout == 0:
            return False
        scheduler = current()
        due_ns = None if timeout < 0 else scheduler.now_ns + int(timeout * 1e9)
        while self._is_held:
            if due_ns is not None and scheduler.now_ns >= due_ns:
                return False
            scheduler.block(due_ns, lambda: not self._is_held)
        self._is_held = True
        return True

    def release(self) -> None:
        if not self._is_held:
            raise RuntimeError("release unlocked lock")
        self._is_held = False

    def locked(self) -> bool:
        return self._is_held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class RecursiveLock:
    """In place of `threading.RLock`."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._owner: int | None = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me = threading.get_ident()
        if self._owner != me:
            if not self._lock.acquire(blocking, timeout):
                return False
            self._owner = me
        self._count += 1
        return True

    def release(self) -> None:
        if self._owner != threading.get_ident():
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._owner = None
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return self._owner == threading.get_ident()

    def _release_save(self) -> int:
        count, self._count, self._owner = self._count, 0, None
        self._lock.release()
        return count

    def _acquire_restore(self, count: int) -> None:
        self._lock.acquire()
        self._count, self._owner = count, threading.get_ident()


class Pool(Executor):
    """In place of `ThreadPoolExecutor`: when a job begins is a choice."""

    def __init__(self, max_workers: int | None = None, thread_name_prefix: str = "pool") -> None:
        self._most = max_workers or 8
        self._name = thread_name_prefix
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._workers: list[Thread] = []
        self._idle = 0
        self._is_closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._is_closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[Any] = Future()
        self._jobs.append((future, lambda: fn(*args, **kwargs)))
        if self._idle < len(self._jobs) and len(self._workers) < self._most:
            scheduler = current()
            process = scheduler.current.process
            self._workers.append(scheduler.spawn(self._name, process, self._work))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._is_closed = True
        while cancel_futures and self._jobs:
            self._jobs.popleft()[0].cancel()
        if wait:
            current().block(None, lambda: all(worker.has_ended for worker in self._workers))

    def _work(self) -> None:
        scheduler = current()
        while True:
            self._idle += 1
            while not self._jobs and not self._is_closed:
                scheduler.block(None, lambda: bool(self._jobs) or self._is_closed)
            self._idle -= 1
            if not self._jobs:
                return
            future, work = self._jobs.popleft()
            scheduler.stall()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001
                future.set_exception(error)
            else:
                future.set_result(result)
            del future, work


def prepare() -> None:
    """Replace what the product's modules take when they are imported."""
    concurrent.futures.thread.ThreadPoolExecutor = Pool  # type: ignore[misc,assignment]
    concurrent.futures.ThreadPoolExecutor = Pool  # type: ignore[misc,assignment]


def install(scheduler: Scheduler, seed: int, folder: str) -> None:
    """Have everything follow the scheduler from now on.

    Args:
        scheduler: has the time and the turn.
        seed: what is random comes from it.
        folder: whoever touches a file below it meets a choice point.
    """
    global _scheduler
    _scheduler = scheduler
    began_ns = scheduler.now_ns - 1_000_000_000_000
    patched: Any = time
    patched.time_ns = lambda: scheduler.now_ns
    patched.time = lambda: scheduler.now_ns / 1e9
    patched.monotonic_ns = patched.perf_counter_ns = lambda: scheduler.now_ns - began_ns
    patched.monotonic = patched.perf_counter = lambda: (scheduler.now_ns - began_ns) / 1e9
    patched.sleep = scheduler.sleep
    patched = threading
    patched.Lock = patched._allocate_lock = Lock
    patched.RLock = RecursiveLock
    _seed_randomness(seed)
    _seed_sqlite(seed)
    # One of the same length each time: some files hold it, or are named after it.
    patched = os
    patched.getpid = lambda: 1
    sys.addaudithook(_hook(scheduler, folder))


def _seed_randomness(seed: int) -> None:
    source = random.Random(f"bytes {seed}")
    random.seed(f"random {seed}")
    patched: Any = os
    patched.urandom = source.randbytes
    patched = random
    patched._urandom = source.randbytes


def _seed_sqlite(seed: int) -> None:
    """Have SQLite's own random numbers (the salts of its log) be the same each time."""
    import ctypes
    import ctypes.util

    library = ctypes.CDLL(ctypes.util.find_library("sqlite3") or "libsqlite3.so.0")
    seed_generator = 28
    library.sqlite3_test_control(seed_generator, ctypes.c_int((seed & 0x7FFF_FFFF) or 1), None)


def _hook(scheduler: Scheduler, folder: str) -> Callable[[str, tuple[Any, ...]], None]:
    prefix, prefix_bytes = folder, os.fsencode(folder)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in _TOUCHING:
            return
        path = args[0]
        if isinstance(path, bytes):
            ours = path[:1] != b"/" or path.startswith(prefix_bytes)
        else:
            ours = isinstance(path, int) or str(path).startswith(prefix)
        if ours and scheduler.current is not scheduler.main:
            scheduler.stall()

    return hook
