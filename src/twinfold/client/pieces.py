"""What a batch has of a chunk: its bytes, or where they can be read again."""

from __future__ import annotations

from typing import NamedTuple


class Stretch(NamedTuple):
    """Where in the source a chunk's bytes can be read again."""

    path: bytes
    offset: int
    size: int


Piece = bytes | memoryview | Stretch

FoundChunk = tuple[bytes, bytes | memoryview, bytes, int]
"""A chunk's id and bytes, and where they were found: path and offset."""


def size_of(piece: Piece) -> int:
    """Return how many bytes a piece stands for."""
    return piece.size if type(piece) is Stretch else len(piece)
