"""Plants known faults into a copy of the program, one at a time: the tests have to notice each.

    python -m tests.planted [--only NAME ...] [--jobs N] [--list]

First all tests that are to fail later have to pass on a copy without a fault. The table that
is printed at the end is the one in docs/guarantees.md. The exit code is 1 if a fault was not
noticed.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from tests.planted.fault import Fault, plant, uproot
from tests.planted.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 180.0
"""A run of tests that takes longer hangs."""

PATIENCE_S = 20.0
"""So long one test waits for what a fault may keep from happening."""

WORLDS = 100
"""So many worlds of the simulation may pass before one shows the fault."""

SOUND_LIMIT_S = 1_800.0
SOUND_PATIENCE_S = 90.0
ABSENT = shutil.ignore_patterns(
    ".git", ".venv", "__pycache__", ".*cache", ".hypothesis", ".coverage*"
)
SOME_FAILED = 1
"""pytest's exit code; others mean that the tests did not even begin."""


class Ended(NamedTuple):
    """A run of tests: its exit code (None if it hung), its first failing test, its output."""

    code: int | None
    failed: str
    took_s: float
    output: str


class Verdict(NamedTuple):
    """What became of a planted fault: one run for each selection of its tests."""

    fault: Fault
    runs: list[Ended]

    @property
    def noticed_by(self) -> list[str]:
        """For each run the first test that failed; empty where the fault was not noticed."""
        return [self._noticed_by(ended) for ended in self.runs]

    @property
    def is_caught(self) -> bool:
        """Whether every selection noticed it."""
        return all(self.noticed_by)

    def _noticed_by(self, ended: Ended) -> str:
        if ended.code is None:
            return "hangs" if self.fault.hangs else ""
        return ended.failed if ended.code == SOME_FAILED else ""


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    asked = _arguments()
    faults = [fault for fault in FAULTS if not asked.only or fault.name in asked.only]
    if asked.list:
        print("\n".join(fault.name for fault in faults))
        return 0
    with tempfile.TemporaryDirectory(prefix="planted-", dir=asked.work) as work:
        # Some tests work as another user, who has to get there.
        os.chmod(work, 0o755)
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(asked.jobs):
            copies.put(_copy(Path(work) / f"copy-{number}"))
        if not asked.trust and not _is_sound(faults, copies):
            return 1
        with ThreadPoolExecutor(asked.jobs) as pool:
            verdicts = list(pool.map(lambda fault: _try(fault, copies), faults))
    print("\n".join(_table(verdicts)))
    return 0 if all(verdict.is_caught for verdict in verdicts) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.planted", description=__doc__)
    names = sorted(fault.name for fault in FAULTS)
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME")
    parser.add_argument("--jobs", type=int, default=1, help="so many faults at the same time")
    parser.add_argument("--list", action="store_true", help="only name the faults")
    parser.add_argument("--trust", action="store_true", help="do not first run without a fault")
    parser.add_argument("--work", type=Path, help="where the copies go")
    return parser.parse_args()


def _copy(target: Path) -> Path:
    """Copy the repository, the compiled parts of the package included."""
    shutil.copytree(ROOT, target, ignore=ABSENT)
    return target


def _is_sound(faults: list[Fault], copies: SimpleQueue[Path]) -> bool:
    """Tell whether the tests pass as long as no fault is planted."""
    copy = copies.get()
    tests = sorted({test for fault in faults for tests in fault.selections for test in tests})
    ended = _run(copy, tests, SOUND_LIMIT_S, SOUND_PATIENCE_S)
    copies.put(copy)
    print(f"without a fault: exit code {ended.code} after {ended.took_s:.0f} s", flush=True)
    if ended.code != 0:
        print(ended.output)
    return ended.code == 0


def _try(fault: Fault, copies: SimpleQueue[Path]) -> Verdict:
    copy = copies.get()
    plant(fault, copy)
    try:
        runs = [_run(copy, list(tests), LIMIT_S, PATIENCE_S) for tests in fault.selections]
    finally:
        uproot(fault, copy, ROOT)
        copies.put(copy)
    verdict = Verdict(fault, runs)
    for ended, by in zip(runs, verdict.noticed_by, strict=True):
        told = by or f"NOT NOTICED (exit code {ended.code})\n{ended.output}"
        print(f"{fault.name}: {told}, {ended.took_s:.0f} s", flush=True)
    return verdict


def _run(copy: Path, tests: list[str], limit_s: float, patience_s: float) -> Ended:
    """Run tests of a copy, to the first that fails."""
    scratch = copy.with_name(f"{copy.name}-scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    words = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--hypothesis-seed=1"]
    words += ["-p", "tests.planted.unshrunk"]
    # The copy's own folders go before those of the installed package.
    environment = os.environ | {"PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy}"}
    environment |= {"TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"TEST_LIMIT_S": str(patience_s), "TEST_WORLDS": str(WORLDS)}
    environment |= {"TWINFOLD_SEED": "1"}
    began_s = time.monotonic()
    running = subprocess.Popen(
        [*words, *tests],
        cwd=copy,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="backslashreplace",
    )
    try:
        output, _ = running.communicate(timeout=limit_s)
        code: int | None = running.returncode
    except subprocess.TimeoutExpired:
        code = None
    finally:
        # What the tests started is of their process group, and ends with them.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    if code is None:
        output, _ = running.communicate()
    failed = next((line for line in output.splitlines() if line.startswith("FAILED ")), "")
    name = failed.removeprefix("FAILED ").partition(" - ")[0].removeprefix("tests/")
    return Ended(code, name, time.monotonic() - began_s, output[-6_000:])


def _table(verdicts: list[Verdict]) -> list[str]:
    lines = ["", "| fault | promise | noticed by | seconds |", "|---|---|---|---|"]
    for verdict in verdicts:
        by = ", ".join(f"`{test}`" if test else "**nothing**" for test in verdict.noticed_by)
        took = " + ".join(f"{ended.took_s:.0f}" for ended in verdict.runs)
        lines.append(f"| {verdict.fault.name} | {verdict.fault.promise} | {by} | {took} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
