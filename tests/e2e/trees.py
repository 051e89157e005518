"""Trees of files: what is compared of them, and how test trees are made."""

from __future__ import annotations

import os
import random
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from blake3 import blake3

SERVER_FOLDER = b".twinfold"
READ_BYTES = 1 << 20

if sys.platform == "win32":
    NO_FOLLOW = OPEN_DIRECTORY = os.O_RDONLY
else:
    NO_FOLLOW = os.O_RDONLY | os.O_NOFOLLOW
    OPEN_DIRECTORY = NO_FOLLOW | os.O_DIRECTORY

Tree = dict[bytes, "Node"]


class Node(NamedTuple):
    """What has to be equal of one name; ``content`` is a digest or a symlink's text."""

    kind: str
    mode: int
    mtime_ns: int
    content: bytes


def snapshot(root: Path) -> Tree:
    """Read a whole tree by directory descriptors; the key of the root itself is ``b""``."""
    tree: Tree = {}
    descriptor = os.open(root, OPEN_DIRECTORY)
    try:
        _add_directory(tree, descriptor, b"", leave_out=SERVER_FOLDER)
    finally:
        os.close(descriptor)
    return tree


def _add_directory(tree: Tree, descriptor: int, path: bytes, leave_out: bytes = b"") -> None:
    status = os.fstat(descriptor)
    tree[path] = Node("directory", status.st_mode & 0o777, status.st_mtime_ns, b"")
    for text in os.listdir(descriptor):
        name = os.fsencode(text)
        if name != leave_out:
            _add_name(tree, descriptor, name, path + b"/" + name if path else name)


def _add_name(tree: Tree, parent: int, name: bytes, path: bytes) -> None:
    status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
        try:
            _add_directory(tree, descriptor, path)
        finally:
            os.close(descriptor)
    elif stat.S_ISLNK(status.st_mode):
        tree[path] = Node("symlink", 0, 0, os.readlink(name, dir_fd=parent))
    elif stat.S_ISREG(status.st_mode):
        digest = _digest(name, parent)
        tree[path] = Node("file", status.st_mode & 0o777, status.st_mtime_ns, digest)
    else:
        tree[path] = Node("special", 0, 0, b"")


def _digest(name: bytes, parent: int) -> bytes:
    hasher = blake3()
    descriptor = os.open(name, NO_FOLLOW, dir_fd=parent)
    try:
        while data := os.read(descriptor, READ_BYTES):
            hasher.update(data)
    finally:
        os.close(descriptor)
    return hasher.digest()


def differences(expected: Tree, found: Tree, limit: int = 20) -> list[str]:
    """List what differs, for people to read; empty if the trees are equal."""
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        left, right = expected.get(path), found.get(path)
        if left == right:
            continue
        if left is None or right is None:
            lines.append(f"{path!r}: {'missing' if right is None else 'too much'}")
        else:
            lines.append(f"{path!r}: " + _fields_that_differ(left, right))
    return lines[:limit] + ([f"... and {len(lines) - limit} more"] if len(lines) > limit else [])


def _fields_that_differ(left: Node, right: Node) -> str:
    pairs = zip(left._fields, left, right, strict=True)
    return ", ".join(f"{field} {a!r} != {b!r}" for field, a, b in pairs if a != b)


def plain_user() -> list[str]:
    """Return the words before a command that keep it from what a mode forbids, as all but root are.

    Root without capabilities is an owner like any other, and may use the same interpreter.
    """
    if permissions_bind():
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, to keep root from what modes forbid")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


def permissions_bind() -> bool:
    """Tell whether this process is kept from what a mode forbids, as root is not."""
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0)
        try:
            os.close(os.open(file.name, os.O_RDONLY))
        except PermissionError:
            return True
        return False


def random_bytes(size_bytes: int, seed: object = 0) -> bytes:
    """Return incompressible bytes, the same for the same seed."""
    return random.Random(repr(seed)).randbytes(size_bytes)


def write_random(path: Path, size_bytes: int, seed: object = 0) -> None:
    """Write a file of incompressible bytes of any size."""
    source = random.Random(repr(seed))
    with path.open("wb") as file:
        while size_bytes > 0:
            piece = min(size_bytes, 8 << 20)
            file.write(source.randbytes(piece))
            size_bytes -= piece


def insert_bytes(path: Path, offset: int, data: bytes) -> None:
    """Put ``data`` into a file at ``offset`` by writing the file again beside it."""
    changed = path.with_name(path.name + ".changed")
    with path.open("rb") as old, changed.open("wb") as new:
        left = offset
        while left > 0 and (piece := old.read(min(left, 8 << 20))):
            new.write(piece)
            left -= len(piece)
        new.write(data)
        while piece := old.read(8 << 20):
            new.write(piece)
    changed.replace(path)


def make_deep(folder: Path, levels: int, name: str, change: Callable[[int], None]) -> None:
    """Make ``levels`` nested directories, also beyond PATH_MAX; ``change`` gets the last one."""
    descriptor = os.open(folder, OPEN_DIRECTORY)
    try:
        for _ in range(levels):
            os.mkdir(name, dir_fd=descriptor)
            inner = os.open(name, OPEN_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        change(descriptor)
    finally:
        os.close(descriptor)


def write_at(directory: int, name: str, data: bytes) -> None:
    """Write a file into an open directory."""
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=directory)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def make_small_files(folder: Path, count: int, size_bytes: int = 300, seed: object = 0) -> None:
    """Make ``count`` files of random bytes in directories of 50."""
    source = random.Random(repr(seed))
    for number in range(count):
        directory = folder / f"package-{number // 50}" / "lib"
        if number % 50 == 0:
            directory.mkdir(parents=True)
        (directory / f"module-{number}.js").write_bytes(source.randbytes(size_bytes))


ODD_NAMES: list[bytes] = [
    b"not utf-8 \xff\xfe\xc3(",
    b"line\nbreak",
    b"tab\tbell\x07escape\x1b[31m",
    b"x" * 255,
    "right to left \u202eabc".encode(),
    "combined \u00e9".encode(),
    "decomposed e\u0301".encode(),
    b"back\\slash",
    b"-dash",
    b" space ",
    b"trailing dot.",
    b"* [a-z]? {b,c} !#$&'\"",
    b"C:drive",
    b"con",
    b"~",
    b"#sha256-",
    b"%2e%2e%2f",
]
"""File names that programs get wrong."""

TIMES_NS: dict[str, int] = {
    "zero": 0,
    "one": 1,
    "negative": -86_400_000_000_001,
    "before-zero": -1,
    "past": 123_456_789_123_456_789,
    "beyond-32-bit": (2**32 + 5) * 1_000_000_000 + 999_999_999,
}

MODES = (0o644, 0o600, 0o755, 0o777, 0o444, 0o400, 0o711, 0o640)


def make_museum(root: Path) -> None:
    """Fill a folder with one of everything that is to be synchronised."""
    _make_contents(root / "contents")
    _make_names(root / "names")
    _make_attributes(root / "attributes")
    _make_links(root / "links")
    _make_directories(root / "directories")


def _make_contents(folder: Path) -> None:
    folder.mkdir()
    for size_bytes in (0, 1, 100, 32_767, 32_768, 32_769, 98_304, 98_305, 300_000, 5_000_000):
        (folder / f"random-{size_bytes}").write_bytes(random_bytes(size_bytes, size_bytes))
    (folder / "again").write_bytes(random_bytes(300_000, 300_000))
    (folder / "zeros").write_bytes(bytes(1_500_000))
    (folder / "text").write_bytes(b"to be or not to be\n" * 20_000)
    make_sparse(folder / "sparse", 40 << 20)


def make_sparse(path: Path, size_bytes: int) -> None:
    """Make a file that is a hole, but for a few bytes in the middle and at the end."""
    with path.open("wb") as file:
        file.seek(size_bytes // 2)
        file.write(b"middle")
        file.seek(size_bytes - 3)
        file.write(b"end")


def _make_names(folder: Path) -> None:
    folder.mkdir()
    for name in ODD_NAMES:
        (folder / os.fsdecode(name)).write_bytes(name)
    inner = folder / os.fsdecode(ODD_NAMES[0][::-1] + b"/" + ODD_NAMES[1])
    inner.mkdir(parents=True)
    (inner / ".twinfold").mkdir()
    (inner / ".twinfold" / "only the root's is reserved").write_bytes(b"1")
    make_deep(folder, 24, "y" * 200, lambda last: write_at(last, "z" * 200, b"deep"))


def _make_attributes(folder: Path) -> None:
    folder.mkdir()
    for mode in MODES:
        path = folder / f"mode-{mode:o}"
        path.write_bytes(b"mode")
        path.chmod(mode)
    for name, time_ns in TIMES_NS.items():
        path = folder / f"time-{name}"
        path.write_bytes(b"time")
        os.utime(path, ns=(time_ns, time_ns))
        path = folder / f"directory-time-{name}"
        path.mkdir()
        (path / "inside").write_bytes(b"x")
        os.utime(path, ns=(time_ns, time_ns))


def _make_links(folder: Path) -> None:
    folder.mkdir()
    (folder / "target").write_bytes(b"target")
    os.link(folder / "target", folder / "hard")
    for name, target in SYMLINKS.items():
        os.symlink(target, folder / name)


SYMLINKS: dict[str, bytes] = {
    "to-file": b"target",
    "to-parent": b"..",
    "to-itself": b"to-itself",
    "loop-a": b"loop-b",
    "loop-b": b"loop-a",
    "dangling": b"no/such/file",
    "absolute": b"/usr/share",
    "outside": b"../../../../../../etc/hostname",
    "odd": b"\xff\n\x1b[0m //./../",
    "long": b"l/" * 1_000,
}


def _make_directories(folder: Path) -> None:
    folder.mkdir()
    (folder / "empty").mkdir()
    (folder / "nested" / "empty" / "empty").mkdir(parents=True)
    (folder / "read-only").mkdir()
    (folder / "read-only" / "file").write_bytes(b"inside")
    (folder / "read-only" / "file").chmod(0o444)
    (folder / "read-only").chmod(0o555)
    (folder / "private").mkdir(mode=0o700)
    os.utime(folder, ns=(7, 7))
