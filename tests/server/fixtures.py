"""Fixtures of the server's tests."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MEMORY = Path("/dev/shm")


@contextmanager
def quick_folder() -> Iterator[Path]:
    """Make a folder where a sync costs nothing, for tests that make many destinations."""
    place = _MEMORY if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="twinfold-test-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def scratch() -> Iterator[Path]:
    with quick_folder() as folder:
        yield folder


@pytest.fixture(autouse=True)
def plain_umask() -> Iterator[None]:
    """Create files with the bits asked for, as a server does."""
    before = os.umask(0)
    yield
    os.umask(before)
