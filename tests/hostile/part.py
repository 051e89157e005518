"""The part ``hostile`` of a torture run: peers, files, floods and symlinks that mean ill."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import time
from collections import Counter
from pathlib import Path

from tests.hostile import clients, floods, races, servers, stored
from tests.torture.outcome import Failure, Outcome

SHARE: float | None = 15.0

_RACE_S = 20.0
_FLOOD_S = 20.0
_ATTACK_S = 60.0
_ROUNDS = 4
KINDS = ("client", "server", "files", "floods", "race", "reading")


def run(seed: int, seconds: float, work: Path) -> Outcome:
    """Take the kinds in turn until the time is up."""
    until_s = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    failures: list[Failure] = []
    number = 0
    while not number or time.monotonic() < until_s:
        for name in KINDS if races.is_possible() else KINDS[:4]:
            left_s = until_s - time.monotonic()
            if number and left_s < 0:
                break
            counted, found = _act(name, seed + number, max(5.0, left_s), work / f"{number}-{name}")
            counts += counted
            failures += found
        number += 1
    return Outcome({name: float(count) for name, count in counts.items()}, failures)


def _act(name: str, seed: int, seconds: float, base: Path) -> tuple[Counter[str], list[Failure]]:
    if name == "client":
        return clients.attack(seed, min(seconds, _ATTACK_S), base)
    if name == "server":
        return servers.mislead(seed, min(seconds, _ATTACK_S), base)
    if name == "files":
        return stored.spoil(seed, min(seconds, _ATTACK_S), base)
    if name == "floods":
        return floods.floods(seed, min(seconds, _FLOOD_S), base)
    if name == "race":
        return races.race(seed, min(seconds, _RACE_S), base)
    return races.watch_client(seed, _ROUNDS, base)
