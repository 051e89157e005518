"""Somebody who works in the source, and the memory of all that ever stood there."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import os
import random
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from tests.e2e.trees import Tree
from tests.simulation.schedule import Scheduler

_NAMES = [b"a", b"b", b"c", b"notes.txt", b"data.bin", b"x y", "\u00fc\u0301\u4e2d".encode()]
_NAMES += [b"\xff\xfe", b"-rf", b"new\nline", b"*", b"A", b"n" * 255, b".hidden", b"%00"]
_MODES = [0o644, 0o600, 0o755, 0o444, 0o400, 0o666]
_BIG_BYTES = 5_000_000


class History:
    """Which contents each path may show.

    A *file* is followed over its renames: where it stood, any of its versions may be seen, and
    what stood below a directory may be seen where the directory has been since.
    """

    def __init__(self) -> None:
        self._versions: dict[int, set[bytes]] = defaultdict(set)
        self._stood: dict[bytes, set[int]] = defaultdict(set)
        self._now: dict[bytes, int] = {}
        self._made = 0
        self.targets: dict[bytes, set[bytes]] = defaultdict(set)
        self.directories: set[bytes] = {b""}

    def create(self, path: bytes) -> None:
        """Another file stands at this path."""
        self._made += 1
        self._now[path] = self._made
        self._stood[path].add(self._made)

    def note(self, path: bytes, data: bytes) -> None:
        """The file there has this content now."""
        if path not in self._now:
            self.create(path)
        self._versions[self._now[path]].add(blake3(data).digest())

    def remove(self, path: bytes) -> None:
        """Nothing of this path or below it is there any more."""
        for there in [p for p in self._now if p == path or p.startswith(path + b"/")]:
            del self._now[there]

    def move(self, old: bytes, new: bytes) -> None:
        """What was at or below one path is at or below another."""
        self.remove(new)
        inside = old + b"/"
        for path in [p for p in self._now if p == old or p.startswith(inside)]:
            self._now[new + path[len(old) :]] = self._now.pop(path)
        for path in [p for p in self._stood if p == old or p.startswith(inside)]:
            self._stood[new + path[len(old) :]] |= self._stood[path]
        for path in [p for p in self.targets if p == old or p.startswith(inside)]:
            self.targets[new + path[len(old) :]] |= self.targets[path]
        for path in [p for p in self.directories if p == old or p.startswith(inside)]:
            self.directories.add(new + path[len(old) :])

    def strangers(self, tree: Tree) -> list[str]:
        """List what a tree shows that the source never had there."""
        found = []
        for path, node in sorted(tree.items()):
            if node.kind == "directory":
                known = path in self.directories
            elif node.kind == "symlink":
                known = node.content in self.targets[path]
            else:
                versions = (self._versions[file] for file in self._stood[path])
                known = any(node.content in of_one for of_one in versions)
            if not known:
                found.append(f"{path!r}: a {node.kind} that the source never had there")
        return found


class User:
    """Changes the source, one random act at a time.

    Args:
        source: the folder.
        rng: decides.
        scheduler: lets time pass between the steps of an act.
        changed: called after each step.
    """

    def __init__(
        self, source: Path, rng: random.Random, scheduler: Scheduler, changed: Callable[[], None]
    ) -> None:
        self._source = os.fsencode(source)
        self._rng = rng
        self._scheduler = scheduler
        self._changed = changed
        self._pieces = [rng.randbytes(rng.choice([3_000, 20_000, 90_000])) for _ in range(5)]
        self._pieces.append(bytes(70_000))
        self.history = History()
        self.acts = 0

    def act(self) -> None:
        """Do something."""
        acts: list[tuple[int, Callable[[], object]]] = [
            (6, self._create),
            (4, self._edit),
            (3, self._append),
            (2, self._truncate),
            (3, self._replace),
            (3, self._rename),
            (2, self._make_directory),
            (3, self._delete),
            (1, self._swap),
            (1, self._symlink),
            (2, self._chmod),
            (2, self._utime),
            (2, self._copy),
            (1, self._fill_directory),
        ]
        weights = [weight for weight, _ in acts]
        act = self._rng.choices([act for _, act in acts], weights)[0]
        self._scheduler.note("user", act.__name__, act())
        self.acts += 1

    def _step(self) -> None:
        self._changed()
        if self._rng.random() < 0.15:
            self._scheduler.sleep(self._rng.choice([0.001, 0.02, 0.3]) * self._rng.random())

    def _at(self, path: bytes) -> bytes:
        return os.path.join(self._source, path) if path else self._source

    def _paths(self, kind: str) -> list[bytes]:
        found: list[bytes] = []
        waiting = [b""]
        while waiting:
            directory = waiting.pop()
            for entry in sorted(os.scandir(self._at(directory)), key=lambda entry: entry.name):
                path = os.path.join(directory, entry.name)
                is_directory = entry.is_dir(follow_symlinks=False)
                if is_directory:
                    waiting.append(path)
                if kind in ("any", "directory" if is_directory else "file") and (
                    kind != "file" or entry.is_file(follow_symlinks=False)
                ):
                    found.append(path)
        return found

    def _some(self, kind: str) -> bytes | None:
        paths = self._paths(kind)
        return self._rng.choice(paths) if paths else None

    def _new_path(self) -> bytes:
        directory = self._rng.choice([b"", *self._paths("directory")])
        name = self._rng.choice(_NAMES)
        path = os.path.join(directory, name)
        return path if len(path) < 1000 else name

    def _data(self) -> bytes:
        rng = self._rng
        kind = rng.random()
        if kind < 0.55:
            return rng.randbytes(rng.choice([0, 1, rng.randrange(3_000)]))
        if kind < 0.98:
            pieces = rng.choices(self._pieces, k=rng.randrange(1, 6))
            return b"".join([*pieces, rng.randbytes(rng.randrange(50))])
        whole = b"".join(rng.choices(self._pieces, k=60))
        return (whole * (_BIG_BYTES // len(whole) + 1))[:_BIG_BYTES] + rng.randbytes(20_000)

    def _write(self, path: bytes, data: bytes) -> None:
        """Write a file from nothing, in one or more steps."""
        fd = os.open(self._at(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            self.history.note(path, b"")
            self._step()
            at = 0
            while at < len(data):
                end = len(data) if self._rng.random() < 0.7 else self._rng.randint(at, len(data))
                os.pwrite(fd, data[at:end], at)
                at = end
                self.history.note(path, data[:at])
                self._step()
        finally:
            os.close(fd)

    def _read(self, path: bytes) -> bytes:
        with open(self._at(path), "rb") as file:
            return file.read()

    def _create(self) -> bytes:
        path = self._new_path()
        if not os.path.lexists(self._at(path)):
            self.history.create(path)
            self._write(path, self._data())
        return path

    def _edit(self) -> bytes | None:
        path = self._some("file")
        if path is None:
            return None
        data = bytearray(self._read(path))
        at = self._rng.randrange(len(data) + 1)
        patch = self._rng.randbytes(self._rng.choice([1, 100, 5_000]))
        data[at : at + len(patch)] = patch
        with open(self._at(path), "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), patch, at)
        self.history.note(path, bytes(data))
        self._step()
        return path

    def _append(self) -> bytes | None:
        path = self._some("file")
        if path is None:
            return None
        patch = self._rng.randbytes(self._rng.choice([1, 3_000]))
        data = self._read(path) + patch
        with open(self._at(path), "ab", buffering=0) as file:
            file.write(patch)
        self.history.note(path, data)
        self._step()
        return path

    def _truncate(self) -> bytes | None:
        path = self._some("file")
        if path is None:
            return None
        data = self._read(path)
        size = self._rng.choice([0, self._rng.randrange(len(data) + 1), len(data) + 10])
        os.truncate(self._at(path), size)
        self.history.note(path, data[:size].ljust(size, b"\0"))
        self._step()
        return path

    def _replace(self) -> bytes | None:
        """Save as editors do: another file takes the place of the one before."""
        path = self._some("file")
        if path is None:
            return None
        fresh = path[:-1] + (b"~" if path[-1:] != b"~" else b"#")
        if os.path.lexists(self._at(fresh)):
            return None
        self.history.create(fresh)
        self._write(fresh, self._data())
        self._move(fresh, path)
        return path

    def _move(self, old: bytes, new: bytes) -> None:
        os.rename(self._at(old), self._at(new))
        self.history.move(old, new)
        self._step()

    def _rename(self) -> str | None:
        old, new = self._some("any"), self._new_path()
        if old is None or new == old or new.startswith(old + b"/") or old.startswith(new + b"/"):
            return None
        there, moved = self._at(new), self._at(old)
        if os.path.lexists(there) and (_is_directory(there) or _is_directory(moved)):
            return None
        self._move(old, new)
        return f"{old!r} {new!r}"

    def _make_directory(self) -> bytes:
        path = self._new_path()
        if not os.path.lexists(self._at(path)):
            os.mkdir(self._at(path), self._rng.choice([0o755, 0o700]))
            self.history.directories.add(path)
            self._step()
        return path

    def _fill_directory(self) -> bytes:
        """Make many small files at once: more than are synced one by one."""
        path = self._make_directory()
        if _is_directory(self._at(path)):
            for number in range(self._rng.randrange(9, 30)):
                inside = os.path.join(path, b"%d" % number)
                if not os.path.lexists(self._at(inside)):
                    self.history.create(inside)
                    self._write(inside, self._rng.randbytes(self._rng.randrange(200)))
        return path

    def _delete(self) -> bytes | None:
        path = self._some("any")
        if path is None:
            return None
        if _is_directory(self._at(path)):
            shutil.rmtree(self._at(path))
        else:
            os.unlink(self._at(path))
        self.history.remove(path)
        self._step()
        return path

    def _swap(self) -> bytes | None:
        """Put an entry of another type in the place of one."""
        path = self._delete()
        if path is not None:
            if self._rng.random() < 0.4:
                os.mkdir(self._at(path))
                self.history.directories.add(path)
                self._step()
            elif self._rng.random() < 0.5:
                self.history.create(path)
                self._write(path, self._data())
            else:
                self._link_at(path)
        return path

    def _symlink(self) -> bytes:
        path = self._new_path()
        if not os.path.lexists(self._at(path)):
            self._link_at(path)
        return path

    def _link_at(self, path: bytes) -> None:
        target = self._rng.choice([b"a", b"../..", b"/nowhere", b"\xff", b"t" * 300])
        os.symlink(target, self._at(path))
        self.history.targets[path].add(target)
        self._step()

    def _chmod(self) -> bytes | None:
        path = self._some("any")
        if path is not None and not os.path.islink(self._at(path)):
            modes = [0o755, 0o700, 0o555] if _is_directory(self._at(path)) else _MODES
            os.chmod(self._at(path), self._rng.choice(modes))
            self._step()
        return path

    def _utime(self) -> bytes | None:
        path = self._some("any")
        if path is not None and not os.path.islink(self._at(path)):
            time_ns = self._rng.choice([0, 1, 1_600_000_000_123_456_789, -5_000_000_000])
            os.utime(self._at(path), ns=(time_ns, time_ns))
            self._step()
        return path

    def _copy(self) -> bytes | None:
        path = self._some("file")
        new = self._new_path()
        if path is not None and not os.path.lexists(self._at(new)):
            self.history.create(new)
            self._write(new, self._read(path))
        return new


def _is_directory(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)
