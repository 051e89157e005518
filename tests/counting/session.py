"""What a sync has the system and SQLite do, on each side."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import contextlib
import json
import mmap
import random
import resource
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, NamedTuple

from tests.e2e.faulty import traced
from tests.e2e.harness import LIMIT_S, Pair

FILES_A_DIRECTORY = 20
SMALL_FILE_BYTES = 1_000

_COUNTED = str(Path(__file__).with_name("counted.py"))
_STRACE = ("-c", "-U", "name,calls")

_SOCKETS = """
    accept4 bind connect epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait
    getpeername getsockname getsockopt listen poll ppoll recvfrom recvmsg select sendmsg
    sendto setsockopt shutdown socket socketpair
"""
_SOCKET_CALLS = frozenset(_SOCKETS.split())
_OTHERS = """
    brk clock_nanosleep clone clone3 exit exit_group futex getpid getrandom getrusage gettid
    kill madvise mmap mprotect mremap munmap restart_syscall rseq rt_sigaction rt_sigprocmask
    rt_sigreturn sched_yield set_robust_list sigaltstack tgkill
"""
_OTHER_CALLS = frozenset(_OTHERS.split())
"""Memory, threads and signals: how often these come depends on which thread is faster."""

Counts = Counter[str]


class Side(NamedTuple):
    """What a side did.

    Attributes:
        calls: system calls by name; empty without strace.
        statements: SQL statements by their text.
        copied_bytes: copied in memory, in pieces of 1 KiB and more; 0 if that was not counted.
    """

    calls: Counts
    statements: Counts
    copied_bytes: int

    def minus(self, other: Side) -> Side:
        """Return what it did more than another time."""
        return Side(
            _difference(self.calls, other.calls),
            _difference(self.statements, other.statements),
            self.copied_bytes - other.copied_bytes,
        )

    @property
    def file_calls(self) -> int:
        """How many calls had to do with files, those of SQLite among them."""
        return sum(
            count
            for name, count in self.calls.items()
            if name not in _SOCKET_CALLS and name not in _OTHER_CALLS
        )

    @property
    def socket_calls(self) -> int:
        """How many calls had to do with sockets, waiting for them among these."""
        return sum(count for name, count in self.calls.items() if name in _SOCKET_CALLS)


def _difference(one: Counts, other: Counts) -> Counts:
    return Counter({name: one[name] - other[name] for name in one | other})


class Session(NamedTuple):
    """A server with an empty destination and two clients that run once, one after the other.

    Attributes:
        server: what the server did for both.
        first: what the client did that found all new.
        second: what the client did that found nothing changed, or some files edited.
    """

    server: Side
    first: Side
    second: Side


def run_session(
    base: Path,
    *,
    files: int = 0,
    edited: int = 0,
    big_bytes: int = 0,
    by_strace: bool = False,
    copies: Path | None = None,
) -> Session:
    """Synchronise so many small files, and a big one if it has bytes; edit some; do it again.

    Args:
        base: an empty folder.
        files: how many small files there are.
        edited: how many of them get other content in between.
        big_bytes: the size of the big file.
        by_strace: count system calls.
        copies: the library that counts copies (see `build_copies`), if they are to be counted.
    """
    pair = Pair(base)
    make_small_files(pair.source, range(files), seed=0)
    if big_bytes:
        (pair.source / "big").write_bytes(random.Random(7).randbytes(big_bytes))
    pair.launches["server"] = _counting(base, "server", copies)
    try:
        server = pair.start_server()
        tracing: AbstractContextManager[None] = nullcontext()
        if by_strace:
            tracing = traced(server.process.pid, base / "server.calls", "all", *_STRACE)
        with _in_memory(pair.source), tracing:
            for name in ("first", "second"):
                pair.launches["client"] = _counting(base, name, copies, by_strace=by_strace)
                client = pair.start_client("--once", "--compress", "off")
                assert client.wait_exit(LIMIT_S) == 0, client.describe()
                pair.assert_equal()
                make_small_files(pair.source, range(edited), seed=1)
            assert server.terminate()[0] == 0, server.describe()
    finally:
        pair.close()
    return Session(_read(base, "server"), _read(base, "first"), _read(base, "second"))


def make_small_files(folder: Path, numbers: Iterable[int], *, seed: int) -> None:
    """Write files of 1,000 bytes, some in each directory, no two with the same content."""
    for number in numbers:
        directory = folder / f"directory-{number // FILES_A_DIRECTORY}"
        directory.mkdir(exist_ok=True)
        content = random.Random(f"{number} {seed}").randbytes(SMALL_FILE_BYTES)
        (directory / f"file-{number}").write_bytes(content)


@contextlib.contextmanager
def _in_memory(folder: Path) -> Iterator[None]:
    """Keep the files of a folder in memory: one that is not costs calls of its own."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as held:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    found = held.enter_context(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                    # The system has it at hand from the first byte that is read.
                    sum(found[:: mmap.PAGESIZE])
        yield


class _Counting:
    """Starts a side such that it counts its statements."""

    def __init__(self, prefix: Iterable[str], copies: Path | None, copies_file: Path) -> None:
        self._prefix = list(prefix)
        self._more: dict[str, str] = {}
        if copies is not None:
            self._more = {"LD_PRELOAD": str(copies), "COPIES_FILE": str(copies_file)}

    def __call__(
        self, words: list[str | Path], environment: dict[str, str], errors: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._prefix, *map(str, words)],
            env=environment | self._more,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )


def _counting(base: Path, role: str, copies: Path | None, *, by_strace: bool = False) -> _Counting:
    command = [sys.executable, "-P", _COUNTED, str(base / f"{role}.statements")]
    if by_strace:
        command = ["strace", "-f", "-o", str(base / f"{role}.calls"), *_STRACE, *command]
    return _Counting(command, copies, base / f"{role}.copies")


def build_copies(folder: Path) -> Path:
    """Return the library that counts copies, built into a folder.

    Raises:
        FileNotFoundError: there is no C compiler.
    """
    library = folder / "copies.so"
    source = Path(__file__).with_name("copies.c")
    words = ["cc", "-O2", "-shared", "-fPIC", "-fno-builtin", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*words, "-o", str(library), str(source), "-ldl"], check=True)
    return library


def _read(base: Path, role: str) -> Side:
    statements = Counter(json.loads((base / f"{role}.statements").read_text("utf-8")))
    calls: Counts = Counter()
    if (summary := base / f"{role}.calls").exists():
        for line in summary.read_text("utf-8").splitlines():
            words = line.split()
            if len(words) == 2 and words[1].isdecimal() and words[0] != "total":
                calls[words[0]] = int(words[1])
    copies = base / f"{role}.copies"
    return Side(calls, statements, int(copies.read_text("utf-8")) if copies.exists() else 0)
