"""How many heaps the threads of a process have."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's setting")

THREADS = """
import ctypes, threading
from twinfold.system.heap import share_heap
if {shares}:
    assert share_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
threads = [threading.Thread(target=libc.malloc, args=(1 << 16,)) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.malloc_stats()
"""


@pytest.mark.parametrize("shares", [True, False])
def test_threads_share_one_heap(shares: bool) -> None:
    """Which they do not by themselves."""
    told = subprocess.run(
        [sys.executable, "-c", THREADS.format(shares=shares)],
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    assert (told.count("Arena ") == 1) is shares


FAULTS = """
import resource
from twinfold.system.heap import share_heap
if {shares}:
    assert share_heap()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill():
    kept = [b"x" * (1 << 16) for _ in range(64)]
    kept.append(b"x" * (1 << 22))
fill()
before = faults()
for _ in range(20):
    fill()
print(faults() - before)
"""


@pytest.mark.parametrize("shares", [True, False])
def test_what_was_freed_is_used_again(shares: bool) -> None:
    """Without another page from the system for each, as it is by itself."""
    program = FAULTS.format(shares=shares)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    assert (int(told) < 500) is shares
