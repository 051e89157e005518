"""Writing a batch's frames: the header, then chunks by the mebibyte, compressed where it pays."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec

from twinfold import protocol
from twinfold.client.pieces import Piece, Stretch, size_of
from twinfold.core.compression import (
    SAMPLE_BYTES,
    CompressionChooser,
    SendingTime,
    is_incompressible,
)
from twinfold.model import Change, Chunk, Recipe
from twinfold.protocol import Batch, FrameKind

FRAME_BYTES = 1024 * 1024
_OFFLOAD_BYTES = 128 * 1024
_HEADER_LEVEL = 3
_SAMPLE_LEVEL = 1


class Body(NamedTuple):
    """A request's body: its frames as they are asked for, and their size if it is known."""

    frames: AsyncIterator[bytes]
    size_bytes: int | None


class _Group(NamedTuple):
    """Chunks of one frame, with their bytes or where these are to be read again."""

    chunks: list[Chunk]
    pieces: list[Piece]
    size_bytes: int


_Parts = list[bytes | memoryview]


class FrameWriter:
    """Makes bodies of frames.

    Args:
        chooser: decides on compression, and learns from how it went.
        read_again: returns a chunk's bytes from where a piece says they are.
    """

    def __init__(
        self, chooser: CompressionChooser, read_again: Callable[[bytes, Stretch], bytes]
    ) -> None:
        self._chooser = chooser
        self._read_again = read_again
        self._sending = SendingTime()

    def header(self, changes: list[Change]) -> bytes:
        """Return the frame that announces a batch."""
        payload = protocol.encode(Batch(changes))
        return protocol.pack_frame(FrameKind.BATCH, b"", [payload], _HEADER_LEVEL)

    def recipes(self, recipes: Iterable[Recipe]) -> bytes:
        """Return the frames of recipes, none for none."""
        frames: list[bytes] = []
        group: list[bytes] = []
        size_bytes = 0
        for recipe in recipes:
            packed = protocol.encode(recipe)
            if len(group) == protocol.MAX_FRAME_RECIPES or (size_bytes + len(packed) > FRAME_BYTES):
                frames.append(self._recipe_frame(group))
                group, size_bytes = [], 0
            group.append(packed)
            size_bytes += len(packed)
        if group:
            frames.append(self._recipe_frame(group))
        return b"".join(frames)

    def _recipe_frame(self, recipes: list[bytes]) -> bytes:
        payload = protocol.encode([msgspec.Raw(recipe) for recipe in recipes])
        level = self._chooser.recipes_level(len(payload))
        return protocol.pack_frame(FrameKind.RECIPES, b"", [payload], level)

    def body(
        self, header: bytes, pieces: Sequence[tuple[bytes, Piece]], *, is_streamed: bool
    ) -> Body:
        """Return a header (if any) and the chunks in frames.

        If it ``is_streamed``, each frame is sent before the next one is asked for, and the
        chooser learns how long that takes. Its size is known where nothing is compressed.
        """
        groups = _grouped(pieces)
        if not self._chooser.leaves_plain([group.size_bytes for group in groups]):
            return Body(self._chosen(header, groups, is_streamed=is_streamed), None)
        starts = [_plain_start(group) for group in groups]
        size_bytes = sum(group.size_bytes for group in groups) + sum(map(len, starts))
        frames = self._plain(header, starts, groups, is_streamed=is_streamed)
        return Body(frames, len(header) + size_bytes)

    async def _plain(
        self, header: bytes, starts: list[bytes], groups: list[_Group], *, is_streamed: bool
    ) -> AsyncIterator[bytes]:
        if header:
            yield header
        for start, group in zip(starts, groups, strict=True):
            frame = b"".join([start, *await self._contents(group)])
            async for sent in self._timed(frame, is_streamed=is_streamed):
                yield sent

    async def _chosen(
        self, header: bytes, groups: list[_Group], *, is_streamed: bool
    ) -> AsyncIterator[bytes]:
        """Yield frames, each at the level that is best by what was learnt until then."""
        if header:
            yield header
        for group in groups:
            level = self._chooser.level(group.size_bytes)
            parts = await self._contents(group)
            if level is None:
                frame = b"".join([_plain_start(group), *parts])
            elif group.size_bytes >= _OFFLOAD_BYTES:
                frame = await asyncio.to_thread(self._pack, group, parts, level)
            else:
                frame = self._pack(group, parts, level)
            async for sent in self._timed(frame, is_streamed=is_streamed):
                yield sent

    async def _contents(self, group: _Group) -> _Parts:
        parts: _Parts = [piece for piece in group.pieces if not isinstance(piece, Stretch)]
        if len(parts) == len(group.pieces):
            return parts
        parts = []
        for chunk, piece in zip(group.chunks, group.pieces, strict=True):
            if isinstance(piece, Stretch):
                parts.append(await asyncio.to_thread(self._read_again, chunk.id, piece))
            else:
                parts.append(piece)
        return parts

    async def _timed(self, frame: bytes, *, is_streamed: bool) -> AsyncIterator[bytes]:
        if not is_streamed:
            yield frame
            return
        self._sending.begin(time.monotonic())
        duration_s = 0.0
        try:
            yield frame
        finally:
            duration_s = self._sending.end(time.monotonic())
        self._chooser.observe_sending(len(frame), duration_s)

    def _pack(self, group: _Group, parts: _Parts, level: int) -> bytes:
        if group.size_bytes > 4 * SAMPLE_BYTES and _is_dense(parts):
            return b"".join([_plain_start(group), *parts])
        # Several frames are packed at once, in a thread each: the clock would count all of them.
        began_s = time.thread_time()
        frame = protocol.pack_frame(FrameKind.CHUNKS, protocol.encode(group.chunks), parts, level)
        duration_s = time.thread_time() - began_s
        self._chooser.observe_packing(level, group.size_bytes, len(frame), duration_s)
        return frame


def _grouped(pieces: Sequence[tuple[bytes, Piece]]) -> list[_Group]:
    chunks = [Chunk(chunk_id, size_of(piece)) for chunk_id, piece in pieces]
    contents = [piece for _, piece in pieces]
    ends_bytes = list(accumulate([chunk.size for chunk in chunks]))
    groups: list[_Group] = []
    start = start_bytes = 0
    while start < len(chunks):
        last = bisect_left(ends_bytes, start_bytes + FRAME_BYTES, start)
        end = min(last + 1, start + protocol.MAX_FRAME_CHUNKS, len(chunks))
        size_bytes = ends_bytes[end - 1] - start_bytes
        groups.append(_Group(chunks[start:end], contents[start:end], size_bytes))
        start, start_bytes = end, ends_bytes[end - 1]
    return groups


def _plain_start(group: _Group) -> bytes:
    head = protocol.encode(group.chunks)
    return protocol.plain_frame_start(FrameKind.CHUNKS, head, group.size_bytes)


def _is_dense(parts: _Parts) -> bool:
    sample = parts[len(parts) // 2][:SAMPLE_BYTES]
    packed = protocol.pack_frame(FrameKind.CHUNKS, b"", [sample], _SAMPLE_LEVEL)
    return is_incompressible(len(sample), len(packed))
