"""Tries to break twinfold for as long as it is given, and reports figures.

    python -m tests.torture [--minutes M] [--seed N] [--only PART ...] [--json FILE] [--work FOLDER]

Each part runs in a process of its own, two at a time beside those that need the whole time.
The exit code is 1 if a promise was broken or a part ended early; the report names the command
that replays each case.
"""

from __future__ import annotations

import argparse
import importlib
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import msgspec

from tests.torture.outcome import Failure, Outcome, Part
from tests.torture.report import Ran, as_text

PARTS: dict[str, str] = {
    "cuts": "tests.crash.network",
    "fuzz": "tests.hostile.fuzz",
    "hostile": "tests.hostile.part",
    "kills": "tests.crash.kills",
    "model": "tests.model.torture",
    "planner": "tests.planner.torture",
    "power": "tests.power.cuts",
    "simulation": "tests.simulation.part",
    "soak": "tests.soak.soak",
}
"""The parts by name, and their modules."""

LANES = 2
GRACE_S = 300.0
"""How long a part may go on after its time; then it counts as stuck."""


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    asked = _arguments()
    if asked.part:
        return _run_part(asked)
    began_s = time.monotonic()
    if asked.work:
        asked.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="torture-", dir=asked.work) as work:
        ran = _run_all(asked.only or list(PARTS), asked.seed, asked.minutes * 60, Path(work))
    text = as_text(ran, asked.seed, time.monotonic() - began_s)
    print(text)
    if asked.json:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(ran)))
    return 1 if any(part.outcome.failures for part in ran) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31))
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), metavar="PART")
    parser.add_argument("--json", type=Path, help="write the report there, too")
    parser.add_argument("--work", type=Path, help="where scratch folders go")
    parser.add_argument("--part", choices=sorted(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def _load(name: str) -> Part:
    return cast(Part, importlib.import_module(PARTS[name]))


def _run_part(asked: argparse.Namespace) -> int:
    """Be the process of one part; its outcome goes to the file that --json names."""
    outcome = _load(asked.part).run(asked.seed, asked.seconds, asked.work)
    asked.json.write_bytes(msgspec.json.encode(outcome))
    return 0


def _run_all(names: list[str], seed: int, seconds: float, work: Path) -> list[Ran]:
    """Run the parts side by side, each for its share of the time."""
    shares = {name: _load(name).SHARE for name in names}
    total = sum(share for share in shares.values() if share is not None)
    beside = [name for name, share in shares.items() if share is None]
    in_turn = [name for name in names if name not in beside]
    lanes = min(LANES, max(1, len(in_turn)))
    in_turn.sort(key=lambda name: -(shares[name] or 0.0))

    def run(name: str) -> Ran:
        share = shares[name]
        given_s = seconds if share is None else min(seconds, seconds * lanes * share / total)
        return _run_in_process(name, seed, given_s, work)

    with ThreadPoolExecutor(lanes) as two, ThreadPoolExecutor(max(1, len(beside))) as others:
        running = [others.submit(run, name) for name in beside]
        running += [two.submit(run, name) for name in in_turn]
        return [one.result() for one in running]


def _run_in_process(name: str, seed: int, seconds: float, work: Path) -> Ran:
    folder, result, log = work / name, work / f"{name}.json", work / f"{name}.log"
    folder.mkdir()
    words = ["--part", name, "--seed", str(seed), "--seconds", f"{seconds:.0f}"]
    words += ["--work", str(folder), "--json", str(result)]
    began_s = time.monotonic()
    _tell(f"{name}: {seconds:.0f} s")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            code: int | None = process.wait(seconds + GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
    took_s = time.monotonic() - began_s
    if code == 0:
        outcome = msgspec.json.decode(result.read_bytes(), type=Outcome)
    else:
        ended = "was stuck" if code is None else f"ended with exit code {code}"
        replay = f"python -m tests.torture --only {name} --seed {seed}"
        told = log.read_text("utf-8", "backslashreplace")[-20_000:]
        outcome = Outcome({}, [Failure(f"the part {name} {ended}", replay, told)])
    _tell(f"{name}: {len(outcome.failures)} failures after {took_s:.0f} s")
    return Ran(name, took_s, outcome)


def _tell(line: str) -> None:
    """Write a whole line at once: several threads do."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
