"""Sub-blocks and recipes: what is written is built again, whatever the old bytes were."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twinfold.core.chunking import (
    MAX_SIZE_BYTES,
    ROW_SIZE_BYTES,
    available_kernels,
    chunk_id,
    cut,
    cut_with_rows,
    sub_blocks,
    sub_blocks_of_each,
)
from twinfold.core.chunking.format import COARSE, FINE, MAX_SUB_BLOCK_BYTES
from twinfold.core.matching import match_rows, match_rows_in_python, total_size
from twinfold.core.recipes import (
    MAX_BASES,
    NewChunk,
    check_recipe,
    follow_recipe,
    with_packed_literal,
    write_recipes,
)
from twinfold.errors import LimitError, ProtocolError
from twinfold.model import Chunk, Copy, Recipe
from twinfold.protocol import MAX_FRAME_RECIPES, decode_recipes, encode

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def lengths(rows: bytes) -> list[int]:
    return [
        int.from_bytes(rows[at + 8 : at + ROW_SIZE_BYTES], "little")
        for at in range(0, len(rows), ROW_SIZE_BYTES)
    ]


def write_recipe(
    new: bytes, old: Iterable[bytes | tuple[bytes, bytes]], *, fine: bool = False
) -> Recipe | None:
    """Return the recipe for a chunk out of others, or out of what is said to be their rows."""
    kept = [c if isinstance(c, tuple) else (chunk_id(c), sub_blocks(c, fine=fine)) for c in old]
    recipes = write_recipes(kept, [NewChunk(chunk_id(new), new, sub_blocks(new, fine=fine))])
    return recipes[0] if recipes else None


grains = pytest.mark.parametrize("fine", [False, True], ids=["coarse", "fine"])


@st.composite
def chunks(draw: st.DrawFn) -> bytes:
    """Random bytes, text and long runs, one after the other."""
    dice = random.Random(draw(st.integers(0, 1 << 32)))
    data = b""
    for kind in draw(st.lists(st.sampled_from(["random", "text", "run"]), max_size=4)):
        size = draw(st.integers(0, 12_000))
        if kind == "random":
            data += dice.randbytes(size)
        elif kind == "text":
            data += b"".join(b"line %d of it\n" % dice.randrange(50) for _ in range(size // 12))
        else:
            data += bytes([dice.randrange(256)]) * size
    return data[:MAX_SIZE_BYTES]


@st.composite
def long_runs(draw: st.DrawFn) -> bytes:
    """More than a chunk of random bytes, or of text."""
    dice = random.Random(draw(st.integers(0, 1 << 32)))
    size = draw(st.integers(30_000, 250_000))
    if draw(st.booleans()):
        return dice.randbytes(size)
    return b"".join(b"line %d of it\n" % dice.randrange(50) for _ in range(size // 12))


@grains
@given(data=chunks())
def test_all_kernels_find_the_same_sub_blocks(data: bytes, fine: bool) -> None:
    found = {name: sub_blocks(data, fine=fine, kernel=name) for name in available_kernels()}
    assert len(set(found.values())) == 1
    sizes = lengths(sub_blocks(data, fine=fine))
    assert sum(sizes) == total_size(sub_blocks(data, fine=fine)) == len(data)
    shortest = (FINE if fine else COARSE).shortest
    assert all(shortest <= size <= MAX_SUB_BLOCK_BYTES for size in sizes[:-1])


@grains
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.data_too_large])
@given(pieces=st.lists(st.one_of(chunks(), long_runs()), max_size=3), final=st.booleans())
def test_one_pass_finds_the_chunks_and_their_sub_blocks(
    pieces: list[bytes], final: bool, fine: bool
) -> None:
    data = b"".join(pieces)
    found = cut(data, final)
    expected = [len(chunk) for chunk in found], [sub_blocks(chunk, fine=fine) for chunk in found]
    for name in available_kernels():
        assert cut_with_rows(data, final, fine=fine, kernel=name) == expected
        rows = sub_blocks_of_each(found, fine=fine, kernel=name)
        assert rows == expected[1]


@grains
@pytest.mark.parametrize("kernel", available_kernels())
def test_the_longest_chunk_of_sub_blocks_is_the_longest_chunk(kernel: str, fine: bool) -> None:
    data = random.Random(5).randbytes(MAX_SIZE_BYTES)
    assert sub_blocks(data, fine=fine, kernel=kernel) == sub_blocks(data, fine=fine)
    assert sub_blocks(b"", fine=fine, kernel=kernel) == b""
    with pytest.raises(ValueError, match="96 KiB"):
        sub_blocks(bytes(MAX_SIZE_BYTES + 1), fine=fine, kernel=kernel)


def test_sub_blocks_are_what_they_were() -> None:
    """Rows are kept for long: another cut or hash would make them worthless."""
    data = random.Random(1).randbytes(20_000)
    assert chunk_id(sub_blocks(data)).hex()[:16] == "f3102c2eaedf31be"
    assert chunk_id(sub_blocks(data, fine=True)).hex()[:16] == "6f04e035c781be99"


def test_random_bytes_have_sub_blocks_of_the_size_announced() -> None:
    data = random.Random(2).randbytes(MAX_SIZE_BYTES)
    assert 50 <= len(lengths(sub_blocks(data))) <= 110
    assert 240 <= len(lengths(sub_blocks(data, fine=True))) <= 400


def test_the_most_sub_blocks_have_room() -> None:
    """Of a unit that ends in a candidate there are as many rows as there can be."""
    dice = random.Random(1)
    units = (dice.randbytes(FINE.shortest) for _ in range(10_000))
    counts = (
        len(lengths(sub_blocks(unit * (MAX_SIZE_BYTES // len(unit)), fine=True))) for unit in units
    )
    assert max(counts) == MAX_SIZE_BYTES // FINE.shortest


@given(
    st.lists(st.lists(st.integers(0, 5)), max_size=4),
    st.lists(st.lists(st.integers(0, 7)), max_size=4),
    st.integers(0, 3),
)
def test_rows_are_matched_alike_in_c_and_in_python(
    old: list[list[int]], new: list[list[int]], most_bases: int
) -> None:
    old_rows, new_rows = (
        [b"".join(bytes([row] * 8) + (100 + row).to_bytes(2, "little") for row in c) for c in side]
        for side in (old, new)
    )
    found = match_rows(old_rows, new_rows, most_bases)
    assert found == match_rows_in_python(old_rows, new_rows, most_bases)
    for rows, parts in zip(new, found, strict=True):
        assert sum(size for _, _, size in parts) == sum(100 + row for row in rows)
        assert len({number for number, _, _ in parts if number >= 0}) <= most_bases
        # What the parts say: the rows' numbers once for each byte.
        held = [[row for row in chunk for _ in range(100 + row)] for chunk in old]
        at = [row for row in rows for _ in range(100 + row)]
        for number, offset, size in parts:
            here, at = at[:size], at[size:]
            assert number < 0 or here == held[number][offset : offset + size]
        if most_bases == 3 and len(old) <= 3:
            known = {row for chunk in old for row in chunk}
            own = sum(size for number, _, size in parts if number < 0)
            assert own == sum(100 + row for row in rows if row not in known)


@given(chunks(), chunks(), st.data())
def test_a_recipe_builds_its_chunk(old: bytes, other: bytes, data: st.DataObject) -> None:
    """Whatever is made of two chunks is built from them again."""
    begin = data.draw(st.integers(0, len(old)))
    end = data.draw(st.integers(begin, len(old)))
    new = data.draw(
        st.sampled_from(
            [
                old[:begin] + b"some new words" + old[begin:],
                old[:begin] + old[end:],
                old[begin:] + other[:begin],
                old[begin:end] * 2,
                other,
            ]
        )
    )[:MAX_SIZE_BYTES]
    held = {chunk_id(chunk): chunk for chunk in (old, other)}
    written = write_recipe(new, held.values(), fine=data.draw(st.booleans()))
    if written is None:
        return
    for recipe in decode_recipes(encode([written, with_packed_literal(written, new)])):
        assert recipe.id == chunk_id(new)
        assert recipe.size == len(new)
        assert all(base.size == len(held[base.id]) for base in recipe.bases)
        assert follow_recipe(recipe, [held[base.id] for base in recipe.bases]) == new


def test_a_small_edit_is_a_small_recipe() -> None:
    old = random.Random(3).randbytes(60_000)
    new = old[:30_000] + b"0123456789" + old[30_000:]
    recipe = write_recipe(new, [old])
    assert recipe is not None
    assert len(recipe.literal) < 2 * MAX_SUB_BLOCK_BYTES
    assert len(recipe.parts) == 3


def test_what_is_new_is_packed_by_what_is_copied() -> None:
    """What only the copied part has costs next to nothing, where it is the same."""
    dice = random.Random(3)
    odd = dice.randbytes(2_000)
    old = dice.randbytes(20_000) + odd + dice.randbytes(20_000)
    new = old[:8_000] + odd + old[8_000:]
    plain = write_recipe(new, [old])
    assert plain is not None
    assert follow_recipe(plain, [old]) == new
    recipe = with_packed_literal(plain, new)
    assert len(recipe.literal) < len(plain.literal) - 500
    assert follow_recipe(recipe, [old]) == new
    assert follow_recipe(recipe, [bytes(len(old))]) != new


@pytest.mark.parametrize("size", [9, 11])
def test_a_literal_unpacks_to_the_size_that_is_announced(size: int) -> None:
    old = random.Random(3).randbytes(5_000)
    packed = zstd.compress(bytes(10_000), zstd_dict=zstd.ZstdDict(old, is_raw=True).as_prefix)
    parts: list[int | Copy] = [Copy(0, 0, 5_000), size * 1_000]
    recipe = Recipe(bytes(32), 5_000 + size * 1_000, [Chunk(bytes(32), 5_000)], parts, packed)
    check_recipe(recipe)
    assert follow_recipe(recipe, [old]) is None


@pytest.mark.parametrize("copied", [0, 7, 8])
def test_a_literal_that_does_not_unpack_builds_nothing(copied: int) -> None:
    bases = [Chunk(bytes(32), 100)] if copied else []
    parts: list[int | Copy] = [Copy(0, 0, copied)] if copied else []
    recipe = Recipe(bytes(32), copied + 99, bases, [*parts, 99], b"not packed")
    check_recipe(recipe)
    assert follow_recipe(recipe, [bytes(100)]) is None


def test_what_has_nothing_in_common_has_no_recipe() -> None:
    old, new = random.Random(3).randbytes(60_000), random.Random(4).randbytes(60_000)
    assert write_recipe(new, [old]) is None


def test_out_of_many_chunks_only_some_are_used() -> None:
    parts = [random.Random(number).randbytes(8_000) for number in range(12)]
    new = b"".join(parts)[:MAX_SIZE_BYTES]
    recipe = write_recipe(new, parts)
    assert recipe is not None
    assert len(recipe.bases) == MAX_BASES
    held = {chunk_id(part): part for part in parts}
    assert follow_recipe(recipe, [held[base.id] for base in recipe.bases]) == new


@pytest.mark.parametrize(
    "rows",
    [b"x" * 8 + b"\0\0", (b"x" * 8 + b"\xff\xff") * 2, b""],
    ids=["nothing", "too long", "none"],
)
def test_rows_that_no_chunk_has_are_left_out(rows: bytes) -> None:
    new = random.Random(3).randbytes(60_000)
    impossible = rows + sub_blocks(new) if rows else rows
    assert write_recipe(new, [(bytes(32), impossible)]) is None
    for match in (match_rows, match_rows_in_python):
        [parts] = match([impossible, impossible[:-1]], [sub_blocks(new)], MAX_BASES)
        assert parts == [(-1, 0, len(new))]


_GOOD = Recipe(b"i" * 32, 12, [Chunk(b"b" * 32, 10)], [2, Copy(0, 0, 10)], b"ab")


def _with(**changes: object) -> Recipe:
    fields: dict[str, object] = {name: getattr(_GOOD, name) for name in _GOOD.__struct_fields__}
    make: Callable[..., Recipe] = Recipe
    return make(**(fields | changes))


@pytest.mark.parametrize(
    ("recipe", "error"),
    [
        (_with(id=b"i" * 31), ProtocolError),
        (_with(bases=[Chunk(b"b" * 33, 10)]), ProtocolError),
        (_with(bases=[Chunk(b"b" * 32, MAX_SIZE_BYTES + 1)]), LimitError),
        (_with(bases=[Chunk(b"b" * 32, -10)]), LimitError),
        (_with(size=0, parts=[]), LimitError),
        (_with(size=MAX_SIZE_BYTES + 1, parts=[MAX_SIZE_BYTES + 1]), LimitError),
        (_with(bases=[Chunk(b"b" * 32, 10)] * (MAX_BASES + 1)), LimitError),
        (_with(size=2_000, parts=[1] * 2_000), LimitError),
        (_with(parts=[0, 2, Copy(0, 0, 10)]), ProtocolError),
        (_with(parts=[-2, 4, Copy(0, 0, 10)]), ProtocolError),
        (_with(literal=b"abc"), ProtocolError),
        (_with(size=11), ProtocolError),
        (_with(size=13), ProtocolError),
        (_with(parts=[2, Copy(0, 1, 10)]), ProtocolError),
        (_with(parts=[2, Copy(0, -1, 10)]), ProtocolError),
        (_with(parts=[15, Copy(0, 5, -3)]), ProtocolError),
        (_with(parts=[12, Copy(0, 5, 0)]), ProtocolError),
        (_with(parts=[2, Copy(1, 0, 10)]), ProtocolError),
        (_with(parts=[2, Copy(-1, 0, 10)]), ProtocolError),
    ],
)
def test_recipes_that_cannot_be_are_refused(
    recipe: Recipe, error: type[ProtocolError | LimitError]
) -> None:
    check_recipe(_GOOD)
    with pytest.raises(error):
        check_recipe(recipe)


def test_a_frame_has_only_so_many_recipes() -> None:
    assert len(decode_recipes(encode([_GOOD] * MAX_FRAME_RECIPES))) == MAX_FRAME_RECIPES
    with pytest.raises(LimitError):
        decode_recipes(encode([_GOOD] * (MAX_FRAME_RECIPES + 1)))
