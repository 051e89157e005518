"""Judging a batch from the wire before anything of it is used."""

from __future__ import annotations

from collections.abc import Sequence, Set

from twinfold import protocol
from twinfold.core.manifest import content_id
from twinfold.core.paths import (
    check_path,
    check_path_or_root,
    display,
    is_surely_sound,
    is_within,
    split,
)
from twinfold.errors import LimitError, ProtocolError
from twinfold.model import (
    CHUNK_ID_SIZE_BYTES,
    PERMISSION_BITS,
    UPLOAD_ID_SIZE_BYTES,
    Change,
    Chunk,
    Delete,
    ExtendUpload,
    MakeDirectory,
    MakeSymlink,
    Move,
    PutFile,
    SetAttributes,
)

_MAX_TARGET_BYTES = 4_095
_MAX_SIZE_BYTES = 1 << 62
_INT64 = range(-(1 << 63), 1 << 63)


def check_changes(changes: Sequence[Change]) -> None:
    """Pass if every change is well formed and within the limits.

    Raises:
        PathRefusedError, LimitError, ProtocolError: the first thing that is not.
    """
    if not 0 < len(changes) <= protocol.MAX_BATCH_CHANGES:
        raise LimitError(
            f"a batch of {len(changes)} changes is not 1..{protocol.MAX_BATCH_CHANGES}"
        )
    chunks = 0
    sound: set[bytes] = set()
    for change in changes:
        if isinstance(change, PutFile) and _is_surely_sound(change, sound):
            chunks += 1
            continue
        chunks += _check_change(change)
        if isinstance(change, PutFile):
            sound.add(split(change.path)[0])
        elif isinstance(change, MakeDirectory):
            sound.add(change.path)
    if chunks > protocol.MAX_BATCH_CHUNKS:
        raise LimitError(f"a batch of {chunks} chunks is over {protocol.MAX_BATCH_CHUNKS}")


def _is_surely_sound(change: PutFile, sound: Set[bytes]) -> bool:
    """Tell at first sight that `_check_change` passes a file of one chunk, as most are.

    ``sound`` are directories whose paths were checked. False says nothing.
    """
    if len(change.chunks) != 1 or change.upload:
        return False
    chunk = change.chunks[0]
    return (
        chunk.id == change.content
        and len(chunk.id) == CHUNK_ID_SIZE_BYTES
        and chunk.size == change.size
        and 0 < chunk.size <= protocol.MAX_CHUNK_BYTES
        and 0 <= change.mode <= PERMISSION_BITS
        and 0 <= change.mtime_ns < _INT64.stop
        and is_surely_sound(change.path, sound)
    )


def _check_change(change: Change) -> int:
    """Check one change; return how many chunks it names."""
    if isinstance(change, PutFile):
        check_path(change.path)
        _check_attributes(change.mode, change.mtime_ns)
        return _check_content(change)
    if isinstance(change, ExtendUpload):
        return _check_extension(change)
    if isinstance(change, SetAttributes):
        check_path_or_root(change.path)
        _check_attributes(change.mode, change.mtime_ns)
        return 0
    check_path(change.path)
    if isinstance(change, MakeDirectory):
        _check_attributes(change.mode, change.mtime_ns)
    elif isinstance(change, MakeSymlink):
        if not 0 < len(change.target) <= _MAX_TARGET_BYTES or b"\0" in change.target:
            raise ProtocolError(f"the symlink {display(change.path)} has an impossible target")
    elif isinstance(change, Move):
        check_path(change.source)
        if is_within(change.path, change.source):
            raise ProtocolError(f"{display(change.source)} cannot be moved into itself")
    else:
        assert isinstance(change, Delete)
    return 0


def _check_attributes(mode: int, mtime_ns: int) -> None:
    if mode & ~PERMISSION_BITS or mode < 0:
        raise ProtocolError(f"mode {mode:o} has bits other than 0777")
    if mtime_ns not in _INT64:
        raise ProtocolError("an mtime does not fit in 64 bits")


def _check_content(change: PutFile) -> int:
    if len(change.content) != CHUNK_ID_SIZE_BYTES or not 0 <= change.size <= _MAX_SIZE_BYTES:
        raise ProtocolError(f"{display(change.path)} has no proper content id or size")
    if change.upload:
        if len(change.upload) != UPLOAD_ID_SIZE_BYTES or change.chunks:
            raise ProtocolError(f"{display(change.path)} has no proper upload id")
        return 0
    _check_chunks(change.chunks)
    if sum(chunk.size for chunk in change.chunks) != change.size:
        raise ProtocolError(f"the chunks of {display(change.path)} do not add up to its size", 422)
    if content_id(change.chunks) != change.content:
        raise ProtocolError(f"{display(change.path)} has another content id than its chunks", 422)
    return len(change.chunks)


def _check_extension(change: ExtendUpload) -> int:
    if len(change.upload) != UPLOAD_ID_SIZE_BYTES or not 0 <= change.offset <= _MAX_SIZE_BYTES:
        raise ProtocolError("an upload has no proper id or offset")
    if change.base and len(change.base) != CHUNK_ID_SIZE_BYTES:
        raise ProtocolError("an upload's base has no proper content id")
    kept = 0
    for run in change.runs:
        if not run.keep_count and not run.chunks:
            raise ProtocolError("an upload has an empty run")
        _check_chunks(run.chunks)
        if not (0 <= run.keep_start <= _MAX_SIZE_BYTES and run.keep_count >= 0):
            raise ProtocolError("an upload keeps an impossible stretch of its base")
        kept += run.keep_count
        if kept > protocol.MAX_BATCH_CHUNKS:
            raise LimitError(f"an upload keeps over {protocol.MAX_BATCH_CHUNKS} chunks at once")
    if kept and not change.base:
        raise ProtocolError("an upload keeps chunks of no base")
    return kept + sum(len(run.chunks) for run in change.runs)


def _check_chunks(chunks: Sequence[Chunk]) -> None:
    for chunk in chunks:
        if len(chunk.id) != CHUNK_ID_SIZE_BYTES:
            raise ProtocolError("a chunk id is not of 32 bytes")
        if not 0 < chunk.size <= protocol.MAX_CHUNK_BYTES:
            raise LimitError(f"a chunk of {chunk.size} bytes is not 1..{protocol.MAX_CHUNK_BYTES}")
