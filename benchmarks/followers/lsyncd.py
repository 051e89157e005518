"""lsyncd, which runs rsync to a daemon for what changed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders.rsync import Rsync
from benchmarks.followers.base import Follower, Roles
from tests.e2e.trees import Tree

LIMIT_S = 600.0
DELAY_S = 0
"""How long it gathers changes; as short as it can be set."""


class Lsyncd(Follower):
    """lsyncd with the shortest delay; nothing is synced to the disk."""

    name = "lsyncd"
    program = "lsyncd"
    version_words = ("-version",)

    @contextmanager
    def following(self, source: Path) -> Iterator[Roles]:
        receiver = Rsync(self.base)
        receiver.open()
        self.dest = receiver.dest
        status = self.base / "status"
        settings = self.base / "lsyncd.conf"
        settings.write_text(
            f"settings {{ nodaemon = true, logfile = {json.dumps(str(self.log))},"
            f" statusFile = {json.dumps(str(status))}, statusInterval = 1 }}\n"
            f"sync {{ default.rsync, source = {json.dumps(str(source))},"
            f' target = "rsync://127.0.0.1:{receiver.port}/dest/", delay = {DELAY_S},'
            " rsync = { archive = true } }\n",
            "utf-8",
        )
        try:
            with self.started(["lsyncd", settings]) as pid:
                self._wait_started()
                yield Roles({"client": pid, "server": receiver.server_pid})
        finally:
            receiver.close()

    def comparable(self, tree: Tree) -> Tree:
        """Leave out the times of directories, which it does not follow."""
        timeless = {
            path: node._replace(mtime_ns=0) if node.kind == "directory" else node
            for path, node in tree.items()
        }
        return Rsync(self.base).comparable(timeless)

    def _wait_started(self) -> None:
        end = time.monotonic() + LIMIT_S
        while "Startup of" not in self.log.read_text("utf-8", "replace"):
            if time.monotonic() > end:
                raise TimeoutError(f"lsyncd does not come to its end: see {self.log}")
            time.sleep(0.1)
