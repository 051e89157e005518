"""Where to cut, in plain Python."""

from __future__ import annotations

from struct import Struct

from twinfold.core.chunking.format import (
    CANDIDATE_BELOW,
    GEAR,
    MIN_SIZE_BYTES,
    RANK_END,
    RANK_START,
    RANK_STEP,
    RANK_WINDOW_SIZE_BYTES,
    WINDOW_SIZE_BYTES,
)

_UINT64 = 2**64 - 1
_RANK_WORDS = Struct("<8Q")


def choose_length(reach: memoryview) -> int:
    """Return the length of the chunk that starts ``reach`` and is at most all of it."""

    def rank(length: int) -> int:
        return _rank_of(_RANK_WORDS.unpack_from(reach, length - RANK_WINDOW_SIZE_BYTES))

    lengths = candidate_lengths(reach, MIN_SIZE_BYTES, CANDIDATE_BELOW)
    return min(lengths, key=rank, default=len(reach))


def candidate_lengths(reach: memoryview, shortest: int, below: int) -> list[int]:
    """Return the lengths, from ``shortest`` on, at which a hash is less than ``below``."""
    gear = GEAR
    lengths = []
    hash_ = 0
    for byte in reach[shortest - WINDOW_SIZE_BYTES : shortest - 1]:
        hash_ = 2 * hash_ + gear[byte] & 0xFFFF
    for length, byte in enumerate(reach[shortest - 1 :], shortest):
        hash_ = 2 * hash_ + gear[byte] & 0xFFFF
        if hash_ < below:
            lengths.append(length)
    return lengths


def _rank_of(words: tuple[int, ...]) -> int:
    rank = RANK_START
    for word in words:
        rank = (rank ^ word) * RANK_STEP & _UINT64
        rank ^= rank >> 32
    rank = rank * RANK_END & _UINT64
    return rank ^ rank >> 32


def hash_sub_block(piece: memoryview) -> int:
    """Return the hash of a sub-block."""
    count = -(-len(piece) // 8)
    words = Struct(f"<{count}Q").unpack(bytes(piece).ljust(8 * count, b"\0"))
    sum_ = len(piece)
    for number, word in enumerate(words, 1):
        mixed = (word ^ number * RANK_START & _UINT64) * RANK_STEP & _UINT64
        sum_ += (mixed ^ mixed >> 32) * RANK_END
    sum_ &= _UINT64
    return sum_ ^ sum_ >> 32
