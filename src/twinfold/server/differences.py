"""How what stands in the destination differs from what the index says: pure comparisons.

The same inode, ctime and size mean the same file: nobody can set a ctime. Where only times,
inode or permission bits differ, the bytes decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from twinfold.model import Kind
from twinfold.storage.interface import DirectoryListing, Looked, Node


class Suspect(NamedTuple):
    """A name that seemed to differ; ``deep`` if its bytes are to be read in any case."""

    directory: int
    name: bytes
    deep: bool = False


class Case(NamedTuple):
    """A suspect looked at with nothing in flight.

    ``content`` tells whether a file's bytes are right; None if that was not found out.
    """

    suspect: Suspect
    names: list[bytes]
    node: Node | None
    looked: Looked | None
    content: bool | None = None

    @property
    def path(self) -> bytes:
        """The entry's path."""
        return b"/".join(self.names)


def differs(node: Node, looked: Looked) -> bool:
    """Tell whether a name has to be looked at closely."""
    if node.kind is not looked.kind or node.inode != looked.inode:
        return True
    if node.kind is Kind.SYMLINK:
        return node.target != looked.target
    if (node.mode, node.mtime_ns) != (looked.mode, looked.mtime_ns):
        return True
    return node.kind is Kind.FILE and (node.size, node.ctime_ns) != (looked.size, looked.ctime_ns)


def is_untouched(node: Node, looked: Looked) -> bool:
    """Tell whether a file is as it was left: no bit and time was set since.

    If it differs all the same, then by what the disk made of it, or by what became of the index.
    """
    return (
        node.kind is looked.kind is Kind.FILE
        and node.inode == looked.inode
        and (node.size, node.ctime_ns) == (looked.size, looked.ctime_ns)
    )


def is_another(node: Node, looked: Looked) -> bool:
    """Tell whether something else stands there, as far as can be told without reading."""
    if node.kind is not looked.kind:
        return True
    if node.kind is Kind.SYMLINK:
        return node.target != looked.target
    return node.kind is Kind.FILE and node.size != looked.size


def suspects_in(
    directory: int, nodes: Sequence[Node], listing: DirectoryListing
) -> tuple[list[Suspect], list[Node]]:
    """Return the names that differ, and the nodes that do not seem to."""
    there = {looked.name: looked for looked in listing.children}
    suspects: list[Suspect] = []
    alike: list[Node] = []
    for node in nodes:
        looked = there.pop(node.name, None)
        if looked is None or differs(node, looked):
            suspects.append(Suspect(directory, node.name))
        else:
            alike.append(node)
    return [*suspects, *(Suspect(directory, name) for name in there)], alike


def describe(case: Case) -> list[str]:
    """Say what differs, in the words that ``verify`` uses; nothing where all is right."""
    node, looked = case.node, case.looked
    if node is None:
        return ["extra"]
    if looked is None:
        return ["missing"]
    if node.kind is not looked.kind:
        return ["type"]
    if node.kind is Kind.SYMLINK:
        return ["target"] if node.target != looked.target else []
    found = []
    if is_another(node, looked) or case.content is False:
        found.append("content")
    if node.mode != looked.mode:
        found.append("mode")
    if node.mtime_ns != looked.mtime_ns:
        found.append("mtime")
    return found
