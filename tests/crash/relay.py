"""A proxy that troubles what passes: at one byte of one direction, counted over all connections."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
from typing import NamedTuple

from tests.e2e.proxy import PIECE_BYTES, Proxy
from twinfold.protocol import FrameKind

CUT, STALL, SPLIT, REPEAT, FLIP = "cut", "stall", "split", "repeat", "flip"
DIRECTIONS = ("up", "down")
FAULTS = {CUT: DIRECTIONS, STALL: DIRECTIONS, SPLIT: DIRECTIONS, REPEAT: ("up",), FLIP: DIRECTIONS}
"""What can be done, and in which directions."""

_SPLIT_BYTES = 6_000
_REPEATS = 6
_STALLS_S = (0.5, 2.0)
_ANSWER_LIMIT_S = 60.0
_ANNOUNCEMENT_BYTES = 150


class Trouble(NamedTuple):
    """What happens to the bytes of a session.

    Attributes:
        fault: "cut" ends the connection before the byte; "stall" keeps it back for a while;
            "split" passes it and the next 6,000 on in pieces of 1 to 7 bytes; "repeat" sends the
            next POST again on a connection of its own, and later some earlier ones; "flip" turns
            a bit of the next byte of a batch's frames, or of an answer's body.
        at: number of the byte, from 0.
        direction: "up" is from the client to the server.
        seed: decides the rest.
    """

    fault: str
    at: int
    direction: str = "up"
    seed: int = 0

    @property
    def replay(self) -> str:
        """The command that does it again."""
        words = f"--fault {self.fault} --at {self.at} --direction {self.direction}"
        return f"python -m tests.crash.network {words} --seed {self.seed}"


class Relay(Proxy):
    """Passes everything on to ``target``, but for one trouble.

    Attributes:
        done: how often the trouble was caused.
    """

    def __init__(self, target: tuple[str, int], trouble: Trouble | None) -> None:
        self._trouble = trouble
        self._chance = random.Random(trouble.seed if trouble else 0)
        self._posts: list[bytes] = []
        self._repeating: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.done = 0
        super().__init__(target)

    def close(self) -> None:
        """Stop listening, break everything."""
        self._closing.set()
        super().close()
        for thread in self._repeating:
            thread.join(_ANSWER_LIMIT_S)

    def _pass_on(self, source: socket.socket, target: socket.socket, outward: bool) -> None:
        messages = _Messages(b"/batches/" if outward else b"HTTP/")
        with contextlib.suppress(OSError):
            while data := source.recv(PIECE_BYTES):
                with self._lock:
                    start = self.sent_bytes if outward else self.received_bytes
                    self._count(len(data), outward)
                bodies = messages.take(data)
                try:
                    self._pass_piece(data, start, bodies, target, outward)
                except ConnectionAbortedError:
                    source.shutdown(socket.SHUT_RDWR)
                    break
                for post in messages.ended() if outward else []:
                    self._repeat(post, start + len(data))
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def _is_mine(self, outward: bool) -> bool:
        return self._trouble is not None and self._trouble.direction == DIRECTIONS[not outward]

    def _pass_piece(
        self,
        data: bytes,
        start: int,
        bodies: list[tuple[int, int]],
        target: socket.socket,
        outward: bool,
    ) -> None:
        """Pass on what came, beginning with the byte ``start``.

        Raises:
            ConnectionAbortedError: the connection is to be cut.
        """
        trouble = self._trouble
        if trouble is None or not self._is_mine(outward):
            target.sendall(data)
            return
        at = trouble.at - start
        if trouble.fault == FLIP:
            target.sendall(self._flipped(data, at, bodies))
        elif trouble.fault == SPLIT and -_SPLIT_BYTES < at < len(data):
            self.done = 1
            first = max(0, at)
            target.sendall(data[:first])
            while first < min(len(data), at + _SPLIT_BYTES):
                size_bytes = self._chance.randint(1, 7)
                target.sendall(data[first : first + size_bytes])
                first += size_bytes
            target.sendall(data[first:])
        elif trouble.fault in (CUT, STALL) and 0 <= at < len(data):
            self.done = 1
            target.sendall(data[:at])
            if trouble.fault == CUT:
                raise ConnectionAbortedError
            self._closing.wait(self._chance.uniform(*_STALLS_S))
            target.sendall(data[at:])
        else:
            target.sendall(data)

    def _flipped(self, data: bytes, at: int, bodies: list[tuple[int, int]]) -> bytes:
        with self._lock:
            later = [(max(at, first), end) for first, end in bodies if end > at]
            trouble = self._trouble
            is_announced = trouble is not None and trouble.direction == "up" and trouble.seed % 2
            if is_announced:
                # Most bytes are content: half of the flips are in what announces it.
                later = [(first, end) for first, end in bodies if first >= at]
                later = [place for place in later if data[place[0]] == FrameKind.BATCH]
            if self.done or not later:
                return data
            self.done = 1
            first, end = later[0]
            if is_announced:
                first = self._chance.randrange(first, min(end, first + _ANNOUNCEMENT_BYTES))
            spoilt = bytearray(data)
            spoilt[first] ^= 1 << self._chance.randrange(8)
            return bytes(spoilt)

    def _repeat(self, post: bytes, reached: int) -> None:
        """Send a POST once more at once; and, after each later one, an earlier one."""
        trouble = self._trouble
        if trouble is None or trouble.fault != REPEAT:
            return
        with self._lock:
            self._posts.append(post)
            if reached <= trouble.at or self.done >= _REPEATS:
                return
            chosen = post if not self.done else self._chance.choice(self._posts)
            self.done += 1
            thread = threading.Thread(target=self._send_alone, args=(chosen,), daemon=True)
            self._repeating.append(thread)
        thread.start()

    def _send_alone(self, post: bytes) -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(self.target, timeout=_ANSWER_LIMIT_S) as connection,
        ):
            connection.sendall(post)
            connection.recv(PIECE_BYTES)


class _Messages:
    """What one direction of a connection carries, told apart: bodies, and whole POSTs.

    Args:
        chosen: stands in the first line of those whose bodies matter.
    """

    def __init__(self, chosen: bytes) -> None:
        self._chosen = chosen
        self._bytes = bytearray()
        self._at = 0
        self._left = 0
        self._is_head = True
        self._is_mine = self._is_chunked = self._is_last = False
        self._ended: list[bytes] = []

    def ended(self) -> list[bytes]:
        """Return the POSTs that have ended since this was asked."""
        ended, self._ended = self._ended, []
        return ended

    def take(self, data: bytes) -> list[tuple[int, int]]:
        """Take in what came; return the (first, end) in it that are of bodies that matter."""
        bodies: list[tuple[int, int]] = []
        start = len(self._bytes)
        self._bytes += data
        while self._at < len(self._bytes):
            first = self._at
            if self._left:
                self._at = min(first + self._left, len(self._bytes))
                self._left -= self._at - first
                if self._is_mine:
                    bodies.append((first - start, self._at - start))
                is_over = not self._left and not self._is_chunked
            else:
                mark = b"\r\n\r\n" if self._is_head else b"\r\n"
                end = self._bytes.find(mark, first)
                if end < 0:
                    break
                self._at = end + len(mark)
                is_over = self._read_line(bytes(self._bytes[first : self._at]))
            if is_over:
                start -= self._at
                self._end()
        return bodies

    def _read_line(self, line: bytes) -> bool:
        """Take in a message's head or a line between its chunks; tell whether it is over."""
        if self._is_head:
            length = re.search(rb"content-length: *(\d+)", line.lower())
            self._left = int(length[1]) if length else 0
            self._is_chunked = b"transfer-encoding: chunked" in line.lower()
            self._is_mine = self._chosen in line.split(b"\r\n")[0]
            self._is_head = False
            return not self._is_chunked and not self._left
        if self._is_last:
            return True
        if line.strip():
            self._left = int(line, 16)
            self._is_last = not self._left
        return False

    def _end(self) -> None:
        if self._bytes.startswith(b"POST "):
            self._ended.append(bytes(self._bytes[: self._at]))
        del self._bytes[: self._at]
        self._at = 0
        self._is_head, self._is_last = True, False
