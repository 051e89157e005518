"""Names that a file system does not tell apart: case, Unicode forms, whatever it folds.

Nothing is folded here. The file system itself is asked: two names are one if both lead to
the same object while the directory lists it once. So it is right for every file system, also
where each directory has rules of its own.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
from collections.abc import Callable

from twinfold.core.paths import display
from twinfold.model import RESERVED_ROOT_NAME
from twinfold.storage.directories import inode_at
from twinfold.storage.interface import ATTIC, STAGING, TREE, Location
from twinfold.system.listing import list_inodes

Neighbours = Callable[[int, bytes, int], list[bytes]]
"""Tells which names the index has in a directory for a listed name or an inode."""


class CollisionError(Exception):
    """Another entry, ``other``, answers to the name that an object is to get."""

    def __init__(self, other: bytes) -> None:
        super().__init__(
            f"the destination's file system does not tell its name from {display(other)!r}"
        )
        self.other = other


def is_listed(directory: int, name: bytes) -> bool:
    """Tell whether a directory lists exactly this name."""
    return name in list_inodes(directory)


def check_name(neighbours: Neighbours, target: Location, directory: int, inode: int) -> None:
    """Pass if the name ``target`` leads to no entry of another name.

    Args:
        neighbours: asks the index as it will be when all is done.
        target: the name that something is to get.
        directory: the descriptor of the target's directory.
        inode: what that name leads to now.

    Raises:
        CollisionError: an entry of another name answers to this one.
    """
    if target.directory not in (STAGING, ATTIC):
        other = _other_name(neighbours, target, directory, inode)
        if other is not None:
            raise CollisionError(other)


def _other_name(
    neighbours: Neighbours, target: Location, directory: int, inode: int
) -> bytes | None:
    listed = list_inodes(directory)
    if target.directory == TREE and inode_at(directory, RESERVED_ROOT_NAME) == inode:
        return RESERVED_ROOT_NAME
    found = target.name
    if found not in listed:
        found = next((name for name, there in listed.items() if there == inode), found)
    for other in neighbours(target.directory, found, inode):
        is_hard_link = target.name in listed and other in listed
        if other != target.name and not is_hard_link and inode_at(directory, other) == inode:
            return other
    return None


def names_untold(directory: int) -> list[str]:
    """Try out which differences between names do not count in a directory that is ours.

    Raises:
        OSError: it cannot be written to.
    """
    probe = b"probe-%d-" % os.getpid() + "a\u00e9".encode()
    others = {
        "upper and lower case": probe.replace(b"a", b"A"),
        "composed and decomposed Unicode": probe.replace("\u00e9".encode(), "e\u0301".encode()),
    }
    os.close(os.open(probe, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory))
    try:
        return [what for what, name in others.items() if inode_at(directory, name) is not None]
    finally:
        os.unlink(probe, dir_fd=directory)
