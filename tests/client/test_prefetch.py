"""Fetching ahead of a scan: it holds nothing open afterwards, however it ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from twinfold.client.levels import Child
from twinfold.client.prefetch import Prefetcher
from twinfold.client.tree import open_root

if sys.platform == "win32":
    pytest.skip("there are no descriptors of directories", allow_module_level=True)


def test_nothing_is_held_after_the_end(tmp_path: Path) -> None:
    children = []
    for number in range(100):
        folder = tmp_path / f"d{number}"
        folder.mkdir()
        (folder / "file").write_bytes(b"x" * 10_000)
        children.append(Child(os.fsencode(folder.name), 0, number, None, None))
    children.append(Child(b"missing", 0, 101, None, None))
    with open_root(os.fsencode(tmp_path)) as root:
        before = os.listdir("/dev/fd")
        prefetcher = Prefetcher()
        prefetcher.wake()
        while children:
            prefetcher.look_ahead(root, children)
            children.pop()
        prefetcher.close()
        assert os.listdir("/dev/fd") == before


def test_nothing_is_fetched_of_a_source_that_is_in_memory(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    children = [Child(b"d", 0, 1, None, None)]
    with open_root(os.fsencode(tmp_path)) as root:
        prefetcher = Prefetcher()
        prefetcher.look_ahead(root, children)
        assert not children[0].fetched
        prefetcher.wake()
        prefetcher.look_ahead(root, children)
        assert children[0].fetched
        prefetcher.close()
