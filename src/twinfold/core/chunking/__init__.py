"""Content-defined chunking: an insertion moves no later boundary.

``format`` defines the cuts; the modules beside it find them: compiled, in NumPy, or in plain
Python, whichever is the fastest that works here.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from blake3 import blake3

from twinfold.core.chunking.format import (
    FORMAT_VERSION,
    MAX_SIZE_BYTES,
    MIN_SIZE_BYTES,
    ROW_SIZE_BYTES,
)
from twinfold.core.chunking.kernels import available_kernels, load_kernel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

__all__ = [
    "FORMAT_VERSION",
    "MAX_SIZE_BYTES",
    "MIN_SIZE_BYTES",
    "ROW_SIZE_BYTES",
    "Chunker",
    "available_kernels",
    "chunk_id",
    "cut",
    "cut_lengths",
    "cut_with_rows",
    "sub_blocks",
    "sub_blocks_of_each",
]


def cut_lengths(data: Buffer, final: bool, kernel: str | None = None) -> list[int]:
    """Return the lengths of the chunks that can be decided from ``data``, copying nothing.

    ``data`` begins at a chunk boundary and, with ``final``, reaches to the end of the file.
    Otherwise the undecided rest, less than ``MAX_SIZE_BYTES``, is the caller's to keep::

        buffer = memoryview(bytearray(4 * 1024 * 1024))
        filled, count = 0, -1
        while count != 0:
            count = file.readinto(buffer[filled:])
            filled += count
            start = 0
            for length in cut_lengths(buffer[:filled], final=count == 0):
                use(buffer[start : start + length])
                start += length
            buffer[: filled - start] = buffer[start:filled]
            filled -= start

    The data must not change meanwhile; threads may call at once, and run in parallel if the
    kernel is a compiled one.

    Args:
        data: contiguous bytes.
        final: whether the file ends where the data ends.
        kernel: one of ``available_kernels()`` instead of the fastest.
    """
    return load_kernel(kernel).cut_lengths(data, final)


def cut(data: Buffer, final: bool, kernel: str | None = None) -> list[memoryview]:
    """Return the chunks that ``cut_lengths`` finds, as views of ``data``."""
    view = memoryview(data).cast("B")
    ends = accumulate(cut_lengths(view, final, kernel), initial=0)
    return [view[start:end] for start, end in pairwise(ends)]


def cut_with_rows(
    data: Buffer, final: bool, *, fine: bool, kernel: str | None = None
) -> tuple[list[int], list[bytes]]:
    """Return what ``cut_lengths`` does, and the rows of each chunk, in one pass over the data."""
    return load_kernel(kernel).cut_with_rows(data, final, fine)


def sub_blocks(chunk: Buffer, *, fine: bool = False, kernel: str | None = None) -> bytes:
    """Return the rows of a chunk's sub-blocks, as ``format`` defines them.

    Args:
        chunk: at most ``MAX_SIZE_BYTES`` contiguous bytes.
        fine: whether they are to be of 300 bytes, about, and not of 1.3 KiB.
        kernel: one of ``available_kernels()`` instead of the fastest.

    Raises:
        ValueError: the chunk is longer.
    """
    return sub_blocks_of_each((chunk,), fine=fine, kernel=kernel)[0]


def sub_blocks_of_each(
    chunks: Iterable[Buffer], *, fine: bool, kernel: str | None = None
) -> list[bytes]:
    """Return what ``sub_blocks`` does of each of the chunks."""
    return load_kernel(kernel).sub_blocks(chunks, fine)


class Chunker:
    """Cuts a stream into chunks that do not depend on how it is fed.

    Keeps less than ``MAX_SIZE_BYTES`` between calls, and works in time linear in the stream.
    """

    def __init__(self, kernel: str | None = None) -> None:
        self._kernel = kernel
        self._undecided = bytearray()

    def feed(self, data: Buffer) -> list[bytes]:
        """Append to the stream and return the chunks decided by it, often none."""
        self._undecided += data
        if len(self._undecided) < MAX_SIZE_BYTES:
            return []
        return self._take(final=False)

    def finish(self) -> list[bytes]:
        """End the stream, return its last chunks and be ready for another stream."""
        return self._take(final=True)

    def _take(self, final: bool) -> list[bytes]:
        chunks = [bytes(view) for view in cut(self._undecided, final, self._kernel)]
        del self._undecided[: sum(map(len, chunks))]
        return chunks


def chunk_id(data: Buffer) -> bytes:
    """Return the identity of a chunk: the BLAKE3-256 digest of its bytes."""
    return blake3(data).digest()
