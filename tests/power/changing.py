"""A source that changes all the time, each change one system call that is on record."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from blake3 import blake3

from tests.e2e.trees import Node
from tests.power.history import History, Version

_FOLDERS = 6
_NAMES = 12
_MOST_FILES = 160
_SIZES_BYTES = (0, 200, 4_000, 4_000, 30_000, 70_000, 300_000)
_BIG_BYTES = 9 << 20
"""More than one batch takes."""
_MOST_BIG = 4
_MODES = (0o644, 0o600, 0o755, 0o444)
_PAUSES_S = (0.0, 0.0, 0.002, 0.01, 0.03)
_IDLE_S = (0.2, 0.4, 1.6)
"""Also longer than the server waits before it makes its last renames durable."""
_IDLE_ONCE_IN = 80


class ChangingSource:
    """Changes a folder in every way; new files are made beside it and come in by a rename.

    Args:
        folder: the source; there is nothing in it yet.
        kitchen: an empty folder of the same file system.
        chances: decides what is done.
    """

    def __init__(self, folder: Path, kitchen: Path, chances: random.Random) -> None:
        self.history = History()
        self.error: Exception | None = None
        self._folder = os.fsencode(folder)
        self._kitchen = os.fsencode(kitchen / "new")
        self._random = chances
        self._bodies = [chances.randbytes(size) for size in _SIZES_BYTES]
        self._big = chances.randbytes(_BIG_BYTES)
        self._big_left = _MOST_BIG
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._note(b"")
        for number in range(_FOLDERS):
            self._make_directory(b"d%d" % number)
        for _ in range(60):
            self._put()

    def start(self) -> None:
        """Begin to change it."""
        self._thread.start()

    def stop(self) -> None:
        """Leave it as it is."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._step()
                idle = self._random.randrange(_IDLE_ONCE_IN) == 0
                time.sleep(self._random.choice(_IDLE_S if idle else _PAUSES_S))
        except Exception as error:  # noqa: BLE001 - the session raises it
            self.error = error

    def _step(self) -> None:
        ways: dict[Callable[[], None], int] = {
            self._put: 40,
            self._put_big: 1,
            self._write_inside: 10,
            self._append: 8,
            self._delete: 8,
            self._move: 8,
            self._move_directory: 4,
            self._give_attributes: 8,
            self._link: 4,
            self._swap_type: 4,
            self._burst: 1,
            self._remove_directory: 1,
        }
        self._random.choices(list(ways), list(ways.values()))[0]()

    def _at(self, path: bytes) -> bytes:
        return self._folder + b"/" + path if path else self._folder

    def _note(self, *paths: bytes) -> None:
        """Record what these paths and the folders above them are now."""
        above = [path.rpartition(b"/")[0] for path in paths if path]
        self.history.note([(path, self._look(path)) for path in [*paths, *above]])

    def _look(self, path: bytes) -> Version:
        try:
            status = os.lstat(self._at(path))
        except FileNotFoundError:
            return None
        kind = status.st_mode & 0o170000
        if kind == 0o040000:
            return Node("directory", status.st_mode & 0o777, status.st_mtime_ns, b"")
        if kind == 0o120000:
            return Node("symlink", 0, 0, os.readlink(self._at(path)))
        digest = blake3(Path(os.fsdecode(self._at(path))).read_bytes()).digest()
        return Node("file", status.st_mode & 0o777, status.st_mtime_ns, digest)

    def _paths(self, kind: str) -> list[bytes]:
        now = ((path, self.history.now(path)) for path in self.history.paths())
        return [path for path, node in now if path and node is not None and node.kind == kind]

    def _folders(self) -> list[bytes]:
        return self._paths("directory") or [b""]

    def _choose(self, paths: list[bytes]) -> bytes | None:
        return self._random.choice(paths) if paths else None

    def _name(self) -> bytes:
        folder = self._random.choice(self._folders())
        name = b"f%d" % self._random.randrange(_NAMES)
        return folder + b"/" + name if folder else name

    def _content(self) -> bytes:
        """Return content that shares most of its bytes with others."""
        body = self._random.choice(self._bodies)
        at = self._random.randrange(len(body) + 1)
        return body[:at] + self._random.randbytes(self._random.randrange(1, 300)) + body[at:]

    def _put(self) -> None:
        self._put_at(self._name(), self._content())

    def _put_big(self) -> None:
        if self._big_left > 0:
            self._big_left -= 1
            at = self._random.randrange(_BIG_BYTES)
            own = self._random.randbytes(100_000)
            self._put_at(
                b"big%d" % self._random.randrange(2), self._big[:at] + own + self._big[at:]
            )

    def _put_at(self, path: bytes, data: bytes) -> None:
        new = Path(os.fsdecode(self._kitchen))
        new.write_bytes(data)
        new.chmod(self._random.choice(_MODES))
        if self._random.random() < 0.3:
            time_ns = self._random.randrange(1 << 60)
            os.utime(new, ns=(time_ns, time_ns))
        now = self.history.now(path)
        if now is None and len(self._paths("file")) > _MOST_FILES:
            return
        if now is None or now.kind != "directory":
            with self.history.lock:
                os.rename(new, self._at(path))
                self._note(path)

    def _write_inside(self) -> None:
        path = self._choose(self._paths("file"))
        if path is not None:
            with self.history.lock:
                fd = os.open(self._at(path), os.O_WRONLY)
                at = self._random.randrange(os.fstat(fd).st_size + 1)
                os.pwrite(fd, self._random.randbytes(20), at)
                os.close(fd)
                self._note(path)

    def _append(self) -> None:
        path = self._choose(self._paths("file"))
        if path is not None:
            with self.history.lock:
                fd = os.open(self._at(path), os.O_WRONLY | os.O_APPEND)
                os.write(fd, self._random.randbytes(500))
                os.close(fd)
                self._note(path)

    def _delete(self) -> None:
        path = self._choose([*self._paths("file"), *self._paths("symlink")])
        if path is not None:
            with self.history.lock:
                os.unlink(self._at(path))
                self._note(path)

    def _move(self) -> None:
        path, target = self._choose(self._paths("file")), self._name()
        there = self.history.now(target)
        if path is not None and (there is None or there.kind != "directory"):
            with self.history.lock:
                os.rename(self._at(path), self._at(target))
                self._note(path, target)

    def _move_directory(self) -> None:
        path = self._choose(self._paths("directory"))
        above = self._random.choice([b"", *self._folders()])
        if path is None or (above + b"/").startswith(path + b"/") or above.count(b"/") > 2:
            return
        name = b"d%d" % self._random.randrange(40)
        target = above + b"/" + name if above else name
        if self.history.now(target) is None:
            with self.history.lock:
                moved = self.history.below(path)
                os.rename(self._at(path), self._at(target))
                self._note(*moved, *(target + old[len(path) :] for old in moved))

    def _give_attributes(self) -> None:
        path = self._choose([*self._paths("file"), *self._paths("directory")])
        if path is None:
            return
        with self.history.lock:
            if self._random.random() < 0.5:
                node = self.history.now(path)
                is_file = node is not None and node.kind == "file"
                modes = _MODES if is_file else (0o755, 0o700, 0o555)
                os.chmod(self._at(path), self._random.choice(modes))
            else:
                time_ns = self._random.randrange(1 << 60)
                os.utime(self._at(path), ns=(time_ns, time_ns))
            self._note(path)

    def _link(self) -> None:
        path = b"link%d" % self._random.randrange(4)
        now = self.history.now(path)
        if now is None or now.kind == "symlink":
            os.symlink(b"d%d" % self._random.randrange(40), self._kitchen + b"-link")
            with self.history.lock:
                os.rename(self._kitchen + b"-link", self._at(path))
                self._note(path)

    def _swap_type(self) -> None:
        self._remove(b"swap")
        way = self._random.randrange(3)
        if way == 0:
            self._put_at(b"swap", b"a file %d" % self._random.randrange(1000))
        elif way == 1:
            with self.history.lock:
                os.symlink(b"d0", self._at(b"swap"))
                self._note(b"swap")
        else:
            self._make_directory(b"swap")
            self._put_at(b"swap/inside", self._content())

    def _burst(self) -> None:
        folder = b"burst%d" % self._random.randrange(3)
        if self.history.now(folder) is None:
            self._make_directory(folder)
        for number in range(30):
            self._put_at(folder + b"/b%d" % number, self._content())

    def _remove_directory(self) -> None:
        folder = self._choose([path for path in self._folders() if path.startswith(b"burst")])
        if folder is not None:
            self._remove(folder)

    def _make_directory(self, path: bytes) -> None:
        if self.history.now(path) is None:
            with self.history.lock:
                os.mkdir(self._at(path))
                self._note(path)

    def _remove(self, path: bytes) -> None:
        for below in _deepest_first(self.history.below(path)):
            node = self.history.now(below)
            if node is not None:
                with self.history.lock:
                    (os.rmdir if node.kind == "directory" else os.unlink)(self._at(below))
                    self._note(below)


def _deepest_first(paths: Iterable[bytes]) -> list[bytes]:
    return sorted(paths, key=lambda path: -path.count(b"/"))
