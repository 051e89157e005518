"""What the destination's system lacks: told from its errors, and said to people."""

from __future__ import annotations

import errno

import msgspec


class Lack(msgspec.Struct, frozen=True):
    """Why a change cannot be taken; ``again`` if it may be once there is room."""

    reason: str
    again: bool


NO_ROOM = Lack(
    "there is no room for it at the destination; free some there, it is sent by itself then", True
)
NO_FILES = Lack(
    "the destination's file system has no more inodes; remove files there,"
    " it is sent by itself then",
    True,
)
_OVER_QUOTA = Lack(
    "the quota at the destination is used up; raise it or free some room,"
    " it is sent by itself then",
    True,
)
_TOO_LARGE = Lack("it is too large for the destination's file system", False)

_LACKS = {errno.ENOSPC: NO_ROOM, errno.EDQUOT: _OVER_QUOTA, errno.EFBIG: _TOO_LARGE}

OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)

_ADVICE = {
    errno.ENOSPC: "is full; free some room there",
    errno.EDQUOT: "has used up its quota; raise it or free some room",
    errno.EROFS: "is read-only; mount it writable again",
    errno.EIO: "cannot be read or written (input/output error); check its disk",
    errno.EMFILE: "cannot be written: the server has too many open files; raise its ulimit -n",
    errno.ENFILE: "cannot be written: the system has too many open files; raise fs.file-max",
    errno.EACCES: "cannot be written (permission denied); give the server's user the right to",
    errno.EPERM: "cannot be written (not permitted); look for immutable files or folders in it",
}


def lack_of(error: OSError) -> Lack | None:
    """Return what an error means for one change alone; None if it concerns more than that."""
    return _LACKS.get(error.errno or 0)


def advice(error: OSError) -> str:
    """Return one line about the destination: what is wrong, and what to do."""
    known = _ADVICE.get(error.errno or 0)
    if known is not None:
        return f"the destination {known}; it goes on by itself then"
    return f"the destination cannot be written: {error.strerror or error}"


def is_full(error: OSError) -> bool:
    """Tell whether the system lacks room, inodes or descriptors."""
    return error.errno in _LACKS or error.errno in OUT_OF_DESCRIPTORS
