"""System calls of a running process that fail, by strace, until the block ends."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.harness import LIMIT_S


@contextmanager
def failing(pid: int, log: Path, calls: str, error: str, *filters: str) -> Iterator[None]:
    """Let ``calls`` of a process and all its threads fail with ``error``.

    Skips the test where strace is missing or may not be used.
    """
    with injecting(pid, log, calls, f"error={error}", *filters):
        yield


@contextmanager
def lying(pid: int, log: Path, calls: str) -> Iterator[None]:
    """Let ``calls`` of a process and all its threads do nothing and say that it was done.

    Skips the test where strace is missing or may not be used.
    """
    with injecting(pid, log, calls, "retval=0"):
        yield


@contextmanager
def injecting(pid: int, log: Path, calls: str, fault: str, *filters: str) -> Iterator[None]:
    """Let something else happen instead of ``calls``, in the words of strace's ``inject``."""
    with traced(pid, log, calls, "-e", f"inject={calls}:{fault}", *filters):
        yield


@contextmanager
def traced(pid: int, log: Path, calls: str, *more: str) -> Iterator[None]:
    """Write ``calls`` of a process and all its threads to a log, in their order.

    Skips the test where strace is missing or may not be used.
    """
    if shutil.which("strace") is None:
        pytest.skip("there is no strace")
    words = ["strace", "-f", "-p", str(pid), "-o", str(log), "-e", f"trace={calls}", *more]
    tracer = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    attached = threading.Event()
    told: list[str] = []

    def read() -> None:
        assert tracer.stderr is not None
        for line in tracer.stderr:
            told.append(line)
            attached.set()
        attached.set()

    reading = threading.Thread(target=read)
    reading.start()
    try:
        assert attached.wait(LIMIT_S)
        if tracer.poll() is not None or "attached" not in told[0]:
            pytest.skip(f"strace may not be used here: {told}")
        yield
    finally:
        if tracer.poll() is None:
            tracer.send_signal(signal.SIGINT)
        tracer.wait(LIMIT_S)
        reading.join(LIMIT_S)
        assert tracer.stderr is not None
        tracer.stderr.close()
