"""Recipes: a chunk written as what is new in it and what other chunks have.

Whoever writes a recipe knows the new chunk's bytes, but of the old chunks only the rows of their
sub-blocks (`twinfold.core.chunking.sub_blocks`). These are a hint: what is built is compared with
the chunk's id by whoever builds it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from twinfold.core.chunking import MAX_SIZE_BYTES, ROW_SIZE_BYTES
from twinfold.errors import LimitError, ProtocolError
from twinfold.model import CHUNK_ID_SIZE_BYTES, Chunk, Copy, Recipe

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_BASES = 8
"""The most chunks that a recipe copies out of."""

MAX_PARTS = 1_024
"""More than a chunk has sub-blocks, twice."""

_LEVEL = 6
_LEAST_DICTIONARY_BYTES = 8

_WORTH_LITERAL = 0.75
"""A recipe that brings more of its chunk than this itself is not worth it."""


class _Place(NamedTuple):
    chunk: Chunk
    offset: int


class SubBlockIndex:
    """Where the sub-blocks of some old chunks lie."""

    def __init__(self, old: Iterable[tuple[bytes, bytes]]) -> None:
        """Take (chunk id, rows) of each; rows that no chunk can have are left out."""
        self._places: dict[bytes, _Place] = {}
        self._next: dict[_Place, bytes] = {}
        for chunk_id, rows in old:
            sizes = list(map(_size, _rows(rows)))
            if not 0 < sum(sizes) <= MAX_SIZE_BYTES or 0 in sizes:
                continue
            chunk = Chunk(chunk_id, sum(sizes))
            offset = 0
            for row in _rows(rows):
                place = _Place(chunk, offset)
                self._places.setdefault(row, place)
                self._next[place] = row
                offset += _size(row)

    def find(self, row: bytes, expected: _Place | None) -> _Place | None:
        """Return where such a sub-block lies, at ``expected`` if there is one."""
        if expected is not None and self._next.get(expected) == row:
            return expected
        return self._places.get(row)


def write_recipe(
    chunk_id: bytes, data: bytes | memoryview, rows: bytes, old: SubBlockIndex
) -> Recipe | None:
    """Return a recipe for a chunk with these bytes and rows, None if none is worth it."""
    bases: list[Chunk] = []
    parts: list[int | Copy] = []
    expected: _Place | None = None
    for row in _rows(rows):
        size = _size(row)
        place = old.find(row, expected)
        if place is not None and place.chunk not in bases and len(bases) == MAX_BASES:
            place = None
        if place is None:
            _append_literal(parts, size)
            expected = None
            continue
        if place.chunk not in bases:
            bases.append(place.chunk)
        _append_copy(parts, Copy(bases.index(place.chunk), place.offset, size))
        expected = _Place(place.chunk, place.offset + size)
    literal_bytes = _literal_bytes(parts)
    if not bases or len(parts) > MAX_PARTS or literal_bytes > _WORTH_LITERAL * len(data):
        return None
    return Recipe(chunk_id, len(data), bases, parts, _packed_literal(data, parts))


def _append_literal(parts: list[int | Copy], size: int) -> None:
    last = parts[-1] if parts else None
    if isinstance(last, int):
        parts[-1] = last + size
    else:
        parts.append(size)


def _append_copy(parts: list[int | Copy], copy: Copy) -> None:
    last = parts[-1] if parts else None
    if isinstance(last, Copy) and last.base == copy.base and last.offset + last.size == copy.offset:
        parts[-1] = Copy(last.base, last.offset, last.size + copy.size)
    else:
        parts.append(copy)


def _packed_literal(data: bytes | memoryview, parts: Sequence[int | Copy]) -> bytes:
    literal: list[bytes | memoryview] = []
    copied: list[bytes | memoryview] = []
    offset = 0
    for part in parts:
        size = part if isinstance(part, int) else part.size
        (literal if isinstance(part, int) else copied).append(data[offset : offset + size])
        offset += size
    plain, dictionary = b"".join(literal), b"".join(copied)
    if len(dictionary) < _LEAST_DICTIONARY_BYTES:
        return plain
    packed = zstd.compress(plain, _LEVEL, zstd_dict=_dictionary(dictionary))
    return packed if len(packed) < len(plain) else plain


def _dictionary(copied: bytes) -> tuple[zstd.ZstdDict, int]:
    return zstd.ZstdDict(copied, is_raw=True).as_prefix


def check_recipe(recipe: Recipe) -> None:
    """Make sure that a recipe from elsewhere is well formed, and cheap to follow.

    Raises:
        LimitError: it builds or uses too much.
        ProtocolError: it does not fit together.
    """
    chunks = [Chunk(recipe.id, recipe.size), *recipe.bases]
    if any(len(chunk.id) != CHUNK_ID_SIZE_BYTES for chunk in chunks):
        raise ProtocolError("a chunk id in a recipe is not of 32 bytes")
    if any(not 0 < chunk.size <= MAX_SIZE_BYTES for chunk in chunks):
        raise LimitError(f"a chunk in a recipe is empty or over {MAX_SIZE_BYTES} bytes")
    if len(recipe.bases) > MAX_BASES or len(recipe.parts) > MAX_PARTS:
        raise LimitError(f"a recipe has over {MAX_BASES} bases or {MAX_PARTS} parts")
    size = 0
    for part in recipe.parts:
        if isinstance(part, Copy):
            _check_copy(part, recipe.bases)
        elif part <= 0:
            raise ProtocolError("a recipe has a part of no size", 422)
        size += part.size if isinstance(part, Copy) else part
    if size != recipe.size or len(recipe.literal) > _literal_bytes(recipe.parts):
        raise ProtocolError("a recipe does not add up to the size of its chunk", 422)


def _check_copy(copy: Copy, bases: Sequence[Chunk]) -> None:
    if not 0 <= copy.base < len(bases):
        raise ProtocolError("a recipe copies out of a chunk that it does not name", 422)
    if copy.offset < 0 or copy.size <= 0 or copy.offset + copy.size > bases[copy.base].size:
        raise ProtocolError("a recipe copies what its chunk does not have", 422)


def follow_recipe(recipe: Recipe, bases: Sequence[bytes]) -> bytes | None:
    """Return what a checked recipe builds out of the bytes of its bases, None for nothing."""
    copied = [
        bases[part.base][part.offset : part.offset + part.size]
        for part in recipe.parts
        if isinstance(part, Copy)
    ]
    literal = _unpacked_literal(recipe, copied)
    if literal is None:
        return None
    copies = iter(copied)
    chunk: list[bytes] = []
    at = 0
    for part in recipe.parts:
        if isinstance(part, Copy):
            chunk.append(next(copies))
        else:
            chunk.append(literal[at : at + part])
            at += part
    return b"".join(chunk)


def _unpacked_literal(recipe: Recipe, copied: Iterable[bytes]) -> bytes | None:
    """Return the literal bytes, which take no more room than announced, if they are right."""
    size = _literal_bytes(recipe.parts)
    if len(recipe.literal) == size:
        return recipe.literal
    dictionary = b"".join(copied)
    if len(dictionary) < _LEAST_DICTIONARY_BYTES:
        return None
    decompressor = zstd.ZstdDecompressor(zstd_dict=_dictionary(dictionary))
    try:
        literal = decompressor.decompress(recipe.literal, max_length=size + 1)
    except zstd.ZstdError:
        return None
    return literal if len(literal) == size and decompressor.eof else None


def _literal_bytes(parts: Iterable[int | Copy]) -> int:
    return sum(part for part in parts if isinstance(part, int))


def cost_bytes(recipe: Recipe) -> int:
    """Return how many bytes following the recipe reads and builds."""
    return recipe.size + sum(base.size for base in recipe.bases)


def _rows(rows: bytes) -> Iterable[bytes]:
    return (rows[at : at + ROW_SIZE_BYTES] for at in range(0, len(rows), ROW_SIZE_BYTES))


def _size(row: bytes) -> int:
    return int.from_bytes(row[8:], "little")
