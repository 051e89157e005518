"""Which places of a session are still to be broken, and how."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from tests.crash.case import Case
from tests.crash.site import KILL, READING, SIDES, Site, errors_of

Counts = Mapping[tuple[str, str], Mapping[str, int]]
"""For each stage and side: how often it makes each call, if nothing breaks it."""

_Pool = dict[tuple[str, str], list[Site]]

_AGAIN_CALLS = ("pwrite64", "renameat2", "fdatasync", "utimensat", "linkat", "unlink", "openat")
_AGAIN = 0.2
_BOTH_SIDES = 0.5
_LASTING = 0.4
_SESSIONS_OF_ERRORS = 0.5
_MOST_TRIES = 3
_SCRIPT_SEEDS = 1_000


class Places:
    """Gives out cases until every place was killed at and has failed, then begins again.

    A place that a case did not reach, because an earlier one in it changed what came later, is
    tried again, at most twice.

    Attributes:
        known: how many places there are, by what they are.
        struck: how many of them were reached.
        passes: how often all of them were given out.
    """

    def __init__(self, counts: Counts, seed: int) -> None:
        self._counts = counts
        self._random = random.Random(seed)
        self._kills: _Pool = {}
        self._errors: _Pool = {}
        self._tries: Counter[Site] = Counter()
        self._reached: set[Site] = set()
        self.passes = 0
        self._fill()
        every = [site for pool in (self._kills, self._errors) for site in _all(pool)]
        self.known = Counter(_kind(site) for site in every)
        self.struck: Counter[str] = Counter()

    def next(self) -> Case:
        """Return the next case: something in each stage, as far as there is something left."""
        if not any(_all(self._kills)) and not any(_all(self._errors)):
            self.passes += 1
            self._fill()
        sites: list[Site] = []
        pools = [self._kills, self._errors]
        if self._random.random() < _SESSIONS_OF_ERRORS:
            pools.reverse()
        for stage in self._stages():
            sides = sorted(SIDES, key=lambda side: -self._left(stage, side))
            if self._random.random() > _BOTH_SIDES and self._random.random() < 0.8:
                sides = sides[:1]
            for side in sides:
                sites += self._take(pools, stage, side)
        return Case(self._random.randrange(_SCRIPT_SEEDS), tuple(sites))

    def learn(self, case: Case, struck: Sequence[Site]) -> None:
        """Take in what a case has reached."""
        for (stage, side), group in groupby(case.sites, lambda site: (site.stage, site.side)):
            first = next(group)
            if first in struck:
                if self._place(first) not in self._reached:
                    self._reached.add(self._place(first))
                    self.struck[_kind(first)] += 1
                continue
            self._tries[first] += 1
            if self._tries[first] < _MOST_TRIES:
                pools = self._kills if first.fault == KILL else self._errors
                pools[stage, side].insert(0, first)

    def _fill(self) -> None:
        self._tries.clear()
        for (stage, side), calls in self._counts.items():
            kills = [
                Site(stage, side, call, when)
                for call, count in calls.items()
                if call != READING
                for when in range(1, count + 1)
            ]
            errors = [
                self._error(stage, side, call, when)
                for call, count in calls.items()
                for when in range(1, count + 1)
            ]
            self._random.shuffle(kills)
            self._random.shuffle(errors)
            self._kills[stage, side], self._errors[stage, side] = kills, errors

    def _error(self, stage: str, side: str, call: str, when: int) -> Site:
        fault = self._random.choice(errors_of(call))
        # An interrupted call is made again, by SQLite without end.
        lasting = fault != "EINTR" and self._random.random() < _LASTING
        return Site(stage, side, call, when, fault, lasting)

    def _stages(self) -> Iterable[str]:
        return dict.fromkeys(stage for stage, _ in self._counts)

    def _left(self, stage: str, side: str) -> int:
        return len(self._kills[stage, side]) + len(self._errors[stage, side])

    def _take(self, pools: Sequence[_Pool], stage: str, side: str) -> Iterator[Site]:
        """Yield a site from the first of the pools that has one; maybe one for the next start."""
        pool = pools[0][stage, side] or pools[1][stage, side]
        if not pool:
            return
        site = pool.pop()
        yield site
        if site.fault == KILL and self._random.random() < _AGAIN:
            yield Site(stage, side, self._random.choice(_AGAIN_CALLS), self._random.randint(1, 12))

    @staticmethod
    def _place(site: Site) -> Site:
        """An error of any kind is the same place."""
        if site.fault == KILL:
            return site
        return site._replace(fault="error", lasting=False)


def _all(pools: _Pool) -> Iterator[Site]:
    for pool in pools.values():
        yield from pool


def _kind(site: Site) -> str:
    what = "kills" if site.fault == KILL else "errors"
    return f"{what}, {site.side}/{site.call}"
