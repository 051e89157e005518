"""Swaps entries of a destination for symlinks to elsewhere, and back, as fast as it can.

    python -m tests.hostile.swapping DEST OUTSIDE NAME...

Runs until its standard input ends; then it puts everything right and prints how often it swapped.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import ctypes
import os
import select
from pathlib import Path

_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(folder: int, first: bytes, second: bytes) -> bool:
    """Let two names below an open directory change places in one instant."""
    return bool(_libc.renameat2(folder, first, folder, second, _EXCHANGE) == 0)


def main(dest: Path, outside: Path, names: list[str]) -> int:
    """Swap until told to stop; return how often it was done."""
    folder = os.open(dest, os.O_RDONLY)
    swaps = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        for number, name in enumerate(names):
            link = f".link-{number}"
            target = outside / "file" if name == "file" else outside / "deep"
            if not os.path.lexists(dest / link):
                os.symlink(target, link, dir_fd=folder)
            for _ in range(20):
                if not exchange(folder, os.fsencode(name), os.fsencode(link)):
                    break
                swaps += 1
            if (dest / name).is_symlink():
                exchange(folder, os.fsencode(name), os.fsencode(link))
    return swaps


if __name__ == "__main__":
    print(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
