"""What a pair costs: memory, descriptors, threads, room on the disk, read from outside."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.e2e.harness import Pair, Running

Sample = dict[str, float]
"""What was measured at one time, by name; ``seconds`` is when."""

_ROLLUP = re.compile(r"^(Rss|Pss|Private_Clean|Private_Dirty):\s+(\d+) kB$", re.MULTILINE)


def measure(pair: Pair, seconds: float) -> Sample:
    """Measure both sides (Linux only)."""
    own = pair.dest / ".twinfold"
    sample: Sample = {"seconds": seconds}
    for side, running in (("server", pair.server), ("client", pair.client)):
        sample |= {f"{side} {what}": value for what, value in _process(running).items()}
    sample["attic bytes"] = size_below(own / "attic")
    sample["index bytes"] = _size(own / "index.sqlite")
    sample["index log bytes"] = _size(own / "index.sqlite-wal")
    states = list(pair.client_state.rglob("state.sqlite"))
    sample["state bytes"] = sum(map(_size, states))
    sample["state log bytes"] = sum(_size(Path(f"{state}-wal")) for state in states)
    sample["staged files"] = len(os.listdir(own / "staging"))
    return sample


def _process(running: Running) -> Sample:
    folder = Path(f"/proc/{running.process.pid}")
    kib = {
        name: int(value) for name, value in _ROLLUP.findall((folder / "smaps_rollup").read_text())
    }
    return {
        "resident bytes": kib["Rss"] << 10,
        "proportional bytes": kib["Pss"] << 10,
        "own bytes": (kib["Private_Clean"] + kib["Private_Dirty"]) << 10,
        "descriptors": len(os.listdir(folder / "fd")),
        "threads": len(os.listdir(folder / "task")),
    }


def size_below(folder: Path) -> int:
    """Return the bytes of all files in a folder; what goes meanwhile does not count."""
    return sum(
        _size(Path(directory, name)) for directory, _, names in os.walk(folder) for name in names
    )


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
