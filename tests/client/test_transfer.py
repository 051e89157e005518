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


async def test_a_batch_does_not_wait_for_one_that_was_given_up(tmp_path: Path) -> None:
    """The server would keep it waiting for minutes: nothing that it comes after is on its way."""
    state = open_state(tmp_path / "state.sqlite", b"/source")
    frames = FrameWriter(CompressionChooser(0), lambda _chunk, _stretch: b"")
    counts: Counter[str] = Counter()
    transfer = Transfer(
        cast(Link, RefusingLink()),
        state,
        Pending(state),
        frames,
        lambda *_told: counts.update(["acknowledged"]),
    )
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
