"""The directories that are watched, and where each of them is."""

from __future__ import annotations

from collections.abc import Iterator


class Node:
    """A directory: its place in the tree and its watch, -1 if it has none."""

    __slots__ = ("children", "name", "parent", "wd")

    def __init__(self) -> None:
        self.wd = -1
        self.parent: Node | None = None
        self.name = b""
        self.children: dict[bytes, Node] | None = None

    def child(self, name: bytes) -> Node | None:
        """Return the directory of this name in this one."""
        return self.children.get(name) if self.children else None

    def place(self, parent: Node, name: bytes) -> None:
        """Put a node that has no place at a free one."""
        self.parent, self.name = parent, name
        if parent.children is None:
            parent.children = {}
        parent.children[name] = self

    def unplace(self) -> None:
        """Take the node, with all below it, out of its place."""
        if self.parent is not None and self.parent.children is not None:
            del self.parent.children[self.name]
            if not self.parent.children:
                self.parent.children = None
        self.parent = None

    def top(self) -> Node:
        """Return the highest node above: the root if this one's path is known."""
        node = self
        while node.parent is not None:
            node = node.parent
        return node

    def subtree(self) -> Iterator[Node]:
        """Yield the node and all below it, each before its children."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend((node.children or {}).values())


class NodeTree:
    """The directories below a root, by watch and by path."""

    def __init__(self) -> None:
        self.root = Node()
        self.unwatched = 1
        self._nodes: dict[int, Node] = {}

    def by_watch(self, wd: int) -> Node | None:
        """Return the node that has this watch."""
        return self._nodes.get(wd)

    def path(self, node: Node) -> bytes | None:
        """Return the path of a node, or None if it is not below the root."""
        names = []
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        return b"/".join(reversed(names)) if node is self.root else None

    def make(self, path: bytes) -> Node:
        """Return the node at a path; what is missing on the way is made, without watches."""
        node = self.root
        for name in path.split(b"/") if path else ():
            child = node.child(name)
            if child is None:
                child = Node()
                child.place(node, name)
                self.unwatched += 1
            node = child
        return node

    def set_watch(self, node: Node, wd: int) -> None:
        """Record the node's watch, or with -1 that it has none."""
        self.unwatched += (wd < 0) - (node.wd < 0)
        self._nodes.pop(node.wd, None)
        node.wd = wd
        if wd >= 0:
            self._nodes[wd] = node

    def drop(self, top: Node) -> list[Node]:
        """Forget a node and all below it, and return them; they keep their watch numbers."""
        top.unplace()
        dropped = list(top.subtree())
        for node in dropped:
            self.unwatched -= node.wd < 0
            self._nodes.pop(node.wd, None)
            node.children = node.parent = None
        return dropped
