"""The programs that are compared, each with a server that runs and an empty destination."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

from benchmarks.measure import Sample, cpu_seconds, run_timed, wait_childless
from tests.e2e.harness import Running, command, environment
from tests.e2e.trees import Node, Tree

START_LIMIT_S = 30.0


class Contender(ABC):
    """A program that makes its destination equal to a source by one command."""

    name: str

    def __init__(self, base: Path) -> None:
        self.base = base / self.name
        self.dest = self.base / "dest"
        self.log = base / f"{self.name}.log"

    @property
    @abstractmethod
    def server_pid(self) -> int:
        """The server's process."""

    @property
    @abstractmethod
    def port(self) -> int:
        """Where the server listens."""

    @abstractmethod
    def open(self) -> None:
        """Make an empty destination and start a server on it."""

    @abstractmethod
    def close(self) -> None:
        """End the server and put the destination out of the way."""

    @abstractmethod
    def words(self, source: Path, port: int) -> list[str]:
        """Return the command that syncs ``source`` through a port."""

    def comparable(self, tree: Tree) -> Tree:
        """Return what of a tree this program is held to."""
        return tree

    def sync(self, source: Path, port: int | None = None) -> Sample:
        """Make the destination equal to the source and measure it."""
        before = cpu_seconds(self.server_pid)
        words = self.words(source, port or self.port)
        seconds, client_cpu_s = run_timed(words, self._environment(), self.log)
        wait_childless(self.server_pid)
        return Sample(seconds, client_cpu_s, cpu_seconds(self.server_pid) - before)

    def _environment(self) -> dict[str, str]:
        return environment(self.base / "client-state")

    def _put_away(self) -> None:
        """Keep what was made until the end of the benchmark.

        ext4 without a journal does not hand out an inode again for minutes after it was freed,
        and looks at each of them in turn: what is made after a big deletion takes many times
        as long.
        """
        number = len(list(self.base.parent.glob(f"{self.name}.ended-*")))
        self.base.rename(self.base.with_name(f"{self.name}.ended-{number}"))


class Twinfold(Contender):
    """``twinfold client --once``; what it acknowledged is durable."""

    name = "twinfold"
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

    def words(self, source: Path, port: int) -> list[str]:
        return command(["client", source, "--once", "--json", *self._server_words(port)])

    def start_live(self, source: Path, port: int | None = None) -> Running:
        """Start a client that stays."""
        words: list[str | Path] = ["client", source, "--json"]
        words += self._server_words(port or self.port)
        return Running(*words, state=self.base / "client-state", log=self.log)

    def _server_words(self, port: int) -> list[str]:
        return ["--server", re.sub(r":\d+$", f":{port}", self._invite)]


class Rsync(Contender):
    """``rsync -a`` to a daemon, with ``--delete`` once there is something to delete; no fsync."""

    name = "rsync"
    _daemon: subprocess.Popen[bytes]
    _port: int

    @property
    def server_pid(self) -> int:
        return self._daemon.pid

    @property
    def port(self) -> int:
        return self._port

    def open(self) -> None:
        self.dest.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        (self.base / "rsyncd.conf").write_text(self._configuration(), "utf-8")
        with self.log.open("ab") as log:
            self._daemon = subprocess.Popen(self._daemon_words(), stdout=log, stderr=log)
        _wait_listening(self._port)

    def _daemon_words(self) -> list[str]:
        where = [f"--port={self._port}", "--address=127.0.0.1"]
        return ["rsync", "--daemon", "--no-detach", f"--config={self.base}/rsyncd.conf", *where]

    def _configuration(self) -> str:
        user = "uid = 0\ngid = 0\n" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
        return (
            f"use chroot = no\nmunge symlinks = no\nreverse lookup = no\nlog file = {self.log}\n"
            f"{user}[dest]\npath = {self.dest}\nread only = no\n"
        )

    def close(self) -> None:
        self._daemon.terminate()
        self._daemon.wait()
        self._put_away()

    def comparable(self, tree: Tree) -> Tree:
        """Leave out "." in the targets of symlinks: a daemon without chroot drops it."""
        return {path: _without_dots(node) for path, node in tree.items()}

    def words(self, source: Path, port: int) -> list[str]:
        delete = ["--delete"] if any(self.dest.iterdir()) else []
        return ["rsync", "-a", *delete, f"{source}/", f"rsync://127.0.0.1:{port}/dest/"]


def _without_dots(node: Node) -> Node:
    if node.kind != "symlink":
        return node
    return node._replace(content=b"/".join(n for n in node.content.split(b"/") if n != b"."))


def _wait_listening(port: int) -> None:
    end = time.monotonic() + START_LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
