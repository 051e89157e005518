"""strace is the witness: the server stays in its folder, the client only reads its own."""

from __future__ import annotations

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("needs strace", allow_module_level=True)

from pathlib import Path

from tests.hostile import races

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not races.is_possible(), reason="strace may not be used here"),
]

SEED = 1


def test_symlinks_that_come_and_go_lead_nowhere(tmp_path: Path) -> None:
    """No call of the server reaches what a symlink in the destination points at."""
    counts, failures = races.race(SEED, 3.0, tmp_path / "pair")
    print(f"seed {SEED}:", dict(counts))
    assert not failures, f"{failures[0].replay}\n{failures[0].told}"
    assert counts["symlinks swapped"]
    assert counts["calls judged: at a descriptor of the folder"]


def test_the_client_changes_nothing_in_the_source(tmp_path: Path) -> None:
    """Whatever changes there, it opens nothing for writing and calls nothing that changes."""
    counts, failures = races.watch_client(SEED, 1, tmp_path / "pair")
    print(f"seed {SEED}:", dict(counts))
    assert not failures, f"{failures[0].replay}\n{failures[0].told}"
