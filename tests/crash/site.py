"""Where a side is broken: at the n-th system call of a kind, by a kill or by an error."""

from __future__ import annotations

import collections
import functools
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

KILL = "KILL"
COUNT = "COUNT"
SIDES = ("server", "client")

KILL_CALLS = [
    "chmod",
    "copy_file_range",
    "fallocate",
    "fchmod",
    "fchmodat",
    "fdatasync",
    "flock",
    "fsync",
    "ftruncate",
    "ioctl",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "openat",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "symlink",
    "symlinkat",
    "syncfs",
    "unlink",
    "unlinkat",
    "utimensat",
    "write",
]
"""What changes a disk or makes it durable, and ``openat`` that may make a file."""

_USED_BY_PYTHON = {"flock", "ioctl", "openat"}
ERROR_CALLS = [call for call in KILL_CALLS if call not in _USED_BY_PYTHON]
"""Those that the interpreter does not need itself in order to start."""

ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EACCES", "EMFILE")
_NO_ROOM = ("EIO", "ENOSPC", "EDQUOT")
_SYNCS = ("fdatasync", "fsync", "syncfs")


class Site(NamedTuple):
    """A place in a side's work. strace counts the calls of each thread for itself.

    Attributes:
        side: "server" or "client".
        call: the system call.
        when: 1 is the first of a thread.
        fault: "KILL" ends the process before the call, otherwise the call fails with this error.
        lasting: all later calls of the kind fail as well, until the side is started again.
    """

    side: str
    call: str
    when: int
    fault: str = KILL
    lasting: bool = False

    @property
    def words(self) -> str:
        """The site as arguments of ``python -m tests.crash``."""
        when = f"{self.when}{'+' if self.lasting else ''}"
        return f"--side {self.side} --call {self.call} --when {when} --fault {self.fault}"

    def prefix(self, log: Path) -> list[str]:
        """Return the words before a command that break it here, or only record its calls."""
        if self.fault == COUNT:
            return _strace(log, KILL_CALLS)
        how = f"signal={KILL}" if self.fault == KILL else f"error={self.fault}"
        when = f"{self.when}{'+' if self.lasting else ''}"
        words = _strace(log, [self.call])
        if self.fault == KILL:
            # strace 6.1 injects no signal where seccomp tells it of the calls.
            words.remove("--seccomp-bpf")
        return [*words, "-e", f"inject={self.call}:{how}:when={when}"]


def errors_of(call: str) -> tuple[str, ...]:
    """Return the errors that a call may well give."""
    return _NO_ROOM if call in (*_SYNCS, "write", "pwrite64", "ftruncate") else ERRORS


def _strace(log: Path, calls: list[str]) -> list[str]:
    # -D: the command is the child, so that its end and its exit code are seen as they are.
    words = ["strace", "-f", "-D", "--seccomp-bpf", "-o", str(log), "-e", "signal=none"]
    return [*words, "-e", "trace=" + ",".join(calls)]


def read_counts(log: Path) -> dict[str, int]:
    """Return for each call how many of it the busiest thread made."""
    counts: dict[tuple[str, str], int] = collections.Counter()
    for line in log.read_text("utf-8", "replace").splitlines():
        if match := re.match(r"(\d+)\s+(\w+)\(", line):
            counts[match[2], match[1]] += 1
    most: dict[str, int] = {}
    for (call, _), count in counts.items():
        most[call] = max(count, most.get(call, 0))
    return most


@functools.cache
def why_not() -> str:
    """Return why strace cannot be used here, empty if it can."""
    if shutil.which("strace") is None:
        return "there is no strace"
    words = [*_strace(Path("/dev/null"), ["openat"]), "true"]
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    return f"strace may not be used here: {tried.stderr.strip()}" if tried.returncode else ""
