"""Random changes of a folder: what there is decides what a draw of numbers stands for."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import random
import shutil
import stat
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from twinfold.client.dirty import Names
from twinfold.core.paths import join, split

NAMES = [b"a", b"b", b"c", b"d e", b"E", b"\xff\n", b"long" * 60]
SIZES = [0, 1, 30, 5_000, 5_000, 40_000, 130_000, 300_000]
MODES = [0o644, 0o600, 0o755, 0o700]
MOST_LEVELS = 4


class Draw(NamedTuple):
    """Numbers that stand for a change of the source."""

    verb: str
    which: int
    where: int
    name: int
    value: int


_VERBS = ["write", "write", "edit", "append", "tree", "directory", "link", "hard link"]
_VERBS += ["move", "move", "move", "replace", "exchange", "delete", "delete", "attributes", "copy"]

DRAW = st.builds(
    Draw,
    st.sampled_from(_VERBS),
    st.integers(0, 31),
    st.integers(0, 15),
    st.integers(0, len(NAMES) - 1),
    st.integers(0, 31),
)
DRAWS = st.lists(DRAW, min_size=2, max_size=10)


@cache
def content(value: int) -> bytes:
    """Return one of 32 contents; some begin alike, some are made of several chunks."""
    size = SIZES[value % len(SIZES)]
    return random.Random(value // 16).randbytes(size - size // 4) + bytes([value]) * (size // 4)


class Touched(NamedTuple):
    """What a watcher would have said at least: names, and directories that came from elsewhere."""

    names: set[bytes]
    trees: set[bytes]

    def as_names(self) -> Names:
        """Return what a scan of names is given."""
        by_directory: dict[bytes, set[bytes] | None] = {}
        for path in self.names | self.trees:
            parent, name = split(path)
            known = by_directory.setdefault(parent, set())
            assert known is not None
            known.add(name)
        return Names(by_directory, set(self.trees))


class Folder:
    """A folder that draws are done in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.touched = Touched(set(), set())

    def _paths(self) -> tuple[list[bytes], list[bytes]]:
        """Return (all entries, all directories that more may be put into), in order."""
        entries: list[bytes] = []
        directories = [b""]
        for at in directories:
            for name in sorted(os.listdir(self._at(at))):
                path = join(at, name)
                entries.append(path)
                below = path.count(b"/") + 1 < MOST_LEVELS
                if below and stat.S_ISDIR(os.lstat(self._at(path)).st_mode):
                    directories.append(path)
        return entries, directories

    def _at(self, path: bytes) -> bytes:
        return os.path.join(os.fsencode(self.root), path)

    def do(self, draw: Draw) -> None:
        """Do what the numbers stand for, as far as it can be done."""
        entries, directories = self._paths()
        parent = directories[draw.where % len(directories)]
        path = join(parent, NAMES[draw.name])
        source = entries[draw.which % len(entries)] if entries else path
        try:
            self._do(draw, path, source)
        except OSError:
            # The kind of what is there stands against it: nothing was done.
            return

    def _do(self, draw: Draw, path: bytes, source: bytes) -> None:
        at, source_at = self._at(path), self._at(source)
        data = content(draw.value)
        self.touched.names.add(path)
        if draw.verb == "write":
            Path(os.fsdecode(at)).write_bytes(data)
        elif draw.verb in ("edit", "append"):
            self.touched.names.add(source)
            fd = os.open(source_at, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                size = os.fstat(fd).st_size
                os.pwrite(fd, b"edit %d" % draw.value, size // 2 if draw.verb == "edit" else size)
            finally:
                os.close(fd)
        elif draw.verb == "directory":
            os.mkdir(at)
        elif draw.verb == "tree":
            self.touched.trees.add(path)
            os.makedirs(self._at(join(path, NAMES[draw.value % len(NAMES)])))
            for name in NAMES[: 1 + draw.value % 3]:
                Path(os.fsdecode(self._at(join(path, name + b"1")))).write_bytes(data)
        elif draw.verb == "link":
            os.symlink(b"target %d" % (draw.value % 3), at)
        elif draw.verb == "hard link":
            os.link(source_at, at, follow_symlinks=False)
        elif draw.verb == "copy":
            shutil.copy2(source_at, at, follow_symlinks=False)
        else:
            self._rearrange(draw, path, source)

    def _rearrange(self, draw: Draw, path: bytes, source: bytes) -> None:
        at, source_at = self._at(path), self._at(source)
        self.touched.names.add(source)
        if draw.verb == "move":
            if os.path.lexists(at):
                return
            os.rename(source_at, at)
            self._note_if_tree(path)
        elif draw.verb == "replace":
            os.replace(source_at, at)
            self._note_if_tree(path)
        elif draw.verb == "exchange":
            aside = self._at(b"aside")
            os.rename(source_at, aside)
            try:
                os.rename(at, source_at)
            except OSError:
                os.rename(aside, source_at)
                raise
            os.rename(aside, at)
            self._note_if_tree(path)
            self._note_if_tree(source)
        elif draw.verb == "delete":
            if stat.S_ISDIR(os.lstat(source_at).st_mode):
                shutil.rmtree(source_at)
            else:
                os.unlink(source_at)
        elif draw.verb == "attributes" and not os.path.islink(source_at):
            os.chmod(source_at, MODES[draw.value % 4])
            os.utime(source_at, ns=(0, draw.value * 1_000_000_007 - 5))

    def _note_if_tree(self, path: bytes) -> None:
        if stat.S_ISDIR(os.lstat(self._at(path)).st_mode):
            self.touched.trees.add(path)
