"""Either side killed, or refused by the system, at any call that changes a disk."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import random
from pathlib import Path

import pytest

from tests.crash.case import Case, run_case
from tests.crash.site import Site, why_not

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(why_not()), reason=why_not())]

SPREAD = [
    Case(Site("server", "renameat2", 20), 1, Site("server", "pwrite64", 20)),
    Case(Site("server", "fdatasync", 4, "EIO"), 1),
    Case(Site("server", "renameat2", 12, "ENOSPC"), 1),
    Case(Site("client", "pwrite64", 60), 1),
]
"""A place of each kind."""

RANDOM_PLACES = {"server/renameat2": 40, "server/pwrite64": 200, "client/pwrite64": 60}
"""Calls, and how many of them a session has at least."""


@pytest.mark.parametrize("case", SPREAD, ids=lambda case: case.site.words)
def test_a_side_broken_at_a_place(tmp_path: Path, case: Case) -> None:
    """Killed or failing there, nothing is mixed or lost, and both sides become equal."""
    assert case.site in run_case(tmp_path / "case", case), "the place was not reached"


def test_a_side_killed_anywhere(tmp_path: Path) -> None:
    """The same at a random place; the seed that is printed repeats it."""
    seed = os.environ.get("TWINFOLD_SEED") or str(random.randrange(1 << 32))
    chance = random.Random(seed)
    side, call = chance.choice(list(RANDOM_PLACES)).split("/")
    site = Site(side, call, chance.randrange(1, RANDOM_PLACES[f"{side}/{call}"]))
    case = Case(site, chance.randrange(1_000))
    print(f"TWINFOLD_SEED={seed}: {case.replay}")
    run_case(tmp_path / "case", case)
