"""A network in memory: connections between event loops, and all that can happen to them.

Bytes of a connection come in order, in pieces, late, or not at all: it is cut in either
direction after any byte, or falls silent. A process that is killed has its connections reset;
one whose machine lost power says nothing any more.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.simulation.schedule import Process, Scheduler

if TYPE_CHECKING:
    from tests.simulation.loop import Loop

_HIGH_WATER_BYTES = 128 * 1024
_LOW_WATER_BYTES = 32 * 1024
_LONGEST_SILENCE_S = 400.0


@dataclass
class Weather:
    """How bad the network is now.

    Attributes:
        delay_s: the longest that a piece takes.
        fault_chance: that something befalls a new connection.
    """

    delay_s: float = 0.002
    fault_chance: float = 0.0


@dataclass
class Fault:
    """What befalls a connection, in one direction, after so many bytes."""

    kind: str
    to_server: bool
    after_bytes: int
    lasts_s: float


class Network:
    """Who listens where, and what is on its way."""

    def __init__(self, scheduler: Scheduler, rng: random.Random) -> None:
        self.scheduler = scheduler
        self.rng = rng
        self.weather = Weather()
        self.counts: Counter[str] = Counter()
        self._listeners: dict[int, tuple[Loop, Callable[[], asyncio.BaseProtocol]]] = {}
        self._links: list[Link] = []

    def listen(self, port: int, loop: Loop, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self._listeners[port] = loop, factory

    def deafen(self, port: int, loop: Loop) -> None:
        found = self._listeners.get(port)
        if found and found[0] is loop:
            del self._listeners[port]

    async def connect(self, port: int) -> None:
        """Return when there is a way to that port.

        Raises:
            ConnectionRefusedError: nobody listens.
        """
        await asyncio.sleep(self.rng.uniform(0, self.weather.delay_s))
        found = self._listeners.get(port)
        if found is None or not found[0].process.is_alive:
            raise ConnectionRefusedError(111, "nobody listens")

    def join(self, port: int, loop: Loop, protocol: asyncio.Protocol) -> Transport:
        """Return the client's end of a new connection.

        Raises:
            ConnectionResetError: nobody listens any more.
        """
        found = self._listeners.get(port)
        if found is None or not found[0].process.is_alive:
            raise ConnectionResetError(104, "nobody listens any more")
        link = Link(self, self._fault())
        self._links.append(link)
        server_loop, factory = found
        link.ends = (
            Transport(link, loop, protocol, to_server=True),
            Transport(link, server_loop, None, to_server=False),
        )
        link.ends[1].begin_at(self.delay_ns(), factory)
        self.counts["connections"] += 1
        return link.ends[0]

    def lose(self, process: Process, *, says_so: bool) -> None:
        """A process has gone; its peers hear of it only if the system is there to say so."""
        for link in self._links:
            for end in link.ends:
                if end.loop.process is process:
                    end.is_gone = True
                    if says_so:
                        end.peer.break_at(self.delay_ns(), ConnectionResetError(104, "reset"))

    def strike(self) -> None:
        """Let something befall connections that are under way."""
        self._links = [link for link in self._links if not all(e.has_ended for e in link.ends)]
        for link in self._links:
            if link.fault is None:
                link.fault = self._fault()

    def _fault(self) -> Fault | None:
        rng = self.rng
        if rng.random() >= self.weather.fault_chance:
            return None
        kind = rng.choice(["cut", "cut", "silence", "late"])
        after_bytes = rng.choice([0, 1, rng.randrange(400), rng.randrange(4000)])
        after_bytes = rng.choice([after_bytes, rng.randrange(300_000)])
        lasts_s = rng.choice([0.2, 3.0, _LONGEST_SILENCE_S]) * rng.random()
        return Fault(kind, rng.random() < 0.5, after_bytes, lasts_s)

    def delay_ns(self) -> int:
        return int(self.rng.random() * self.weather.delay_s * 1e9) + 1000


class Link:
    """A connection: two ends and its fate."""

    def __init__(self, network: Network, fault: Fault | None) -> None:
        self.network = network
        self.fault = fault
        self.ends: tuple[Transport, Transport]


class Transport(asyncio.Transport):
    """One end of a connection, for the protocol of one loop."""

    def __init__(
        self, link: Link, loop: Loop, protocol: asyncio.Protocol | None, *, to_server: bool
    ) -> None:
        port = 40_000 if to_server else 8_730
        super().__init__({"peername": ("127.0.0.1", port), "sockname": ("127.0.0.1", port)})
        self.loop = loop
        self.is_gone = False
        self._link = link
        self._network = link.network
        self._protocol = protocol
        self._to_server = to_server
        self._sent_bytes = 0
        self._unarrived_bytes = 0
        self._is_paused = self._is_reading_paused = False
        self._is_closing = self.has_ended = False
        self._is_open = protocol is not None
        self._broken: tuple[Exception | None] | None = None
        self._arrived: list[bytes | None] = []
        self._free_at_ns = 0

    @property
    def peer(self) -> Transport:
        return self._link.ends[self._to_server]

    def begin_at(self, delay_ns: int, factory: Callable[[], asyncio.BaseProtocol]) -> None:
        """Have the listening side take the connection up."""

        def begin() -> None:
            protocol = factory()
            assert isinstance(protocol, asyncio.Protocol)
            self._protocol = protocol
            protocol.connection_made(self)
            # As asyncio does: what the protocol began gets a turn before anything comes in.
            self.loop.call_soon(self._open)

        self._free_at_ns = self._network.scheduler.now_ns + delay_ns
        self.loop.at(self._free_at_ns, begin)

    def _open(self) -> None:
        self._is_open = True
        self._deliver()
        if self._broken is not None:
            self._end(*self._broken)

    def break_at(self, delay_ns: int, error: Exception | None) -> None:
        """Have this end learn that the connection is over."""
        self.loop.at(self._network.scheduler.now_ns + delay_ns, lambda: self._end(error))

    # What the protocol calls.

    def write(self, data: Any) -> None:
        if self._is_closing or self.is_gone or self.loop.process.is_doomed() or not data:
            return
        data = bytes(data)
        network = self._network
        network.counts["bytes"] += len(data)
        if self.peer.is_gone:
            # Whoever is there by now knows nothing of this connection.
            self.break_at(network.delay_ns(), ConnectionResetError(104, "reset by peer"))
            return
        fault = self._link.fault
        if fault is not None and fault.to_server == self._to_server:
            fault.after_bytes -= len(data)
            if fault.after_bytes < 0:
                self._link.fault = None
                self._befall(fault, data, len(data) + fault.after_bytes)
                return
        self._send(data)

    def _befall(self, fault: Fault, data: bytes, at: int) -> None:
        network = self._network
        network.counts[f"network/{fault.kind}"] += 1
        network.scheduler.note("network", fault.kind, fault.to_server, self._sent_bytes + at)
        self._send(data[:at])
        if fault.kind == "cut":
            error = ConnectionResetError(104, "cut")
            reset_ns = self._free_at_ns - network.scheduler.now_ns + network.delay_ns()
            self.peer.break_at(max(0, reset_ns), error)
            self.break_at(network.delay_ns(), error)
            self._is_closing = True
        elif fault.kind == "silence":
            # Neither end is told; whatever is sent later is lost as well.
            for end in self._link.ends:
                end.is_gone = True
        else:
            self._free_at_ns = network.scheduler.now_ns + int(fault.lasts_s * 1e9)
            self._send(data[at:])

    def _send(self, data: bytes) -> None:
        rng, start = self._network.rng, 0
        self._sent_bytes += len(data)
        while start < len(data):
            size = len(data) if rng.random() < 0.7 else 1 + rng.randrange(len(data))
            self._put(data[start : start + size])
            start += size
        if self._unarrived_bytes > _HIGH_WATER_BYTES and not self._is_paused:
            self._is_paused = True
            assert self._protocol is not None
            self._protocol.pause_writing()

    def _put(self, piece: bytes | None) -> None:
        """Send a piece (None: the end) on its way, behind those before."""
        self._unarrived_bytes += len(piece or b"")
        self._network.counts["messages"] += 1
        now_ns = self._network.scheduler.now_ns
        self._free_at_ns = max(self._free_at_ns + 1_000, now_ns + self._network.delay_ns())
        peer = self.peer

        def arrive() -> None:
            if self.is_gone and not self._is_closing:
                return
            peer.take(piece)
            self.loop.at(peer._network.scheduler.now_ns, lambda: self._drained(len(piece or b"")))

        peer.loop.at(self._free_at_ns, arrive)

    def _drained(self, size_bytes: int) -> None:
        self._unarrived_bytes -= size_bytes
        if self._is_paused and self._unarrived_bytes < _LOW_WATER_BYTES and not self.has_ended:
            self._is_paused = False
            assert self._protocol is not None
            self._protocol.resume_writing()

    def take(self, piece: bytes | None) -> None:
        """Get what has arrived."""
        if not self.has_ended and not self.is_gone:
            self._arrived.append(piece)
            self._deliver()

    def _deliver(self) -> None:
        while self._arrived and not self._is_reading_paused and self._is_open:
            assert self._protocol is not None
            if self.has_ended or self._is_closing:
                return
            piece = self._arrived.pop(0)
            if piece is None:
                if not self._protocol.eof_received():
                    self.close()
            else:
                self._protocol.data_received(piece)

    def _end(self, error: Exception | None) -> None:
        self._is_closing = True
        if not self._is_open:
            self._broken = (error,)
        elif not self.has_ended:
            assert self._protocol is not None
            self.has_ended = True
            self._protocol.connection_lost(error)

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            if not self.is_gone and not self.peer.is_gone:
                self._put(None)
            self.loop.call_soon(self._end, None)

    def abort(self) -> None:
        if not self.has_ended:
            self._is_closing = True
            if not self.is_gone:
                self.peer.break_at(self._network.delay_ns(), ConnectionResetError(104, "aborted"))
            self.loop.call_soon(self._end, None)

    def is_closing(self) -> bool:
        return self._is_closing

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self._protocol is not None
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def pause_reading(self) -> None:
        self._is_reading_paused = True

    def resume_reading(self) -> None:
        self._is_reading_paused = False
        self.loop.call_soon(self._deliver)

    def is_reading(self) -> bool:
        return not self._is_reading_paused

    def get_write_buffer_size(self) -> int:
        return self._unarrived_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The limits are the network's own."""

    def can_write_eof(self) -> bool:
        return False
