"""Chunking format, version 1. Frozen: another cut is another format version.

A file's bytes are ``f[0], f[1], ...``; all arithmetic is modulo the stated power of two.

Tables. ``splitmix64(4)`` yields 32 words; their low 16 bits are ``A[0..15]``, then
``B[0..15]``. ``G[b] = A[b >> 4] ^ B[b & 15]``. A generator in state ``s`` yields ``z`` by::

    s = s + 0x9E3779B97F4A7C15                      (mod 2**64)
    z = (s ^ s >> 30) * 0xBF58476D1CE4E5B9          (mod 2**64)
    z = (z ^ z >> 27) * 0x94D049BB133111EB          (mod 2**64)
    z = z ^ z >> 31

4 is the first seed for which no run of one byte value makes a candidate, all 256 ``G[b]``
differ, and half of them are odd. The last makes the hash of random bytes exactly uniform.

Hash. ``h[i] = 2 * h[i-1] + G[f[i]]  (mod 2**16)``. Each step shifts the past by one bit, so
``h[i]`` depends on the ``WINDOW_SIZE_BYTES`` bytes ending at ``i``, and on nothing else.

Candidate. Position ``i`` is a candidate if ``h[i] < CANDIDATE_BELOW``: one in 1,024.

Rank. ``w[0..7]`` are the ``RANK_WINDOW_SIZE_BYTES`` bytes ending at ``i`` as little-endian
64-bit words, oldest first::

    r = RANK_START
    r = (r ^ w[k]) * RANK_STEP;  r = r ^ r >> 32    (mod 2**64, for k = 0..7)
    r = r * RANK_END;            r = r ^ r >> 32    (mod 2**64)

Cut. A chunk starts at ``start``, and ``rest`` bytes are left from there to the end of the
file. Let ``longest = min(MAX_SIZE_BYTES, rest)``. Each candidate ``i`` offers the length
``i + 1 - start``. The chunk's length is, of those from ``MIN_SIZE_BYTES`` to ``longest``, the
one of least rank, the shortest of equals; ``longest`` if there is none. So a rest of up to
``MIN_SIZE_BYTES`` is one chunk, and the end of a file is no special case.

Two properties follow. Both windows lie inside the chunk, so whether and where it is cut does not
depend on what precedes it: boundaries meet again after an edit. And a chunk, cut as a file
of its own, is one chunk.

Sub-blocks. A chunk is cut further, coarsely or finely, at positions with ``h[i]`` less than the
grain's ``below``; the coarse ones are the candidates. A sub-block starts at ``start``, and
``rest`` bytes are left from there to the end of the chunk. Its length is the least that such a
position offers from the grain's ``shortest`` to ``longest = min(MAX_SUB_BLOCK_BYTES, rest)``;
``longest`` if there is none. A sub-block of ``n`` bytes is known by a hash: ``w[0], w[1], ...``
are its bytes as little-endian 64-bit words, the last one filled up with zeros; all modulo 2**64::

    x = (w[k] ^ (k + 1) * RANK_START) * RANK_STEP;  x = x ^ x >> 32
    s = s + x * RANK_END                            (for each k, from s = n)
    hash = s ^ s >> 32

It is a hint, and not one against somebody who wants two to be equal: whatever is built after
it is compared by the chunk's id. A chunk's sub-blocks are written as rows of ``ROW_SIZE_BYTES``:
the hash (8 bytes), the length (2 bytes), little-endian.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

FORMAT_VERSION = 1

MIN_SIZE_BYTES = 32 * 1024
MAX_SIZE_BYTES = 96 * 1024

WINDOW_SIZE_BYTES = 16
RANK_WINDOW_SIZE_BYTES = 64
CANDIDATE_BELOW = 64


class Grain(NamedTuple):
    """How densely a chunk is cut into sub-blocks: the hashes of candidates, the least bytes."""

    below: int
    shortest: int


COARSE = Grain(CANDIDATE_BELOW, 256)
FINE = Grain(256, 64)
MAX_SUB_BLOCK_BYTES = 8 * 1024
ROW_SIZE_BYTES = 10

RANK_START = 0x9E3779B97F4A7C15
RANK_STEP = 0xBF58476D1CE4E5B9
RANK_END = 0x94D049BB133111EB

_TABLE_SEED = 4
_UINT64 = 2**64 - 1


def splitmix64(seed: int) -> Iterator[int]:
    """Yield 64-bit words without end."""
    state = seed
    while True:
        state = state + 0x9E3779B97F4A7C15 & _UINT64
        word = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _UINT64
        word = (word ^ word >> 27) * 0x94D049BB133111EB & _UINT64
        yield word ^ word >> 31


def _make_tables(seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    words = [word & 0xFFFF for word in islice(splitmix64(seed), 32)]
    return tuple(words[:16]), tuple(words[16:])


TABLE_A, TABLE_B = _make_tables(_TABLE_SEED)

GEAR = tuple(TABLE_A[byte >> 4] ^ TABLE_B[byte & 15] for byte in range(256))
