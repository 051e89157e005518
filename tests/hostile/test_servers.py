"""A server that lies harms nobody: the client shows no traceback, and goes on when it is honest."""

from __future__ import annotations

import sys

import pytest

if sys.platform == "win32":
    pytest.skip("the server runs on POSIX", allow_module_level=True)

from pathlib import Path

from tests.hostile import servers

pytestmark = pytest.mark.process

SEED = 1
ROUNDS = 3
SECONDS = 12.0


def test_a_hostile_server(tmp_path: Path) -> None:
    """What is sent was announced; what is said to be in sync is; the source is only read."""
    counts, failures = servers.mislead(SEED, SECONDS, tmp_path / "pair", ROUNDS)
    print(f"seed {SEED}:", dict(counts))
    assert not failures, f"{failures[0].replay}\n{failures[0].told}"


def test_refusals_of_what_was_not_sent(tmp_path: Path) -> None:
    """The client compares again: it neither believes them nor stumbles over them."""
    _, failures = servers.mislead(5, SECONDS, tmp_path / "pair", 2, "refusals and revisions")
    assert not failures, f"{failures[0].replay}\n{failures[0].told}"
