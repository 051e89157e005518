"""Where to cut, in NumPy: importing this module needs it."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from twinfold.core.chunking.format import (
    CANDIDATE_BELOW,
    GEAR,
    MAX_SUB_BLOCK_BYTES,
    MIN_SIZE_BYTES,
    RANK_END,
    RANK_START,
    RANK_STEP,
    RANK_WINDOW_SIZE_BYTES,
    WINDOW_SIZE_BYTES,
)

_GEAR = np.array(GEAR, np.uint16)
_RANK_START = np.uint64(RANK_START)
_RANK_STEP = np.uint64(RANK_STEP)
_RANK_END = np.uint64(RANK_END)
_HALF = np.uint64(32)
_NUMBERS = np.arange(1, MAX_SUB_BLOCK_BYTES // 8 + 1, dtype=np.uint64) * _RANK_START
_UINT64 = 2**64 - 1


def choose_length(reach: memoryview) -> int:
    """Return the length of the chunk that starts ``reach`` and is at most all of it."""
    data = np.frombuffer(reach, np.uint8)
    lengths = _candidate_lengths(data, MIN_SIZE_BYTES, CANDIDATE_BELOW)
    if lengths.size == 0:
        return len(reach)
    windows = sliding_window_view(data, RANK_WINDOW_SIZE_BYTES)
    return int(lengths[_rank(windows[lengths - RANK_WINDOW_SIZE_BYTES]).argmin()])


def candidate_lengths(reach: memoryview, shortest: int, below: int) -> list[int]:
    """Return the lengths, from ``shortest`` on, at which a hash is less than ``below``."""
    found = _candidate_lengths(np.frombuffer(reach, np.uint8), shortest, below)
    lengths: list[int] = found.tolist()
    return lengths


def hash_sub_block(piece: memoryview) -> int:
    """Return the hash of a sub-block."""
    count = -(-len(piece) // 8)
    words = np.frombuffer(bytes(piece).ljust(8 * count, b"\0"), "<u8").astype(np.uint64)
    words ^= _NUMBERS[:count]
    words *= _RANK_STEP
    words ^= words >> _HALF
    words *= _RANK_END
    sum_ = int(words.sum(dtype=np.uint64)) + len(piece) & _UINT64
    return sum_ ^ sum_ >> 32


def _candidate_lengths(data: NDArray[np.uint8], shortest: int, below: int) -> NDArray[np.intp]:
    hashes = _hash(data[shortest - WINDOW_SIZE_BYTES :])
    return np.flatnonzero(hashes < below) + shortest


def _hash(data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return the hash of each whole window, by doubling the part that is covered."""
    hashes = _GEAR.take(data)
    covered = 1
    while covered < WINDOW_SIZE_BYTES:
        hashes[covered:] += hashes[:-covered] << covered
        covered *= 2
    return hashes[WINDOW_SIZE_BYTES - 1 :]


def _rank(windows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    words = windows.view("<u8").astype(np.uint64)
    rank = np.full(len(words), _RANK_START)
    for column in words.T:
        rank = (rank ^ column) * _RANK_STEP
        rank ^= rank >> _HALF
    rank *= _RANK_END
    return rank ^ rank >> _HALF
