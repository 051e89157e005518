"""A hostile client with the token neither stops the server nor leads it out of its folder."""

from __future__ import annotations

import sys

import pytest

if sys.platform == "win32":
    pytest.skip("the server runs on POSIX", allow_module_level=True)

from pathlib import Path

from tests.e2e.harness import Pair
from tests.e2e.wire import Wire
from tests.hostile import clients

pytestmark = pytest.mark.process

SEED = 2
STEPS = 300
SECONDS = 15.0


def test_a_hostile_client(tmp_path: Path) -> None:
    """The destination is what the accepted batches say, whatever else was sent."""
    counts, failures = clients.attack(SEED, SECONDS, tmp_path / "pair", STEPS)
    print(f"seed {SEED}:", dict(counts))
    assert not failures, f"{failures[0].replay}\n{failures[0].told}"


def test_a_body_in_a_content_encoding(tmp_path: Path) -> None:
    """It is refused unread: it could be a bomb, or break off while it is unpacked."""
    pair = Pair(tmp_path / "pair")
    try:
        pair.start_server()
        wire = Wire(pair.port, pair.token)
        for encoding in ("gzip", "deflate", "br", "zstd"):
            headers = {"Content-Encoding": encoding}
            answer = wire.request("POST", "/v1/folders/main/session", b"x" * 100, headers)
            assert (answer.status, answer.error.code) == (400, "malformed")
    finally:
        pair.close()
