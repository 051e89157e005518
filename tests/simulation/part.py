"""The part of a torture run that simulates worlds, seed after seed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec

from tests.torture.outcome import Failure, Outcome

SHARE = 30.0
_GRACE_S = 120.0


def run(seed: int, seconds: float, work: Path) -> Outcome:
    """Simulate from this seed on, in a process whose interpreter is its own."""
    if sys.platform != "linux":
        return Outcome({"runs": 0}, [])
    figures = work / "figures.json"
    words = ["--seed", str(seed), "--seconds", f"{seconds:.0f}", "--json", str(figures)]
    began_s = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--quiet", *words],
        stdin=subprocess.DEVNULL,
        timeout=seconds + _GRACE_S,
        check=False,
    )
    took_s = time.monotonic() - began_s
    return outcome(figures, took_s)


def outcome(figures: Path, took_s: float) -> Outcome:
    """Return what the process left as an outcome."""
    from tests.simulation.result import Result

    results = msgspec.json.decode(figures.read_bytes(), type=list[Result])
    counts: Counter[str] = Counter()
    failures = []
    for result in results:
        counts.update(result.counts)
        if result.failure:
            replay = f"python -m tests.simulation --seed {result.seed} --trace"
            told = "\n".join([result.failure, *result.trace])
            failures.append(Failure(f"simulation, seed {result.seed}", replay, told))
    counts["runs"] = len(results)
    counts["operations"] = sum(
        count
        for name, count in counts.items()
        if name in ("user acts", "messages") or name.startswith("disk calls/")
    )
    return Outcome({**counts, "runs a minute": 60 * len(results) / took_s}, failures)
