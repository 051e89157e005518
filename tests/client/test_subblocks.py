"""Rows of new chunks: found late and many at once, and the same as one by one."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinfold.client.batch import Batch, BatchBuilder, Pending
from twinfold.client.pieces import Stretch
from twinfold.client.read import Cut
from twinfold.client.state import State
from twinfold.client.state_file import open_state
from twinfold.client.subblocks import Draft, NewRows
from twinfold.core.chunking import chunk_id, sub_blocks
from twinfold.core.recipes import follow_recipe
from twinfold.model import Chunk, Delete


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(tmp_path / "state.sqlite", b"/source")
    yield state
    state.close()


def cut_of(data: bytes) -> Cut:
    return Chunk(chunk_id(data), len(data)), data


def test_rows_of_new_chunks_are_those_of_each() -> None:
    """Fine and coarse ones, and those that were found before, whenever one is asked for."""
    fine, coarse, found, little = (os.urandom(size) for size in (9_000, 50_000, 30_000, 2_047))
    pieces = {chunk_id(data): data for data in (fine, coarse, found, little)}
    rows = NewRows(pieces)
    rows.add(chunk_id(fine), len(fine), fine=True)
    rows.add(chunk_id(found), len(found), fine=False, rows=b"found")
    assert dict(rows) == {chunk_id(fine): sub_blocks(fine, fine=True), chunk_id(found): b"found"}
    rows.add(chunk_id(coarse), len(coarse), fine=False)
    rows.add(chunk_id(little), len(little), fine=True)
    assert chunk_id(coarse) in rows
    assert chunk_id(little) not in rows
    assert rows[chunk_id(coarse)] == sub_blocks(coarse)
    assert len(rows) == len(dict(rows.items())) == 3


@pytest.mark.parametrize("kept", [1, 3])
def test_what_is_let_go_of_has_its_rows(state: State, kept: int) -> None:
    """Chunks that are a small part of what was read are copied; their rows stay the same."""
    data = os.urandom(8 * 20_000)
    view = memoryview(data)
    pieces = [view[start : start + 20_000] for start in range(0, len(view), 20_000)]
    cuts: list[Cut] = [(Chunk(chunk_id(piece), len(piece)), piece) for piece in pieces]
    builder = BatchBuilder(state, Pending(state), lambda _batch: None)
    builder.add_content(cuts[:kept], b"f", is_part=True)
    builder.let_go_of(cuts)
    assert dict(builder.new_rows) == {chunk.id: sub_blocks(piece) for chunk, piece in cuts[:kept]}


def test_a_chunk_of_a_batch_on_its_way_is_not_kept_again(state: State) -> None:
    """Only its place is, in this batch and in later ones, until the batch is forgotten."""
    data = os.urandom(5_000)
    batches: list[Batch] = []
    pending = Pending(state)
    builder = BatchBuilder(state, pending, batches.append)

    def add(*paths: bytes) -> object:
        for path in paths:
            builder.add_content([cut_of(data)], path)
        builder.add(Delete(b"x"))
        builder.flush()
        return batches[-1].pieces[chunk_id(data)]

    assert add(b"a", b"b") == data
    assert batches[-1].held_bytes == 5_000
    assert add(b"c") == Stretch(b"c", 0, 5_000)
    for batch in batches:
        pending.forget(batch)
    assert add(b"d") == data


@pytest.mark.parametrize(("edited", "is_packed"), [(3, True), (60, False)])
def test_much_that_is_new_is_left_to_be_packed_together(
    state: State, edited: int, is_packed: bool
) -> None:
    """What little is new in few chunks is packed by what they copy, each by itself."""
    dice = random.Random(1)
    words = [dice.randbytes(10).hex().encode() for _ in range(1_000)]
    batch = Batch(1)
    held: dict[bytes, bytes] = {}
    for _ in range(edited):
        old = b" ".join(dice.choices(words, k=800))
        new = old[:5_000] + b" ".join(dice.choices(words, k=120)) + old[5_000:]
        held |= {chunk_id(old): old, chunk_id(new): new}
        batch.pieces[chunk_id(new)] = new
        batch.sub_blocks.add(chunk_id(new), len(new), fine=True)
        state.acknowledge([], [], None, [(chunk_id(old), sub_blocks(old, fine=True))])
        batch.drafts.append(Draft([chunk_id(new)], chunk_id(old), 0))
    batch.write_recipes(state)
    assert len(batch.recipes) == edited
    for recipe in batch.recipes.values():
        assert follow_recipe(recipe, [held[base.id] for base in recipe.bases]) == held[recipe.id]
        own_bytes = sum(part for part in recipe.parts if isinstance(part, int))
        assert (len(recipe.literal) < own_bytes) == is_packed
