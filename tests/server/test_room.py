"""The attic gives way in good order, and only as far as it has to."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.server.rig import Rig, put, read_attic
from twinfold.core.room import Room
from twinfold.model import Delete, MakeDirectory
from twinfold.server.events import AtticGaveWay, Event
from twinfold.server.pending import PendingBatches
from twinfold.server.room import RoomKeeper

SECOND_NS = 1_000_000_000
MIB = 1 << 20
TOTAL_BYTES = 100 * MIB
LOW_BYTES = 5 * MIB


class SmallDisk:
    """A file system of 100 MiB on which others have used a part, and the attic a part."""

    def __init__(self, path: Path, used_bytes: int) -> None:
        self.is_held = True
        self._path = path
        self._used_bytes = used_bytes

    def measure(self) -> Room:
        kept_bytes = sum(len(data) * count for data, count in read_attic(self._path).items())
        return Room(TOTAL_BYTES, TOTAL_BYTES - self._used_bytes - kept_bytes, 0, 0)

    def hold(self) -> bool:
        return True

    def release(self) -> None:
        raise AssertionError("there is room enough for the index")


@asynccontextmanager
async def keeping(rig: Rig, used_bytes: int, told: list[Event]) -> AsyncIterator[RoomKeeper]:
    pending = PendingBatches(rig.index, rig.stager, rig.committer, told.append)
    space = SmallDisk(rig.path, used_bytes)
    forest, committer = rig.forest, rig.committer
    yield RoomKeeper(space, rig.index, forest, committer, pending, rig.now, told.append)
    await pending.close()


def retire(rig: Rig, *letters: str) -> None:
    """Put a file of 1 MiB of each letter, and delete it a second after the one before."""
    for letter in letters:
        data = letter.encode() * MIB
        rig.apply([put(letter.encode(), data)], [data])
        rig.now_ns += SECOND_NS
        rig.apply([Delete(letter.encode())])


def kept(rig: Rig) -> str:
    return "".join(sorted(chr(data[0]) for data in rig.attic()))


async def test_nothing_goes_while_there_is_room(tmp_path: Path) -> None:
    told: list[Event] = []
    with Rig(tmp_path) as rig:
        retire(rig, "a", "b")
        rig.now_ns += 3_600 * SECOND_NS
        async with keeping(rig, TOTAL_BYTES - LOW_BYTES - 3 * MIB, told) as rooms:
            await rooms.make_for([put(b"f", b"1")])
        assert kept(rig) == "ab"
    assert told == []


async def test_the_oldest_go_first_and_no_more_than_needed(tmp_path: Path) -> None:
    """It is said how many and how much."""
    told: list[Event] = []
    with Rig(tmp_path) as rig:
        retire(rig, "a", "b", "c", "d")
        rig.now_ns += 3_600 * SECOND_NS
        async with keeping(rig, TOTAL_BYTES - LOW_BYTES - 2 * MIB, told) as rooms:
            await rooms.make_for([put(b"f", b"1")])
        assert kept(rig) == "d"
        assert len(rig.index.attic(None)) == 1
    assert told == [AtticGaveWay(3, 3 * MIB)]


async def test_what_was_deleted_just_now_stays_for_the_low_water_mark(tmp_path: Path) -> None:
    """And goes where new content would be refused otherwise."""
    told: list[Event] = []
    with Rig(tmp_path) as rig:
        retire(rig, "a", "b")
        async with keeping(rig, TOTAL_BYTES - 6 * MIB, told) as rooms:
            await rooms.make_for([put(b"f", b"1")])
            assert kept(rig) == "ab"
            assert await rooms.make_for([put(b"f", b"x" * (3 * MIB))]) is None
            assert kept(rig) == "b"


async def test_a_quota_that_the_system_does_not_tell_of(tmp_path: Path) -> None:
    """What was refused by an error makes the attic give way although much seems to be free."""
    told: list[Event] = []
    with Rig(tmp_path) as rig:
        retire(rig, "a", "b", "c")
        async with keeping(rig, 0, told) as rooms:
            change = put(b"f", b"x" * (2 * MIB - 100))
            rooms.note_refused([change])
            await rooms.make_for([change])
            assert kept(rig) == "c"


async def test_a_directory_counts_with_all_in_it(tmp_path: Path) -> None:
    told: list[Event] = []
    with Rig(tmp_path) as rig:
        rig.apply(
            [MakeDirectory(b"d", 0o755, 1), put(b"d/f", b"1"), put(b"d/g", b"22")], [b"1", b"22"]
        )
        rig.apply([Delete(b"d")])
        rig.now_ns += 3_600 * SECOND_NS
        async with keeping(rig, TOTAL_BYTES - 4 * MIB, told) as rooms:
            await rooms.make_for([put(b"f", b"1")])
    assert told == [AtticGaveWay(3, 3)]
