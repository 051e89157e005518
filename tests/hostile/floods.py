"""Floods of connections at a server while a client goes on syncing.

python -m tests.hostile.floods SEED ROUNDS
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import os
import random
import socket
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests.e2e.harness import Pair
from tests.e2e.wire import Wire
from tests.torture.outcome import Failure

CONNECTIONS = 500
FEW_DESCRIPTORS = 160
MOST_DESCRIPTORS = 400
MOST_GROWTH_BYTES = 128 << 20
_PAUSE_S = 0.01
_DATA_BYTES = 30_000


def _nothing(_token: str) -> bytes:
    return b""


def _half_a_head(_token: str) -> bytes:
    return b"GET /v1/hello HTTP/1.1\r\nHost: here\r\nX-Slow: "


def _stalled_stranger(_token: str) -> bytes:
    return b"POST /v1/folders/main/session HTTP/1.1\r\nHost: here\r\nContent-Length: 60000\r\n\r\nx"


def _stalled_body(token: str) -> bytes:
    return (
        b"POST /v1/folders/main/batches/1 HTTP/1.1\r\nHost: here\r\nTwinfold-Epoch: 1\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: 60000\r\n\r\nx" % token.encode()
    )


KINDS: dict[str, tuple[int, Callable[[str], bytes]]] = {
    "idle": (CONNECTIONS, _nothing),
    "slow heads": (CONNECTIONS, _half_a_head),
    "stalled bodies of strangers": (CONNECTIONS, _stalled_stranger),
    "stalled bodies": (60, _stalled_body),
}
"""For each kind of flood: how many connections, and what is sent first on each, given the token."""


class Flood:
    """Keeps so many connections open, opens those anew that are closed, and sends a byte at times.

    Attributes:
        opened: how many connections were opened so far.
    """

    def __init__(self, kind: str, port: int, token: str) -> None:
        self.opened = 0
        self._most, first = KINDS[kind]
        self._first = first(token)
        self._address = ("127.0.0.1", port)
        self._open: list[socket.socket] = []
        self._stop = threading.Event()
        self._full = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Flood:
        self._thread.start()
        assert self._full.wait(60)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_PAUSE_S):
            missing = self._most - len(self._open)
            for _ in range(min(missing, 50)):
                self._connect()
            if self.opened >= self._most:
                self._full.set()
            for connection in random.sample(self._open, min(20, len(self._open))):
                if not self._poke(connection):
                    self._open.remove(connection)
                    connection.close()
        for connection in self._open:
            connection.close()

    def _connect(self) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        with suppress(BlockingIOError):
            connection.connect(self._address)
        self._open.append(connection)
        self.opened += 1

    def _poke(self, connection: socket.socket) -> bool:
        """Send what is due; tell whether the connection still stands."""
        try:
            with suppress(BlockingIOError):
                if not connection.recv(4_096):
                    return False
            if self._first:
                connection.send(self._first if random.random() < 0.5 else b"x")
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def flood(kind: str, base: Path, *, few_descriptors: bool) -> Counter[str]:
    """Flood a server of its own; the client that is at work, and a new one, go on.

    Raises:
        AssertionError: a promise was broken.
    """
    pair = Pair(base)
    if few_descriptors:
        limit = f'ulimit -n {FEW_DESCRIPTORS}; exec "$@"'
        pair.server_prefix = ["sh", "-c", limit, "sh"]
    try:
        (pair.source / "first").write_bytes(b"first")
        pair.start()
        pid = pair.server.process.pid
        before_bytes = pair.server.peak_memory_bytes()
        with Flood(kind, pair.port, pair.token) as connections:
            for number in range(2):
                (pair.source / f"file-{number}").write_bytes(os.urandom(_DATA_BYTES))
                pair.settle()
                held = len(os.listdir(f"/proc/{pid}/fd"))
                assert held <= MOST_DESCRIPTORS, f"{held} descriptors"
            pair.client.terminate()
            (pair.source / "later").write_bytes(b"later")
            pair.sync()
            opened = connections.opened
        grown_bytes = pair.server.peak_memory_bytes() - before_bytes
        assert grown_bytes < MOST_GROWTH_BYTES, f"{grown_bytes >> 20} MiB more"
        assert Wire(pair.port, pair.token).request("GET", "/v1/hello").status == 200
        assert pair.server.errors == "", pair.server.errors[-4_000:]
    finally:
        pair.close()
    return Counter({"floods": 1, "connections of floods": opened})


def floods(
    seed: int, seconds: float, base: Path, rounds: int = 1 << 31
) -> tuple[Counter[str], list[Failure]]:
    """Flood one server after the other; return what was counted and what was broken."""
    until_s = time.monotonic() + seconds
    chance = random.Random(seed)
    counts: Counter[str] = Counter()
    done = 0
    while done < rounds and (not done or time.monotonic() < until_s):
        done += 1
        kind, few = chance.choice(list(KINDS)), chance.random() < 0.5
        try:
            counts += flood(kind, base / str(done), few_descriptors=few)
        except Exception:  # noqa: BLE001 - a failure is reported with its seed
            what = f"flood of {kind}, few descriptors: {few}, seed {seed}, round {done}"
            replay = f"python -m tests.hostile.floods {seed} {done}"
            return counts, [Failure(what, replay, traceback.format_exc())]
    return counts, []


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        work.mkdir()
        counted, failures = floods(int(sys.argv[1]), 3600, work, int(sys.argv[2]))
    print(dict(counted))
    for failure in failures:
        print(failure.told)
    sys.exit(bool(failures))
