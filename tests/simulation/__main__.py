"""Runs simulated worlds.

    python -m tests.simulation [--seed N] [--runs COUNT | --seconds S] [--trace]

A world is what its seed makes of it: the same seed, the same run.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import msgspec

from tests.simulation.runs import begin_again_without_chance, prepare, run_seed

_TOLD_LINES = 60
"""So much of a trace is shown of what failed if nobody asked for all of it."""


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    asked = _arguments()
    begin_again_without_chance()
    prepare()
    results = []
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="simulation-") as work:
        for seed in itertools.count(asked.seed):
            result = run_seed(seed, Path(work), keeps_trace=asked.trace)
            if result.failure and not asked.trace:
                # The same run again: it fails in the same way.
                again = run_seed(seed, Path(work), keeps_trace=True)
                result.trace = again.trace[-_TOLD_LINES:]
            results.append(result)
            if result.trace:
                print("\n".join(result.trace))
            if result.failure or not asked.quiet:
                print(f"seed {seed}: {result.digest} {result.failure or 'green'}", flush=True)
            took_s = time.monotonic() - began_s
            if asked.first and result.failure:
                break
            if len(results) >= asked.runs if asked.seconds is None else took_s >= asked.seconds:
                break
    failures = sum(result.failure is not None for result in results)
    print(f"{failures} of {len(results)} failed in {took_s:.1f} s")
    if asked.json:
        asked.json.write_bytes(msgspec.json.encode(results))
    return 1 if failures else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--runs", type=int, default=1, help="so many seeds, one after the other")
    parser.add_argument("--seconds", type=float, help="as many as begin within this time")
    parser.add_argument("--first", action="store_true", help="end with the first that fails")
    parser.add_argument("--trace", action="store_true", help="show all that happened")
    parser.add_argument("--quiet", action="store_true", help="show only what failed")
    parser.add_argument("--json", type=Path, help="write the results there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
