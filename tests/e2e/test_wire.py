"""The server trusts nothing that comes over the wire, and refuses without writing."""

from __future__ import annotations

import itertools
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Pair
from tests.e2e.trees import Tree, snapshot
from tests.e2e.wire import Wire, batch_frame, chunk, chunks_frame, put
from twinfold.model import (
    Change,
    Chunk,
    Delete,
    ExtendUpload,
    MakeDirectory,
    MakeSymlink,
    Move,
    PutFile,
    Run,
    SetAttributes,
)
from twinfold.protocol import (
    MAX_BATCH_CHANGES,
    MAX_BATCH_CHUNKS,
    MAX_BATCH_HEADER_BYTES,
    MAX_BODY_BYTES,
    MAX_CHUNK_BYTES,
    MAX_FRAME_BYTES,
    MAX_FRAME_CHUNKS,
    BatchAnswer,
    Codec,
    FrameKind,
    decode,
    encode,
    pack_frame,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.process

DATA = b"content of a file"
FRAME = struct.Struct("<BBIII")


class Target:
    """A server with a folder in it, and all that must stay as it is."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.outside = pair.base / "outside"
        self.outside.mkdir()
        (self.outside / "file").write_bytes(b"outside")
        pair.start_server()
        self.wire = Wire(pair.port, pair.token)
        assert self.wire.open_session().status == 200
        changes: list[Change] = [
            MakeDirectory(b"folder", 0o755, 1),
            put(b"folder/file", DATA),
            MakeSymlink(b"link", os.fsencode(self.outside)),
        ]
        self.wire.commit(1, changes, [DATA])
        self.next = 2

    def state(self) -> tuple[Tree, Tree]:
        """All that the test could have harmed."""
        return snapshot(self.pair.dest), snapshot(self.outside)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    pair = Pair(tmp_path_factory.mktemp("wire") / "pair")
    yield Target(pair)
    pair.close()


def assert_refused(target: Target, status: int | set[int], body: bytes) -> None:
    """Check the status, that nothing was written, and that the server goes on."""
    before = target.state()
    answer = target.wire.post(target.next, body)
    allowed = {status} if isinstance(status, int) else status
    assert answer.status in allowed, (answer.status, answer.body)
    assert answer.error.reason
    assert "\n" not in answer.error.reason
    assert target.state() == before
    assert target.pair.server.alive


BAD_PATHS = [
    b"/absolute",
    b"//absolute",
    b"..",
    b"../outside/file",
    b"folder/../../outside/file",
    b"folder/..",
    b"./folder",
    b"folder/.",
    b"folder//file",
    b"folder/",
    b"nul\0byte",
    b"folder/file\0",
    b".twinfold",
    b".twinfold/index",
    b"x" * 256,
    b"y/" * 5_000 + b"y",
    b"z" * 70_000,
]


def changes_at(path: bytes) -> dict[str, Change]:
    return {
        "put": put(path, DATA),
        "mkdir": MakeDirectory(path, 0o755, 1),
        "symlink": MakeSymlink(path, b"target"),
        "move to": Move(b"folder/file", path),
        "move from": Move(path, b"moved"),
        "delete": Delete(path),
        "attributes": SetAttributes(path, 0o600, 1),
    }


@pytest.mark.parametrize("way", changes_at(b"x"))
@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda path: repr(path[:24]))
def test_a_path_that_is_not_below_the_folder(target: Target, path: bytes, way: str) -> None:
    """Absolute, ``..``, NUL, empty components, over-long: 400 for every kind of change."""
    good = put(b"good", DATA)
    assert_refused(target, 400, batch_frame([good, changes_at(path)[way]]) + chunks_frame([DATA]))


@pytest.mark.parametrize("way", ["put", "mkdir", "symlink", "move to", "move from", "delete"])
def test_the_root_itself_is_not_for_replacing(target: Target, way: str) -> None:
    """Only attributes may be given to the root; all else is refused."""
    assert_refused(target, 400, batch_frame([changes_at(b"")[way]]) + chunks_frame([DATA]))


@pytest.mark.parametrize("way", ["put", "mkdir", "symlink", "delete", "move to", "move from"])
def test_nothing_is_reached_through_a_symlink(target: Target, way: str) -> None:
    """A path through a symlink at the destination touches nothing outside."""
    before = target.state()
    body = batch_frame([changes_at(b"link/file")[way]]) + chunks_frame([DATA])
    assert target.wire.post(target.next, body).status >= 400
    assert target.state() == before


BAD_CHANGES: dict[str, Change] = {
    "mode beyond the permission bits": MakeDirectory(b"new", 0o4755, 1),
    "negative mode": SetAttributes(b"folder", -1, 1),
    "negative size": PutFile(b"new", 0o644, 1, -1, b"x" * 32, []),
    "size that is not the chunks'": PutFile(b"new", 0o644, 1, 5, chunk(DATA).id, [chunk(DATA)]),
    "content id of a wrong length": PutFile(b"new", 0o644, 1, len(DATA), b"short", [chunk(DATA)]),
    "chunk id of a wrong length": PutFile(b"new", 0o644, 1, 3, b"x" * 32, [Chunk(b"short", 3)]),
    "chunk of no bytes": PutFile(b"new", 0o644, 1, 0, b"x" * 32, [Chunk(b"x" * 32, 0)]),
    "chunk over the limit": PutFile(
        b"new", 0o644, 1, MAX_CHUNK_BYTES + 1, b"x" * 32, [Chunk(b"x" * 32, MAX_CHUNK_BYTES + 1)]
    ),
    "target with NUL": MakeSymlink(b"new", b"a\0b"),
    "empty target": MakeSymlink(b"new", b""),
    "move into itself": Move(b"folder", b"folder/inner"),
    "upload id of a wrong length": ExtendUpload(b"../../x", 0, b"", [Run(0, 0, [chunk(DATA)])]),
    "upload at a negative offset": ExtendUpload(b"u" * 16, -5, b"", [Run(0, 0, [chunk(DATA)])]),
    "upload at an offset that it has not reached": ExtendUpload(
        b"w" * 16, 5, b"", [Run(0, 0, [chunk(DATA)])]
    ),
    "run of endless length": ExtendUpload(b"u" * 16, 0, b"b" * 32, [Run(0, 1 << 62, [])]),
    "run from beyond all files": ExtendUpload(b"u" * 16, 0, b"b" * 32, [Run(1 << 63, 1, [])]),
    "run of a negative count": ExtendUpload(b"u" * 16, 0, b"b" * 32, [Run(0, -5, [])]),
    "upload that was never begun": PutFile(b"new", 0o644, 1, 9, b"x" * 32, [], b"v" * 16),
}


@pytest.mark.parametrize("change", BAD_CHANGES.values(), ids=BAD_CHANGES.keys())
def test_a_change_that_makes_no_sense(target: Target, change: Change) -> None:
    """Values out of their range are refused with a 4xx, never a 5xx; nothing is written."""
    body = batch_frame([change]) + chunks_frame([DATA])
    assert_refused(target, {400, 409, 413, 422}, body)


def test_other_bytes_than_the_hash_says(target: Target) -> None:
    """Content whose hash differs from the announced one is refused with 422."""
    fresh = b"fresh" + DATA
    body = batch_frame([put(b"new", fresh)]) + chunks_frame([b"F" + fresh[1:]], [chunk(fresh)])
    assert_refused(target, 422, body)
    assert target.wire.post(target.next, chunks_frame([fresh])).status == 200
    target.next += 1


def test_a_content_id_that_is_not_the_chunks(target: Target) -> None:
    """A content id that does not follow from the chunks is refused with 422."""
    change = PutFile(b"new", 0o644, 1, len(DATA), b"x" * 32, [chunk(DATA)])
    assert_refused(target, {400, 422}, batch_frame([change]) + chunks_frame([DATA]))


def test_more_changes_than_allowed(target: Target) -> None:
    """A header over the limit of changes is refused with 413."""
    changes = [MakeDirectory(b"d%d" % n, 0o755, 1) for n in range(MAX_BATCH_CHANGES + 1)]
    assert_refused(target, 413, batch_frame(changes))


def test_more_chunks_than_allowed(target: Target) -> None:
    """In a header, in a frame of chunks: 413 before anything is made of them."""
    many = [Chunk(b"x" * 32, 1)] * (MAX_BATCH_CHUNKS + 1)
    assert_refused(target, 413, batch_frame([ExtendUpload(b"u" * 16, 0, b"", [Run(0, 0, many)])]))
    content = [b"x"] * (MAX_FRAME_CHUNKS + 1)
    assert_refused(target, 413, batch_frame([put(b"new", DATA)]) + chunks_frame(content))


def test_more_content_than_allowed_in_a_request(target: Target) -> None:
    """Counted as it is unpacked: little on the wire is no way around the limit."""
    zeros = bytes(64 * 1024)
    contents = [zeros] * (MAX_FRAME_BYTES // len(zeros))
    head = encode([chunk(data) for data in contents])
    frame = pack_frame(FrameKind.CHUNKS, head, contents, 3)
    count = MAX_BODY_BYTES // MAX_FRAME_BYTES + 1
    assert len(frame) * count < MAX_FRAME_BYTES
    assert_refused(target, 413, batch_frame([put(b"new", DATA)]) + frame * count)


def announce(kind: int, codec: int, head: int, packed: int, size: int, rest: bytes = b"") -> bytes:
    return FRAME.pack(kind, codec, head, packed, size) + rest


BATCH, CHUNKS, PLAIN, ZSTD = FrameKind.BATCH, FrameKind.CHUNKS, Codec.PLAIN, Codec.ZSTD
OVERSIZED = {
    "header": announce(BATCH, PLAIN, 0, MAX_BATCH_HEADER_BYTES + 1, MAX_BATCH_HEADER_BYTES + 1),
    "header of 4 GiB": announce(BATCH, PLAIN, 0, 2**32 - 1, 2**32 - 1),
    "header after decompression": announce(BATCH, ZSTD, 0, 100, 2**32 - 1, bytes(100)),
    "frame of chunks": announce(CHUNKS, PLAIN, 0, MAX_FRAME_BYTES + 1, MAX_FRAME_BYTES + 1),
    "head of a frame": announce(CHUNKS, PLAIN, 2**32 - 1, 10, 10),
}


@pytest.mark.parametrize("frame", OVERSIZED.values(), ids=OVERSIZED.keys())
def test_sizes_over_a_limit(target: Target, frame: bytes) -> None:
    """What is announced over a limit is refused with 413, before it is read or allocated."""
    if frame[0] == CHUNKS:
        frame = batch_frame([put(b"new", DATA)]) + frame
    assert_refused(target, 413, frame)


def bomb() -> bytes:
    packed = zstd.compress(bytes(200 << 20), 3)
    return announce(BATCH, ZSTD, 0, len(packed), len(packed) + 1, packed)


MALFORMED = {
    "half a frame head": b"\x01\x00\x00",
    "cut in its payload": batch_frame([put(b"new", DATA)])[:-3],
    "unknown kind": announce(99, PLAIN, 0, 1, 1, b"x"),
    "unknown codec": announce(BATCH, 77, 0, 1, 1, b"x"),
    "not msgpack": pack_frame(BATCH, b"", [b"\xc1\xff\x00"], None),
    "another message": pack_frame(BATCH, b"", [b"\x81\xa1a\x01"], None),
    "nested without end": pack_frame(BATCH, b"", [b"\x91" * 100_000], None),
    "not zstd": announce(BATCH, ZSTD, 0, 4, 9, b"nope"),
    "a bomb": bomb(),
    "a frame of the server": pack_frame(FrameKind.END, b"", [b"\x01"], None),
    "two headers": batch_frame([put(b"new", DATA)]) * 2 + chunks_frame([DATA]),
    "chunks that do not add up": batch_frame([put(b"new", DATA)])
    + chunks_frame([DATA], [Chunk(chunk(DATA).id, 3)]),
    "rubbish behind": batch_frame([put(b"new", DATA)]) + chunks_frame([DATA]) + b"rubbish",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_body_that_is_not_well_formed(target: Target, body: bytes) -> None:
    """Rubbish in any place is refused with a 4xx and a reason; nothing is written."""
    assert_refused(target, {400, 409, 413, 422}, body)


def test_a_continuation_of_nothing(target: Target) -> None:
    """Frames for a batch whose header never came are refused: the client has to begin again."""
    for body in (b"", chunks_frame([DATA])):
        answer = target.wire.post(target.next + 1, body)
        assert answer.status in (400, 409)
        assert answer.error.code


# Who sends many wrong tokens waits: on Linux each test has an address of its own.
ADDRESSES = (
    f"127.0.1.{number}" if sys.platform == "linux" else "127.0.0.1" for number in itertools.count(1)
)

ENDPOINTS = [
    ("GET", "/v1/hello"),
    ("POST", "/v1/folders/main/session"),
    ("POST", "/v1/folders/main/batches/1"),
    ("GET", "/v1/folders/main/entries"),
]


@pytest.mark.parametrize("token", [None, "", "wrong", "w\u00f6rong".encode().decode("latin-1")])
@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_every_request_needs_the_token(
    target: Target, method: str, path: str, token: str | None
) -> None:
    """No token or a wrong one: 401 at every address, and no word about the folder."""
    before = target.state()
    wire = Wire(target.pair.port, token, next(ADDRESSES))
    answer = wire.request(method, path, batch_frame([Delete(b"folder")]))
    assert answer.status == 401
    assert answer.error.code == "token"
    assert target.state() == before


def test_the_token_is_compared_whole(target: Target) -> None:
    """A beginning of the token, or the token with more, is a wrong token."""
    for token in (target.pair.token[:-1], target.pair.token + "x", target.pair.token.upper() + "x"):
        wire = Wire(target.pair.port, token, next(ADDRESSES))
        assert wire.request("GET", "/v1/hello").status == 401


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v2/hello", "/v1/folders/other/entries", "/v1/folders/../entries"]
)
def test_other_addresses_are_not_there(target: Target, path: str) -> None:
    """What is not part of the protocol is answered with 404 or 405."""
    assert target.wire.request("GET", path).status in (404, 405)


@pytest.mark.parametrize("number", ["0", "-1", "x", "99999999999999999999", "1.5", ""])
def test_a_batch_number_that_is_none(target: Target, number: str) -> None:
    """A number that cannot be is refused."""
    path = f"/v1/folders/main/batches/{number}"
    answer = target.wire.request("POST", path, batch_frame([Delete(b"folder")]))
    assert answer.status in (400, 404, 409)
    assert (target.pair.dest / "folder").is_dir()


def test_a_repeated_batch_has_one_effect(pair: Pair) -> None:
    """The same number again is answered as the first time and does nothing, whatever it holds."""
    target = Target(pair)
    first = target.wire.commit(2, [put(b"a", DATA)], [DATA])
    again = target.wire.commit(2, [put(b"a", DATA)], [DATA])
    other = target.wire.commit(2, [Delete(b"a")])
    assert first.revision == again.revision == other.revision
    assert (pair.dest / "a").read_bytes() == DATA


def test_a_request_without_a_body_is_answered_each_time(pair: Pair) -> None:
    """One that brings nothing keeps the server from nothing, however often it comes."""
    target = Target(pair)
    answers = [target.wire.post(2, b"") for _ in range(3)]
    assert {answer.status for answer in answers} == {409}
    assert target.wire.commit(2, [put(b"a", DATA)], [DATA]).revision is not None


def test_batches_are_committed_in_order(pair: Pair) -> None:
    """A batch is not committed before the one in front of it."""
    target = Target(pair)
    answer = target.wire.post_batch(50, [Delete(b"folder")])
    assert answer.status in (200, 409, 413)
    assert (pair.dest / "folder").is_dir()


def test_an_old_epoch_changes_nothing(pair: Pair) -> None:
    """After a take-over the old writer is refused with 409."""
    target = Target(pair)
    new = Wire(pair.port, pair.token)
    assert new.open_session(client=b"d" * 16).status == 200
    answer = target.wire.post_batch(2, [Delete(b"folder")])
    assert (answer.status, answer.error.code) == (409, "stale_epoch")
    assert (pair.dest / "folder").is_dir()
    assert new.commit(1, [Delete(b"folder/file")]).revision is not None


def test_only_content_of_the_folder_is_answered_for(pair: Pair) -> None:
    """The server asks for content that it lacks, and for nothing that it was given."""
    target = Target(pair)
    strange = b"never seen"
    answer = decode(target.wire.post_batch(2, [put(b"new", strange)]).body, BatchAnswer)
    assert answer.revision is None
    assert answer.missing == [chunk(strange).id]
    assert not (pair.dest / "new").exists()
    reply = target.wire.post(2, chunks_frame([strange]))
    assert decode(reply.body, BatchAnswer).revision is not None
    assert (pair.dest / "new").read_bytes() == strange


def test_a_chunk_that_rotted_is_asked_for(pair: Pair) -> None:
    """A chunk is taken from a file of the destination only if its bytes still hash right."""
    target = Target(pair)
    path = pair.dest / "folder" / "file"
    status = path.stat()
    path.write_bytes(b"X" * len(DATA))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    answer = decode(target.wire.post_batch(2, [put(b"new", DATA)]).body, BatchAnswer)
    assert answer.missing == [chunk(DATA).id]


def test_a_swapped_folder_is_not_followed(pair: Pair) -> None:
    """A directory that somebody replaced by a symlink meanwhile leads nowhere."""
    target = Target(pair)
    outside = snapshot(target.outside)
    (pair.dest / "folder").rename(pair.dest / "aside")
    (pair.dest / "folder").symlink_to(target.outside)
    target.wire.post_batch(2, [put(b"folder/new", DATA), Delete(b"folder/file")], [DATA])
    assert snapshot(target.outside) == outside
    assert Path(pair.base / "outside" / "file").read_bytes() == b"outside"
