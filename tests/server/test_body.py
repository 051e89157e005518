"""A request's body is read alike however it was split on the way, and in as much memory."""

from __future__ import annotations

import asyncio
import itertools
import os
import tracemalloc
from collections.abc import Sequence

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.e2e.wire import batch_frame, chunk, chunks_frame, put
from twinfold.model import Change
from twinfold.protocol import Batch
from twinfold.server.body import frames
from twinfold.server.receive import ChunkFrame, RecipeFrame

CONTENTS = [os.urandom(size) for size in (1, 40, 3_000, 20_000)]
CHANGES: list[Change] = [put(b"%d" % number, data) for number, data in enumerate(CONTENTS)]
BODY = batch_frame(CHANGES) + chunks_frame(CONTENTS)


async def read(parts: Sequence[bytes]) -> list[Batch | ChunkFrame | RecipeFrame]:
    """Return the frames of a body that comes in these HTTP chunks, some at a time."""
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.connection_made(asyncio.Transport())
    content = StreamReader(protocol, 2**16, loop=loop)

    async def feed() -> None:
        for number, part in enumerate(parts):
            content.begin_http_chunk_receiving()
            content.feed_data(part)
            content.end_http_chunk_receiving()
            if number % 1_000 == 0:
                await asyncio.sleep(0)
        content.feed_eof()

    feeding = asyncio.create_task(feed())
    found = [frame async for frame in frames(content)]
    await feeding
    return found


@settings(max_examples=30)
@given(cuts=st.sets(st.integers(1, len(BODY) - 1), max_size=400))
def test_what_is_read_does_not_depend_on_how_it_comes(cuts: set[int]) -> None:
    borders = [0, *sorted(cuts), len(BODY)]
    parts = [BODY[start:end] for start, end in itertools.pairwise(borders)]
    batch, content = asyncio.run(read(parts))
    assert batch == Batch(CHANGES)
    assert isinstance(content, ChunkFrame)
    assert content.chunks == [chunk(data) for data in CONTENTS]
    assert list(map(bytes, content.contents)) == CONTENTS


def test_single_bytes_take_no_more_memory() -> None:
    """A peer that sends each byte by itself does not multiply what the server keeps of them."""
    changes: list[Change] = [put(os.urandom(200), b"data") for _ in range(100)]
    body = batch_frame(changes)
    parts = [body[at : at + 1] for at in range(len(body))]
    tracemalloc.start()
    try:
        found = asyncio.run(read(parts))
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found == [Batch(changes)]
    allowed_bytes = 100 * len(body)
    assert most_bytes < allowed_bytes


def test_single_bytes_that_are_there_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else runs while the server takes what has come: so it takes few steps."""
    steps = 0
    take = StreamReader.readchunk

    async def counted(content: StreamReader) -> tuple[bytes, bool]:
        nonlocal steps
        steps += 1
        return await take(content)

    monkeypatch.setattr(StreamReader, "readchunk", counted)
    body = BODY[: len(batch_frame(CHANGES))]
    parts = [body[at : at + 1] for at in range(len(body))]
    assert asyncio.run(read(parts)) == [Batch(CHANGES)]
    assert steps < len(body) // 10
