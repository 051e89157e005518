"""The kernels that find where to cut, and the choice among them. All give the same cuts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from twinfold.core.chunking import python_scan
from twinfold.core.chunking.format import (
    COARSE,
    FINE,
    MAX_SIZE_BYTES,
    MAX_SUB_BLOCK_BYTES,
    MIN_SIZE_BYTES,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

try:
    from twinfold import _chunker
except ImportError:
    _COMPILED: tuple[str, ...] = ()
else:
    _COMPILED = _chunker.kernels()


_ChooseLength = Callable[[memoryview], int]
_CandidateLengths = Callable[[memoryview, int, int], list[int]]
_HashSubBlock = Callable[[memoryview], int]

_ROW = Struct("<QH")


class Kernel(Protocol):
    """One way to find the cuts."""

    def __call__(self, data: Buffer, final: bool) -> list[int]:
        """Return the lengths of the chunks that can be decided from the data."""


def available_kernels() -> tuple[str, ...]:
    """Return the names of the kernels that work here, fastest first."""
    numpy = () if _numpy_choice() is None else ("numpy",)
    return (*_COMPILED, *numpy, "python")


@cache
def load_kernel(name: str | None = None) -> Kernel:
    """Return the kernel of that name, or the fastest here.

    Raises:
        ValueError: there is no such kernel here.
    """
    if name is None:
        name = (_COMPILED or available_kernels())[0]
    if name in _COMPILED:
        return _compiled_kernel(name)
    numpy_choice = _numpy_choice() if name == "numpy" else None
    if numpy_choice is not None:
        return partial(_cut_lengths, numpy_choice)
    if name == "python":
        return partial(_cut_lengths, python_scan.choose_length)
    raise ValueError(f"no chunking kernel named {name} here")


class SubBlockKernel(Protocol):
    """One way to cut a chunk into sub-blocks."""

    def __call__(self, chunk: Buffer, fine: bool) -> bytes:
        """Return the rows of a chunk's sub-blocks."""


@cache
def load_sub_block_kernel(name: str | None = None) -> SubBlockKernel:
    """Return the kernel of that name for sub-blocks, or the fastest here.

    Raises:
        ValueError: there is no such kernel here.
    """
    if name is None:
        name = (_COMPILED or available_kernels())[0]
    if name in _COMPILED:
        return _compiled_sub_blocks(name)
    if name == "numpy" and _numpy_choice() is not None:
        from twinfold.core.chunking import numpy_scan

        return partial(_sub_blocks, numpy_scan.candidate_lengths, numpy_scan.hash_sub_block)
    if name == "python":
        return partial(_sub_blocks, python_scan.candidate_lengths, python_scan.hash_sub_block)
    raise ValueError(f"no chunking kernel named {name} here")


def _compiled_sub_blocks(name: str) -> SubBlockKernel:
    def sub_blocks(chunk: Buffer, fine: bool) -> bytes:
        return _chunker.sub_blocks(chunk, fine, name)

    return sub_blocks


def _sub_blocks(
    candidate_lengths: _CandidateLengths, hash_sub_block: _HashSubBlock, chunk: Buffer, fine: bool
) -> bytes:
    data = memoryview(chunk).cast("B")
    if len(data) > MAX_SIZE_BYTES:
        raise ValueError("a chunk is not longer than 96 KiB")
    below, shortest = FINE if fine else COARSE
    ends = candidate_lengths(data, shortest, below) if len(data) > shortest else []
    rows = []
    start = at = 0
    while start < len(data):
        end = min(start + MAX_SUB_BLOCK_BYTES, len(data))
        while at < len(ends) and ends[at] < start + shortest:
            at += 1
        if at < len(ends) and ends[at] < end:
            end = ends[at]
        rows.append(_ROW.pack(hash_sub_block(data[start:end]), end - start))
        start = end
    return b"".join(rows)


def _compiled_kernel(name: str) -> Kernel:
    def cut_lengths(data: Buffer, final: bool) -> list[int]:
        return _chunker.cut_lengths(data, final, name)

    return cut_lengths


def _numpy_choice() -> _ChooseLength | None:
    """Return NumPy's choice of lengths; NumPy is imported only when asked for."""
    try:
        from twinfold.core.chunking import numpy_scan
    except ImportError:
        return None
    return numpy_scan.choose_length


def _cut_lengths(choose_length: _ChooseLength, data: Buffer, final: bool) -> list[int]:
    lengths = []
    rest = memoryview(data).cast("B")
    while len(rest) >= MAX_SIZE_BYTES or (final and rest):
        reach = rest[:MAX_SIZE_BYTES]
        length = choose_length(reach) if len(reach) > MIN_SIZE_BYTES else len(reach)
        lengths.append(length)
        rest = rest[length:]
    return lengths
