"""Everything that can be done to a folder, for as long as it is given.

    python -m tests.model.torture SEED [--examples N] [--work FOLDER]

runs the examples of one seed again; Hypothesis makes the one that fails small and shows it.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import argparse
import itertools
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.model.hall import Hall
from tests.model.machine import explore
from tests.torture.outcome import Failure, Outcome

SHARE: float | None = 15.0

_EXAMPLES = 8
_MOST_FAILURES = 3
_SHRINKING_S = 300.0
"""What fails when less time is left is shown as it is."""


def run(seed: int, seconds: float, work: Path) -> Outcome:
    """See `tests.torture.outcome.Part`."""
    end_s = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    failures: list[Failure] = []
    hall = Hall(work, counts)
    try:
        for turn in itertools.count():
            left_s = end_s - time.monotonic()
            if left_s <= 0 or len(failures) >= _MOST_FAILURES:
                break
            try:
                explore(hall, seed + turn, _EXAMPLES, shrinks=left_s > _SHRINKING_S)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is shown
                told = "".join(traceback.format_exception(error))
                replay = f"python -m tests.model.torture {seed + turn}"
                failures.append(Failure(f"seed {seed + turn}: {str(error)[:200]}", replay, told))
    finally:
        hall.give_up()
    return Outcome({what: float(count) for what, count in counts.items()}, failures)


def main() -> int:
    """Run the examples of one seed again."""
    parser = argparse.ArgumentParser(prog="python -m tests.model.torture", description=__doc__)
    parser.add_argument("seed", type=int)
    parser.add_argument("--examples", type=int, default=_EXAMPLES)
    parser.add_argument("--work", type=Path, help="where scratch folders go")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="model-", dir=asked.work) as work:
        hall = Hall(Path(work), Counter())
        try:
            explore(hall, asked.seed, asked.examples)
        finally:
            hall.give_up()
        print(*sorted(hall.counts.items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
