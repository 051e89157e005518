"""A destination folder: taking hold of it, and what the server keeps of its own in it.

DEST/.twinfold/
    server.json     who this server is: format, id, token
    lock            held by the one server of this destination
    ballast         room that is given up when the disk is full, for the index to write in
    index.sqlite    the index; rebuilt from the files if it is lost
    staging/        content on its way in
    attic/          what was replaced or deleted
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import contextlib
import os
import re
import secrets
import time
from pathlib import Path

import msgspec

from twinfold.core.paths import display
from twinfold.errors import DestinationError, FormatError
from twinfold.model import RESERVED_ROOT_NAME
from twinfold.storage.collisions import names_untold
from twinfold.storage.index import DamagedIndexError, SqlIndex, open_index
from twinfold.storage.space import Space
from twinfold.storage.staging import Staging
from twinfold.storage.tree import Tree
from twinfold.system.durability import sync_file
from twinfold.system.locks import FolderLock

FORMAT_VERSION = 1

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Identity(msgspec.Struct, frozen=True):
    """Who a server is, as kept beside the index (``id`` in hex)."""

    format: int
    id: str
    token: str


class Destination:
    """An open destination folder; one process at a time has it.

    Attributes:
        untold: differences between names that its file system does not tell, in words.
    """

    def __init__(self, path: bytes, own: Path, lock: FolderLock) -> None:
        self.path = os.path.realpath(path)
        self.own_folder = own
        self._lock = lock
        self.identity = _load_identity(path, own)
        self._fds = [
            os.open(path, _DIRECTORY & ~os.O_NOFOLLOW),
            _open_own(own / "staging"),
            _open_own(own / "attic"),
            os.open(own, _DIRECTORY),
        ]
        self.space = Space(self._fds[3])
        self.staging = Staging(self._fds[1])
        self.index: SqlIndex = self._open_index(own)
        # What is acknowledged is durable only if all folders are that lead to it.
        for fd in (self._fds[3], self._fds[0]):
            sync_file(fd)
        self.index.on_full = self.space.release
        tree, staging, attic, _ = self._fds
        self.untold = names_untold(staging)
        self.tree = Tree(tree, staging, attic, self.index.neighbours)
        self.space.hold()

    def _open_index(self, own: Path) -> SqlIndex:
        try:
            return _open_or_replace_index(own)
        except DestinationError:
            self.space.release()
            return _open_or_replace_index(own)

    def check_place(self) -> None:
        """Make sure that the folder, and what the server keeps in it, is where it was.

        Raises:
            DestinationError: it was moved away, removed or replaced.
        """
        own = self.own_folder
        paths = [self.path, bytes(own / "staging"), bytes(own / "attic"), bytes(own)]
        for path, fd in zip(paths, self._fds, strict=True):
            if not _is_same(path, fd):
                raise DestinationError(
                    f"{display(path)} was moved, removed or replaced while it was served; "
                    "nothing more is written. Put it back and start the server again"
                )

    def close(self) -> None:
        """Let go of the folder."""
        self.index.close()
        for fd in self._fds:
            with contextlib.suppress(OSError):
                # Nothing was written by these; a disk that is away has an error for each.
                os.close(fd)
        self._lock.release()


def open_destination(path: bytes, *, adopt: bool, renew_index: bool = False) -> Destination:
    """Take hold of a destination folder, made if it is missing.

    Args:
        path: the folder.
        adopt: take it also if it holds files that no server put there.
        renew_index: set the index aside, as if it could not be opened.

    Raises:
        DestinationError: it is no folder, cannot be written to, or holds files that no server
            put there and ``adopt`` is not set.
        LockedError: another server has it.
        FormatError: a newer version of the program wrote it.
    """
    own = Path(os.fsdecode(path)) / os.fsdecode(RESERVED_ROOT_NAME)
    try:
        _make_folder(path)
        foreign = not (own / "server.json").exists() and any(
            name != RESERVED_ROOT_NAME for name in os.listdir(path)
        )
        if foreign and not adopt:
            raise DestinationError(
                f"{display(path)} already holds files that no twinfold server put there; "
                "choose an empty folder, or take them over with --adopt"
            )
        own.mkdir(mode=0o700, exist_ok=True)
        lock = FolderLock(own / "lock", f"{display(path)} is already served")
    except OSError as error:
        raise DestinationError(
            f"cannot use {display(path)} as the destination: {error.strerror}"
        ) from error
    lock.acquire()
    try:
        if renew_index:
            _set_index_aside(own)
        return Destination(path, own, lock)
    except BaseException:
        lock.release()
        raise


def _make_folder(path: bytes) -> None:
    """Make a folder, if it is missing, in such a way that no power cut takes it back."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(os.path.abspath(path))
    _make_folder(above)
    os.mkdir(path)
    fd = os.open(above, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        sync_file(fd)
    finally:
        os.close(fd)


def _open_or_replace_index(own: Path) -> SqlIndex:
    """Open the index; set a damaged one aside, for a new one can be made from the files.

    It is opened twice before: a disk that fails for a moment looks like damage as well.
    """
    path = own / "index.sqlite"
    with contextlib.suppress(DamagedIndexError):
        return open_index(path)
    try:
        return open_index(path)
    except DamagedIndexError:
        _set_index_aside(own)
        return open_index(path)


def _set_index_aside(own: Path) -> None:
    aside = f"damaged-{time.time_ns()}"
    for ending in ("", "-wal", "-shm"):
        file = own / f"index.sqlite{ending}"
        if file.exists():
            file.rename(own / f"{aside}.sqlite{ending}")


def _is_same(path: bytes, fd: int) -> bool:
    try:
        there, held = os.stat(path), os.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)


def _open_own(path: Path) -> int:
    path.mkdir(mode=0o700, exist_ok=True)
    return os.open(path, _DIRECTORY)


def _load_identity(path: bytes, own: Path) -> Identity:
    file = own / "server.json"
    if not file.exists():
        identity = Identity(FORMAT_VERSION, secrets.token_hex(16), secrets.token_urlsafe(24))
        _write_private(file, msgspec.json.encode(identity))
        return identity
    try:
        identity = msgspec.json.decode(file.read_bytes(), type=Identity)
        bytes.fromhex(identity.id)
        if not re.fullmatch(r"[!-~]{1,1000}", identity.token):
            raise ValueError("its token cannot be one")
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        why = "it is damaged" if isinstance(error, UnicodeError) else str(error)
        raise DestinationError(
            f"cannot read {display(os.fsencode(file))}: {why}; remove it to have the server make"
            " a new one, with a new invite (then start it once with --adopt)"
        ) from error
    if identity.format > FORMAT_VERSION:
        raise FormatError(
            f"{display(path)} was written by a newer twinfold (format {identity.format}); "
            "update this server"
        )
    return identity


def _write_private(file: Path, data: bytes) -> None:
    fresh = file.with_suffix(".new")
    fd = os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(fresh, file)
