"""The definition of the cuts, word for word and with the golden tables, and inputs to cut."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from twinfold.core.chunking.format import splitmix64

GOLDEN = json.loads((Path(__file__).parent / "golden_chunks.json").read_text())
WORD = 2**64


def gear(byte: int) -> int:
    return int(GOLDEN["table_a"][byte >> 4]) ^ int(GOLDEN["table_b"][byte & 15])


def hash_at(data: bytes, position: int) -> int:
    window = data[position - 15 : position + 1]
    return sum(gear(byte) << age for age, byte in enumerate(reversed(window))) % 2**16


def rank_at(data: bytes, position: int) -> int:
    rank = 0x9E3779B97F4A7C15
    for k in range(8):
        at = position - 63 + 8 * k
        word = int.from_bytes(data[at : at + 8], "little")
        rank = (rank ^ word) * 0xBF58476D1CE4E5B9 % WORD
        rank ^= rank >> 32
    rank = rank * 0x94D049BB133111EB % WORD
    return rank ^ rank >> 32


def defined_lengths(data: bytes) -> list[int]:
    lengths = []
    start = 0
    while start < len(data):
        longest = min(96 * 1024, len(data) - start)
        ranked = [
            (rank_at(data, start + length - 1), length)
            for length in range(32 * 1024, longest + 1)
            if hash_at(data, start + length - 1) < 64
        ]
        length = min(ranked)[1] if ranked else longest
        lengths.append(length)
        start += length
    return lengths


def random_bytes(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def splitmix_bytes(size: int, seed: int) -> bytes:
    words = islice(splitmix64(seed), -(-size // 8))
    return b"".join(word.to_bytes(8, "little") for word in words)[:size]


def numbered_lines(size: int, seed: int) -> bytes:
    """``line N of golden text`` and a newline, N counting from the seed."""
    lines: list[bytes] = []
    length = 0
    while length < size:
        lines.append(b"line %d of golden text\n" % (seed + len(lines)))
        length += len(lines[-1])
    return b"".join(lines)[:size]


def repeated(block: bytes, size: int) -> bytes:
    return (block * (size // len(block) + 1))[:size]


def repeated_splitmix(size: int, seed: int) -> bytes:
    """The first ``seed`` bytes of ``splitmix_bytes`` with that seed, over and over."""
    return repeated(splitmix_bytes(seed, seed), size)


GENERATORS: dict[str, Callable[[int, int], bytes]] = {
    "splitmix_bytes": splitmix_bytes,
    "numbered_lines": numbered_lines,
    "repeated_splitmix": repeated_splitmix,
}


def densest_pair() -> bytes:
    """Two bytes that in turn make every second position a candidate."""
    weight = sum(4**k for k in range(8))
    for previous in range(256):
        for last in range(256):
            if (2 * gear(previous) + gear(last)) * weight % 2**16 < 64:
                return bytes([previous, last])
    raise AssertionError("no pair of bytes makes a candidate")


def lone_block(hash_: int) -> bytes:
    """A block of that hash which makes no candidate amid zeros, except its own last byte."""
    source = random.Random(hash_)
    while True:
        block = source.randbytes(16)
        if hash_at(block, 15) == hash_:
            data = bytes(16) + block + bytes(16)
            if all(hash_at(data, i) >= 64 for i in range(16, 48) if i != 31):
                return block
