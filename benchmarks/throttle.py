"""A slow link: a TCP proxy in a process of its own.

    python -m benchmarks.throttle TARGET_PORT BYTES_PER_S [ROUND_TRIP_S]

It listens on a free port of 127.0.0.1, which it prints. All connections share the rate, in
each direction; what has passed arrives half a round trip later, and a new connection takes one
round trip. Little is buffered, so that the sender feels it. The growth of TCP's window over
the first round trips is not part of it.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
import time
from types import TracebackType

BUFFER_BYTES = 64 * 1024
PIECE_BYTES = 16 * 1024
BURST_S = 0.02


Pieces = queue.Queue[tuple[float, bytes]]
"""When each piece is due, by the monotonic clock, and its bytes."""


class TokenBucket:
    """Lets so many bytes a second pass, and after a pause those of `BURST_S` at once."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> None:
        """Return when so many bytes may pass."""
        with self._lock:
            now_s = time.monotonic()
            start_s = max(now_s - BURST_S, self._free_at_s)
            self._free_at_s = start_s + size_bytes / self._bytes_per_s
            wait_s = self._free_at_s - now_s
        if wait_s > 0:
            time.sleep(wait_s)


def serve(target_port: int, bytes_per_s: float, round_trip_s: float) -> None:
    """Pass connections on until the process ends."""
    buckets = TokenBucket(bytes_per_s), TokenBucket(bytes_per_s)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    print(listener.getsockname()[1], flush=True)
    on_the_way = 1 + int((BUFFER_BYTES + bytes_per_s * round_trip_s / 2) / PIECE_BYTES)
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", target_port))
        far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, target, bucket in ((near, far, buckets[0]), (far, near, buckets[1])):
            pieces: Pieces = queue.Queue(on_the_way)
            for part, words in (
                (take_in, (source, bucket, round_trip_s, pieces)),
                (give_out, (target, pieces)),
            ):
                threading.Thread(target=part, args=words, daemon=True).start()


def take_in(
    source: socket.socket, bucket: TokenBucket, round_trip_s: float, pieces: Pieces
) -> None:
    """Take one direction of a connection in, at the link's rate."""
    time.sleep(round_trip_s)
    with contextlib.suppress(OSError):
        while data := source.recv(PIECE_BYTES):
            bucket.take(len(data))
            pieces.put((time.monotonic() + round_trip_s / 2, data))
    pieces.put((time.monotonic() + round_trip_s / 2, b""))


def give_out(target: socket.socket, pieces: Pieces) -> None:
    """Give out what has been on its way for long enough; nothing means the end."""
    with contextlib.suppress(OSError):
        while True:
            due_s, data = pieces.get()
            time.sleep(max(0.0, due_s - time.monotonic()))
            if not data:
                break
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
    while data:
        # The other side is gone; who sends is not to wait for ever.
        _, data = pieces.get()


class Link:
    """A throttle in a process of its own, for as long as the block lasts."""

    def __init__(self, target_port: int, bytes_per_s: float, round_trip_s: float = 0.0) -> None:
        words = [sys.executable, "-m", "benchmarks.throttle"]
        figures = [str(target_port), str(bytes_per_s), str(round_trip_s)]
        self._process = subprocess.Popen([*words, *figures], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> Link:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]), float((*sys.argv[3:], "0")[0]))
