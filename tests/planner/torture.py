"""The planner under random trees, for as long as it is given.

    python -m tests.planner.torture SEED [--real] [--examples N]

runs the examples of one seed again; Hypothesis makes the one that fails small and shows it.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import argparse
import itertools
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.planner.examples import explore
from tests.torture.outcome import Failure, Outcome

SHARE: float | None = 5.0

_EXAMPLES = 100
_REAL_EVERY = 3
_MOST_FAILURES = 3


def run(seed: int, seconds: float, work: Path) -> Outcome:
    """See `tests.torture.outcome.Part`."""
    end_s = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    failures: list[Failure] = []
    for turn in itertools.count():
        if time.monotonic() > end_s or len(failures) >= _MOST_FAILURES:
            break
        real = turn % _REAL_EVERY == 0
        try:
            explore(seed + turn, _EXAMPLES, real=real, counts=counts, until_s=end_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is shown
            told = "".join(traceback.format_exception(error))
            replay = f"python -m tests.planner.torture {seed + turn}{' --real' * real}"
            failures.append(Failure(f"seed {seed + turn}: {error}", replay, told))
    return Outcome({what: float(count) for what, count in counts.items()}, failures)


def main() -> int:
    """Run the examples of one seed again."""
    parser = argparse.ArgumentParser(prog="python -m tests.planner.torture", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--real", action="store_true", help="the server's own parts receive")
    parser.add_argument("--examples", type=int, default=_EXAMPLES)
    asked = parser.parse_args()
    print(*sorted(explore(asked.seed, asked.examples, real=asked.real).items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
