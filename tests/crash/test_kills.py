"""Either side killed, or refused by the system, at any call that changes a disk."""

from __future__ import annotations

import sys

assert sys.platform == "linux"


import os
import random
from pathlib import Path

import pytest

from tests.crash.case import Case, run_case
from tests.crash.filter import why_not
from tests.crash.places import Places
from tests.crash.site import parse

pytestmark = [pytest.mark.process, pytest.mark.skipif(bool(why_not()), reason=why_not())]

SPREAD = [
    "start/server/pwrite64/30/KILL",
    "fill/server/renameat2/3/KILL",
    "fill/server/pwrite64/9/KILL",
    "edit/client/pwrite64/8/KILL",
    "rearrange/server/renameat2/5/ENOSPC",
    "types/server/fdatasync/1/EIO",
    "remove/server/renameat2/4/KILL",
    "end/client/pwrite64/2/KILL",
]
"""A place of each kind; the second one in a stage strikes at the next start."""

RANDOM_SESSIONS = 5


def test_sides_broken_in_every_stage(tmp_path: Path) -> None:
    """Killed or failing, nothing is mixed or lost, and both sides become equal."""
    case = Case(1, tuple(map(parse, SPREAD)))
    assert set(run_case(tmp_path / "case", case).struck) == set(case.sites)


def test_sides_broken_anywhere(tmp_path: Path) -> None:
    """The same at random places; the seed that is printed chooses them again."""
    seed = int(os.environ.get("TWINFOLD_SEED") or random.randrange(1 << 32))
    print(f"TWINFOLD_SEED={seed}")
    places = Places(run_case(tmp_path / "count", Case(0, ())).counts, seed)
    for number in range(RANDOM_SESSIONS):
        case = places.next()
        print(case.replay)
        places.learn(case, run_case(tmp_path / f"case-{number}", case).struck)
    assert places.struck.total() > RANDOM_SESSIONS
