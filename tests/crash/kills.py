"""Part of the torture run: either side killed, or its system calls failing, at every place."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import random
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.crash.case import Case, count_sites, run_case
from tests.crash.site import ERROR_CALLS, KILL, SIDES, Site, errors_of, why_not
from tests.torture.outcome import Failure, Outcome

SHARE: float | None = 25.0
Counts = Mapping[str, Mapping[str, int]]
"""For each side: how often its busiest thread makes each call."""

_AGAIN_CALLS = ("pwrite64", "renameat2", "fdatasync", "utimensat", "linkat", "unlink", "openat")


def run(seed: int, seconds: float, work: Path) -> Outcome:
    """Go through the places in random order until the time is up."""
    end_s = time.monotonic() + seconds
    if reason := why_not():
        return Outcome({f"skipped: {reason}": 1}, [])
    counts = {side: count_sites(work / f"count-{side}", side) for side in SIDES}
    figures: dict[str, float] = {}
    for side, calls in counts.items():
        figures |= {f"places known, {side}/{call}": count for call, count in calls.items()}
    failures: list[Failure] = []
    reached: set[Site] = set()
    for number, case in enumerate(cases(counts, seed)):
        if time.monotonic() > end_s:
            break
        figures["cases"] = figures.get("cases", 0) + 1
        try:
            struck = run_case(work / f"case-{number}", case)
        except Exception as error:  # noqa: BLE001  whatever a case ends with is to be reported
            told = "".join(traceback.format_exception(error))
            failures.append(Failure(case.replay, case.replay, told))
            continue
        reached |= set(struck)
        for site in struck:
            what = "kills" if site.fault == KILL else f"errors {site.fault}"
            figures[f"{what}, {site.side}/{site.call}"] = (
                figures.get(f"{what}, {site.side}/{site.call}", 0) + 1
            )
    figures["places reached"] = len(reached)
    return Outcome(dict(figures), failures)


def cases(counts: Counts, seed: int) -> Iterator[Case]:
    """Yield cases without end: every place once in random order, then all over again.

    Three in four are kills, every fifth of them with a second one at the next start.
    """
    chance = random.Random(seed)
    while True:
        kills = [site for side in SIDES for site in _kills(side, counts[side], chance)]
        errors = [site for side in SIDES for site in _errors(side, counts[side], chance)]
        chance.shuffle(kills)
        chance.shuffle(errors)
        for number, site in enumerate(kills):
            again = None
            if chance.random() < 0.2:
                call = chance.choice(_AGAIN_CALLS)
                most = max(2, counts[site.side].get(call, 2) // 4)
                again = Site(site.side, call, chance.randrange(1, most))
            yield Case(site, chance.randrange(1_000), again)
            if number % 3 == 0 and errors:
                yield Case(errors.pop(), chance.randrange(1_000))


def _kills(side: str, counts: Mapping[str, int], chance: random.Random) -> Iterator[Site]:
    for call, count in counts.items():
        # Most opens are the interpreter's own: a sample of them will do.
        every = range(1, count + 1)
        chosen = chance.sample(every, min(count, 40)) if call in ("openat", "ioctl") else every
        yield from (Site(side, call, when) for when in chosen)


def _errors(side: str, counts: Mapping[str, int], chance: random.Random) -> Iterator[Site]:
    for call in ERROR_CALLS:
        for when in range(1, counts.get(call, 0) + 1):
            fault = chance.choice(errors_of(call))
            yield Site(side, call, when, fault, lasting=chance.random() < 0.4)
