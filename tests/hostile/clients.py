"""Hostile clients against a real server, seed after seed."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import time
import traceback
from collections import Counter
from pathlib import Path

from tests.hostile.assaults import step
from tests.hostile.attacker import Attacker
from tests.torture.outcome import Failure

STEPS = 400
"""After so many a new server begins with the next seed."""


def attack(
    seed: int, seconds: float, base: Path, steps: int = STEPS
) -> tuple[Counter[str], list[Failure]]:
    """Attack one server; return what was counted and what was broken."""
    until_s = time.monotonic() + seconds
    attacker = Attacker(seed, base)
    done = 0
    try:
        while done < steps and time.monotonic() < until_s:
            done += 1
            step(attacker)
        attacker.check()
        attacker.pair.server.terminate()
        attacker.pair.close()
    except Exception:  # noqa: BLE001 - a failure is reported with its seed
        if attacker.pair.server.alive:
            attacker.pair.server.kill()
        log = attacker.pair.server.errors[-4_000:]
        told = f"{attacker.acts[-5:]}\n{traceback.format_exc()}\n{log}"
        replay = f"python -m tests.hostile.clients {seed} {done}"
        return attacker.counts, [Failure(f"hostile client, seed {seed}, step {done}", replay, told)]
    return attacker.counts, []


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        counted, failures = attack(int(sys.argv[1]), 3600, Path(folder) / "pair", int(sys.argv[2]))
    print(dict(counted))
    for failure in failures:
        print(failure.told)
    sys.exit(bool(failures))
