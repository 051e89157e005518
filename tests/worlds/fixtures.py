"""Folders on file systems that do not tell some names apart."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a file system of `folding_fs` for as long as the block lasts."""
    with served(folder, *options):
        yield folder


@contextmanager
def served(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Mount a file system of `folding_fs`; the process that serves it takes signals."""
    if sys.platform != "linux":
        pytest.skip("needs Linux's FUSE")
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse and the right to mount")
    folder.mkdir()
    words = [sys.executable, "-m", "tests.worlds.folding_fs", str(folder), *options]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        answer = process.stdout.readline()
        if answer == b"not permitted\n":
            pytest.skip("needs the right to mount")
        assert answer == b"mounted\n", "see standard error"
        try:
            yield process
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
            process.terminate()


@pytest.fixture
def folding(tmp_path: Path) -> Iterator[Path]:
    """A folder where neither case nor Unicode form counts; names stay as they are written."""
    with mounted(tmp_path / "folding", "--fold-case", "--fold-form") as folder:
        yield folder


@pytest.fixture
def decomposing(tmp_path: Path) -> Iterator[Path]:
    """A folder where Unicode form does not count, and names are kept decomposed."""
    with mounted(tmp_path / "decomposing", "--fold-form", "--store-decomposed") as folder:
        yield folder
