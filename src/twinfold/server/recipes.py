"""Building a chunk by a recipe out of what the destination holds."""

from __future__ import annotations

from collections.abc import Callable

from twinfold.core.chunking import chunk_id
from twinfold.core.recipes import follow_recipe
from twinfold.model import Chunk, Recipe


def built(recipe: Recipe, read: Callable[[Chunk], bytes | None]) -> bytes | None:
    """Return the chunk that a checked recipe is for, None if it does not come out right.

    Args:
        recipe: what to do.
        read: returns the verified bytes of an old chunk, None if it is not there any more.
    """
    bases: list[bytes] = []
    for base in recipe.bases:
        data = read(base)
        if data is None:
            return None
        bases.append(data)
    chunk = follow_recipe(recipe, bases)
    if chunk is None or chunk_id(chunk) != recipe.id:
        return None
    return chunk
