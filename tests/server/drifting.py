"""A checker over a rig, and random edits behind the server's back."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from hypothesis import strategies as st

from tests.server.rig import Rig, Tree, read_tree
from twinfold.server.drift import DriftChecker, Reporter
from twinfold.server.heal import Healer
from twinfold.server.pending import PendingBatches


class Checking:
    """What a server has to find drift, over a rig; ``suspected`` is what reuse found."""

    def __init__(self, rig: Rig, check_place: Callable[[], None] = lambda: None) -> None:
        self.suspected: set[int] = set()
        self.pending = PendingBatches(rig.index, rig.stager, rig.committer, rig.listen)
        self.healer = Healer(rig.index, rig.forest, rig.committer, rig.now)
        self.checker = DriftChecker(
            rig.index,
            rig.forest,
            rig.lock,
            self.pending,
            self.healer,
            self.suspected,
            check_place,
            rig.listen,
        )

    async def __aenter__(self) -> Checking:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.checker.stop()
        await self.pending.close()


async def check(rig: Rig, *, deep: bool = False, report: Reporter | None = None) -> None:
    """Compare the whole tree once."""
    async with Checking(rig) as checking:
        await checking.checker.check(deep=deep, report=report)


def contents(tree: Tree) -> Counter[bytes]:
    """Return the contents of all files and symlinks."""
    return Counter(bytes(entry[1]) for entry in tree.values() if isinstance(entry[1], bytes))


class Edit(NamedTuple):
    """Numbers that stand for an edit; which one depends on what is there by then."""

    action: str
    which: int
    other: int
    value: int


ACTIONS = [
    "write",
    "append",
    "flip",
    "copy over",
    "delete",
    "rename",
    "exchange",
    "add file",
    "add directory",
    "add link",
    "chmod",
    "touch",
    "retype",
    "fifo",
]

EDITS = st.lists(
    st.builds(
        Edit,
        st.sampled_from(ACTIONS),
        st.integers(0, 31),
        st.integers(0, 31),
        st.integers(0, 7),
    ),
    min_size=1,
    max_size=6,
)


def edit_all(root: Path, edits: Iterable[Edit]) -> None:
    """Do edits in a destination, as somebody would who knows nothing of the server."""
    for number, edit in enumerate(edits):
        paths = [root / os.fsdecode(path) for path in sorted(read_tree(root))]
        _edit(root, paths, edit, b"foreign %d" % number)


def _edit(root: Path, paths: list[Path], edit: Edit, data: bytes) -> None:
    folders = [root, *(path for path in paths if path.is_dir() and not path.is_symlink())]
    fresh = folders[edit.other % len(folders)] / f"new {data.decode()}"
    if edit.action == "add file":
        fresh.write_bytes(data)
    elif edit.action == "add directory":
        (fresh / "in").mkdir(parents=True)
        (fresh / "in" / "file").write_bytes(data)
    elif edit.action == "add link":
        fresh.symlink_to(data.decode())
    elif edit.action == "fifo":
        os.mkfifo(fresh)
    elif paths:
        path = paths[edit.which % len(paths)]
        if edit.action == "rename":
            if not fresh.is_relative_to(path):
                path.rename(fresh)
        elif edit.action == "exchange":
            _exchange(path, paths[edit.other % len(paths)], fresh)
        else:
            _edit_in_place(path, edit, data)


def _exchange(path: Path, other: Path, aside: Path) -> None:
    if path.is_relative_to(other) or other.is_relative_to(path) or aside.is_relative_to(path):
        return
    if aside.is_relative_to(other):
        return
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def _edit_in_place(path: Path, edit: Edit, data: bytes) -> None:
    is_file = path.is_file() and not path.is_symlink()
    if edit.action == "delete":
        _remove(path)
    elif edit.action == "retype":
        _remove(path)
        if is_file:
            path.mkdir()
            (path / "below").write_bytes(data)
        else:
            path.write_bytes(data)
    elif edit.action == "touch":
        os.utime(path, ns=(edit.value, edit.value), follow_symlinks=False)
    elif edit.action == "chmod" and not path.is_symlink():
        path.chmod(edit.value * 0o111)
    elif is_file:
        _edit_file(path, edit, data)


def _edit_file(path: Path, edit: Edit, data: bytes) -> None:
    before = path.stat()
    if edit.action == "write":
        path.write_bytes(data)
    elif edit.action == "append":
        with path.open("ab") as file:
            file.write(data)
    elif edit.action == "copy over":
        copy = path.with_name("copy of it")
        shutil.copy2(path, copy)
        copy.replace(path)
    elif edit.action == "flip" and before.st_size:
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
