"""A gentle, mixed load that keeps a source at about one size for as long as it goes on."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

_SMALL = 60
_BIG_BYTES = 10 << 20
_MOST_BIG_BYTES = 12 << 20
_APPEND_ONCE_IN = 30
_WORK_FILES = 150
_BRANCHES = 4
_MOST_BURSTS = 4
_BURST_FILES = 80


class Load:
    """Changes a folder, one small story at a time.

    Attributes:
        done: how often each kind of change was made.
    """

    def __init__(self, folder: Path, chances: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self._folder = folder
        self._random = chances
        self._bursts = 0
        self._medium = chances.randbytes(400_000)
        for name in ("small", "medium", "work", "bursts", "moving/a"):
            (folder / name).mkdir(parents=True)
        for number in range(_SMALL):
            self._small(number).write_bytes(chances.randbytes(3_000))
        for number in range(3):
            (folder / "medium" / f"m{number}").write_bytes(self._medium)
        (folder / "big").write_bytes(chances.randbytes(_BIG_BYTES))
        self._check_out()

    def step(self) -> None:
        """Make one change, small or large."""
        ways: dict[Callable[[], None], int] = {
            self._edit: 40,
            self._insert: 12,
            self._burst: 3,
            self._move_directory: 6,
            self._delete: 8,
            self._check_out: 2,
            self._touch: 8,
            self._link: 4,
        }
        # What weighs most in the attic comes at even times.
        is_due = sum(self.done.values()) % _APPEND_ONCE_IN == 0
        way = self._append if is_due else self._random.choices(list(ways), list(ways.values()))[0]
        way()
        self.done[way.__name__.strip("_").replace("_", " ")] += 1

    def _small(self, number: int) -> Path:
        return self._folder / "small" / f"s{number}"

    def _edit(self) -> None:
        path = self._small(self._random.randrange(_SMALL))
        data = bytearray(path.read_bytes() if path.exists() else self._random.randbytes(3_000))
        at = self._random.randrange(len(data) - 8)
        data[at : at + 8] = self._random.randbytes(8)
        path.write_bytes(data)

    def _insert(self) -> None:
        path = self._folder / "medium" / f"m{self._random.randrange(3)}"
        at = self._random.randrange(len(self._medium))
        own = self._random.randbytes(200)
        new = path.with_suffix(".new")
        new.write_bytes(self._medium[:at] + own + self._medium[at:])
        new.replace(path)

    def _append(self) -> None:
        path = self._folder / "big"
        if path.stat().st_size > _MOST_BIG_BYTES:
            os.truncate(path, _BIG_BYTES)
        with path.open("ab") as file:
            file.write(self._random.randbytes(300_000))

    def _burst(self) -> None:
        folder = self._folder / "bursts"
        self._bursts += 1
        new = folder / f"b{self._bursts:06}"
        new.mkdir()
        for number in range(_BURST_FILES):
            (new / f"f{number}").write_bytes(self._random.randbytes(500))
        for old in sorted(folder.iterdir())[:-_MOST_BURSTS]:
            shutil.rmtree(old)

    def _move_directory(self) -> None:
        folder = self._folder / "moving"
        old = next(folder.iterdir())
        if not any(old.iterdir()):
            for number in range(20):
                (old / f"f{number}").write_bytes(self._random.randbytes(2_000))
        old.rename(folder / ("b" if old.name == "a" else "a"))

    def _delete(self) -> None:
        self._small(self._random.randrange(_SMALL)).unlink(missing_ok=True)

    def _check_out(self) -> None:
        """Change a working copy to another of a few branches, as a version control system does."""
        branch = self._random.randrange(_BRANCHES)
        for number in range(_WORK_FILES):
            path = self._folder / "work" / f"w{number}"
            if (number + branch) % 7 == 0:
                path.unlink(missing_ok=True)
                continue
            data = random.Random(f"{number} of {branch if number % 3 == 0 else 0}").randbytes(1_500)
            if not path.exists() or path.read_bytes() != data:
                path.unlink(missing_ok=True)
                path.write_bytes(data)

    def _touch(self) -> None:
        path = self._small(self._random.randrange(_SMALL))
        if path.exists():
            path.chmod(self._random.choice((0o644, 0o600, 0o755)))
            time_ns = self._random.randrange(1 << 60)
            os.utime(path, ns=(time_ns, time_ns))

    def _link(self) -> None:
        path = self._folder / f"link{self._random.randrange(5)}"
        path.unlink(missing_ok=True)
        path.symlink_to(f"small/s{self._random.randrange(_SMALL)}")
