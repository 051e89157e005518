"""What changes mean, said once more with a dictionary, and how to make sequences of them."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from hypothesis import strategies as st

from tests.server.rig import Tree, chunks_of, extend, put, put_upload
from twinfold.core.manifest import content_id
from twinfold.model import (
    Change,
    Delete,
    Entry,
    Kind,
    MakeDirectory,
    MakeSymlink,
    Move,
    SetAttributes,
)

PIECE = 8
"""The models' files are small; so are their chunks."""

NAMES = [b"a", b"b", b"\xff"]
DIRECTORY_MODES = [0o755, 0o700, 0o555, 0o000]
FILE_MODES = [0o644, 0o444, 0o000, 0o777]
CONTENTS = [b"", b"small", b"more than one chunk", b"\0" * 20, b"more than one chunk, but"]


class Model:
    """A tree and an attic, as they are after the changes so far."""

    def __init__(self) -> None:
        self.tree: Tree = {}
        self.attic: Counter[bytes] = Counter()

    def copy(self) -> Model:
        model = Model()
        model.tree = dict(self.tree)
        model.attic = Counter(self.attic)
        return model

    def directories(self) -> list[bytes]:
        below = [path for path, entry in self.tree.items() if entry[0] == "dir"]
        return [b"", *sorted(path for path in below if path.count(b"/") < 3)]

    def put(self, path: bytes, entry: tuple[object, ...]) -> None:
        self.delete(path)
        self.tree[path] = entry

    def make_directory(self, path: bytes, mode: int, mtime_ns: int) -> None:
        if self.tree.get(path, ("",))[0] != "dir":
            self.delete(path)
        self.tree[path] = ("dir", mode, mtime_ns)

    def delete(self, path: bytes) -> None:
        for entry in self._take(path).values():
            if entry[0] != "dir":
                assert isinstance(entry[1], bytes)
                self.attic[entry[1]] += 1

    def move(self, source: bytes, path: bytes) -> None:
        moved = self._take(source)
        self.delete(path)
        for below, entry in moved.items():
            self.tree[path + below] = entry

    def set_attributes(self, path: bytes, mode: int, mtime_ns: int) -> None:
        kind, *rest = self.tree[path]
        if kind == "dir":
            self.tree[path] = ("dir", mode, mtime_ns)
        elif kind == "file":
            self.tree[path] = ("file", rest[0], mode, mtime_ns)

    def _take(self, path: bytes) -> Tree:
        taken = [at for at in self.tree if at == path or at.startswith(path + b"/")]
        return {at[len(path) :]: self.tree.pop(at) for at in taken}

    def entries(self) -> list[Entry]:
        return [entry_of(path, entry) for path, entry in sorted(self.tree.items())]


def entry_of(path: bytes, entry: tuple[object, ...]) -> Entry:
    kind, *rest = entry
    if kind == "link":
        target = rest[0]
        assert isinstance(target, bytes)
        return Entry(path, Kind.SYMLINK, 0o777, 0, len(target), b"", target)
    *data, mode, mtime_ns = rest
    assert isinstance(mode, int)
    assert isinstance(mtime_ns, int)
    if kind == "dir":
        return Entry(path, Kind.DIRECTORY, mode, mtime_ns, 0, b"", b"")
    assert isinstance(data[0], bytes)
    content = content_id(chunks_of(data[0], PIECE))
    return Entry(path, Kind.FILE, mode, mtime_ns, len(data[0]), content, b"")


class Draw(NamedTuple):
    """Numbers that stand for a change; which one depends on what is there by then."""

    action: str
    where: int
    name: int
    which: int
    value: int


ACTIONS = ["put", "put", "upload", "directory", "directory", "link"]
ACTIONS += ["move", "move", "move", "delete", "attributes"]

DRAW = st.builds(
    Draw,
    st.sampled_from(ACTIONS),
    st.integers(0, 15),
    st.integers(0, len(NAMES) - 1),
    st.integers(0, 31),
    st.integers(0, 19),
)
BATCH = st.lists(DRAW, min_size=1, max_size=8)
GROUPS = st.lists(st.lists(BATCH, min_size=1, max_size=3), min_size=1, max_size=4)


def changes_of(model: Model, draws: Iterable[Draw]) -> list[Change]:
    """Return the changes that numbers stand for, done in the model as well."""
    return [change for draw in draws for change in _changes(model, draw)]


def _changes(model: Model, draw: Draw) -> list[Change]:
    directories = model.directories()
    parent = directories[draw.where % len(directories)]
    path = parent + b"/" + NAMES[draw.name] if parent else NAMES[draw.name]
    existing = sorted(model.tree)
    mtime_ns = draw.value * 1_000_000_007 - 5
    if draw.action == "put":
        data, mode = CONTENTS[draw.which % 5], FILE_MODES[draw.value % 4]
        model.put(path, ("file", data, mode, mtime_ns))
        return [put(path, data, mode, mtime_ns, PIECE)]
    if draw.action == "upload":
        return _upload(model, path, draw)
    if draw.action == "directory":
        mode = DIRECTORY_MODES[draw.which % 4]
        model.make_directory(path, mode, mtime_ns)
        return [MakeDirectory(path, mode, mtime_ns)]
    if draw.action == "link":
        target = b"target of %d" % (draw.value % 3)
        model.put(path, ("link", target))
        return [MakeSymlink(path, target)]
    if not existing:
        return []
    source = existing[draw.which % len(existing)]
    if draw.action == "delete":
        model.delete(source)
        return [Delete(source)]
    if draw.action == "move":
        if path == source or path.startswith(source + b"/"):
            return []
        model.move(source, path)
        return [Move(source, path)]
    mode = (FILE_MODES if model.tree[source][0] == "file" else DIRECTORY_MODES)[draw.value % 4]
    model.set_attributes(source, mode, mtime_ns)
    return [SetAttributes(source, mode, mtime_ns)]


_uploads = iter(range(1, 1 << 62))


def _upload(model: Model, path: bytes, draw: Draw) -> list[Change]:
    data = CONTENTS[2] + b"%d" % draw.value
    upload = next(_uploads).to_bytes(16, "big")
    model.put(path, ("file", data, 0o644, 5))
    border = 1 + draw.which % 2
    parts = [extend(upload, data, 0, border, PIECE), extend(upload, data, border, 99, PIECE)]
    return [*parts, put_upload(path, data, upload, PIECE)]


def all_contents() -> list[bytes]:
    """Return all content that the changes may ask for."""
    uploads = [CONTENTS[2] + b"%d" % value for value in range(20)]
    return [*CONTENTS, *uploads]
