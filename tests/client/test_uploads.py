"""Files in parts: batches stay within what the server takes, whatever is kept or new."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from twinfold.client.batch import Batch, BatchBuilder, Pending
from twinfold.client.effects import SaveSegment
from twinfold.client.read import Portion
from twinfold.client.state import State
from twinfold.client.state_file import open_state
from twinfold.client.uploads import Base, UploadInParts
from twinfold.model import Chunk, ExtendUpload
from twinfold.protocol import MAX_BATCH_CHUNKS

CHUNKS = 70_000
CHUNK_BYTES = 65_536
STRETCH = 40


def chunk_of(text: bytes) -> Chunk:
    return Chunk(blake3(text).digest(), CHUNK_BYTES)


def state_with_huge_file(folder: Path) -> State:
    """Return a state that knows the manifest of a file of 70,000 chunks."""
    ids = [chunk_of(b"%d" % number).id for number in range(CHUNKS)]
    segments = [
        SaveSegment(1, start // 4_096, b"".join(ids[start : start + 4_096]))
        for start in range(0, CHUNKS, 4_096)
    ]
    state = open_state(folder / "state.sqlite", b"/source")
    state.acknowledge(segments, {}, None)
    return state


def upload_of_huge_file(
    state: State, send: Callable[[Batch], None], may_be_same: bool
) -> tuple[UploadInParts, BatchBuilder]:
    """Return an upload that is written as a difference to that file, and what fills its batches."""
    builder = BatchBuilder(state, Pending(state), send)
    base = Base(1, b"c" * 32)
    upload = UploadInParts(state, builder, b"u" * 16, b"big", base, 0, may_be_same=may_be_same)
    return upload, builder


@pytest.mark.parametrize("may_be_same", [True, False])
@pytest.mark.parametrize("edited", [0, CHUNKS // 2, CHUNKS - 1])
def test_an_edit_of_a_huge_file_is_spread_over_batches(
    tmp_path: Path, edited: int, may_be_same: bool
) -> None:
    """One changed chunk among 70,000: no batch names more than the server takes, none is lost."""
    batches: list[Batch] = []
    state = state_with_huge_file(tmp_path)
    upload, builder = upload_of_huge_file(state, batches.append, may_be_same)
    for start in range(0, CHUNKS, STRETCH):
        texts = [
            b"new" if number == edited else b"%d" % number
            for number in range(start, min(start + STRETCH, CHUNKS))
        ]
        upload.extend(Portion([(chunk_of(text), memoryview(text)) for text in texts], {}))
    upload.finish(None)
    builder.flush()
    state.close()
    counts = [_chunks_in(batch) for batch in batches]
    assert sum(counts) == CHUNKS
    assert max(counts) <= MAX_BATCH_CHUNKS // 2
    assert sum(batch.held_bytes for batch in batches) == len(b"new")


@pytest.mark.parametrize("may_be_same", [True, False])
def test_what_surely_is_another_content_is_sent_as_it_is_read(
    tmp_path: Path, may_be_same: bool
) -> None:
    """The server works on what an edited file keeps while the rest is read; not on a mere touch."""
    batches: list[Batch] = []
    state = state_with_huge_file(tmp_path)
    upload, _ = upload_of_huge_file(state, batches.append, may_be_same)
    for start in range(0, CHUNKS, STRETCH):
        texts = [b"%d" % number for number in range(start, min(start + STRETCH, CHUNKS))]
        upload.extend(Portion([(chunk_of(text), memoryview(text)) for text in texts], {}))
    state.close()
    assert bool(batches) is not may_be_same


def _chunks_in(batch: Batch) -> int:
    runs = [
        run for change in batch.changes if isinstance(change, ExtendUpload) for run in change.runs
    ]
    return sum(run.keep_count + len(run.chunks) for run in runs)
