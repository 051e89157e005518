"""A request's body: its frames, each checked against the limits before it is read."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

from aiohttp import StreamReader, web

from twinfold import protocol
from twinfold.core.recipes import cost_bytes
from twinfold.errors import LimitError, ProtocolError
from twinfold.protocol import Batch, Codec, FrameHead, FrameKind
from twinfold.server.receive import ChunkFrame, RecipeFrame

_SMALL_BYTES = 4096
"""A part of a body that is smaller is joined with all else that is there: to take each by itself
would keep all other requests waiting."""

_MOST_BLOCKS = 256
"""So many are kept to be joined at once: one of a single byte takes two hundred."""

_SOON_DONE_BYTES = 256 * 1024
"""So much is unpacked and decoded at once: another thread would be asked for about as long."""


async def read_message(request: web.Request) -> bytes:
    """Return the body of a short message.

    Raises:
        LimitError: it is not short.
        ProtocolError: it does not come (408).
    """
    try:
        async with asyncio.timeout(protocol.PROGRESS_TIMEOUT_S):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise LimitError("the request is over its limit") from error
    except TimeoutError as error:
        raise _too_slow() from error


async def frames(content: StreamReader) -> AsyncIterator[Batch | ChunkFrame | RecipeFrame]:
    """Yield a request's frames.

    Raises:
        LimitError, ProtocolError: what comes is too much, malformed, or too slow (408).
    """
    body = _Body(content)
    total = 0
    first = True
    while (head := await body.next_head()) is not None:
        total = _added(total, head.size_bytes)
        if head.kind is FrameKind.CHUNKS:
            yield await _chunks(body, head)
        elif head.kind is FrameKind.RECIPES:
            recipes = protocol.decode_recipes(await _checked(body, head))
            total = _added(total, sum(map(cost_bytes, recipes)))
            yield RecipeFrame(recipes)
        elif head.kind is FrameKind.BATCH and first:
            yield await _batch(body, head)
        else:
            raise ProtocolError("a frame of this kind has no place here")
        first = False


def _added(total: int, size_bytes: int) -> int:
    total += size_bytes
    if total > protocol.MAX_BODY_BYTES:
        raise LimitError(f"a request is over the limit of {protocol.MAX_BODY_BYTES} bytes")
    return total


async def _batch(body: _Body, head: FrameHead) -> Batch:
    payload = await _checked(body, head)
    if head.size_bytes <= _SOON_DONE_BYTES:
        return protocol.decode(payload, Batch)
    return await asyncio.to_thread(protocol.decode, payload, Batch)


async def _checked(body: _Body, head: FrameHead) -> bytes | memoryview:
    """Return the payload of a frame that has a digest."""
    digest = await body.read(head.head_bytes)
    packed = await body.read(head.packed_bytes)
    protocol.check_frame(head, digest, packed)
    if head.size_bytes <= _SOON_DONE_BYTES:
        return protocol.unpack_payload(head, packed)
    return await asyncio.to_thread(protocol.unpack_payload, head, packed)


async def _chunks(body: _Body, head: FrameHead) -> ChunkFrame:
    chunk_list = await body.read(head.head_bytes)
    if head.codec is Codec.PLAIN:
        chunks = protocol.decode_chunk_list(chunk_list, head.size_bytes)
        return ChunkFrame(chunks, await body.read_each([chunk.size for chunk in chunks]))
    packed = await body.read(head.packed_bytes)
    payload = memoryview(await asyncio.to_thread(protocol.unpack_payload, head, packed))
    chunks = protocol.decode_chunk_list(chunk_list, head.size_bytes)
    ends = list(itertools.accumulate(chunk.size for chunk in chunks))
    return ChunkFrame(
        chunks, [payload[end - chunk.size : end] for chunk, end in zip(chunks, ends, strict=True)]
    )


class _Body:
    """Bytes as they come: patience lasts for some time without any, and each one renews a bit."""

    def __init__(self, content: StreamReader) -> None:
        self._content = content
        self._patience_s = protocol.PROGRESS_TIMEOUT_S
        self._taken_bytes = 0
        self._block = memoryview(b"")

    async def next_head(self) -> FrameHead | None:
        if not self._block:
            self._block = await self._next_block()
            if not self._block:
                return None
        return protocol.parse_frame_head(await self.read(protocol.FRAME_HEAD_BYTES))

    async def read(self, size_bytes: int) -> bytes | memoryview:
        """Return exactly so many bytes: a view of what came, if they came together."""
        if len(self._block) >= size_bytes:
            return self._take(size_bytes)
        joined = bytearray()
        parts = [self._block]
        left = size_bytes - len(self._block)
        while left:
            self._block = await self._next_block()
            if not self._block:
                raise ProtocolError("the request was cut")
            parts.append(self._take(min(left, len(self._block))))
            left -= len(parts[-1])
            if len(parts) == _MOST_BLOCKS:
                joined += b"".join(parts)
                parts.clear()
        return b"".join([joined, *parts])

    async def read_each(self, sizes_bytes: list[int]) -> list[bytes | memoryview]:
        """Return what `read` would for each of these sizes, waiting only for what is not there."""
        pieces: list[bytes | memoryview] = []
        block, at = self._block, 0
        for size_bytes in sizes_bytes:
            if at + size_bytes <= len(block):
                pieces.append(block[at : at + size_bytes])
                at += size_bytes
            else:
                self._block = block[at:]
                pieces.append(await self.read(size_bytes))
                block, at = self._block, 0
        self._block = block[at:]
        return pieces

    def _take(self, size_bytes: int) -> memoryview:
        taken = self._block[:size_bytes]
        self._block = self._block[size_bytes:]
        return taken

    async def _next_block(self) -> memoryview:
        """Return what has come since, waiting for it if need be; nothing at the end."""
        if self._content.total_bytes > self._taken_bytes or self._content.is_eof():
            # It is there: a time limit would cost more than to take it.
            data = await self._read_block()
        else:
            data = await self._wait_for_block()
        self._taken_bytes += len(data)
        self._patience_s += len(data) / protocol.MIN_BYTES_PER_S
        self._patience_s = min(self._patience_s, protocol.PROGRESS_TIMEOUT_S)
        return memoryview(data)

    async def _wait_for_block(self) -> bytes:
        began_s = time.monotonic()
        try:
            async with asyncio.timeout(self._patience_s):
                data = await self._read_block()
        except TimeoutError as error:
            raise _too_slow() from error
        self._patience_s -= time.monotonic() - began_s
        return data

    async def _read_block(self) -> bytes:
        # Block by block, as they came: joining them would copy them all.
        data, is_end_of_part = await self._content.readchunk()
        while is_end_of_part and not data and not self._content.at_eof():
            data, is_end_of_part = await self._content.readchunk()
        if is_end_of_part and len(data) < _SMALL_BYTES:
            data += self._content.read_nowait()
        return data


def _too_slow() -> ProtocolError:
    return ProtocolError("the request brings nothing, or too little", 408)
