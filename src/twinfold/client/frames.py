"""Writing a batch's frames: the header, then chunks by the mebibyte, compressed where it pays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

import msgspec

from twinfold import protocol
from twinfold.client.batch import Piece, Stretch
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
_PIECE_BYTES = 160 * 1024
_HEADER_LEVEL = 3
_SAMPLE_LEVEL = 1

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
                frames.append(_recipe_frame(group))
                group, size_bytes = [], 0
            group.append(packed)
            size_bytes += len(packed)
        if group:
            frames.append(_recipe_frame(group))
        return b"".join(frames)

    async def body(
        self, header: bytes, pieces: Iterable[tuple[bytes, Piece]], *, is_streamed: bool
    ) -> AsyncIterator[bytes]:
        """Yield a header (if any), and the chunks in frames.

        If it ``is_streamed``, each frame is sent before the next one is asked for, and the
        chooser learns how long that takes.
        """
        if header:
            yield header
        chunks: list[Chunk] = []
        parts: _Parts = []
        size_bytes = 0
        for chunk_id, piece in pieces:
            if isinstance(piece, Stretch):
                data: bytes | memoryview = await asyncio.to_thread(
                    self._read_again, chunk_id, piece
                )
            else:
                data = piece
            chunks.append(Chunk(chunk_id, len(data)))
            parts.append(data)
            size_bytes += len(data)
            if size_bytes >= FRAME_BYTES or len(chunks) >= protocol.MAX_FRAME_CHUNKS:
                async for frame in self._sent(chunks, parts, size_bytes, is_streamed):
                    yield frame
                chunks, parts, size_bytes = [], [], 0
        if chunks:
            async for frame in self._sent(chunks, parts, size_bytes, is_streamed):
                yield frame

    async def _sent(
        self,
        chunks: list[Chunk],
        parts: _Parts,
        size_bytes: int,
        is_streamed: bool,
    ) -> AsyncIterator[bytes]:
        level = self._chooser.level(size_bytes)
        if level is None:
            pieces = _plain_pieces(chunks, parts)
        elif size_bytes >= _OFFLOAD_BYTES:
            pieces = iter([await asyncio.to_thread(self._pack, chunks, parts, size_bytes, level)])
        else:
            pieces = iter([self._pack(chunks, parts, size_bytes, level)])
        for piece in pieces:
            if not is_streamed:
                yield piece
                continue
            self._sending.begin(time.monotonic())
            duration_s = 0.0
            try:
                yield piece
            finally:
                duration_s = self._sending.end(time.monotonic())
            self._chooser.observe_sending(len(piece), duration_s)

    def _pack(
        self, chunks: list[Chunk], parts: _Parts, size_bytes: int, level: int | None
    ) -> bytes:
        if size_bytes > 4 * SAMPLE_BYTES and _is_dense(parts):
            level = None
        began_s = time.monotonic()
        frame = protocol.pack_frame(FrameKind.CHUNKS, protocol.encode(chunks), parts, level)
        if level is not None:
            duration_s = time.monotonic() - began_s
            self._chooser.observe_packing(level, size_bytes, len(frame), duration_s)
        return frame


def _recipe_frame(recipes: list[bytes]) -> bytes:
    payload = protocol.encode([msgspec.Raw(recipe) for recipe in recipes])
    return protocol.pack_frame(FrameKind.RECIPES, b"", [payload], _HEADER_LEVEL)


def _plain_pieces(chunks: list[Chunk], parts: _Parts) -> Iterator[bytes]:
    """Yield a frame that is not compressed in pieces, so that no copy of all of it is made."""
    head = protocol.encode(chunks)
    piece: _Parts = [protocol.plain_frame_start(FrameKind.CHUNKS, head, sum(map(len, parts)))]
    size_bytes = 0
    for part in parts:
        piece.append(part)
        size_bytes += len(part)
        if size_bytes >= _PIECE_BYTES:
            yield b"".join(piece)
            piece, size_bytes = [], 0
    if piece:
        yield b"".join(piece)


def _is_dense(parts: _Parts) -> bool:
    sample = parts[len(parts) // 2][:SAMPLE_BYTES]
    packed = protocol.pack_frame(FrameKind.CHUNKS, b"", [sample], _SAMPLE_LEVEL)
    return is_incompressible(len(sample), len(packed))
