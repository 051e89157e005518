"""The rules for paths and names: the one place where a path from outside is judged."""

from __future__ import annotations

from collections.abc import Set

from twinfold.errors import PathRefusedError
from twinfold.model import RESERVED_ROOT_NAME, ROOT_PATH

MAX_NAME_BYTES = 255
MAX_PATH_BYTES = 65_535
MAX_DEPTH = 4_096
_NO_NAMES = (b"", b".", b"..")


def check_path(path: bytes) -> bytes:
    """Return ``path`` if it may name an entry below the folder's root; never mend it.

    Raises:
        PathRefusedError: it is empty, absolute, too long or too deep, has an empty, ``.`` or
            ``..`` component, a NUL, a name over 255 bytes, or lies in ``.twinfold``.
    """
    if len(path) > MAX_PATH_BYTES:
        raise PathRefusedError(f"a path of {len(path)} bytes is over {MAX_PATH_BYTES}")
    if b"\0" in path:
        raise PathRefusedError(f"path {display(path)} contains NUL")
    names = path.split(b"/")
    if len(names) > MAX_DEPTH:
        raise PathRefusedError(f"a path of {len(names)} levels is over {MAX_DEPTH}")
    for name in names:
        if name in _NO_NAMES:
            raise PathRefusedError(f"path {display(path)} has the component {display(name)!r}")
        if len(name) > MAX_NAME_BYTES:
            raise PathRefusedError(f"path {display(path)} has a name over {MAX_NAME_BYTES} bytes")
    if names[0] == RESERVED_ROOT_NAME:
        raise PathRefusedError(f"path {display(path)} lies in the server's own folder")
    return path


def is_surely_sound(path: bytes, sound: Set[bytes]) -> bool:
    """Tell at first sight that `check_path` accepts a path, as it did its directory.

    Args:
        path: to be judged; False says nothing of it.
        sound: paths of directories that `check_path` accepted.
    """
    parent, _, name = path.rpartition(b"/")
    return (
        parent in sound
        # The names in the root have a rule of their own.
        and parent != ROOT_PATH
        and 0 < len(name) <= MAX_NAME_BYTES
        # So short a path is not too deep either.
        and len(path) <= MAX_DEPTH
        and name not in _NO_NAMES
        and b"\0" not in name
    )


def check_path_or_root(path: bytes) -> bytes:
    """Return ``path`` if it is the root or `check_path` accepts it."""
    return path if path == ROOT_PATH else check_path(path)


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return (parent path, name) of a path that is not the root."""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def join(parent: bytes, name: bytes) -> bytes:
    """Return the path of ``name`` in the directory ``parent``."""
    return parent + b"/" + name if parent else name


def is_within(path: bytes, ancestor: bytes) -> bool:
    """Tell whether ``path`` is ``ancestor`` or lies below it."""
    return ancestor == ROOT_PATH or path == ancestor or path.startswith(ancestor + b"/")


def display(path: bytes) -> str:
    """Return ``path`` for a screen: on one line, nothing in it acts on a terminal."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
