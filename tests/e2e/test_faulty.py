"""A destination whose disk fails: nothing is acknowledged falsely, and it goes on by itself."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import pytest

from tests.e2e.faulty import failing
from tests.e2e.harness import LIMIT_S, Pair, run

pytestmark = pytest.mark.process

if sys.platform != "linux":
    pytest.skip("strace is for Linux", allow_module_level=True)

MIB = 1 << 20
RELIEF_LIMIT_S = 45.0
"""The 30 seconds that are promised, and as much again for a slow machine."""

WRITING = "mkdirat,renameat,renameat2,linkat,unlinkat,symlinkat,ftruncate,utimensat,pwrite64"

FAULTS = {
    "every sync fails": ("syncfs,fsync,fdatasync", "EIO"),
    "the index's log cannot be synced": ("fdatasync", "EIO"),
    "the file system is read-only": (WRITING, "EROFS"),
    "a quota is used up": ("pwrite64", "EDQUOT"),
    "writing fails": ("pwrite64", "EIO"),
    "no room for anything": (WRITING, "ENOSPC"),
}


def until(reached: Callable[[], bool], what: str) -> None:
    """Return as soon as something is so."""
    end = time.monotonic() + LIMIT_S
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails_for_a_while(pair: Pair, fault: str) -> None:
    """What is wrong is said at both ends, old content stays, and everything arrives afterwards."""
    calls, error = FAULTS[fault]
    old = os.urandom(300_000)
    (pair.source / "edited").write_bytes(old)
    (pair.source / "gone").write_bytes(b"gone")
    (pair.source / "big").write_bytes(os.urandom(9 * MIB))
    pair.start("--compress", "off")
    with failing(pair.server.process.pid, pair.base / "strace", calls, error):
        (pair.source / "edited").write_bytes(os.urandom(300_000))
        (pair.source / "gone").unlink()
        (pair.source / "new" / "deep").mkdir(parents=True)
        (pair.source / "new" / "deep" / "file").write_bytes(b"new")
        (pair.source / "another big").write_bytes(os.urandom(9 * MIB))
        until(lambda: "destination" in told_by_client(pair), "it is not told by the client")
        pair.server.expect("message", where=lambda e: "destination" in e["text"])
        assert (pair.dest / "edited").read_bytes() == old
    relieved_s = time.monotonic()
    pair.converge()
    assert time.monotonic() - relieved_s < RELIEF_LIMIT_S
    pair.settle()


def told_by_client(pair: Pair) -> str:
    """Return all that ``status`` says is wrong."""
    result = run("status", pair.source, "--json", state=pair.client_state)
    if result.code:
        return ""
    status = result.objects[0]
    return " ".join([status["detail"], *(entry["reason"] for entry in status["problem_list"])])
