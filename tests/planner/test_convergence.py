"""Random trees, random changes, a channel that misbehaves: the planner gets there, and cheaply."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import pytest

from tests.planner.examples import explore


@pytest.mark.parametrize("real", [False, True], ids=["model", "server"])
def test_any_tree_converges_over_any_channel(real: bool) -> None:
    """Source and receiver become equal, nothing is lost, nothing is sent twice, moves are moves."""
    counts = explore(seed=1, most_examples=20 if real else 90, real=real)
    assert counts["plans checked"] > 0
    assert counts["moves that had to be found"] > 0
    assert counts["client restarts"] > 0
