"""Content ids and differences of manifests."""

from __future__ import annotations

from itertools import pairwise

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from twinfold.core.manifest import EMPTY_CONTENT, ContentHasher, Differ, content_id, expand
from twinfold.errors import ProtocolError
from twinfold.model import Chunk, Run


def chunk(number: int) -> Chunk:
    return Chunk(blake3(b"%d" % number).digest(), number + 1)


MANIFEST = st.lists(st.integers(0, 30).map(chunk), max_size=60)


@given(chunks=MANIFEST, cut=st.integers(0, 60))
def test_the_content_id_does_not_depend_on_the_pieces(chunks: list[Chunk], cut: int) -> None:
    """However a manifest arrives, its content id is the same."""
    hasher = ContentHasher()
    hasher.add(chunks[:cut])
    hasher.add(chunks[cut:])
    assert hasher.content_id() == content_id(chunks)


def test_content_ids_of_short_manifests() -> None:
    """No chunk: the empty content; one chunk: its own id; the sizes count."""
    assert content_id([]) == EMPTY_CONTENT
    assert content_id([chunk(1)]) == chunk(1).id
    other = Chunk(chunk(1).id, 99)
    assert content_id([chunk(1), chunk(2)]) != content_id([other, chunk(2)])
    assert content_id([chunk(1), chunk(2)]) != content_id([chunk(2), chunk(1)])


@given(
    base=MANIFEST,
    chunks=MANIFEST,
    cuts=st.lists(st.integers(0, 60), max_size=4),
    window=st.integers(1, 8),
)
def test_a_difference_expands_to_what_it_was_made_of(
    base: list[Chunk], chunks: list[Chunk], cuts: list[int], window: int
) -> None:
    """Whatever the base and the pieces, the other side gets exactly these chunks."""
    ids = [known.id for known in base]
    differ = Differ(lambda start, count: ids[start : start + count])
    differ.WINDOW_CHUNKS = window
    borders = [0, *sorted(cuts), len(chunks)]
    result: list[Chunk] = []
    for start, end in pairwise(borders):
        runs = differ.difference(chunks[start:end])
        result += expand(runs, lambda at, count: base[at : at + count])
    expected = [c for start, end in pairwise(borders) for c in chunks[start:end]]
    assert [(c.id) for c in result] == [(c.id) for c in expected]


def test_an_insertion_costs_its_own_chunks_only() -> None:
    """What is before and behind an insertion is kept, in two runs."""
    base = [chunk(number) for number in range(100)]
    ids = [known.id for known in base]
    new = [*base[:40], chunk(500), *base[40:]]
    runs = Differ(lambda start, count: ids[start : start + count]).difference(new)
    assert runs == [Run(0, 40, [chunk(500)]), Run(40, 60, [])]


def test_keeping_more_than_the_base_has_is_refused() -> None:
    """A difference that does not fit its base is an error, not a shorter file."""
    with pytest.raises(ProtocolError):
        expand([Run(0, 3, [])], lambda start, count: [chunk(1)][start : start + count])
