"""Every message between client and server, its codec, the version, and the limits.

``docs/protocol.md`` is the specification of what stands here. Messages are msgpack (by
msgspec); a batch's body is a sequence of frames:

    kind u8 | codec u8 | head size u32 | packed size u32 | size u32 | head | payload

all little-endian. ``size`` is the payload's exact size after decompression, so that a
receiver knows what it will cost before it spends it. The head of a frame of chunks has their
ids; that of any other frame is a digest, so that a flipped bit does nothing.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, TypeVar

import msgspec
from blake3 import blake3

from twinfold.core.recipes import check_recipe
from twinfold.errors import ContentMismatchError, LimitError, ProtocolError
from twinfold.model import Change, Chunk, Entry, Natural, Recipe

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PROTOCOL_VERSIONS = (1,)
"""The protocol versions that this program speaks, newest last."""

FOLDER = "main"
"""The one folder that a server keeps today; its name is part of every address."""

EPOCH_HEADER = "Twinfold-Epoch"
MESSAGE_TYPE = "application/vnd.twinfold+msgpack"
FRAMES_TYPE = "application/vnd.twinfold.frames"

MAX_MESSAGE_BYTES = 64 * 1024
MAX_BATCH_HEADER_BYTES = 8 * 1024 * 1024
MAX_BATCH_CHANGES = 4_096
MAX_BATCH_CHUNKS = 65_536
MAX_FRAME_BYTES = 4 * 1024 * 1024
MAX_FRAME_CHUNKS = 8_192
MAX_FRAME_RECIPES = 256
MAX_FRAME_HEAD_BYTES = 48 * MAX_FRAME_CHUNKS
MAX_CHUNK_BYTES = 96 * 1024
DIGEST_BYTES = 16
MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_PENDING_BATCHES = 8
PROGRESS_TIMEOUT_S = 60.0
"""A request whose body brings nothing for this long is answered with 408."""

MIN_BYTES_PER_S = 512
"""So is one that, beyond this long in all, brings less than so many bytes a second."""
EVENTS_WAIT_S = 25.0
"""So long a request for events waits for one."""


class FrameKind(IntEnum):
    """What a frame carries."""

    BATCH = 1
    CHUNKS = 2
    RECIPES = 3
    ENTRIES = 4
    END = 5
    PROGRESS = 6
    DIFFERENCES = 7


class Codec(IntEnum):
    """How a frame's payload is packed."""

    PLAIN = 0
    ZSTD = 1


class Hello(msgspec.Struct, frozen=True):
    """The server's first words: who it is and what it speaks."""

    program: str
    protocols: list[int]
    server_id: bytes


class OpenSession(msgspec.Struct, frozen=True):
    """A client asks to become the folder's writer.

    ``client_id`` lasts as long as the client's state, ``instance`` as long as its process;
    ``earlier`` are the instances as which the same state may have asked before.
    """

    protocol: int
    client_id: bytes
    instance: bytes
    name: str
    take_over: bool = False
    earlier: list[bytes] = []


class Session(msgspec.Struct, frozen=True):
    """The folder's state as the session begins.

    ``entries`` is 0 only if the server holds no content at all, in its attic neither.
    ``committed`` is the number of the last batch that this epoch committed, 0 for none.
    """

    epoch: Natural
    revision: Natural
    committed: Natural
    entries: Natural


class Batch(msgspec.Struct, frozen=True):
    """What a client wants done, in order; the number is in the address."""

    changes: list[Change]


class Refusal(msgspec.Struct, frozen=True, array_like=True):
    """A change that the destination cannot hold; the others of its batch took effect.

    ``again`` if it may be able to once there is more room; ``other`` is the name in the same
    directory that its file system takes for this one's.
    """

    index: Natural
    reason: str
    again: bool = False
    other: bytes = b""


class BatchAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Committed (``revision`` is set), or what is still missing."""

    revision: Natural | None = None
    missing: list[bytes] = []
    unknown_bases: list[bytes] = []
    refused: list[Refusal] = []


class Events(msgspec.Struct, frozen=True):
    """Nothing happened that the client has to know of."""

    revision: Natural


class Progress(msgspec.Struct, frozen=True, array_like=True):
    """How much of the destination has been read again so far."""

    files: Natural
    size_bytes: Natural


class Difference(msgspec.Struct, frozen=True, array_like=True):
    """An entry of the destination that was not as it should be.

    ``what`` has one or more of ``content``, ``missing``, ``extra``, ``type``, ``mode``,
    ``mtime``, ``target``, ``unreadable``.
    """

    path: bytes
    what: list[str]


class ErrorAnswer(msgspec.Struct, frozen=True):
    """Why a request was not done: a word for programs, a line for people."""

    code: str
    reason: str


class FrameHead(msgspec.Struct, frozen=True):
    """A frame's fixed part, already checked against the limits."""

    kind: FrameKind
    codec: Codec
    head_bytes: int
    packed_bytes: int
    size_bytes: int


_FRAME = struct.Struct("<BBIII")
FRAME_HEAD_BYTES = _FRAME.size

_Message = TypeVar("_Message")

_CHUNK_LIST = list[Chunk]
_ENTRY_LIST = list[Entry]
_RECIPE_LIST = list[Recipe]
_encoder = msgspec.msgpack.Encoder()
_KINDS = (
    Hello,
    OpenSession,
    Session,
    Batch,
    BatchAnswer,
    Events,
    Progress,
    list[Difference],
    ErrorAnswer,
    Natural,
    _CHUNK_LIST,
    _ENTRY_LIST,
    _RECIPE_LIST,
)
# Made before there are threads: msgspec prepares a type at its first use, and another thread
# that uses it meanwhile brings the process down.
_DECODERS: dict[Any, msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(kind) for kind in _KINDS
}


def encode(message: msgspec.Struct | Sequence[Any] | int) -> bytes:
    """Return a message's msgpack bytes."""
    return _encoder.encode(message)


def decode(data: bytes | memoryview, kind: type[_Message]) -> _Message:
    """Return the message in ``data``, validated against its type, one of this protocol.

    Raises:
        ProtocolError: the bytes are not a message of this type.
    """
    try:
        message: _Message = _DECODERS[kind].decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a message is not well formed: {error}") from error
    return message


def pack_frame(
    kind: FrameKind, head: bytes, parts: Iterable[bytes | memoryview], level: int | None
) -> bytes:
    """Return one frame; with a zstd ``level`` it is compressed where that makes it smaller.

    Only a frame of chunks has a ``head`` of its own; any other gets its digest there.
    """
    parts = list(parts)
    size_bytes = packed_bytes = sum(map(len, parts))
    codec = Codec.PLAIN
    if level is not None and size_bytes:
        packed = zstd.compress(b"".join(parts), level)
        if len(packed) < size_bytes:
            parts, packed_bytes, codec = [packed], len(packed), Codec.ZSTD
    if kind is not FrameKind.CHUNKS:
        frame = FrameHead(kind, codec, DIGEST_BYTES, packed_bytes, size_bytes)
        head = frame_digest(frame, parts)
    return b"".join((_FRAME.pack(kind, codec, len(head), packed_bytes, size_bytes), head, *parts))


def plain_frame_start(kind: FrameKind, head: bytes, size_bytes: int) -> bytes:
    """Return what comes before the payload of a frame that is not compressed."""
    return _FRAME.pack(kind, Codec.PLAIN, len(head), size_bytes, size_bytes) + head


def frame_digest(frame: FrameHead, packed: Iterable[bytes | memoryview]) -> bytes:
    """Return what the head of a frame without chunks has: BLAKE3 of all the rest, cut short."""
    sizes = (frame.head_bytes, frame.packed_bytes, frame.size_bytes)
    hasher = blake3(_FRAME.pack(frame.kind, frame.codec, *sizes))
    for part in packed:
        hasher.update(part)
    return hasher.digest(DIGEST_BYTES)


def check_frame(frame: FrameHead, head: bytes | memoryview, packed: bytes | memoryview) -> None:
    """Check a frame's digest before anything of it is used; chunks are checked one by one.

    Raises:
        ContentMismatchError: the frame is not as it was sent.
    """
    if frame.kind is not FrameKind.CHUNKS and head != frame_digest(frame, [packed]):
        raise ContentMismatchError("a frame was damaged on its way")


def parse_frame_head(data: bytes | memoryview) -> FrameHead:
    """Return a frame's fixed part.

    Raises:
        ProtocolError: unknown kind or codec.
        LimitError: a size is over its limit.
    """
    kind, codec, head_bytes, packed_bytes, size_bytes = _FRAME.unpack(data)
    try:
        frame = FrameHead(FrameKind(kind), Codec(codec), head_bytes, packed_bytes, size_bytes)
    except ValueError as error:
        raise ProtocolError(f"unknown frame: {error}") from error
    is_content = frame.kind in (FrameKind.CHUNKS, FrameKind.RECIPES)
    limit = MAX_FRAME_BYTES if is_content else MAX_BATCH_HEADER_BYTES
    if size_bytes > limit or packed_bytes > size_bytes or head_bytes > MAX_FRAME_HEAD_BYTES:
        raise LimitError(f"a frame of {size_bytes} bytes is over the limit of {limit}")
    if frame.codec is Codec.PLAIN and packed_bytes != size_bytes:
        raise ProtocolError("a plain frame announces two different sizes")
    return frame


def unpack_payload(frame: FrameHead, packed: bytes | memoryview) -> bytes | memoryview:
    """Return a frame's payload, decompressed to exactly the announced size.

    Raises:
        ProtocolError: the bytes do not decompress to that size.
    """
    if frame.codec is Codec.PLAIN:
        return packed
    decompressor = zstd.ZstdDecompressor()
    try:
        payload = decompressor.decompress(packed, max_length=frame.size_bytes + 1)
    except zstd.ZstdError as error:
        raise ProtocolError(f"a frame does not decompress: {error}") from error
    if len(payload) != frame.size_bytes or not decompressor.eof or decompressor.unused_data:
        raise ProtocolError("a frame does not have the size that it announces")
    return payload


def decode_chunk_list(head: bytes | memoryview, size_bytes: int) -> list[Chunk]:
    """Return the chunks that a frame of chunks announces, checked against its size.

    Raises:
        ProtocolError, LimitError: the list is not well formed, too long, or does not add up.
    """
    chunks = decode(head, _CHUNK_LIST)
    if len(chunks) > MAX_FRAME_CHUNKS:
        raise LimitError(f"a frame of {len(chunks)} chunks is over {MAX_FRAME_CHUNKS}")
    if any(not 0 < chunk.size <= MAX_CHUNK_BYTES for chunk in chunks):
        raise LimitError(f"a chunk is empty or over {MAX_CHUNK_BYTES} bytes")
    if sum(chunk.size for chunk in chunks) != size_bytes:
        raise ProtocolError("the chunks of a frame do not add up to its size", 422)
    return chunks


def decode_recipes(payload: bytes | memoryview) -> list[Recipe]:
    """Return the recipes of a frame, each checked by itself.

    Raises:
        ProtocolError, LimitError: they are not well formed, or too many.
    """
    recipes = decode(payload, _RECIPE_LIST)
    if len(recipes) > MAX_FRAME_RECIPES:
        raise LimitError(f"a frame of {len(recipes)} recipes is over {MAX_FRAME_RECIPES}")
    for recipe in recipes:
        check_recipe(recipe)
    return recipes


def decode_revision(payload: bytes | memoryview) -> int:
    """Return the revision of an end frame."""
    revision: int = decode(payload, Natural)
    return revision


def decode_entries(payload: bytes | memoryview) -> list[Entry]:
    """Return the entries of a frame of entries."""
    return decode(payload, _ENTRY_LIST)
