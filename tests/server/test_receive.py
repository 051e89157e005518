"""Batches through the receiver, as the requests of a client see them."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import asyncio
import os
import resource
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.server.rig import ForestWrapper, Rig, chunks_of, cut, extend, put, put_upload
from twinfold.core.chunking import chunk_id
from twinfold.core.manifest import content_id
from twinfold.errors import (
    ContentMismatchError,
    DestinationError,
    LostPlaceError,
    ProtocolError,
    RefusedError,
    StaleEpochError,
)
from twinfold.model import Chunk, MakeDirectory, MakeSymlink, Move, PutFile
from twinfold.protocol import Batch, BatchAnswer, OpenSession, Session
from twinfold.server.pending import OutOfOrderError, PendingBatches
from twinfold.server.receive import ChunkFrame, Receiver
from twinfold.server.room import RoomKeeper
from twinfold.storage.interface import Forest, Location, Performed, Step

Frame = Batch | ChunkFrame
_PATIENCE_S = 20.0


class GatedForest(ForestWrapper):
    """A forest whose steps wait at a gate."""

    def __init__(self, forest: Forest) -> None:
        super().__init__(forest)
        self.entered = threading.Event()
        self.gate = threading.Event()

    def perform(
        self, steps: Sequence[Step], locate: Callable[[int], Location | None], *, again: bool
    ) -> Performed:
        self.entered.set()
        self.gate.wait(_PATIENCE_S)
        return self.forest.perform(steps, locate, again=again)


async def frames(*items: Frame) -> AsyncIterator[Frame]:
    for item in items:
        yield item


def body(path: bytes, data: bytes) -> AsyncIterator[Frame]:
    return frames(Batch([put(path, data)]), ChunkFrame(chunks_of(data), cut(data)))


class Service:
    """A receiver at work over a rig."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.pending = PendingBatches(rig.index, rig.stager, rig.committer, rig.listen)
        forest, committer = rig.forest, rig.committer
        rooms = RoomKeeper(
            rig.destination.space, rig.index, forest, committer, self.pending, rig.now, rig.listen
        )
        self.receiver = Receiver(rig.index, rig.stager, committer, self.pending, rooms, rig.listen)

    async def open_as(self, who: bytes, instance: bytes = b"i") -> Session:
        request = OpenSession(1, who, instance, who.decode(), take_over=True)
        return await self.receiver.open_session(request)

    async def send(self, session: Session, number: int, *items: Frame) -> BatchAnswer:
        request = self.receiver.receive(session.epoch, number, frames(*items))
        return await asyncio.wait_for(request, _PATIENCE_S)

    async def put(self, session: Session, number: int, path: bytes, data: bytes) -> BatchAnswer:
        request = self.receiver.receive(session.epoch, number, body(path, data))
        return await asyncio.wait_for(request, _PATIENCE_S)


@asynccontextmanager
async def serving(
    path: Path, wrap: Callable[[Forest], Forest] | None = None
) -> AsyncIterator[Service]:
    """Run what a server runs behind its addresses."""
    rig = Rig(path, wrap)
    service = Service(rig)
    try:
        committing = await service.receiver.start(rig.survey())
        try:
            yield service
        finally:
            await service.pending.close()
            committing.cancel()
            await asyncio.gather(committing, return_exceptions=True)
    finally:
        rig.close()


@contextmanager
def small_files_only() -> Iterator[None]:
    """Let no file grow beyond 20 kB: what a full disk does to it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_small_change_takes_one_request(scratch: Path) -> None:
    """Header and content together are answered with the revision."""
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        answer = await service.put(session, 1, b"f", b"1")
        assert answer == BatchAnswer(revision=session.revision + 1)
        assert service.rig.tree()[b"f"][1] == b"1"


async def test_a_repeated_batch_is_answered_as_the_first_time(scratch: Path) -> None:
    """It has no further effect, also when another one came after it."""
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        first = await service.put(session, 1, b"f", b"1")
        second = await service.put(session, 2, b"f", b"2")
        assert await service.put(session, 1, b"f", b"1") == first
        assert await service.put(session, 2, b"f", b"2") == second
        assert service.rig.tree()[b"f"][1] == b"2"
        assert service.rig.index.session().committed == 2


async def test_missing_chunks_are_named_and_taken_in_several_requests(scratch: Path) -> None:
    """Until all are there nothing is visible; in whatever pieces they come."""
    data = os.urandom(100_000)
    chunks = chunks_of(data)
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        answer = await service.send(session, 1, Batch([put(b"f", data)]))
        assert answer.missing == [chunk.id for chunk in chunks]
        answer = await service.send(session, 1, ChunkFrame(chunks[1:2], [data[40_000:80_000]]))
        assert answer.missing == [chunks[0].id, chunks[2].id]
        assert service.rig.tree() == {}
        last = [data[:40_000], data[80_000:]]
        answer = await service.send(session, 1, ChunkFrame([chunks[0], chunks[2]], last))
        assert answer.revision == session.revision + 1
        assert chunks_of((scratch / "f").read_bytes()) == chunks


async def test_a_request_repeated_while_content_comes_is_answered(scratch: Path) -> None:
    """A client whose connection was cut comes again while the server still stores what it had."""
    contents = [b"%d" % number for number in range(4_000)]
    header = Batch([put(b"f%d" % number, data) for number, data in enumerate(contents)])
    chunks = [Chunk(chunk_id(data), len(data)) for data in contents]
    switched_s = sys.getswitchinterval()
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        await service.send(session, 1, header)
        everything = ChunkFrame(chunks, list(contents))
        sys.setswitchinterval(1e-6)
        try:
            storing = asyncio.create_task(service.send(session, 1, everything))
            while not storing.done():
                await service.send(session, 1)
            assert (await storing).revision == session.revision + 1
        finally:
            sys.setswitchinterval(switched_s)


async def test_bytes_with_another_hash_are_refused(scratch: Path) -> None:
    """Nothing of the frame is used; the right bytes are still welcome."""
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        wrong = ChunkFrame(chunks_of(b"right"), [b"wrong"])
        with pytest.raises(ContentMismatchError):
            await service.send(session, 1, Batch([put(b"f", b"right")]), wrong)
        answer = await service.send(session, 1, ChunkFrame(chunks_of(b"right"), [b"right"]))
        assert answer.revision == session.revision + 1
        assert service.rig.tree()[b"f"][1] == b"right"


async def test_batches_out_of_order(scratch: Path) -> None:
    """A number too far ahead, or known by no header, writes nothing."""
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        with pytest.raises(OutOfOrderError):
            await service.put(session, 10, b"f", b"1")
        with pytest.raises(OutOfOrderError):
            await service.send(session, 1, ChunkFrame(chunks_of(b"1"), [b"1"]))
        with pytest.raises(StaleEpochError):
            await service.receiver.receive(session.epoch - 1, 1, body(b"f", b"1"))
        assert service.rig.tree() == {}


async def test_a_later_header_waits_for_an_earlier_one(scratch: Path) -> None:
    """Batches that arrive in another order are committed in that of their numbers."""
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        second = asyncio.create_task(service.send(session, 2, Batch([Move(b"f", b"g")])))
        await asyncio.sleep(0.05)
        first = await service.put(session, 1, b"f", b"1")
        assert [first.revision, (await second).revision] == [
            session.revision + 1,
            session.revision + 2,
        ]
        assert set(service.rig.tree()) == {b"g"}


async def test_a_header_that_waits_for_its_turn_ends_with_its_epoch(scratch: Path) -> None:
    """The batches before it will not come any more."""
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        second = asyncio.create_task(service.send(session, 2, Batch([Move(b"f", b"g")])))
        await asyncio.sleep(0.05)
        await service.open_as(b"other")
        with pytest.raises(StaleEpochError):
            await second


async def test_another_client_is_refused_unless_it_takes_over(scratch: Path) -> None:
    """One writer a folder."""
    async with serving(scratch) as service:
        await service.open_as(b"one")
        with pytest.raises(RefusedError):
            await service.receiver.open_session(OpenSession(1, b"two", b"i", "two"))
        await service.open_as(b"two")


async def test_an_upload_goes_on_after_a_restart(scratch: Path) -> None:
    """Parts that were committed are not asked for again, wherever the cut was."""
    data = os.urandom(200_000)
    chunks = chunks_of(data)
    upload = b"u" * 16
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        part = ChunkFrame(chunks[:3], cut(data[:120_000]))
        answer = await service.send(session, 1, Batch([extend(upload, data, 0, 3)]), part)
        assert answer.revision is not None
    async with serving(scratch) as service:
        session = await service.open_as(b"c", b"next")
        answer = await service.send(session, 1, Batch([extend(upload, data, 0, 4)]))
        assert answer.missing == [chunks[3].id]
        rest = ChunkFrame(chunks[3:4], [data[120_000:160_000]])
        assert (await service.send(session, 1, rest)).revision is not None
        changes = [extend(upload, data, 4, 5), put_upload(b"f", data, upload)]
        answer = await service.send(
            session, 2, Batch(changes), ChunkFrame(chunks[4:], cut(data[160_000:]))
        )
        assert answer.revision is not None
        assert chunks_of((scratch / "f").read_bytes()) == chunks


async def test_what_was_staged_for_no_commit_goes_at_the_next_start(scratch: Path) -> None:
    """It would take room for good; what an upload has brought stays."""
    data, other = os.urandom(200_000), os.urandom(200_000)
    part = ChunkFrame(chunks_of(data)[:3], cut(data)[:3])
    other_part = ChunkFrame(chunks_of(other)[:3], cut(other)[:3])
    staging = scratch / ".twinfold" / "staging"
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        await service.send(session, 1, Batch([extend(b"u" * 16, data, 0, 3)]), part)
        kept = service.rig.staging.names()
        answer = await service.send(session, 2, Batch([put(b"f", other)]), other_part)
        assert len(answer.missing) == 2
        [half] = set(service.rig.staging.names()) - set(kept)
        os.link(staging / os.fsdecode(half), staging / "left by a kill")
    async with serving(scratch) as service:
        assert service.rig.staging.names() == kept


async def test_a_lost_upload_is_told_to_the_client(scratch: Path) -> None:
    """The client begins anew; no zeros stand in for what was lost."""
    data = os.urandom(80_000)
    chunks = chunks_of(data)
    upload = b"u" * 16
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        part = ChunkFrame(chunks[:1], [data[:40_000]])
        await service.send(session, 1, Batch([extend(upload, data, 0, 1)]), part)
    for staged in (scratch / ".twinfold" / "staging").iterdir():
        os.truncate(staged, 10)
    async with serving(scratch) as service:
        session = await service.open_as(b"c", b"next")
        with pytest.raises(LostPlaceError):
            await service.send(session, 1, Batch([extend(upload, data, 1, 2)]))
        whole = [extend(upload, data, 0, 2), put_upload(b"f", data, upload)]
        answer = await service.send(session, 1, Batch(whole), ChunkFrame(chunks, cut(data)))
        assert answer.revision is not None
        assert chunks_of((scratch / "f").read_bytes()) == chunks


async def test_a_request_that_began_before_a_take_over_writes_nothing(scratch: Path) -> None:
    """Whatever of it comes after the fence is refused."""
    async with serving(scratch) as service:
        old = await service.open_as(b"old")
        go = asyncio.Event()

        async def slow_body() -> AsyncIterator[Frame]:
            await go.wait()
            async for item in body(b"from-old", b"1"):
                yield item

        request = asyncio.create_task(service.receiver.receive(old.epoch, 1, slow_body()))
        await asyncio.sleep(0.05)
        await service.open_as(b"new")
        go.set()
        with pytest.raises(StaleEpochError):
            await asyncio.wait_for(request, _PATIENCE_S)
        assert service.rig.tree() == {}


async def test_what_was_begun_before_a_take_over_is_dropped(scratch: Path) -> None:
    """The new writer's batches count from 1 again, and are its own."""
    async with serving(scratch) as service:
        first = await service.open_as(b"one")
        begun = await service.send(first, 1, Batch([put(b"a", b"of the first")]))
        assert begun.missing
        second = await service.open_as(b"two")
        done = await service.put(second, 1, b"b", b"of the second")
        assert done.revision is not None
        assert service.rig.tree().keys() == {b"b"}


async def test_a_session_opened_during_a_commit(scratch: Path) -> None:
    """It begins after the commit, and knows its revision."""
    gates: list[GatedForest] = []

    def wrap(forest: Forest) -> Forest:
        gates.append(GatedForest(forest))
        return gates[0]

    async with serving(scratch, wrap) as service:
        first = await service.open_as(b"c", b"one")
        request = asyncio.create_task(service.put(first, 1, b"f", b"1"))
        await asyncio.to_thread(gates[0].entered.wait, _PATIENCE_S)
        opening = asyncio.create_task(service.open_as(b"c", b"two"))
        await asyncio.sleep(0.1)
        gates[0].gate.set()
        second = await asyncio.wait_for(opening, _PATIENCE_S)
        await asyncio.gather(request, return_exceptions=True)
        answer = await service.put(second, 1, b"g", b"2")
        assert second.revision == first.revision + 1
        assert answer.revision == second.revision + 1
        assert {entry.path for entry in service.rig.entries()} == set(service.rig.tree())
        assert set(service.rig.tree()) == {b"f", b"g"}


async def test_stopping_during_a_commit_loses_nothing(scratch: Path) -> None:
    """The commit under way is finished; its client gets its answer."""
    gates: list[GatedForest] = []

    def wrap(forest: Forest) -> Forest:
        gates.append(GatedForest(forest))
        return gates[0]

    async with serving(scratch, wrap) as service:
        session = await service.open_as(b"c", b"one")
        request = asyncio.create_task(service.put(session, 1, b"f", b"1"))
        await asyncio.to_thread(gates[0].entered.wait, _PATIENCE_S)
        stopping = asyncio.create_task(service.pending.close())
        await asyncio.sleep(0.1)
        gates[0].gate.set()
        await asyncio.wait_for(stopping, _PATIENCE_S)
        assert (await request).revision == session.revision + 1
        assert set(service.rig.tree()) == {b"f"}
        service.pending = PendingBatches(
            service.rig.index, service.rig.stager, service.rig.committer, service.rig.listen
        )


async def test_a_request_that_comes_while_the_server_ends_is_told_so(scratch: Path) -> None:
    """It is refused like any other that a server which stops cannot take."""
    async with serving(scratch) as service:
        session = await service.open_as(b"one")
        begun = await service.send(session, 1, Batch([put(b"a", b"data")]))
        assert begun.missing
        stopped = asyncio.Event()

        async def slowly() -> AsyncIterator[Frame]:
            await stopped.wait()
            yield Batch([put(b"a", b"data")])

        request = asyncio.create_task(service.receiver.receive(session.epoch, 1, slowly()))
        await asyncio.sleep(0)
        await service.pending.close()
        stopped.set()
        with pytest.raises(DestinationError):
            await request


async def test_a_header_sent_twice_at_once(scratch: Path) -> None:
    """Both requests get the same answer, and the batch happens once."""
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        header = Batch([MakeDirectory(b"d", 0o755, 1), put(b"e", b"")])
        one, two = await asyncio.gather(
            service.send(session, 1, header), service.send(session, 1, header)
        )
        assert one == two == BatchAnswer(revision=session.revision + 1)
        assert (await service.put(session, 2, b"g", b"2")).revision == session.revision + 2
        assert service.rig.staging.names() == []


async def test_a_full_disk_heals(scratch: Path) -> None:
    """The request fails, nothing is left behind, and the same one works later."""
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        data = os.urandom(40_000)
        with small_files_only(), pytest.raises(DestinationError, match="index"):
            await service.put(session, 1, b"f", data)
        answer = await service.put(session, 1, b"f", data)
        assert answer.revision == session.revision + 1
        assert chunks_of((scratch / "f").read_bytes()) == chunks_of(data)


async def test_the_announced_size_is_checked(scratch: Path) -> None:
    """A chunk that is shorter than the header said is no chunk of the file."""
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        a, b = b"a" * 50, b"b" * 60
        lied = [Chunk(chunk_id(a), 100), Chunk(chunk_id(b), 60)]
        change = PutFile(b"f", 0o644, 1, 160, content_id(lied), lied)
        real = [Chunk(chunk_id(a), 50), Chunk(chunk_id(b), 60)]
        with pytest.raises(ContentMismatchError):
            await service.send(session, 1, Batch([change]), ChunkFrame(real, [a, b]))
        assert service.rig.tree() == {}


async def test_who_waits_for_a_batch_that_fails_is_answered(scratch: Path) -> None:
    """A batch that waits for another one's chunks does not wait for ever."""
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        impossible = Batch([put(b"a", b"same"), Move(b"none", b"x")])
        assert (await service.send(session, 1, impossible)).missing
        two = asyncio.create_task(service.send(session, 2, Batch([put(b"b", b"same")])))
        await asyncio.sleep(0.05)
        with pytest.raises(LostPlaceError):
            await service.send(session, 1, ChunkFrame(chunks_of(b"same"), [b"same"]))
        with pytest.raises(ProtocolError):
            await two
        assert service.rig.tree() == {}


async def test_chunks_that_an_earlier_batch_brings_are_not_asked_for(scratch: Path) -> None:
    """The later batch takes them from what the earlier one put in place."""
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        assert (await service.send(session, 1, Batch([put(b"a", b"same")]))).missing
        two = asyncio.create_task(service.send(session, 2, Batch([put(b"b", b"same")])))
        await asyncio.sleep(0.05)
        await service.send(session, 1, ChunkFrame(chunks_of(b"same"), [b"same"]))
        assert (await two).revision == session.revision + 2
        assert service.rig.tree()[b"b"][1] == b"same"


async def test_a_path_deeper_than_what_is_there_does_not_end_committing(scratch: Path) -> None:
    """The client is told that it lost its place, and can go on."""
    async with serving(scratch) as service:
        session = await service.open_as(b"c")
        path = b"/".join([b"d"] * 1_200)
        with pytest.raises(LostPlaceError):
            await service.send(session, 1, Batch([MakeDirectory(path, 0o755, 1)]))
        answer = await service.send(session, 1, Batch([MakeSymlink(b"l", b"t")]))
        assert answer.revision == session.revision + 1
