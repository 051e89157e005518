"""Spoiling valid messages: byte by byte, and by type."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

EXTREMES = [-1, 0, 1, 127, 128, 255, 256, 65_535, 65_536, 1 << 31, (1 << 32) - 1, 1 << 32]
EXTREMES += [(1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -(1 << 63)]
NAMES = [
    b"",
    b".",
    b"..",
    b"/",
    b"../x",
    b"a/../b",
    b"nul\0",
    b".twinfold",
    b"\xff\xfe",
    b"x" * 256,
]
NAMES += [b"d/" * 5_000 + b"x", b"\n\x1b[2J", "\u202e".encode()]
OTHERS: list[Any] = [None, True, 1.5, float("nan"), "", "text", b"", [], {}, [[]], -1, 1 << 63]
MOST_BYTES = 256 * 1024


def mutate_bytes(random_: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return the bytes after one to four accidents."""
    for _ in range(random_.choice([1, 1, 1, 2, 4])):
        data = random_.choice(_ACCIDENTS)(random_, data, random_.choice(others))[:MOST_BYTES]
    return data


def _flip(random_: random.Random, data: bytes, _other: bytes) -> bytes:
    if not data:
        return data
    at = random_.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << random_.randrange(8))]) + data[at + 1 :]


def _replace(random_: random.Random, data: bytes, _other: bytes) -> bytes:
    at = random_.randrange(len(data) + 1)
    piece = random_.choice(
        [b"\xff", b"\0", b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91"]
    )
    return data[:at] + piece + data[at + len(piece) :]


def _cut(random_: random.Random, data: bytes, _other: bytes) -> bytes:
    return data[: random_.randrange(len(data) + 1)]


def _drop(random_: random.Random, data: bytes, _other: bytes) -> bytes:
    begin, end = sorted(random_.randrange(len(data) + 1) for _ in range(2))
    return data[:begin] + data[end:]


def _double(random_: random.Random, data: bytes, _other: bytes) -> bytes:
    begin, end = sorted(random_.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[begin:]


def _splice(random_: random.Random, data: bytes, other: bytes) -> bytes:
    return data[: random_.randrange(len(data) + 1)] + other[random_.randrange(len(other) + 1) :]


def _extreme(random_: random.Random, data: bytes, _other: bytes) -> bytes:
    """Put an extreme number where one may stand."""
    size = random_.choice([1, 2, 4, 8])
    number = random_.choice(EXTREMES) % (1 << (8 * size))
    at = random_.randrange(max(1, min(len(data), 64)))
    order = random_.choice(["little", "big"])
    coded = number.to_bytes(size, "little" if order == "little" else "big")
    return data[:at] + coded + data[at + size :]


def _nest(random_: random.Random, data: bytes, _other: bytes) -> bytes:
    return (
        random_.choice([b"\x91", b"\x81\xa1a", b"[", b'{"a":']) * random_.choice([50, 5_000]) + data
    )


_ACCIDENTS: list[Callable[[random.Random, bytes, bytes], bytes]] = [
    _flip,
    _replace,
    _cut,
    _drop,
    _double,
    _splice,
    _extreme,
    _nest,
]


def mutate_packed(random_: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Return a msgpack message with one value in it swapped for another; or as `mutate_bytes`."""
    try:
        value = msgspec.msgpack.decode(data)
        return msgspec.msgpack.encode(mutate_value(random_, value))
    except (ValueError, TypeError, OverflowError, RecursionError, msgspec.MsgspecError):
        return mutate_bytes(random_, data, others)


def mutate_value(random_: random.Random, value: Any) -> Any:
    """Return the value with something in it swapped, or swapped itself."""
    if isinstance(value, list) and value and random_.random() < 0.85:
        at = random_.randrange(len(value))
        spoilt = mutate_value(random_, value[at])
        return random_.choice(
            [[*value[:at], spoilt, *value[at + 1 :]]] * 6
            + [[*value, spoilt], value[:at], value * random_.choice([2, 200])]
        )
    if isinstance(value, dict) and value and random_.random() < 0.9:
        key = random_.choice(list(value))
        return value | {key: mutate_value(random_, value[key])}
    if isinstance(value, int) and random_.random() < 0.7:
        return random_.choice([*EXTREMES, value + 1, value - 1])
    if isinstance(value, bytes) and random_.random() < 0.7:
        return random_.choice([*NAMES, value + b"x", value[:-1]])
    return random_.choice(OTHERS)
