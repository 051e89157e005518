"""Messages and frames: what is packed comes out the same, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinfold import protocol
from twinfold.core.chunking import chunk_id
from twinfold.errors import LimitError, ProtocolError
from twinfold.model import (
    Change,
    Chunk,
    Delete,
    Entry,
    ExtendUpload,
    Kind,
    MakeDirectory,
    MakeSymlink,
    Move,
    PutFile,
    Run,
    SetAttributes,
)
from twinfold.protocol import (
    Batch,
    BatchAnswer,
    Codec,
    FrameHead,
    FrameKind,
    Hello,
    OpenSession,
    Refusal,
)

BYTES = st.binary(max_size=20)
NUMBER = st.integers(-(1 << 63), (1 << 63) - 1)
CHUNKS = st.lists(st.builds(Chunk, BYTES, NUMBER), max_size=3)
RUNS = st.lists(st.builds(Run, NUMBER, NUMBER, CHUNKS), max_size=3)
CHANGE = st.one_of(
    st.builds(PutFile, BYTES, NUMBER, NUMBER, NUMBER, BYTES, CHUNKS, BYTES),
    st.builds(ExtendUpload, BYTES, NUMBER, BYTES, RUNS),
    st.builds(MakeDirectory, BYTES, NUMBER, NUMBER),
    st.builds(MakeSymlink, BYTES, BYTES),
    st.builds(Move, BYTES, BYTES),
    st.builds(Delete, BYTES),
    st.builds(SetAttributes, BYTES, NUMBER, NUMBER),
)


@given(st.lists(CHANGE, max_size=5))
def test_changes_come_out_as_they_went_in(changes: list[Change]) -> None:
    """All seven kinds, with any bytes in them."""
    assert protocol.decode(protocol.encode(Batch(changes)), Batch) == Batch(changes)


@given(st.binary(max_size=200))
def test_noise_is_refused_and_breaks_nothing(data: bytes) -> None:
    """Bytes that are no message give one kind of error."""
    for kind in (Batch, OpenSession, Hello):
        try:
            protocol.decode(data, kind)
        except ProtocolError:
            continue


@given(
    st.sampled_from([FrameKind.CHUNKS, FrameKind.BATCH, FrameKind.ENTRIES]),
    BYTES,
    st.lists(st.binary(max_size=300) | st.integers(0, 500).map(bytes), max_size=4),
    st.sampled_from([None, 1, 3]),
)
def test_frames_come_out_as_they_went_in(
    kind: FrameKind, head: bytes, parts: list[bytes], level: int | None
) -> None:
    """Packed or not; and a frame is never larger for being packed."""
    frame = protocol.pack_frame(kind, head, parts, level)
    parsed = protocol.parse_frame_head(frame[: protocol.FRAME_HEAD_BYTES])
    rest = frame[protocol.FRAME_HEAD_BYTES :]
    assert parsed.kind is kind
    if kind is FrameKind.CHUNKS:
        assert rest[: parsed.head_bytes] == head
    packed = rest[parsed.head_bytes :]
    protocol.check_frame(parsed, rest[: parsed.head_bytes], packed)
    assert len(packed) == parsed.packed_bytes <= parsed.size_bytes
    assert protocol.unpack_payload(parsed, packed) == b"".join(parts)


@given(st.sampled_from([FrameKind.BATCH, FrameKind.ENTRIES]), st.binary(max_size=300), st.data())
def test_a_flipped_bit_is_noticed(kind: FrameKind, payload: bytes, data: st.DataObject) -> None:
    """Wherever it is in a frame without chunks, nothing of the frame is used."""
    level = data.draw(st.sampled_from([None, 3]))
    frame = bytearray(protocol.pack_frame(kind, b"", [payload], level))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ProtocolError):
        read_frame(bytes(frame))


def read_frame(frame: bytes) -> None:
    """Judge a frame as a receiver does."""
    parsed = protocol.parse_frame_head(frame[: protocol.FRAME_HEAD_BYTES])
    end = protocol.FRAME_HEAD_BYTES + parsed.head_bytes
    head, packed = frame[protocol.FRAME_HEAD_BYTES : end], frame[end:][: parsed.packed_bytes]
    protocol.check_frame(parsed, head, packed)
    if parsed.kind is FrameKind.CHUNKS:
        protocol.decode_chunk_list(head, parsed.size_bytes)


@pytest.mark.parametrize("size_bytes", [99_999, 100_001, 10])
def test_a_frame_that_unpacks_to_another_size_is_refused(size_bytes: int) -> None:
    """Neither more nor less than it announces."""
    frame = protocol.pack_frame(FrameKind.CHUNKS, b"", [bytes(100_000)], 1)
    head = protocol.parse_frame_head(frame[: protocol.FRAME_HEAD_BYTES])
    lying = protocol.FrameHead(head.kind, head.codec, 0, head.packed_bytes, size_bytes)
    with pytest.raises(ProtocolError):
        protocol.unpack_payload(lying, frame[protocol.FRAME_HEAD_BYTES :])


def test_a_frame_that_unpacks_to_far_more_costs_no_memory() -> None:
    """A few kilobytes that unpack to 64 MiB are refused before they have been unpacked."""
    bomb = protocol.pack_frame(FrameKind.CHUNKS, b"", [bytes(64 << 20)], 1)
    packed = bomb[protocol.FRAME_HEAD_BYTES :]
    head = FrameHead(FrameKind.CHUNKS, Codec.ZSTD, 0, len(packed), 1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            protocol.unpack_payload(head, packed)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("kind", "codec", "sizes", "error"),
    [
        (0, 0, (0, 1, 1), ProtocolError),
        (3, 1, (0, 1, protocol.MAX_FRAME_BYTES + 1), LimitError),
        (9, 0, (0, 1, 1), ProtocolError),
        (1, 2, (0, 1, 1), ProtocolError),
        (1, 0, (0, 1, 2), ProtocolError),
        (2, 1, (0, 1, protocol.MAX_FRAME_BYTES + 1), LimitError),
        (1, 1, (0, 1, protocol.MAX_BATCH_HEADER_BYTES + 1), LimitError),
        (1, 1, (protocol.MAX_FRAME_HEAD_BYTES + 1, 1, 1), LimitError),
        (1, 1, (0, 2, 1), LimitError),
    ],
)
def test_bad_frames_are_refused_by_their_head(
    kind: int, codec: int, sizes: tuple[int, int, int], error: type[ProtocolError]
) -> None:
    """Before anything of them is read."""
    data = bytes([kind, codec]) + b"".join(size.to_bytes(4, "little") for size in sizes)
    with pytest.raises(error):
        protocol.parse_frame_head(data)


def test_the_chunks_of_a_frame_have_to_add_up() -> None:
    """Sizes within the limits, and together the payload's."""
    good = [Chunk(chunk_id(b"a"), 5), Chunk(chunk_id(b"b"), 7)]
    assert protocol.decode_chunk_list(protocol.encode(good), 12) == good
    with pytest.raises(ProtocolError):
        protocol.decode_chunk_list(protocol.encode(good), 13)
    for size in (0, -1, protocol.MAX_CHUNK_BYTES + 1):
        with pytest.raises(LimitError):
            protocol.decode_chunk_list(protocol.encode([Chunk(b"c" * 32, size)]), size)
    many = [Chunk(b"c", 1)] * (protocol.MAX_FRAME_CHUNKS + 1)
    with pytest.raises(LimitError):
        protocol.decode_chunk_list(protocol.encode(many), len(many))


def test_answers_and_entries() -> None:
    """What the server says comes out as it went in."""
    for answer in (
        BatchAnswer(revision=4),
        BatchAnswer(missing=[b"a"], unknown_bases=[b"b"]),
        BatchAnswer(revision=4, refused=[Refusal(2, "too long")]),
    ):
        assert protocol.decode(protocol.encode(answer), BatchAnswer) == answer
    entries = [Entry(b"\xff", Kind.SYMLINK, 0o777, 0, 1, b"", b"t")]
    assert protocol.decode_entries(protocol.encode(entries)) == entries


FIRST_USE = """
import sys, threading
sys.setswitchinterval(1e-6)
from twinfold import protocol
data = bytes.fromhex(sys.argv[1])
start = threading.Barrier(8)

def decode():
    start.wait()
    for _ in range(20):
        protocol.decode(data, protocol.Batch)

threads = [threading.Thread(target=decode) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.process
def test_the_first_batches_may_come_at_once() -> None:
    """Several threads decode the first message of a kind: none of them meets a half-made type."""
    batch = protocol.encode(Batch([PutFile(b"f", 0o644, 1, 1, bytes(32), [Chunk(bytes(32), 1)])]))
    words = [sys.executable, "-c", FIRST_USE, batch.hex()]
    for _ in range(5):
        assert subprocess.run(words, check=False, timeout=60).returncode == 0
