"""The simulated disk: what it may lose, and what it must not."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import random
import stat

from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.disk import ROOT, Disk, Node

FILE = stat.S_IFREG | 0o644
DIRECTORY = stat.S_IFDIR | 0o755
OWNER = (0, 0)
SECTOR_BYTES = 512


def disk(*, keeps_order: bool = False) -> Disk:
    return Disk(random.Random(1), lambda: 0, keeps_order=keeps_order)


def file_in(found: Disk, directory: int, name: bytes, data: bytes) -> Node:
    node = found.make(directory, name, FILE, OWNER)
    found.write(node, 0, data)
    return node


@given(seed=st.integers(), orders=st.booleans())
def test_what_was_synced_stays(seed: int, orders: bool) -> None:
    made = disk(keeps_order=orders)
    node = file_in(made, ROOT, b"a", b"kept")
    made.sync(node)
    made.sync(made.node(ROOT))
    made.write(node, 4, b" and more")
    made.lose_power(random.Random(seed))
    assert bytes(made.child(ROOT, b"a").data[:4]) == b"kept"


def test_what_was_not_synced_may_go_alone() -> None:
    """A name without its content, content without its name, and neither."""
    found = set()
    for seed in range(200):
        made = disk()
        node = file_in(made, ROOT, b"a", b"x" * 2000)
        made.lose_power(random.Random(seed))
        is_there = b"a" in made.node(ROOT).names
        found.add((is_there, bytes(node.data) == b"x" * 2000))
    assert found == {(True, True), (True, False), (False, True), (False, False)}


@given(seed=st.integers(), writes=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 2000))))
def test_a_sector_is_of_one_moment(seed: int, writes: list[tuple[int, int]]) -> None:
    """Each sector has some version since the last sync; what never was written is zeros."""
    made = disk()
    node = made.make(ROOT, b"a", FILE, OWNER)
    made.sync(made.node(ROOT))
    versions = [b""]
    for number, (offset, size) in enumerate(writes, 1):
        made.write(node, offset, bytes([number % 256]) * size)
        versions.append(bytes(node.data))
    made.lose_power(random.Random(seed))
    assert len(node.data) in {len(version) for version in versions}
    for start in range(0, len(node.data), SECTOR_BYTES):
        end = min(start + SECTOR_BYTES, len(node.data))
        allowed = {version[start:end].ljust(end - start, b"\0") for version in versions}
        assert bytes(node.data[start:end]) in allowed


@given(seed=st.integers(), orders=st.booleans())
def test_a_rename_is_in_both_directories_or_in_neither(seed: int, orders: bool) -> None:
    made = disk(keeps_order=orders)
    left = made.make(ROOT, b"left", DIRECTORY, OWNER).number
    right = made.make(ROOT, b"right", DIRECTORY, OWNER).number
    file_in(made, left, b"a", b"1")
    made.sync_all()
    made.rename((left, b"a"), (right, b"a"), replaces=True)
    made.make(left, b"b", FILE, OWNER)
    made.make(right, b"c", FILE, OWNER)
    made.lose_power(random.Random(seed))
    assert (b"a" in made.node(left).names) != (b"a" in made.node(right).names)


def test_directories_are_independent_unless_order_is_kept() -> None:
    found = {True: set[tuple[bool, bool]](), False: set[tuple[bool, bool]]()}
    for seed in range(200):
        for keeps_order, outcomes in found.items():
            made = disk(keeps_order=keeps_order)
            left = made.make(ROOT, b"left", DIRECTORY, OWNER).number
            right = made.make(ROOT, b"right", DIRECTORY, OWNER).number
            made.sync_all()
            made.make(left, b"a", FILE, OWNER)
            made.make(right, b"b", FILE, OWNER)
            made.lose_power(random.Random(seed))
            outcomes.add((b"a" in made.node(left).names, b"b" in made.node(right).names))
    assert (False, True) in found[False]
    assert (False, True) not in found[True]
    assert {(False, False), (True, False), (True, True)} <= found[True]


def test_a_sync_that_failed_is_not_made_good_by_the_next() -> None:
    lost = 0
    for seed in range(50):
        made = Disk(random.Random(seed), lambda: 0, keeps_order=False)
        node = file_in(made, ROOT, b"a", b"x")
        made.lose_writes([node])
        made.sync(node)
        assert bytes(node.data) == b"x"
        made.lose_power(random.Random(1))
        lost += bytes(node.data) != b"x"
    assert 0 < lost < 50
