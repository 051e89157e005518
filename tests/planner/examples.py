"""Examples of a planner's life, made by Hypothesis."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import time
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests.planner.actions import DRAW, DRAWS, Draw
from tests.planner.receivers import ModelReceiver, RealReceiver
from tests.planner.world import FAULTS, World
from tests.server.fixtures import quick_folder
from twinfold.client import batch as batches
from twinfold.client import files, uploads

LIMITS = st.tuples(st.integers(1, 9), st.sampled_from([1, 50_000, 200_000]))
"""How many changes, and how many bytes of content, a batch has at most."""

FIRST = st.lists(DRAW, min_size=6, max_size=20)
ROUNDS = st.lists(st.tuples(DRAWS, st.booleans()), min_size=2, max_size=5)
"""Changes of the source, and whether the scan after them looks at their names only."""

TROUBLE = st.lists(st.sampled_from(FAULTS), min_size=15, max_size=60)
BIG_BYTES = 100_000
"""Files over this size go in parts here, so that small trees have some."""


def explore(
    seed: int,
    most_examples: int,
    *,
    real: bool,
    counts: Counter[str] | None = None,
    until_s: float = float("inf"),
) -> Counter[str]:
    """Run so many examples, always the same ones for a seed; return what was done.

    From ``until_s`` of the monotonic clock on, what is left of them does nothing.

    Raises:
        AssertionError: a promise was broken; the smallest example that does it is in its notes.
    """
    counted: Counter[str] = Counter() if counts is None else counts
    failed: list[bool] = []

    @_seeded(seed)
    @settings(
        max_examples=most_examples,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(first=FIRST, rounds=ROUNDS, trouble=TROUBLE, meanwhile=DRAWS, limits=LIMITS)
    def live(
        first: list[Draw],
        rounds: list[tuple[list[Draw], bool]],
        trouble: list[str],
        meanwhile: list[Draw],
        limits: tuple[int, int],
    ) -> None:
        # Once one has failed, all are run: it is made smaller.
        if time.monotonic() > until_s and not failed:
            return
        counted["examples"] += 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batches, "MAX_CHANGES", limits[0])
            patch.setattr(batches, "MAX_CONTENT_BYTES", limits[1])
            patch.setattr(files, "WHOLE_BYTES", BIG_BYTES)
            patch.setattr(uploads, "WHOLE_BYTES", BIG_BYTES)
            try:
                _live(first, rounds, trouble, meanwhile, real, counted)
            except BaseException:
                failed.append(True)
                raise

    live()
    return counted


_seeded = seed


def _live(
    first: Sequence[Draw],
    rounds: Sequence[tuple[Sequence[Draw], bool]],
    trouble: Sequence[str],
    meanwhile: Sequence[Draw],
    real: bool,
    counts: Counter[str],
) -> None:
    with quick_folder() as folder:
        receiver = RealReceiver(folder / "destination") if real else ModelReceiver()
        world = World(folder, receiver, trouble, meanwhile, counts)
        try:
            world.change(first)
            world.pass_once()
            for draws, only_names in rounds:
                world.change(draws)
                world.pass_once(only_names=only_names)
            world.converge()
        finally:
            world.close()
