"""Tells a series that stays as it is from one that grows.

The first third is for warming up; the last third is held against the second.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tests.soak.gauge import Sample

MIB = 1 << 20
FEWEST = 12
"""So many samples a third are needed for a judgement."""


class Bound(NamedTuple):
    """How far the last third may be above the second.

    Attributes:
        of: what of a third is looked at.
        factor: the last third may be so many times the second,
        more: and so much more.
        least_s: a shorter run says nothing of it.
        of_second: what of the second third is looked at, if it is something else.
    """

    of: Callable[[Sequence[float]], float]
    factor: float
    more: float
    least_s: float = 0.0
    of_second: Callable[[Sequence[float]], float] | None = None


SERVER_MEMORY = Bound(statistics.median, 1.05, 3 * MIB, least_s=1_800)
"""The index's page cache, 16 MiB a connection, fills as the attic is thinned out."""

CLIENT_MEMORY = Bound(statistics.median, 1.05, 6 * MIB)
"""The state's page cache, 8 MB a connection of two, fills as the state grows."""

THREADS = Bound(max, 1, 3)
"""A pool has a thread for each task that it ever had at once, up to its limit."""

BOUNDS: dict[str, Bound] = {
    "server own bytes": SERVER_MEMORY,
    "client own bytes": CLIENT_MEMORY,
    "server resident bytes": SERVER_MEMORY,
    "client resident bytes": CLIENT_MEMORY,
    "server threads": THREADS,
    "client threads": THREADS,
    # It is thinned out every ten minutes.
    "attic bytes": Bound(max, 1.35, 16 * MIB, least_s=1_800),
    "index bytes": Bound(max, 1.25, 2 * MIB),
    "state bytes": Bound(max, 1.25, 2 * MIB),
    "index log bytes": Bound(max, 1, 24 * MIB),
    "state log bytes": Bound(max, 1, 40 * MIB),
}
"""Of all samples. A log grows to its size (16 and 32 MiB) and is written over from then on."""

DESCRIPTORS = Bound(min, 1, 0, of_second=statistics.median)
"""More at every time than at most times before: a connection may be closed once in a while."""

IDLE_BOUNDS: dict[str, Bound] = {
    "server descriptors": DESCRIPTORS,
    "client descriptors": DESCRIPTORS,
    "staged files": Bound(max, 1, 2),
}
"""Of samples that were taken while nothing was to be done."""


def growth(samples: Sequence[Sample], bounds: dict[str, Bound], end_s: float) -> list[str]:
    """List what grew beyond its bound in a run of ``end_s`` seconds."""
    second, last = _thirds(samples, end_s)
    if not second or not last:
        return []
    told = []
    for name, bound in bounds.items():
        before = (bound.of_second or bound.of)([sample[name] for sample in second])
        after = bound.of([sample[name] for sample in last])
        if end_s >= bound.least_s and after > before * bound.factor + bound.more:
            told.append(f"{name}: {before:,.0f} in the second third, {after:,.0f} in the last")
    return told


def can_be_judged(samples: Sequence[Sample], end_s: float) -> bool:
    """Tell whether there are enough samples to say more than that it ran."""
    return min(map(len, _thirds(samples, end_s))) >= FEWEST


def _thirds(samples: Sequence[Sample], end_s: float) -> tuple[list[Sample], list[Sample]]:
    from_s, split_s = end_s / 3, end_s * 2 / 3
    return (
        [sample for sample in samples if from_s <= sample["seconds"] < split_s],
        [sample for sample in samples if split_s <= sample["seconds"] <= end_s],
    )
