"""The kernels that find where to cut, and the choice among them. All give the same cuts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from itertools import accumulate, pairwise
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
    """One way to cut."""

    def cut_lengths(self, data: Buffer, final: bool) -> list[int]:
        """Return the lengths of the chunks that can be decided from the data."""

    def cut_with_rows(self, data: Buffer, final: bool, fine: bool) -> tuple[list[int], list[bytes]]:
        """Return the lengths, and the rows of each of these chunks."""

    def sub_blocks(self, chunks: Iterable[Buffer], fine: bool) -> list[bytes]:
        """Return the rows of the sub-blocks of each chunk."""


def available_kernels() -> tuple[str, ...]:
    """Return the names of the kernels that work here, fastest first."""
    numpy = () if _numpy_kernel() is None else ("numpy",)
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
        return _CompiledKernel(name)
    kernel = _numpy_kernel() if name == "numpy" else None
    if name == "python":
        kernel = _InterpretedKernel(
            python_scan.choose_length, python_scan.candidate_lengths, python_scan.hash_sub_block
        )
    if kernel is None:
        raise ValueError(f"no chunking kernel named {name} here")
    return kernel


def _numpy_kernel() -> Kernel | None:
    """Return NumPy's kernel; NumPy is imported only when asked for."""
    try:
        from twinfold.core.chunking import numpy_scan
    except ImportError:
        return None
    return _InterpretedKernel(
        numpy_scan.choose_length, numpy_scan.candidate_lengths, numpy_scan.hash_sub_block
    )


class _CompiledKernel:
    def __init__(self, name: str) -> None:
        self._name = name

    def cut_lengths(self, data: Buffer, final: bool) -> list[int]:
        return _chunker.cut_lengths(data, final, self._name)

    def cut_with_rows(self, data: Buffer, final: bool, fine: bool) -> tuple[list[int], list[bytes]]:
        return _chunker.cut_with_rows(data, final, fine, self._name)

    def sub_blocks(self, chunks: Iterable[Buffer], fine: bool) -> list[bytes]:
        return _chunker.sub_blocks(chunks, fine, self._name)


class _InterpretedKernel:
    def __init__(
        self,
        choose_length: _ChooseLength,
        candidate_lengths: _CandidateLengths,
        hash_sub_block: _HashSubBlock,
    ) -> None:
        self._choose_length = choose_length
        self._candidate_lengths = candidate_lengths
        self._hash_sub_block = hash_sub_block

    def cut_lengths(self, data: Buffer, final: bool) -> list[int]:
        lengths = []
        rest = memoryview(data).cast("B")
        while len(rest) >= MAX_SIZE_BYTES or (final and rest):
            reach = rest[:MAX_SIZE_BYTES]
            length = self._choose_length(reach) if len(reach) > MIN_SIZE_BYTES else len(reach)
            lengths.append(length)
            rest = rest[length:]
        return lengths

    def cut_with_rows(self, data: Buffer, final: bool, fine: bool) -> tuple[list[int], list[bytes]]:
        view = memoryview(data).cast("B")
        lengths = self.cut_lengths(view, final)
        ends = accumulate(lengths, initial=0)
        return lengths, [self._rows(view[start:end], fine) for start, end in pairwise(ends)]

    def sub_blocks(self, chunks: Iterable[Buffer], fine: bool) -> list[bytes]:
        return [self._rows(memoryview(chunk).cast("B"), fine) for chunk in chunks]

    def _rows(self, data: memoryview, fine: bool) -> bytes:
        if len(data) > MAX_SIZE_BYTES:
            raise ValueError("a chunk is not longer than 96 KiB")
        below, shortest = FINE if fine else COARSE
        ends = self._candidate_lengths(data, shortest, below) if len(data) > shortest else []
        rows = []
        start = at = 0
        while start < len(data):
            end = min(start + MAX_SUB_BLOCK_BYTES, len(data))
            while at < len(ends) and ends[at] < start + shortest:
                at += 1
            if at < len(ends) and ends[at] < end:
                end = ends[at]
            rows.append(_ROW.pack(self._hash_sub_block(data[start:end]), end - start))
            start = end
        return b"".join(rows)
