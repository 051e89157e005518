"""A TCP proxy that counts what passes, and that can cut, stall and refuse."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

PIECE_BYTES = 1 << 18


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes every connection on to ``target``."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._condition = threading.Condition()
        self._sent = self._received = self.connections = 0
        self._cut_at: int | None = None
        self._open: set[socket.socket] = set()
        self._passing = threading.Event()
        self._passing.set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def sent_bytes(self) -> int:
        """How much the connecting side has sent so far."""
        with self._condition:
            return self._sent

    @property
    def received_bytes(self) -> int:
        """How much the connecting side was sent so far."""
        with self._condition:
            return self._received

    def wait_sent(self, size_bytes: int, timeout_s: float) -> None:
        """Return once the connecting side has sent that much in all."""
        with self._condition:
            if not self._condition.wait_for(lambda: self._sent >= size_bytes, timeout_s):
                raise TimeoutError(f"only {self._sent} of {size_bytes} bytes were sent")

    def note(self, source: socket.socket, data: bytes, *, outward: bool) -> None:
        """Learn what is about to pass; for those who want to know more than how much."""

    def cut(self) -> None:
        """Break every open connection now."""
        with self._condition:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def cut_after(self, size_bytes: int) -> None:
        """Break all connections once, when so many more bytes were sent."""
        with self._condition:
            self._cut_at = self._sent + size_bytes

    def stall(self) -> None:
        """Pass nothing on, but keep the connections."""
        self._passing.clear()

    def resume(self) -> None:
        """End a stall."""
        self._passing.set()

    def close(self) -> None:
        """Stop listening, break everything."""
        self._passing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self.target, timeout=10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._join(near, far)

    def _join(self, near: socket.socket, far: socket.socket) -> None:
        with self._condition:
            self.connections += 1
            self._open |= {near, far}
        for connection in (near, far):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        thread = threading.Thread(target=self._carry, args=(near, far), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _carry(self, near: socket.socket, far: socket.socket) -> None:
        back = threading.Thread(target=self._pass_on, args=(far, near, False), daemon=True)
        back.start()
        self._pass_on(near, far, True)
        back.join()
        with self._condition:
            self._open -= {near, far}
        near.close()
        far.close()

    def _pass_on(self, source: socket.socket, target: socket.socket, outward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE_BYTES):
                self._passing.wait()
                self.note(source, data, outward=outward)
                if self._count(len(data), outward):
                    self.cut()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _count(self, size_bytes: int, outward: bool) -> bool:
        with self._condition:
            if outward:
                self._sent += size_bytes
            else:
                self._received += size_bytes
            self._condition.notify_all()
            if self._cut_at is None or self._sent < self._cut_at:
                return False
            self._cut_at = None
            return True
