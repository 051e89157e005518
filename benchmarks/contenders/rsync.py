"""rsync to a daemon, in the ways in which it is used."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import time
from pathlib import Path

from benchmarks.contenders.base import Contender
from tests.e2e.trees import Node, Tree

START_LIMIT_S = 30.0


class Rsync(Contender):
    """``rsync -a`` to a daemon, with ``--delete`` once there is something to delete; no fsync."""

    name = "rsync"
    program = "rsync"
    options: tuple[str, ...] = ()
    syncs_after = False
    """Whether the destination's file system is synced when rsync has ended, and timed with it."""

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
        """Leave out what a daemon without chroot, or rsync itself, does not keep.

        That is "." in the targets of symlinks, and sometimes the time of the folder itself if
        something in it was deleted.
        """
        kept = {path: _without_dots(node) for path, node in tree.items()}
        return kept | {b"": tree[b""]._replace(mtime_ns=0)}

    def words(self, source: Path, port: int | None) -> list[str]:
        delete = ["--delete"] if any(self.dest.iterdir()) else []
        where = (f"{source}/", f"rsync://127.0.0.1:{port}/dest/")
        words = ["rsync", "-a", *self.options, *delete, *where]
        if not self.syncs_after:
            return words
        return ["sh", "-c", f"{shlex.join(words)} && sync -f {shlex.quote(str(self.dest))}"]


def _without_dots(node: Node) -> Node:
    if node.kind != "symlink":
        return node
    return node._replace(content=b"/".join(n for n in node.content.split(b"/") if n != b"."))


class RsyncAndSync(Rsync):
    """rsync, and then a sync of the destination's file system: durable in the end."""

    name = "rsync+sync"
    syncs_after = True


class RsyncFsync(Rsync):
    """rsync that syncs each file."""

    name = "rsync-fsync"
    options = ("--fsync",)


class RsyncZstd(Rsync):
    """rsync that compresses by zstd at level 1."""

    name = "rsync-zstd"
    options = ("-z", "--compress-choice=zstd", "--compress-level=1")


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
