"""Chunks built out of what the destination holds: whole and right, or asked for."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import random
from pathlib import Path

import pytest

from tests.server.rig import Rig, chunks_of, put
from twinfold.core.chunking import chunk_id, sub_blocks
from twinfold.core.recipes import NewChunk, write_recipes
from twinfold.errors import ProtocolError
from twinfold.model import Chunk, Copy, Delete, MakeDirectory, Recipe
from twinfold.server.staged import StagedBatch

OLD = random.Random(1).randbytes(30_000)
NEW = OLD[:10_000] + b"some words more" + OLD[10_000:]
NEW_ID = chunk_id(NEW)


def recipe() -> Recipe:
    """Return a recipe for the new content out of the old one."""
    old = [(chunk_id(OLD), sub_blocks(OLD))]
    (written,) = write_recipes(old, [NewChunk(NEW_ID, NEW, sub_blocks(NEW))])
    return written


def stage(rig: Rig, *recipes: Recipe) -> StagedBatch:
    """Stage the new content, which then is wanted, and offer recipes for it."""
    batch = rig.stage([put(b"f", NEW)])
    assert set(batch.wanted) == {NEW_ID}
    rig.stager.build(batch, recipes)
    return batch


def test_a_chunk_is_built(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", OLD)], [OLD])
        batch = stage(rig, recipe())
        assert batch.wanted == {}
        rig.commit(batch)
        assert rig.attic()[OLD] == 1
    assert (tmp_path / "f").read_bytes() == NEW


def test_a_chunk_is_built_out_of_the_attic(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", OLD)], [OLD])
        rig.apply([Delete(b"f")])
        rig.commit(stage(rig, recipe()))
    assert (tmp_path / "f").read_bytes() == NEW


def test_many_chunks_are_built_at_once(tmp_path: Path) -> None:
    """More than are read ahead at a time, out of as many directories; nothing stays open."""
    olds = {b"%d/f" % n: OLD + b"%d" % n for n in range(80)}
    news = {path: b"some words more" + old for path, old in olds.items()}
    recipes = [
        Recipe(
            chunk_id(news[path]),
            len(news[path]),
            [Chunk(chunk_id(old), len(old)), Chunk(chunk_id(OLD), len(OLD))],
            [15, Copy(1, 0, len(OLD)), Copy(0, len(OLD), len(old) - len(OLD))],
            b"some words more",
        )
        for path, old in olds.items()
    ]
    with Rig(tmp_path) as rig:
        rig.apply([MakeDirectory(b"%d" % n, 0o755, 1) for n in range(80)])
        rig.apply([put(path, old) for path, old in olds.items()], olds.values())
        rig.apply([put(b"old", OLD)], [OLD])
        batch = rig.stage([put(path, new) for path, new in news.items()])
        before = len(os.listdir("/dev/fd"))
        rig.stager.build(batch, recipes)
        assert len(os.listdir("/dev/fd")) == before
        assert batch.wanted == {}
        rig.commit(batch)
    for path, new in news.items():
        assert (tmp_path / os.fsdecode(path)).read_bytes() == new


def test_a_recipe_that_is_repeated_does_nothing(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", OLD)], [OLD])
        batch = stage(rig, recipe(), recipe())
        rig.stager.build(batch, [recipe()])
        rig.stager.store(batch, chunks_of(NEW), [NEW])
        rig.commit(batch)
    assert (tmp_path / "f").read_bytes() == NEW


def test_damaged_old_content_counts_as_missing(tmp_path: Path) -> None:
    """The chunk is asked for then, and is right."""
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", OLD)], [OLD])
        with (tmp_path / "f").open("r+b") as file:
            file.seek(20_000)
            file.write(b"X")
        batch = stage(rig, recipe())
        assert set(batch.wanted) == {NEW_ID}
        rig.stager.store(batch, chunks_of(NEW), [NEW])
        rig.commit(batch)
    assert (tmp_path / "f").read_bytes() == NEW


def test_old_content_that_is_gone_counts_as_missing(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        assert set(stage(rig, recipe()).wanted) == {NEW_ID}
        rig.apply([put(b"g", OLD)], [OLD])
        (tmp_path / "g").unlink()
        assert set(stage(rig, recipe()).wanted) == {NEW_ID}


@pytest.mark.parametrize(
    ("parts", "literal"),
    [
        ([Copy(0, 0, 10_000), 15, Copy(0, 10_000, 20_000)], b"some words less"),
        ([15, Copy(0, 0, len(OLD))], b"some words more"),
        ([len(NEW)], bytes(len(NEW))),
        ([len(NEW)], b"x"),
    ],
    ids=["other bytes", "another order", "no copy", "not packed"],
)
def test_a_recipe_with_another_result_counts_as_missing(
    tmp_path: Path, parts: list[int | Copy], literal: bytes
) -> None:
    """What is built is compared with its id, whoever asks for it."""
    wrong = Recipe(NEW_ID, len(NEW), [Chunk(chunk_id(OLD), len(OLD))], parts, literal)
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", OLD)], [OLD])
        batch = stage(rig, wrong)
        assert set(batch.wanted) == {NEW_ID}
        rig.stager.build(batch, [recipe()])
        rig.commit(batch)
    assert (tmp_path / "f").read_bytes() == NEW


def test_an_old_chunk_is_of_the_size_that_it_has(tmp_path: Path) -> None:
    """One that is said to be longer is not there."""
    parts: list[int | Copy] = [Copy(0, 0, len(NEW))]
    longer = Recipe(NEW_ID, len(NEW), [Chunk(chunk_id(OLD), len(NEW))], parts, b"")
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", OLD)], [OLD])
        assert set(stage(rig, longer).wanted) == {NEW_ID}


def test_a_recipe_for_another_size_is_refused(tmp_path: Path) -> None:
    shorter = Recipe(NEW_ID, len(NEW) - 1, [], [len(NEW) - 1], NEW[:-1])
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", OLD)], [OLD])
        with pytest.raises(ProtocolError):
            stage(rig, shorter)


def test_a_recipe_for_what_nobody_wants_is_left_alone(tmp_path: Path) -> None:
    other = os.urandom(100)
    with Rig(tmp_path) as rig:
        rig.apply([put(b"f", OLD)], [OLD])
        batch = stage(rig, Recipe(chunk_id(other), len(other), [], [len(other)], other), recipe())
        assert batch.wanted == {}
