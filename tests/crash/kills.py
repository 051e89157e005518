"""Part of the torture run: either side killed, or its system calls failing, at every place."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import time
import traceback
from collections import Counter
from pathlib import Path

from tests.crash.case import Case, run_case
from tests.crash.filter import why_not
from tests.crash.places import Places
from tests.crash.site import KILL
from tests.torture.outcome import Failure, Outcome

SHARE: float | None = 25.0


def run(seed: int, seconds: float, work: Path) -> Outcome:
    """Go through the places in random order until the time is up."""
    end_s = time.monotonic() + seconds
    if reason := why_not():
        return Outcome({f"skipped: {reason}": 1}, [])
    places = Places(run_case(work / "count", Case(0, ())).counts, seed)
    figures: Counter[str] = Counter()
    failures: list[Failure] = []
    while time.monotonic() < end_s:
        case = places.next()
        figures["sessions"] += 1
        try:
            struck = run_case(work / f"case-{figures['sessions']}", case).struck
        except Exception as error:  # noqa: BLE001  whatever a case ends with is to be reported
            told = "".join(traceback.format_exception(error))
            failures.append(Failure(case.replay, case.replay, told))
            continue
        places.learn(case, struck)
        for site in struck:
            figures["kills" if site.fault == KILL else f"errors {site.fault}"] += 1
    return Outcome({**_summary(places), **figures}, failures)


def _summary(places: Places) -> dict[str, float]:
    """Tell for each kind how many places are known, and how many of them were struck."""
    known, struck = places.known, places.struck
    told: dict[str, float] = {
        "places known": known.total(),
        "places struck": struck.total(),
        "times that all places were gone through": places.passes,
    }
    for kind in known:
        told |= {
            f"places for {kind}: known": known[kind],
            f"places for {kind}: struck": struck[kind],
        }
    return told
