"""Part of the torture run: a connection cut, held up, split, repeated or spoilt at any byte.

python -m tests.crash.network --fault cut --at 12345 --direction down --seed 3
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import argparse
import random
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.crash.case import Case, Session
from tests.crash.launching import Launcher
from tests.crash.relay import DIRECTIONS, FAULTS, Relay, Trouble
from tests.e2e.fixtures import remove
from tests.torture.outcome import Failure, Outcome

SHARE: float | None = 10.0
_SCRIPT_SEEDS = 1_000
_WEIGHTS = {"cut": 5, "stall": 1, "split": 2, "repeat": 2, "flip": 2}


class Passed(NamedTuple):
    """What went over the connections of a session: bytes by direction, and troubles caused."""

    up_bytes: int
    down_bytes: int
    done: int


class TroubledSession(Session):
    """A server and a live client that go on by themselves, whatever the network does."""

    def __init__(self, base: Path, trouble: Trouble | None, launcher: Launcher) -> None:
        super().__init__(base, Case(trouble.seed if trouble else 0, ()), launcher)
        self._trouble = trouble
        self.relay: Relay | None = None

    def _start(self, side: str) -> None:
        if side == "client":
            self.pair.start_client(proxy=self.relay)
            return
        self.pair.start_server()
        self.relay = Relay(("127.0.0.1", self.pair.port), self._trouble)


def run_trouble(base: Path, trouble: Trouble | None) -> Passed:
    """Run a session in a new folder.

    Raises:
        AssertionError: a promise was broken.
    """
    base.mkdir()
    session = TroubledSession(base, trouble, Launcher(trapped=False))
    try:
        session.run()
        assert session.relay is not None
        relay = session.relay
        return Passed(relay.sent_bytes, relay.received_bytes, relay.done)
    finally:
        try:
            if session.relay is not None:
                session.relay.close()
            session.pair.close()
        finally:
            remove(base)


def run(seed: int, seconds: float, work: Path) -> Outcome:
    """Cause trouble at random bytes until the time is up."""
    end_s = time.monotonic() + seconds
    figures: dict[str, float] = {}
    failures: list[Failure] = []
    whole = run_trouble(work / "whole", None)
    figures["bytes of a session, up"] = whole.up_bytes
    figures["bytes of a session, down"] = whole.down_bytes
    for number, trouble in enumerate(troubles(seed, whole)):
        if time.monotonic() > end_s:
            break
        figures["cases"] = figures.get("cases", 0) + 1
        try:
            done = run_trouble(work / f"case-{number}", trouble).done
        except Exception as error:  # noqa: BLE001  whatever a case ends with is to be reported
            told = "".join(traceback.format_exception(error))
            failures.append(Failure(trouble.replay, trouble.replay, told))
            continue
        what = f"{trouble.fault}, {trouble.direction}" if done else "not reached"
        figures[what] = figures.get(what, 0) + max(1, done)
    return Outcome(figures, failures)


def troubles(seed: int, whole: Passed) -> Iterator[Trouble]:
    """Yield troubles without end, at any byte of a session."""
    chance = random.Random(seed)
    lengths = {"up": whole.up_bytes, "down": whole.down_bytes}
    while True:
        (fault,) = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        direction = chance.choice(FAULTS[fault])
        at = chance.randrange(lengths[direction])
        yield Trouble(fault, at, direction, chance.randrange(_SCRIPT_SEEDS))


def main() -> int:
    """Run the case that the command line names; say whether its byte was reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.network", description=__doc__)
    parser.add_argument("--fault", choices=list(FAULTS), required=True)
    parser.add_argument("--at", type=int, required=True)
    parser.add_argument("--direction", choices=DIRECTIONS, default="up")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    trouble = Trouble(asked.fault, asked.at, asked.direction, asked.seed)
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        passed = run_trouble(Path(folder) / "case", trouble)
    print(f"all held; {passed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
