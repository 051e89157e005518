"""Several batches on their way at once, and one of them that cannot arrive."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import cast

import pytest

from twinfold.client.batch import Batch, Pending
from twinfold.client.frames import FrameWriter
from twinfold.client.link import Link
from twinfold.client.state import State
from twinfold.client.state_file import open_state
from twinfold.client.transfer import Transfer
from twinfold.core.compression import CompressionChooser
from twinfold.core.session import FolderSession
from twinfold.errors import LostPlaceError
from twinfold.model import MakeDirectory
from twinfold.protocol import BatchAnswer


class RefusingLink:
    """A session whose server gives up the first batch while the second one waits for it."""

    def __init__(self) -> None:
        self.connection = self
        self.session = FolderSession()
        self.generation = 0
        self.waits = asyncio.Event()
        self._numbers = 0

    def next_number(self) -> int:
        self._numbers += 1
        return self._numbers

    async def post_batch(self, _epoch: int, number: int, _body: object) -> BatchAnswer:
        if number == 1:
            await self.waits.wait()
            raise LostPlaceError("the first one is lost")
        self.waits.set()
        await asyncio.Event().wait()
        raise AssertionError


def transfer_over(link: Link, state: State, counts: Counter[str]) -> Transfer:
    frames = FrameWriter(CompressionChooser(0), lambda _chunk, _stretch: b"")
    return Transfer(
        link, state, Pending(state), frames, lambda *_told: counts.update(["acknowledged"])
    )


class GatedLink(RefusingLink):
    """A session whose server commits a batch when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[int] = []
        self.gates = [asyncio.Event() for _ in range(20)]

    async def post_batch(self, _epoch: int, number: int, _body: object) -> BatchAnswer:
        self.arrived.append(number)
        await self.gates[number].wait()
        return BatchAnswer(revision=number)

    def succeeded(self, _revision: int) -> None:
        """Take note of nothing."""


@pytest.mark.parametrize(
    ("mebibytes", "together"),
    [
        ([0] * 10, 6),
        ([8] * 10, 3),
        ([40, 1], 1),
        ([23, 2], 1),
        ([1, 23, 0, 0, 0, 1], 5),
    ],
)
async def test_what_is_on_its_way_is_bounded(
    tmp_path: Path, mebibytes: list[int], together: int
) -> None:
    """In batches and in what they keep in memory; one alone may be of any size."""
    link = GatedLink()
    state = open_state(tmp_path / "state.sqlite", b"/source")
    transfer = transfer_over(cast(Link, link), state, Counter())
    for number, size in enumerate(mebibytes, 1):
        batch = Batch(number)
        batch.changes.append(MakeDirectory(b"%d" % number, 0o755, 1))
        batch.held_bytes = size << 20
        sending = asyncio.create_task(transfer.send(batch))
        if number > together:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(sending), 0.02)
            link.gates[number - together].set()
        await sending
    for gate in link.gates:
        gate.set()
    await transfer.drain()
    assert link.arrived == [*range(1, len(mebibytes) + 1)]
    state.close()


async def test_a_batch_does_not_wait_for_one_that_was_given_up(tmp_path: Path) -> None:
    """The server would keep it waiting for minutes: nothing that it comes after is on its way."""
    state = open_state(tmp_path / "state.sqlite", b"/source")
    counts: Counter[str] = Counter()
    transfer = transfer_over(cast(Link, RefusingLink()), state, counts)
    for serial in (1, 2):
        batch = Batch(serial)
        batch.changes.append(MakeDirectory(b"%d" % serial, 0o755, 1))
        await transfer.send(batch)
    with pytest.raises(LostPlaceError, match="the first one is lost") as raised:
        async with asyncio.timeout(5):
            await transfer.drain()
    await transfer.close(raised.value)
    assert not counts
    state.close()
