"""The guard against mass deletion, through the real program."""

from __future__ import annotations

import shutil

import pytest

from tests.e2e.harness import Pair
from tests.e2e.trees import make_small_files

pytestmark = pytest.mark.process


def test_a_mass_deletion_is_held_and_released_on_purpose(pair: Pair) -> None:
    """Over 1,000 entries and over half of all vanish: held, exit 3; --max-delete lets it pass."""
    make_small_files(pair.source / "many", 1_500)
    (pair.source / "kept").write_bytes(b"kept")
    pair.start_server()
    pair.sync()
    shutil.rmtree(pair.source / "many")
    (pair.source / "later").write_bytes(b"later")
    held = pair.once()
    assert held.code == 3
    assert any(event.get("event") == "held" for event in held.objects)
    assert (pair.dest / "later").exists(), "other changes go on"
    assert sum(1 for _ in (pair.dest / "many").rglob("*.js")) == 1_500
    assert pair.once("--max-delete", "100%").code == 0
    assert not (pair.dest / "many").exists()


def test_a_live_mass_deletion_is_never_called_in_sync(pair: Pair) -> None:
    """While deletions are held the client does not say in_sync; it does once they are back."""
    make_small_files(pair.source / "many", 1_500)
    pair.start()
    client = pair.client
    mark = client.mark()
    (pair.source / "many").rename(pair.base / "away")
    client.expect("held", since=mark)
    assert sum(1 for _ in (pair.dest / "many").rglob("*.js")) == 1_500
    assert not client.events("in_sync", since=mark)
    (pair.base / "away").rename(pair.source / "many")
    pair.converge()
