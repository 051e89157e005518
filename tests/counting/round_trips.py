"""How often a client asks its server, and what for."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import re
import socket
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.counting.session import make_small_files
from tests.e2e.harness import LIMIT_S, Pair
from tests.e2e.proxy import Proxy
from twinfold import wiring

LIVE_CHANGES = 10

_REQUEST = re.compile(rb"(GET|POST) /v1/(?:folders/main/)?([a-z]+)(/[0-9]+)?\S* HTTP/1\.1\r\n")


class Requests(Proxy):
    """A proxy that keeps what the client says, and finds the requests in it."""

    def __init__(self, port: int) -> None:
        self._said: dict[socket.socket, bytearray] = {}
        super().__init__(("127.0.0.1", port))

    def note(self, source: socket.socket, data: bytes, *, outward: bool) -> None:
        """Keep what passes outward, by connection."""
        if outward:
            self._said.setdefault(source, bytearray()).extend(data)

    def count(self) -> Counter[str]:
        """Return how many requests of each kind there were."""
        return Counter(match[2].decode() for match in self._found())

    def batches(self) -> int:
        """Return how many batches the requests were about."""
        return len({match[3] for match in self._found() if match[2] == b"batches"})

    def _found(self) -> list[re.Match[bytes]]:
        return [m for said in list(self._said.values()) for m in _REQUEST.finditer(bytes(said))]


class RoundTrips(NamedTuple):
    """Requests that were made.

    Attributes:
        a_batch: for a batch of a first sync, on average; others not among them.
        first: by a first sync besides those for its batches.
        nothing: by a `--once` that finds nothing changed.
        a_change: that bring a change while a client is live, on average.
        events_a_change: that ask for events meanwhile, on average.
    """

    a_batch: float
    first: int
    nothing: int
    a_change: float
    events_a_change: float


def count_round_trips(base: Path, files: int) -> RoundTrips:
    """Have a pair do a first sync of so many small files, nothing, and some live changes."""
    pair = Pair(base)
    make_small_files(pair.source, range(files), seed=0)
    try:
        pair.start_server()
        with Requests(pair.port) as first:
            pair.sync(proxy=first)
        with Requests(pair.port) as second:
            pair.sync(proxy=second)
        with Requests(pair.port) as live:
            pair.start_client(proxy=live).expect("in_sync")
            _settle(pair)
            before = live.count()
            for number in range(LIVE_CHANGES):
                new = pair.base / "new"
                new.write_bytes(b"%d" % number)
                new.rename(pair.source / f"new-{number}")
                _settle(pair)
                pair.assert_equal()
            changes = live.count() - before
    finally:
        pair.close()
    return RoundTrips(
        first.count()["batches"] / first.batches(),
        first.count().total() - first.count()["batches"],
        second.count().total(),
        changes["batches"] / LIVE_CHANGES,
        (changes.total() - changes["batches"]) / LIVE_CHANGES,
    )


def _settle(pair: Pair) -> None:
    assert wiring.wait(pair.client_state, os.fsencode(pair.source), LIMIT_S).in_sync
