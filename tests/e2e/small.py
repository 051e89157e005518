"""Small file systems to fill up; for tests that run as root on Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, *words: str | Path) -> Iterator[Path]:
    """Mount what the words of a ``mount`` command say at ``folder`` for as long as the block lasts.

    Skips the test where that is not allowed.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting takes root on Linux")
    folder.mkdir(parents=True)
    command: list[str | Path] = ["mount", *words, folder]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"mounting is not allowed here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """Mount a file system in memory, with ``size=`` and ``nr_inodes=`` in its options."""
    with mounted(folder, "-t", "tmpfs", "-o", options, "tmpfs"):
        yield folder


@contextmanager
def ext4(folder: Path, size_mib: int, *options: str) -> Iterator[Path]:
    """Mount a new ext4 of that size, made with options of ``mkfs.ext4``."""
    with _image(folder, size_mib, "mkfs.ext4", "-q", "-F", "-m", "0", *options):
        yield folder


@contextmanager
def btrfs(folder: Path, size_mib: int = 128) -> Iterator[Path]:
    """Mount a new btrfs of that size."""
    with _image(folder, size_mib, "mkfs.btrfs", "-q"):
        yield folder


@contextmanager
def xfs(folder: Path, size_mib: int = 320) -> Iterator[Path]:
    """Mount a new xfs of that size."""
    with _image(folder, size_mib, "mkfs.xfs", "-q", "-m", "reflink=1"):
        yield folder


@contextmanager
def _image(folder: Path, size_mib: int, *words: str) -> Iterator[None]:
    image = folder.with_suffix(".image")
    image.parent.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    try:
        subprocess.run([*words, image], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip(f"there is no {words[0]}")
    with mounted(folder, "-o", "loop", image):
        yield


def free_bytes(folder: Path) -> int:
    """Return what is free where ``folder`` lies."""
    return shutil.disk_usage(folder).free


def fill(path: Path, leave_bytes: int = 0) -> Path:
    """Write a file that leaves so much of its file system free."""
    piece = os.urandom(1 << 16)
    with path.open("wb", buffering=0) as file:
        while (left := free_bytes(path.parent) - leave_bytes) > 0:
            try:
                file.write(piece[: min(left, len(piece))])
            except OSError:
                break
    return path
