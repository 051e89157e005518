"""Doing steps again after a crash that left any part of them done.

Steps are not replayed one by one: an object may have come back to a name that it had
before. Instead every object is brought to where the last of its steps has it:

1. what was to be set aside gets its second name in the attic, if it has none, and loses its
   first one where nothing is going to replace it;
2. objects of the tree that are not at their last place go to a name of their own in staging;
3. objects in staging go to their last place;
4. entries get their attributes.

An object is found by its inode at one of the places that its steps name; one that is at
none of them is gone, and nothing is done for it. Doing all this twice changes nothing.

What stands in the way of an object is a stranger, which goes to the attic, or another entry
whose name the file system takes for this one's: then the object is refused.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
from collections.abc import Callable, Mapping, Sequence

from twinfold.model import Kind
from twinfold.storage.collisions import CollisionError, Neighbours, check_name, is_listed
from twinfold.storage.directories import Directories, inode_at, set_aside
from twinfold.storage.interface import (
    ATTIC,
    STAGING,
    Attributes,
    Found,
    Location,
    Performed,
    Refused,
    Rename,
    SetAside,
    Step,
)
from twinfold.storage.perform import (
    REFUSALS,
    give_attributes,
    identity,
    keep_in_attic,
    reason_of,
    refuse,
    refused_places,
    rename,
)

UNREAD_CTIME_NS = 0
"""Recorded of a file that stood unwatched for a while: the next check reads it."""


class Recovery:
    """One run over steps of which any part may have been done."""

    def __init__(
        self,
        roots: Mapping[int, int],
        locate: Callable[[int], Location | None],
        neighbours: Neighbours,
        steps: Sequence[Step],
    ) -> None:
        self._neighbours = neighbours
        self._last: dict[int, Rename] = {}
        self._places: dict[int, list[Location]] = {}
        self._kept: dict[int, SetAside] = {}
        self._attributes: dict[int, Attributes] = {}
        for step in steps:
            self._learn(step)
        directories = {node for node, step in self._last.items() if step.kind is Kind.DIRECTORY}
        self._replaced = {
            step.target
            for node, step in self._last.items()
            if node not in self._kept and node not in directories
        }
        self._directories = Directories(
            roots,
            locate,
            {node: self._places[node] for node in directories},
            {node: self._last[node].inode for node in directories},
        )
        self._identities: dict[int, tuple[int, int, int]] = {}
        self._refused: dict[int, Refused] = {}

    def _learn(self, step: Step) -> None:
        if isinstance(step, Rename):
            own = [self._own_place(step.node), *refused_places(step.node)]
            self._places.setdefault(step.node, own).extend([step.source, step.target])
            self._last[step.node] = step
        elif isinstance(step, SetAside):
            self._kept[step.node] = step
        else:
            self._attributes[step.node] = step

    @staticmethod
    def _own_place(node: int) -> Location:
        return Location(STAGING, b"recover-%d" % node)

    def run(self) -> Performed:
        """Bring everything to its last place.

        Raises:
            OSError: the disk does not let us.
        """
        for kept in self._kept.values():
            self._keep(kept)
            self._clear(kept)
        for step in self._last.values():
            if step.node not in self._kept:
                self._take_out(step)
        for step in self._last.values():
            if step.node not in self._kept:
                self._put_in_place(step)
        for ending in self._attributes.values():
            if ending.node not in self._kept and ending.node not in self._refused:
                self._give_attributes(ending)
        unread = [(node, inode, UNREAD_CTIME_NS) for node, inode, _ in self._identities.values()]
        identities = [*unread, *self._directories.remade]
        return Performed(identities, self._directories.found, list(self._refused.values()))

    def close(self) -> None:
        """Let go of all directories."""
        self._directories.close()

    def _current(self, node: int, inode: int, places: Sequence[Location]) -> Location | None:
        """Return where an object is now."""
        self._directories.trim()
        for location in reversed(places):
            try:
                parent = self._directories.descriptor(location.directory)
            except FileNotFoundError:
                continue
            if inode_at(parent, location.name) == inode:
                return self._as_listed(parent, inode, location, places)
        return None

    @staticmethod
    def _as_listed(
        parent: int, inode: int, location: Location, places: Sequence[Location]
    ) -> Location:
        """Return the place that an object has where it answers to several names of a directory."""
        others = {
            place
            for place in places
            if place.directory == location.directory
            and place.name != location.name
            and inode_at(parent, place.name) == inode
        }
        if others and not is_listed(parent, location.name):
            return next((place for place in others if is_listed(parent, place.name)), location)
        return location

    def _keep(self, step: SetAside) -> None:
        if inode_at(self._directories.roots[ATTIC], step.name) is not None:
            return
        places = [*self._places.get(step.node, []), step.source]
        location = self._current(step.node, step.inode, places)
        if location is None and step.node not in self._places:
            location = self._stranger(step)
        if location is not None:
            keep_in_attic(self._directories, location, step.name)

    def _clear(self, step: SetAside) -> None:
        """Take what the attic has from a place that nothing else will come to."""
        if inode_at(self._directories.roots[ATTIC], step.name) != step.inode:
            return
        spare = self._own_place(step.node)
        places = [*self._places.get(step.node, []), step.source]
        location = self._current(step.node, step.inode, places)
        if location is None or location in self._replaced:
            return
        if location.directory == STAGING:
            spare = location
        else:
            self._move(Rename(step.node, Kind.FILE, step.inode, location, spare), location, spare)
        staging = self._directories.roots[STAGING]
        if inode_at(staging, spare.name) == step.inode:
            os.unlink(spare.name, dir_fd=staging)
        else:
            # Something else was swapped in just before it was taken from its place.
            found = set_aside(staging, spare.name, self._directories.roots[ATTIC])
            self._directories.found.append(Found(found, location))

    def _stranger(self, step: SetAside) -> Location | None:
        """Return the place of an object that somebody else put where ours was."""
        try:
            parent = self._directories.descriptor(step.source.directory)
        except FileNotFoundError:
            return None
        there = inode_at(parent, step.source.name)
        return step.source if there not in (None, step.successor) else None

    def _take_out(self, step: Rename) -> None:
        location = self._current(step.node, step.inode, self._places[step.node])
        if location is None or location in (step.target, *refused_places(step.node)):
            return
        if location.directory != STAGING:
            self._move(step, location, self._own_place(step.node))

    def _put_in_place(self, step: Rename) -> None:
        location = self._current(step.node, step.inode, self._places[step.node])
        if location is None:
            return
        if location != step.target:
            try:
                self._move(step, location, step.target)
            except CollisionError as error:
                self._refuse(step, location, str(error), error.other)
                return
            except OSError as error:
                if error.errno not in REFUSALS:
                    raise
                self._refuse(step, location, reason_of(error, step.target.name))
                return
        if step.kind is Kind.FILE and step.target.directory != ATTIC:
            parent = self._directories.descriptor(step.target.directory)
            self._identities[step.node] = identity(step.node, parent, step.target.name)

    def _refuse(self, step: Rename, location: Location, reason: str, other: bytes = b"") -> None:
        self._refused[step.node] = refuse(self._directories, step, location, reason, other)

    def _move(self, step: Rename, location: Location, target: Location) -> None:
        """Rename an object.

        Raises:
            CollisionError: another entry answers to the target's name.
        """
        target_fd = self._directories.ensure(target.directory)
        source_fd = self._directories.descriptor(location.directory)
        there = inode_at(target_fd, target.name)
        replaces = False
        if there is not None:
            kept_from = [kept.source for kept in self._kept.values() if kept.inode == there]
            replaces = bool(kept_from)
            if target not in kept_from:
                check_name(self._neighbours, target, target_fd, there)
            if not replaces:
                self._directories.make_way(target, target_fd)
        moving = Rename(step.node, step.kind, step.inode, location, target)
        rename(self._directories, moving, location, source_fd, target_fd, replaces=replaces)

    def _give_attributes(self, step: Attributes) -> None:
        last = self._last.get(step.node)
        location = last.target if last is not None else step.location
        self._directories.trim()
        noted = give_attributes(self._directories, step, location)
        if noted is not None:
            self._identities[step.node] = noted
