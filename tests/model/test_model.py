"""Everything that can be done to a folder, in random order, against real processes."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.fixtures import remove
from tests.model.hall import Hall
from tests.model.machine import explore

pytestmark = pytest.mark.process


@pytest.fixture
def hall(tmp_path: Path) -> Iterator[Hall]:
    made = Hall(tmp_path, Counter())
    yield made
    made.give_up()
    remove(tmp_path)


def test_whatever_is_done_arrives(hall: Hall) -> None:
    """Source, destination and a dictionary of what was done agree, and what cannot is told."""
    explore(hall, number=1, most_examples=12)
    assert hall.counts["comparisons"] >= 12
