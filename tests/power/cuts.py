"""Power cuts on real file systems; a part of the torture run."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import itertools
import random
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from tests.e2e.harness import Running
from tests.power.disks import KINDS, Disks, keep_mounts_to_oneself, open_disks
from tests.power.session import live_session
from tests.power.verdict import Aftermath, Verdict, cut_again, judge
from tests.torture.outcome import Failure, Outcome

SHARE = 30.0
Meddling = Callable[[Running], AbstractContextManager[None]]
_CUTS_A_SESSION = 10
_AGAIN = 0.15
"""Of the cuts, as many are followed by another one while both sides recover."""
_RECOVERING_S = (0.3, 2.0)
_A_CUT_TAKES_S = 5.0


def run(seed: int, seconds: float, work: Path) -> Outcome:
    """Cut the power of one file system after the other until the time is over.

    The seed decides what is done in which order, but not the instants of the cuts.
    """
    end_s = time.monotonic() + seconds
    keep_mounts_to_oneself()
    outcome = Outcome({}, [])
    with open_disks(work / "disks") as disks:
        for number in itertools.count():
            left_s = end_s - time.monotonic()
            if number and left_s < _A_CUT_TAKES_S:
                break
            kind = list(KINDS)[number % len(KINDS)]
            cuts = max(1, min(_CUTS_A_SESSION, int(left_s / _A_CUT_TAKES_S)))
            folder = work / f"session-{number}"
            verdicts = session_of_cuts(disks, kind, cuts, f"{seed}:{number}", folder)
            _take_in(outcome, verdicts, kind, f"session {number} on {kind}", seed)
            shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _take_in(
    outcome: Outcome, verdicts: Iterable[Verdict], kind: str, session: str, seed: int
) -> None:
    case = f"power cuts of {session}, seed {seed}"
    replay = f"python -m tests.torture --only power --seed {seed}"
    figures = Counter(outcome.figures)
    try:
        for verdict in verdicts:
            figures.update({"cuts": 1, f"cuts by file system/{kind}": 1})
            figures.update(verdict.figures)
            if verdict.faults:
                outcome.failures.append(Failure(case, replay, "\n".join(verdict.faults)))
    except Exception:  # noqa: BLE001 - it is told, and the other sessions go on
        outcome.failures.append(Failure(case, replay, traceback.format_exc()))
    outcome.figures = dict(figures)


def session_of_cuts(
    disks: Disks,
    kind: str,
    cuts: int,
    case: str,
    work: Path,
    meddle: Meddling = lambda server: nullcontext(),
    *,
    may_have_cache: bool = True,
) -> Iterator[Verdict]:
    """Cut the power of one live session some times; yield what each cut has left.

    Args:
        disks: room for the disk.
        kind: the file system.
        cuts: how many.
        case: decides everything but the instants.
        work: a folder that is not there yet.
        meddle: what is done to the server while it works.
        may_have_cache: in every other session the disk has a write cache, which is lost.
    """
    chances = random.Random(case)
    on_disk = chances.random() < 0.5
    cached = chances.random() < 0.5 and may_have_cache
    source_chances = random.Random(f"source of {case}")
    with (
        live_session(
            disks, kind, work, source_chances, state_on_disk=on_disk, cached=cached
        ) as session,
        meddle(session.pair.server),
    ):
        try:
            for _ in range(cuts):
                session.cut(chances, may_keep_state=on_disk)
                session.check()
        except BaseException:
            for cut in session.cuts:
                cut.image.unlink()
            raise
    after = Aftermath(disks, kind, session.source.history, session.pair)
    for number, cut in enumerate(session.cuts):
        last = cut
        if again := chances.random() < _AGAIN:
            last = cut_again(after, cut, work / f"again-{number}", chances.uniform(*_RECOVERING_S))
            cut.image.unlink()
        verdict = judge(after, last, work / f"cut-{number}")
        verdict.figures["cuts while it recovered from a cut"] += again
        verdict.figures["cuts that lose the disk's write cache"] += cached
        last.image.unlink()
        yield verdict
