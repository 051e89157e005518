"""What new chunks have in common with old ones, told by the rows of their sub-blocks.

Rows are what `twinfold.core.chunking.sub_blocks` returns. Two that are equal are taken for equal
bytes; whoever relies on that compares what comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import or_

from twinfold.core.chunking import MAX_SIZE_BYTES, ROW_SIZE_BYTES

try:
    from twinfold import _matcher
except ImportError:
    _matcher = None  # type: ignore[assignment]

Part = tuple[int, int, int]
"""(number of an old chunk, offset in it, size), or (-1, 0, size) for what no old chunk has."""

_OWN = -1


def match_rows(old: list[bytes], new: list[bytes], most_bases: int) -> list[list[Part]]:
    """Return what each new chunk consists of: as long parts as there are, in order.

    Where several old chunks have a sub-block, that one is taken which goes on where the last
    part ended, else the first.

    Args:
        old: the rows of each old chunk; those that no chunk can have count as none.
        new: the rows of each new chunk.
        most_bases: from how many different old chunks a new one may copy, at most 64.
    """
    if _matcher is None:
        return match_rows_in_python(old, new, most_bases)
    return _matcher.match_rows(old, new, most_bases)


def match_rows_in_python(old: list[bytes], new: list[bytes], most_bases: int) -> list[list[Part]]:
    """`match_rows`, where there is no compiler."""
    places: dict[bytes, tuple[int, int]] = {}
    at: dict[tuple[int, int], bytes] = {}
    for number, rows in enumerate(old):
        offset = 0
        for row in _split(rows) if _can_be_rows(rows) else ():
            places.setdefault(row, (number, offset))
            at[number, offset] = row
            offset += _size(row)
    return [_parts(rows, places, at, most_bases) for rows in new]


def _parts(
    rows: bytes,
    places: dict[bytes, tuple[int, int]],
    at: dict[tuple[int, int], bytes],
    most_bases: int,
) -> list[Part]:
    parts: list[Part] = []
    bases: set[int] = set()
    for row in _split(rows):
        last = parts[-1] if parts else (_OWN, 0, 0)
        number, offset, _ = last
        following = number, offset + last[2]
        place = following if at.get(following) == row else places.get(row)
        if place is not None and place[0] not in bases and len(bases) == most_bases:
            place = None
        if place is not None:
            bases.add(place[0])
        is_longer = place == following if place is not None else number == _OWN and bool(parts)
        if is_longer:
            parts[-1] = number, offset, last[2] + _size(row)
        else:
            parts.append((*(place or (_OWN, 0)), _size(row)))
    return parts


def _can_be_rows(rows: bytes) -> bool:
    """Tell whether some chunk can have these rows."""
    sizes = map(or_, rows[8::ROW_SIZE_BYTES], rows[9::ROW_SIZE_BYTES])
    return len(rows) % ROW_SIZE_BYTES == 0 and all(sizes) and 0 < total_size(rows) <= MAX_SIZE_BYTES


def total_size(rows: bytes) -> int:
    """Return how many bytes the sub-blocks have together."""
    return sum(rows[8::ROW_SIZE_BYTES]) + (sum(rows[9::ROW_SIZE_BYTES]) << 8)


def _split(rows: bytes) -> Iterator[bytes]:
    return (rows[at : at + ROW_SIZE_BYTES] for at in range(0, len(rows), ROW_SIZE_BYTES))


def _size(row: bytes) -> int:
    return int.from_bytes(row[8:], "little")
