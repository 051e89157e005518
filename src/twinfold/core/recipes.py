"""Recipes: a chunk written as what is new in it and what other chunks have.

Whoever writes a recipe knows the new chunk's bytes, but of the old chunks only the rows of their
sub-blocks (`twinfold.core.chunking.sub_blocks`). These are a hint: what is built is compared with
the chunk's id by whoever builds it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from twinfold.core.chunking import MAX_SIZE_BYTES
from twinfold.core.matching import Part, match_rows, total_size
from twinfold.errors import LimitError, ProtocolError
from twinfold.model import CHUNK_ID_SIZE_BYTES, Chunk, Copy, Recipe

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_BASES = 8
"""The most chunks that a recipe copies out of."""

MAX_PARTS = 1_024
"""More than a chunk of 96 KiB has coarse sub-blocks, twice."""

_LEVEL = 3
"""The next ones take longer by half for a fiftieth, twice as long for a tenth."""

_LEAST_DICTIONARY_BYTES = 8

_WORTH_LITERAL = 0.9
"""A recipe that brings more of its chunk than this itself is not worth it."""


class NewChunk(NamedTuple):
    """A chunk to write a recipe for: its id, bytes and rows."""

    id: bytes
    data: bytes | memoryview
    rows: bytes


def write_recipes(old: Sequence[tuple[bytes, bytes]], new: Sequence[NewChunk]) -> list[Recipe]:
    """Return recipes, with plain literals, for those of the new chunks that old ones have much of.

    Args:
        old: (chunk id, rows) of each; rows that no chunk can have are left out.
        new: what to build.
    """
    matched = match_rows([rows for _, rows in old], [chunk.rows for chunk in new], MAX_BASES)
    recipes = [_recipe(chunk, found, old) for chunk, found in zip(new, matched, strict=True)]
    return [recipe for recipe in recipes if recipe is not None]


def _recipe(
    new: NewChunk, found: Sequence[Part], old: Sequence[tuple[bytes, bytes]]
) -> Recipe | None:
    """Return a recipe for a chunk that consists of these parts, None if it is not worth it."""
    data = new.data
    literal_bytes = sum([size for number, _, size in found if number < 0])
    if not 0 < len(found) <= MAX_PARTS or literal_bytes > _WORTH_LITERAL * len(data):
        return None
    places: dict[int, int] = {}
    parts: list[int | Copy] = []
    literal: list[bytes | memoryview] = []
    at = 0
    for number, offset, size in found:
        if number < 0:
            parts.append(size)
            literal.append(data[at : at + size])
        else:
            parts.append(Copy(places.setdefault(number, len(places)), offset, size))
        at += size
    bases = [Chunk(old[number][0], total_size(old[number][1])) for number in places]
    return Recipe(new.id, len(data), bases, parts, b"".join(literal))


def with_packed_literal(recipe: Recipe, data: bytes | memoryview) -> Recipe:
    """Return a recipe with a plain literal, packed by what is copied if that makes it smaller.

    It pays where recipes are few; many are packed better, and faster, with one another.
    """
    copies: list[bytes | memoryview] = []
    at = 0
    for part in recipe.parts:
        size = part if isinstance(part, int) else part.size
        if isinstance(part, Copy):
            copies.append(data[at : at + size])
        at += size
    copied = b"".join(copies)
    if len(copied) < _LEAST_DICTIONARY_BYTES:
        return recipe
    packed = zstd.compress(recipe.literal, _LEVEL, zstd_dict=_dictionary(copied))
    if len(packed) >= len(recipe.literal):
        return recipe
    return Recipe(recipe.id, recipe.size, recipe.bases, recipe.parts, packed)


def _dictionary(copied: bytes) -> tuple[zstd.ZstdDict, int]:
    return zstd.ZstdDict(copied, is_raw=True).as_prefix


def check_recipe(recipe: Recipe) -> None:
    """Make sure that a recipe from elsewhere is well formed, and cheap to follow.

    Raises:
        LimitError: it builds or uses too much.
        ProtocolError: it does not fit together.
    """
    for chunk in (Chunk(recipe.id, recipe.size), *recipe.bases):
        if len(chunk.id) != CHUNK_ID_SIZE_BYTES:
            raise ProtocolError("a chunk id in a recipe is not of 32 bytes")
        if not 0 < chunk.size <= MAX_SIZE_BYTES:
            raise LimitError(f"a chunk in a recipe is empty or over {MAX_SIZE_BYTES} bytes")
    if len(recipe.bases) > MAX_BASES or len(recipe.parts) > MAX_PARTS:
        raise LimitError(f"a recipe has over {MAX_BASES} bases or {MAX_PARTS} parts")
    size = literal_bytes = 0
    for part in recipe.parts:
        if isinstance(part, int):
            if part <= 0:
                raise ProtocolError("a recipe has a part of no size", 422)
            literal_bytes += part
            size += part
        else:
            _check_copy(part, recipe.bases)
            size += part.size
    if size != recipe.size or len(recipe.literal) > literal_bytes:
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
