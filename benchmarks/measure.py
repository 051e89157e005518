"""Time, CPU and memory of processes, from the kernel's own counters."""

from __future__ import annotations

import compileall
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

import twinfold

SAMPLE_EVERY_S = 0.02


class Cpu(msgspec.Struct, frozen=True):
    """CPU seconds, in a program itself and in the system on its behalf."""

    user_s: float = 0.0
    system_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Both together."""
        return self.user_s + self.system_s

    def since(self, before: Cpu) -> Cpu:
        """Return what was used after an earlier reading."""
        return Cpu(self.user_s - before.user_s, self.system_s - before.system_s)


class Sample(msgspec.Struct):
    """One timed run, and what either role used, with the processes that it started."""

    seconds: float
    client: Cpu = Cpu()
    server: Cpu = Cpu()


def run_timed(words: Sequence[str], env: dict[str, str], log: Path) -> tuple[float, Cpu]:
    """Run a command to its end; return the seconds from start to exit, and what it used."""
    if sys.platform == "win32":
        raise NotImplementedError
    with log.open("ab") as output:
        begin = time.perf_counter()
        process = subprocess.Popen(words, env=env, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"exit code {process.returncode} of {words}: see {log}")
    return seconds, Cpu(usage.ru_utime, usage.ru_stime)


def compile_program() -> None:
    """Compile twinfold's sources, as those of an installed program are.

    Where the environment keeps Python from writing that down, each start would do it again.
    """
    compileall.compile_dir(Path(twinfold.__file__).parent, quiet=1)


def used(pid: int) -> Cpu:
    """Return what a process has used, with those of its children that have ended."""
    if sys.platform == "win32":
        raise NotImplementedError
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    user, system, children_user, children_system = map(int, fields[11:15])
    ticks_a_s = os.sysconf("SC_CLK_TCK")
    return Cpu((user + children_user) / ticks_a_s, (system + children_system) / ticks_a_s)


def children(pid: int) -> list[int]:
    """Return the running children of a process."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text("utf-8").split())
        except OSError:
            continue
    return found


def wait_childless(pid: int, timeout_s: float = 5.0) -> None:
    """Return once all children of a process have ended, so that its CPU time is complete."""
    end = time.monotonic() + timeout_s
    while children(pid) and time.monotonic() < end:
        time.sleep(SAMPLE_EVERY_S)


def descendants(pids: Iterable[int]) -> list[int]:
    """Return these processes and all that run below them."""
    found = list(pids)
    for pid in found:
        found += children(pid)
    return found


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process ever had resident, 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("utf-8")
    except OSError:
        return 0
    match = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


class PeakMemory:
    """Watches two roles while a block runs: the peaks of all of their processes, added up.

    What ran before and is not the server, another contender's server say, is neither.
    """

    def __init__(self, server_pid: int | None) -> None:
        self._servers = [] if server_pid is None else [server_pid]
        self._peaks: dict[str, dict[int, int]] = {"client": {}, "server": {}}
        self._ended = threading.Event()
        self._others: frozenset[int] = frozenset()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> PeakMemory:
        self._others = frozenset(descendants(children(os.getpid())))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def bytes_of(self, role: str) -> int:
        """Return the peak of ``client`` or ``server``."""
        return sum(self._peaks[role].values())

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            server = descendants(self._servers)
            everyone = descendants(children(os.getpid()))
            self._note("server", server)
            self._note("client", set(everyone).difference(server, self._others))

    def _note(self, role: str, pids: Iterable[int]) -> None:
        peaks = self._peaks[role]
        for pid in pids:
            # The latest is the peak, and not that of this program before it became another.
            peaks[pid] = peak_bytes(pid) or peaks.get(pid, 0)
