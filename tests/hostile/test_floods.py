"""Many connections that want nothing good keep no client from its work."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import os
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.e2e.harness import Pair
from tests.e2e.wire import Wire
from tests.hostile.floods import flood

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("kind", "few_descriptors"), [("idle", True), ("stalled bodies of strangers", False)]
)
def test_a_flood(tmp_path: Path, kind: str, few_descriptors: bool) -> None:
    """A client at work, and a new one, go on; memory and descriptors stay bounded."""
    assert flood(kind, tmp_path / "pair", few_descriptors=few_descriptors)["floods"]


def test_connections_that_come_all_at_once(tmp_path: Path) -> None:
    """They are accepted before the first of them is closed; yet there are descriptors left."""
    pair = Pair(tmp_path / "pair")
    pair.server_prefix = ["sh", "-c", 'ulimit -n 80; exec "$@"', "sh"]
    (pair.source / "file").write_bytes(b"file")
    try:
        pair.start_server()
        pid = pair.server.process.pid
        with ExitStack() as stack:
            os.kill(pid, signal.SIGSTOP)
            for _ in range(100):
                connection = stack.enter_context(socket.socket())
                connection.setblocking(False)
                with suppress(BlockingIOError):
                    connection.connect(("127.0.0.1", pair.port))
            os.kill(pid, signal.SIGCONT)
            assert Wire(pair.port, pair.token).request("GET", "/v1/hello").status == 200
            pair.sync()
        assert pair.server.errors == "", pair.server.errors[-4_000:]
    finally:
        pair.close()
