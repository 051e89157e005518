"""The connection between both sides cut, split, repeated or spoilt at any byte."""

from __future__ import annotations

import sys

assert sys.platform == "linux"


import os
import random
from pathlib import Path

import pytest

from tests.crash.network import run_trouble
from tests.crash.relay import DIRECTIONS, Trouble

pytestmark = pytest.mark.process

EARLY_BYTES = {"up": 300_000, "down": 1_500}
"""Each session has at least so many."""

TROUBLES = [("cut", "up"), ("cut", "down"), ("repeat", "up"), ("flip", "up"), ("flip", "down")]


@pytest.mark.parametrize(("fault", "direction"), TROUBLES)
def test_trouble_at_a_random_byte(tmp_path: Path, fault: str, direction: str) -> None:
    """Both sides go on by themselves and become equal; the line that is printed repeats it."""
    assert direction in DIRECTIONS
    seed = os.environ.get("TWINFOLD_SEED") or str(random.randrange(1 << 32))
    chance = random.Random(seed)
    at = chance.randrange(EARLY_BYTES[direction])
    trouble = Trouble(fault, at, direction, chance.randrange(1_000))
    print(f"TWINFOLD_SEED={seed}: {trouble.replay}")
    assert run_trouble(tmp_path / "case", trouble).done, "the byte was not reached"
