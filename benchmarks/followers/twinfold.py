"""twinfold's client that stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.followers.base import Follower, Roles
from tests.e2e.harness import Running

LIMIT_S = 600.0


class TwinfoldLive(Follower):
    """``twinfold client``; what becomes visible is durable."""

    name = "twinfold"
    program = "python3"

    @contextmanager
    def following(self, source: Path) -> Iterator[Roles]:
        words = ("server", self.dest, "--json", "--listen", "127.0.0.1:0")
        server = Running(*words, state=self.base / "server-state", log=self.log)
        try:
            invite = str(server.expect("listening")["invite"])
            words = ("client", source, "--json", "--server", invite)
            client = Running(*words, state=self.base / "client-state", log=self.log)
            try:
                client.expect("in_sync", timeout_s=LIMIT_S)
                yield Roles({"client": client.process.pid, "server": server.process.pid})
            finally:
                client.terminate()
        finally:
            server.terminate()
