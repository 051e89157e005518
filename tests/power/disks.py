"""Disks that can be copied as they are at an instant, as if the power had gone then.

A disk is an image file, mounted by a loop device, inside an XFS whose files can share blocks.
Sharing all blocks of the image with a new file takes milliseconds, and keeps writes to the image
out meanwhile: the copy holds what the inner file system has handed to its device so far, and
nothing of what it still keeps in memory.

A disk may have a write cache, which is lost, too: then its image lies in another file system
between the two. There it has had all its blocks from the beginning, so that a write changes them
in place, in that file system's memory at first; a flush is what brings them to the image below,
which is the one that is copied.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import ctypes
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

KINDS: dict[str, list[str]] = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-K"],
    "btrfs": ["mkfs.btrfs", "-q", "-f", "-m", "single", "-K"],
}
"""The file systems that are tested, and how each is made.

Nothing is discarded: what lies below a write cache has no journal, and where it had to
allocate blocks of the image again, it could give them out twice after a cut.
"""

_OPTIONS = {"xfs": "loop,nouuid", "btrfs": "loop,nodiscard"}
_OUTER_BYTES = 6 << 30
_DISK_BYTES = 512 << 20
_CACHE_BYTES = 64 << 20
_CACHED = ".cached"
"""The ending of an image in which the disk's image lies."""
_INNER = "disk.image"
_WITH_CACHE = ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal"]
_FICLONE = 0x40049409
_CLONE_NEWNS = 0x00020000
_UNMOUNT_LIMIT_S = 20.0


class UnavailableError(Exception):
    """Such disks cannot be had here; says why."""


class DiskError(Exception):
    """A disk could not be made or mounted; says why."""


class Disk:
    """A mounted disk.

    Attributes:
        folder: where it is mounted.
    """

    def __init__(self, kind: str, image: Path, folder: Path) -> None:
        self.kind = kind
        self.folder = folder
        self._image = image

    def copy(self, name: str) -> Path:
        """Return an image of the disk as it is at this instant."""
        copy = self._image.with_name(name + self._image.suffix)
        with self._image.open("rb") as original, copy.open("xb") as shared:
            fcntl.ioctl(shared, _FICLONE, original.fileno())
        return copy


class Disks:
    """Room in memory for disks and their copies; opened by `open_disks`."""

    def __init__(self, folder: Path, mounts: Path) -> None:
        self._folder = folder
        self._mounts = mounts

    @contextmanager
    def new(self, kind: str, *, cached: bool) -> Iterator[Disk]:
        """Make a disk with that file system, and maybe a write cache, for as long as the block."""
        image = self._folder / f"{kind}{_CACHED if cached else '.image'}"
        try:
            if cached:
                _make_image(image, _DISK_BYTES + _CACHE_BYTES, _WITH_CACHE)
                with _mounted(self._mounts / "new", "-o", "loop", image):
                    inner = self._mounts / "new" / _INNER
                    _write_zeros(inner, _DISK_BYTES)
                    _run([*KINDS[kind], inner])
            else:
                _make_image(image, _DISK_BYTES, KINDS[kind])
            with self.mounted(kind, image) as folder:
                yield Disk(kind, image, folder)
        finally:
            image.unlink()

    @contextmanager
    def mounted(self, kind: str, image: Path) -> Iterator[Path]:
        """Mount an image for as long as the block lasts; its journal is replayed."""
        folder = self._mounts / image.stem
        with ExitStack() as opened:
            if image.suffix == _CACHED:
                cache = self._mounts / f"{image.stem}-cache"
                opened.enter_context(_mounted(cache, "-t", "ext4", "-o", "loop", image))
                image = cache / _INNER
            words = ["-t", kind, "-o", _OPTIONS.get(kind, "loop")]
            opened.enter_context(_mounted(folder, *words, image))
            yield folder


@contextmanager
def open_disks(work: Path) -> Iterator[Disks]:
    """Make room for disks below an empty folder.

    Raises:
        UnavailableError: this takes root on Linux, loop devices and the programs that make
            the file systems.
    """
    why = why_unavailable()
    if why:
        raise UnavailableError(why)
    memory, outer = work / "memory", work / "outer"
    with ExitStack() as opened:
        try:
            size = f"size={_OUTER_BYTES}"
            opened.enter_context(_mounted(memory, "-t", "tmpfs", "-o", size, "tmpfs"))
            image = memory / "outer.image"
            _make_image(image, _OUTER_BYTES - (64 << 20), ["mkfs.xfs", "-q", "-m", "reflink=1"])
            opened.enter_context(_mounted(outer, "-t", "xfs", "-o", "loop,nouuid", image))
        except DiskError as error:
            raise UnavailableError(str(error)) from error
        yield Disks(outer, work / "mounts")


def keep_mounts_to_oneself() -> None:
    """Let what this process mounts from now on vanish with it, even if it is killed.

    Raises:
        UnavailableError: that takes root.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNS) != 0:
        raise UnavailableError(f"no mounts of one's own: {os.strerror(ctypes.get_errno())}")
    _run(["mount", "--make-rprivate", "/"])


def why_unavailable() -> str:
    """Return what is missing here, empty if nothing is known to be."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "mounting takes root on Linux"
    programs = [words[0] for words in KINDS.values()]
    lacking = [program for program in programs if shutil.which(program) is None]
    if lacking:
        return f"there is no {', '.join(lacking)}; see .ci/run for the packages"
    for kind in KINDS:
        if shutil.which("modprobe"):
            subprocess.run(["modprobe", "-q", kind], capture_output=True, check=False)
    known = Path("/proc/filesystems").read_text("utf-8").split()
    lacking = [kind for kind in KINDS if kind not in known]
    if lacking:
        return f"this kernel has no {', '.join(lacking)}"
    return "" if Path("/dev/loop-control").exists() else "there are no loop devices"


@contextmanager
def _mounted(folder: Path, *words: str | Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    try:
        _run(["mount", *words, folder])
        try:
            yield
        finally:
            _unmount(folder)
    finally:
        with suppress(OSError):
            folder.rmdir()


def _unmount(folder: Path) -> None:
    """Unmount; what is still in use there goes as soon as it is not."""
    end_s = time.monotonic() + _UNMOUNT_LIMIT_S
    while subprocess.run(["umount", folder], capture_output=True, check=False).returncode:
        if time.monotonic() > end_s:
            _run(["umount", "--lazy", folder])
            return
        time.sleep(0.1)


def _make_image(image: Path, size_bytes: int, words: list[str]) -> None:
    with image.open("xb") as file:
        file.truncate(size_bytes)
    _run([*words, image])


def _write_zeros(image: Path, size_bytes: int) -> None:
    piece = bytes(1 << 20)
    with image.open("xb") as file:
        for _ in range(size_bytes // len(piece)):
            file.write(piece)
        os.fsync(file.fileno())


def _run(words: list[str | Path]) -> None:
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise DiskError(f"{' '.join(map(str, words))}: {ended.stderr.strip()}")
