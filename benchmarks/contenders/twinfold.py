"""twinfold itself."""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.contenders.base import Contender
from tests.e2e.harness import Running, command


class Twinfold(Contender):
    """``twinfold client --once``; what it acknowledged is durable."""

    name = "twinfold"
    program = "python3"
    options: tuple[str, ...] = ()
    _server: Running

    @property
    def server_pid(self) -> int:
        return self._server.process.pid

    @property
    def port(self) -> int:
        return int(self._invite.rpartition(":")[2])

    @property
    def _invite(self) -> str:
        return str(self._server.expect("listening")["invite"])

    def open(self) -> None:
        self.base.mkdir(parents=True)
        words = ("server", self.dest, "--json", "--listen", "127.0.0.1:0")
        self._server = Running(*words, state=self.base / "server-state", log=self.log)
        self._server.expect("listening")

    def close(self) -> None:
        self._server.terminate()
        self._put_away()

    def words(self, source: Path, port: int | None) -> list[str]:
        assert port is not None
        where = self._server_words(port)
        return command(["client", source, "--once", "--json", *where, *self.options])

    def _server_words(self, port: int) -> list[str]:
        return ["--server", re.sub(r":\d+$", f":{port}", self._invite)]


class TwinfoldZstd(Twinfold):
    """twinfold that compresses all by zstd at level 1, however fast the network is."""

    name = "twinfold-zstd"
    options = ("--compress", "1")
