"""Doing steps for the first time, in order."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import errno
import os
from collections.abc import Callable, Mapping, Sequence

from twinfold.core.paths import display
from twinfold.core.windows_names import why_not_on_windows
from twinfold.errors import DestinationError
from twinfold.model import Kind
from twinfold.storage.directories import Directories
from twinfold.storage.interface import (
    ATTIC,
    DOOMED_PREFIX,
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
from twinfold.system.attributes import allow_owner, set_file_attributes
from twinfold.system.bulk import ADJUST, KEEP, MOVE, REPLACE, FileStep, take_steps
from twinfold.system.durability import rename_new

_MOST_TOGETHER = 128
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK)
REFUSALS = {
    errno.EILSEQ: "its name cannot be written on the destination's file system",
    errno.EINVAL: "its name cannot be written on the destination's file system",
    errno.ENAMETOOLONG: "its name is too long for the destination's file system",
    errno.EXDEV: "another file system is mounted there at the destination",
}
"""Errors that will be the same each time: the entry is refused, the others go on."""
_BAD_NAMES = (errno.EILSEQ, errno.EINVAL)


class Performance:
    """One run over steps none of which has been done."""

    def __init__(
        self,
        roots: Mapping[int, int],
        locate: Callable[[int], Location | None],
        steps: Sequence[Step],
    ) -> None:
        self._steps = steps
        places: dict[int, list[Location]] = {}
        for step in steps:
            if isinstance(step, Rename) and step.kind is Kind.DIRECTORY:
                places.setdefault(step.node, [step.source])
        self._directories = Directories(roots, locate, places, {})
        self._identities: dict[int, tuple[int, int, int]] = {}
        self._refused: dict[int, Refused] = {}

    def run(self) -> Performed:
        """Do the steps.

        Raises:
            DestinationError: an object that a step needs is gone.
            FileExistsError: something stands where an object is to come; `Recovery` tells what.
            OSError: the disk does not let us.
        """
        at = 0
        while at < len(self._steps):
            self._directories.trim()
            at += self._take_together(at)
            if at == len(self._steps):
                break
            step = self._steps[at]
            at += 1
            if isinstance(step, Rename):
                self._rename(step)
            elif isinstance(step, SetAside):
                keep_in_attic(self._directories, step.source, step.name)
            elif step.node not in self._refused:
                self._give_attributes(step)
        identities = [*self._identities.values(), *self._directories.remade]
        return Performed(identities, self._directories.found, list(self._refused.values()))

    def close(self) -> None:
        """Let go of all directories."""
        self._directories.close()

    def _take_together(self, start: int) -> int:
        """Take the steps with files from here on in one call, as far as nothing is in the way.

        Returns:
            How many steps are done; the next one asks for more care, or is none of these.
        """
        steps: list[FileStep] = []
        for at in range(start, min(start + _MOST_TOGETHER, len(self._steps))):
            step = self._file_step(self._steps[at])
            if step is None:
                break
            steps.append(step)
        if not steps:
            return 0
        identities, _ = take_steps(steps)
        for at, (inode, ctime_ns) in enumerate(identities, start):
            step_done = self._steps[at]
            if not isinstance(step_done, SetAside) and not _is_to_attic(step_done):
                self._identities[step_done.node] = (step_done.node, inode, ctime_ns)
        return len(identities)

    def _file_step(self, step: Step) -> FileStep | None:
        """Return a step with a file as one of many; None for any other."""
        descriptor = self._directories.descriptor
        try:
            if isinstance(step, Rename):
                if step.kind is not Kind.FILE:
                    return None
                source, target = step.source, step.target
                source_fd, target_fd = descriptor(source.directory), descriptor(target.directory)
                action = REPLACE if step.replaces else MOVE
                return action, source_fd, source.name, target_fd, target.name, 0, 0
            if isinstance(step, SetAside):
                source, attic = step.source, self._directories.roots[ATTIC]
                return KEEP, descriptor(source.directory), source.name, attic, step.name, 0, 0
            if step.kind is not Kind.FILE or step.node in self._refused:
                return None
            place = step.location
            return ADJUST, descriptor(place.directory), place.name, 0, b"", step.mode, step.mtime_ns
        except FileNotFoundError:
            return None

    def _rename(self, step: Rename) -> None:
        directories = self._directories
        try:
            target = directories.ensure(step.target.directory)
            source = directories.descriptor(step.source.directory)
            rename(directories, step, step.source, source, target, replaces=step.replaces)
        except FileNotFoundError as error:
            if step.target.directory == ATTIC:
                return
            raise DestinationError(
                f"{display(step.source.name)} is gone from the destination; something else "
                "changes files there"
            ) from error
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            reason = reason_of(error, step.target.name)
            self._refused[step.node] = refuse(directories, step, step.source, reason)
            return
        if step.kind is Kind.DIRECTORY:
            directories.moved(step.node, step.target)
        elif step.kind is Kind.FILE and step.target.directory != ATTIC:
            self._identities[step.node] = identity(step.node, target, step.target.name)

    def _give_attributes(self, step: Attributes) -> None:
        noted = give_attributes(self._directories, step, step.location)
        if noted is not None:
            self._identities[step.node] = noted


def _is_to_attic(step: Rename | Attributes) -> bool:
    return isinstance(step, Rename) and step.target.directory == ATTIC


def rename(
    directories: Directories,
    step: Rename,
    location: Location,
    source: int,
    target: int,
    *,
    replaces: bool,
) -> None:
    """Rename the object of a step from ``location`` to its target.

    Directories whose bits forbid the rename are made writable; a directory that is moved
    gets its recorded attributes afterwards.

    Raises:
        FileExistsError: something stands there that the step does not replace.
    """
    try:
        _rename(directories, step.target, location.name, source, target, replaces=replaces)
    except PermissionError:
        directories.widen(source, target)
        if step.kind is Kind.DIRECTORY:
            allow_owner(location.name, source)
        _rename(directories, step.target, location.name, source, target, replaces=replaces)


def _rename(
    directories: Directories,
    wanted: Location,
    name: bytes,
    source: int,
    target: int,
    *,
    replaces: bool,
) -> None:
    if replaces:
        try:
            os.rename(name, wanted.name, src_dir_fd=source, dst_dir_fd=target)
            return
        except (IsADirectoryError, NotADirectoryError):
            directories.make_way(wanted, target)
    rename_new(name, wanted.name, source, target)


def reason_of(error: OSError, name: bytes) -> str:
    """Return in words why the file system does not take this name."""
    reason = REFUSALS[error.errno or 0]
    why = why_not_on_windows(name) if error.errno in _BAD_NAMES else None
    return f"{reason}: {why}" if why else reason


def refused_places(node: int) -> list[Location]:
    """Return where an entry can be that its place does not take."""
    name = b"refused-%d" % node
    return [Location(ATTIC, name), Location(ATTIC, DOOMED_PREFIX + name)]


def refuse(
    directories: Directories, step: Rename, location: Location, reason: str, other: bytes = b""
) -> Refused:
    """Take the object of a step that cannot be done to the attic, with what comes into it.

    One that is new is not kept there: the destination never showed it, and the source has
    it. A new directory is: what it takes along may be older.
    """
    is_new = step.source.directory == STAGING and step.kind is not Kind.DIRECTORY
    place = refused_places(step.node)[is_new]
    refused = Refused(step.node, reason, other, place.name)
    if location != place:
        aside = Rename(step.node, step.kind, step.inode, location, place)
        source = directories.descriptor(location.directory)
        attic = directories.roots[ATTIC]
        try:
            rename(directories, aside, location, source, attic, replaces=False)
        except OSError as error:
            if error.errno not in REFUSALS:
                raise
            return refused
    if not is_new:
        directories.found.append(Found(place.name, step.target))
    directories.moved(step.node, place)
    return refused


def keep_in_attic(directories: Directories, location: Location, name: bytes) -> None:
    """Give what stands at ``location`` a second name in the attic, so that it can be replaced."""
    attic = directories.roots[ATTIC]
    try:
        source = directories.descriptor(location.directory)
        os.link(location.name, name, src_dir_fd=source, dst_dir_fd=attic, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.rename(location.name, name, src_dir_fd=source, dst_dir_fd=attic)


def give_attributes(
    directories: Directories, step: Attributes, location: Location
) -> tuple[int, int, int] | None:
    """Give an entry its attributes if it is there; return a file's identity."""
    try:
        if step.kind is Kind.DIRECTORY:
            fd = directories.set_mode(step.node, step.mode)
            os.utime(fd, ns=(step.mtime_ns, step.mtime_ns))
            return None
        parent = directories.descriptor(location.directory)
        if not set_file_attributes(location.name, parent, step.mode, step.mtime_ns):
            return None
        return identity(step.node, parent, location.name)
    except OSError as error:
        if error.errno != errno.ENOENT and error.errno not in REFUSALS:
            raise
        return None


def identity(node: int, directory: int, name: bytes) -> tuple[int, int, int]:
    """Return (node, inode, ctime_ns) of what has this name now."""
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return node, status.st_ino, status.st_ctime_ns
