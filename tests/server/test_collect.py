"""What left the tree is kept for as long as was asked, and then goes for good."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.server.rig import ForestWrapper, Rig, extend, put, staged_names
from twinfold.core.retention import UPLOAD_PATIENCE_S
from twinfold.model import Delete, MakeDirectory
from twinfold.server.collect import Collector
from twinfold.server.pending import PendingBatches

SECOND_NS = 1_000_000_000
UPLOAD = b"u" * 16


@asynccontextmanager
async def collecting(rig: Rig, keep_s: int) -> AsyncIterator[Collector]:
    pending = PendingBatches(rig.index, rig.stager, rig.committer, rig.listen)
    forest, committer = rig.forest, rig.committer
    yield Collector(rig.index, forest, committer, pending, keep_s, lambda: rig.now_ns, rig.listen)
    await pending.close()


async def test_nothing_expires_before_its_time(tmp_path: Path) -> None:
    """Each thing by the moment it left the tree, whether replaced or deleted."""
    with Rig(tmp_path) as rig:
        rig.apply([MakeDirectory(b"d", 0o500, 1), put(b"d/f", b"1"), put(b"g", b"2")], [b"1", b"2"])
        async with collecting(rig, 100) as collector:
            rig.apply([Delete(b"d")])
            rig.now_ns += 60 * SECOND_NS
            rig.apply([put(b"g", b"3")], [b"3"])
            rig.now_ns += 40 * SECOND_NS
            assert await collector.collect() == 0
            assert rig.attic() == {b"1": 1, b"2": 1}
            rig.now_ns += 1
            assert await collector.collect() == 1
            assert rig.attic() == {b"2": 1}
            rig.now_ns += 60 * SECOND_NS
            assert await collector.collect() == 1
            assert rig.attic() == {}
            assert rig.index.attic(None) == []
            assert rig.tree()[b"g"][1] == b"3"
            assert rig.stage([put(b"h", b"1")]).wanted


async def test_keeping_nothing(tmp_path: Path) -> None:
    """With a time of 0 the attic is emptied at the next collection."""
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", b"1")], [b"1"])
        rig.apply([put(b"f", b"2")], [b"2"])
        rig.now_ns += 1
        async with collecting(rig, 0) as collector:
            assert await collector.collect() == 1
        assert rig.attic() == {}
    with Rig(tmp_path) as rig:
        assert rig.tree()[b"f"][1] == b"2"


async def test_what_stood_in_the_way_expires_as_well(tmp_path: Path) -> None:
    """An object that nobody told us of is kept for the same time."""
    with Rig(tmp_path) as rig:
        (tmp_path / "f").mkdir()
        (tmp_path / "f" / "inside").write_bytes(b"mine")
        rig.apply([put(b"f", b"1")], [b"1"])
        async with collecting(rig, 0) as collector:
            rig.committer.settle()
            assert rig.attic() == {b"mine": 1}
            rig.now_ns += 1
            assert await collector.collect() == 1
        assert rig.attic() == {}


class StuckForest(ForestWrapper):
    """A forest that cannot delete."""

    def purge(self, name: bytes) -> None:
        raise OSError(5, "stuck", name)


async def test_a_purge_that_was_cut_goes_on_later(tmp_path: Path) -> None:
    """Also after a restart; what the index has forgotten is not left lying about."""
    with Rig(tmp_path, StuckForest) as rig:
        rig.apply([put(b"f", b"1")], [b"1"])
        rig.apply([Delete(b"f")])
        rig.now_ns += 1
        async with collecting(rig, 0) as collector:
            with pytest.raises(OSError, match="stuck"):
                await collector.collect()
    with Rig(tmp_path) as rig:
        assert rig.attic() == {b"1": 1}
        async with collecting(rig, 100) as collector:
            await collector.collect()
        assert rig.attic() == {}


async def test_an_upload_that_nobody_goes_on_with_is_given_up(tmp_path: Path) -> None:
    """After a week, counted from its last part."""
    with Rig(tmp_path) as rig:
        rig.apply([extend(UPLOAD, b"x" * 50_000, 0, 1)], [b"x" * 40_000])
        async with collecting(rig, 0) as collector:
            rig.now_ns += UPLOAD_PATIENCE_S * SECOND_NS
            await collector.collect()
            assert len(staged_names(tmp_path)) == 1
            rig.now_ns += 1
            await collector.collect()
        assert staged_names(tmp_path) == []
        assert rig.index.staged() == []
