"""What reads bytes from elsewhere, with valid examples and the one error that each may raise."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import asyncio
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol

from tests.e2e.wire import batch_frame, chunk, chunks_frame, put, recipes_frame
from twinfold import config, protocol
from twinfold.client import events as client_events
from twinfold.client.control import Control
from twinfold.client.ignore import IgnoreRules
from twinfold.client.place import place_of
from twinfold.client.tree import open_root
from twinfold.client.verify import Told
from twinfold.core.manifest import content_id, expand
from twinfold.core.recipes import follow_recipe
from twinfold.errors import ProtocolError, UsageError
from twinfold.model import (
    Change,
    Chunk,
    Copy,
    Delete,
    Entry,
    ExtendUpload,
    Kind,
    MakeDirectory,
    MakeSymlink,
    Move,
    Recipe,
    Run,
    SetAttributes,
)
from twinfold.protocol import Batch, BatchAnswer, FrameKind, encode, pack_frame
from twinfold.server.body import frames
from twinfold.server.receive import RecipeFrame
from twinfold.server.validate import check_changes


class BrokenPromiseError(AssertionError):
    """What was decoded is not what it should be."""


class Decoder(msgspec.Struct, frozen=True):
    """Reads bytes; raises ``error`` for what is not well formed, and nothing else, ever.

    ``seeds`` are valid; ``is_packed`` tells that they are msgpack.
    """

    name: str
    read: Callable[[bytes], None]
    seeds: list[bytes]
    error: type[Exception] | tuple[type[Exception], ...] = ProtocolError
    is_packed: bool = False


DATA = b"some content"
CHANGES: list[Change] = [
    put(b"folder/file", DATA),
    ExtendUpload(b"u" * 16, 0, b"b" * 32, [Run(0, 3, [chunk(DATA)]), Run(5, 1, [])], 10),
    MakeDirectory(b"folder", 0o755, 1),
    MakeSymlink(b"link", b"../target"),
    Move(b"a", b"b/c"),
    Delete(b"old"),
    SetAttributes(b"", 0o700, -5),
]
BASE = b"words of an old chunk"
RECIPE = Recipe(b"r" * 32, 14, [Chunk(b"b" * 32, len(BASE))], [4, Copy(0, 3, 10)], b"news")
_ENTRY = Entry(b"folder/file", Kind.FILE, 0o644, 1, len(DATA), chunk(DATA).id, b"")
_MESSAGES: list[msgspec.Struct] = [
    protocol.Hello("twinfold 1", [1], b"s" * 16),
    protocol.OpenSession(1, b"c" * 16, b"i" * 16, "name", True, [b"e" * 16]),
    protocol.Session(5, 7, 1, 100),
    Batch(CHANGES),
    BatchAnswer(7, [], [], [protocol.Refusal(0, "no", True, b"Other")]),
    BatchAnswer(None, [b"m" * 32], [b"b" * 32]),
    protocol.Events(7),
    protocol.Progress(1, 2),
    protocol.ErrorAnswer("owned", "it is another's"),
]


def _check_recipes(frame: RecipeFrame) -> None:
    """Whatever was let in builds just what it says, or nothing, out of any bytes."""
    for recipe in frame.recipes:
        built = follow_recipe(recipe, [bytes(base.size) for base in recipe.bases])
        if built is not None and len(built) != recipe.size:
            raise BrokenPromiseError("a recipe builds more or less than it says")


class Decoders:
    """All decoders; those that need a folder, a loop or a socket have them in this block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runner = asyncio.Runner()
        self._stack = ExitStack()
        self._unhandled: list[dict[str, Any]] = []

    def __enter__(self) -> list[Decoder]:
        self._stack.enter_context(self._runner)
        self._runner.get_loop().set_exception_handler(
            lambda _loop, context: self._unhandled.append(context)
        )
        return [*_messages(), *_frames(), self._bodies(), *_settings(), *self._local()]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _bodies(self) -> Decoder:
        async def read(data: bytes) -> None:
            loop = asyncio.get_running_loop()
            content = StreamReader(BaseProtocol(loop), 1 << 20, loop=loop)
            half = len(data) // 2
            content.feed_data(data[:half])
            content.feed_data(data[half:])
            content.feed_eof()
            async for frame in frames(content):
                if isinstance(frame, Batch):
                    check_changes(frame.changes)
                elif isinstance(frame, RecipeFrame):
                    _check_recipes(frame)
                elif [one.size for one in frame.chunks] != [len(data) for data in frame.contents]:
                    raise BrokenPromiseError("the chunks are not as long as they are said to be")

        zeros = bytes(64 * 1024)
        packed = pack_frame(FrameKind.CHUNKS, encode([chunk(zeros)]), [zeros], 3)
        seeds = [batch_frame(CHANGES) + chunks_frame([DATA]), batch_frame(CHANGES, 3) + packed]
        seeds.append(batch_frame(CHANGES) + recipes_frame([RECIPE]))
        return Decoder("request body", lambda data: self._runner.run(read(data)), seeds)

    def _local(self) -> Iterator[Decoder]:
        source = self._folder / "source"
        source.mkdir()
        root = self._stack.enter_context(open_root(bytes(source)))

        def ignore(data: bytes) -> None:
            (source / ".twinfoldignore").write_bytes(data)
            rules = IgnoreRules(["*.tmp"])
            rules.reload(root)
            for path in (b"a", b"build/out.o", b"\xff/x"):
                rules.keeps(path, False)

        patterns = [b"*.o\n!keep.o\n/build/\n# comment\n", b"a/**/b\n[a-z]?\n\\#x\n**/foo/*\n"]
        yield Decoder("ignore file", ignore, patterns, ())
        # Not below the folder: the path of a socket has to be short.
        state = self._stack.enter_context(tempfile.TemporaryDirectory())
        place = place_of(Path(state), b"source")
        place.folder.mkdir(parents=True)

        async def ask(data: bytes) -> None:
            before = len(self._unhandled)
            async with Control(place) as control:
                answering = asyncio.create_task(_settle_at_once(control))
                reader, writer = await asyncio.open_unix_connection(place.control_socket)
                writer.write(data)
                writer.write_eof()
                async with asyncio.timeout(10):
                    await reader.read()
                writer.close()
                answering.cancel()
            await asyncio.sleep(0)
            if len(self._unhandled) > before:
                error = self._unhandled[-1].get("exception")
                raise BrokenPromiseError(f"the control socket's handler failed: {error!r}")

        questions = [
            b'{"op":"status"}\n',
            b'{"op":"wait","timeout_s":0.0}\n',
            b'{"op":"release","deletions":5,"secret":""}\n',
        ]
        yield Decoder(
            "control socket", lambda data: self._runner.run(ask(data)), questions, OSError
        )


class _Calm:
    """A client with nothing to do."""

    def __init__(self) -> None:
        self._status = client_events.Status(
            "source", "url", 1, "live", "", 0, 0, 0, 0, [], None, True
        )

    def status(self) -> client_events.Status:
        return self._status

    async def release(self, deletions: int) -> bool:
        return deletions >= 0

    async def verify(self, told: Told) -> client_events.Verified:
        del told
        return client_events.Verified(self._status, [], 0, 0, 0.0)


async def _settle_at_once(control: Control) -> None:
    with control.answered_by(_Calm()):
        while True:
            await control.waiters.asked.wait()
            control.waiters.asked.clear()
            control.waiters.begin_cycle()
            control.waiters.end_cycle(is_settling=False, is_equal=True)


def _messages() -> Iterator[Decoder]:
    for kind in {type(message) for message in _MESSAGES}:

        def read(data: bytes, kind: type[Any] = kind) -> None:
            message = protocol.decode(data, kind)
            if protocol.decode(encode(message), kind) != message:
                raise BrokenPromiseError("what was decoded does not survive another way")
            if isinstance(message, Batch):
                check_changes(message.changes)

        seeds = [encode(message) for message in _MESSAGES if type(message) is kind]
        yield Decoder(f"message {kind.__name__}", read, seeds, is_packed=True)
    yield Decoder(
        "differences",
        lambda data: _still(protocol.decode(data, list[protocol.Difference])),
        [encode([protocol.Difference(b"a", ["content"])])],
        is_packed=True,
    )
    yield Decoder(
        "entries",
        lambda data: _again(protocol.decode_entries(data)),
        [encode([_ENTRY])],
        is_packed=True,
    )
    yield Decoder(
        "runs", _expand, [encode([Run(0, 2, [chunk(DATA)]), Run(9, 1, [])])], is_packed=True
    )


def _still(differences: list[protocol.Difference]) -> None:
    if protocol.decode(encode(differences), list[protocol.Difference]) != differences:
        raise BrokenPromiseError("differences do not survive another way")


def _again(entries: list[Entry]) -> None:
    if protocol.decode_entries(encode(entries)) != entries:
        raise BrokenPromiseError("entries do not survive another way")


def _expand(data: bytes) -> None:
    base = [Chunk(bytes([number]) * 32, number + 1) for number in range(10)]
    try:
        runs = msgspec.msgpack.decode(data, type=list[Run])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ProtocolError(str(error)) from error
    check_changes([ExtendUpload(b"u" * 16, 0, b"b" * 32, runs)])
    content_id(expand(runs, lambda start, count: base[start : start + count]))


def _frames() -> Iterator[Decoder]:
    whole = [batch_frame(CHANGES), batch_frame(CHANGES * 20, 3), chunks_frame([DATA, DATA])]
    size = protocol.FRAME_HEAD_BYTES

    def read(data: bytes) -> None:
        head = protocol.parse_frame_head(data[:size].ljust(size, b"\0"))
        end = size + head.head_bytes
        payload = protocol.unpack_payload(head, data[end : end + head.packed_bytes])
        if head.codec is not protocol.Codec.PLAIN and len(payload) != head.size_bytes:
            raise BrokenPromiseError("a payload has not the size that was announced")

    yield Decoder("frame", read, whole)

    def chunk_list(data: bytes) -> None:
        chunks = protocol.decode_chunk_list(data, len(DATA))
        if sum(one.size for one in chunks) != len(DATA) or min(one.size for one in chunks) < 1:
            raise BrokenPromiseError("the chunks do not add up")

    yield Decoder("chunk list", chunk_list, [encode([chunk(DATA)])], is_packed=True)

    def recipes(data: bytes) -> None:
        _check_recipes(RecipeFrame(protocol.decode_recipes(data)))

    yield Decoder("recipes", recipes, [encode([RECIPE, RECIPE])], is_packed=True)


def _settings() -> Iterator[Decoder]:
    forms: dict[str, tuple[Callable[[str], Any], list[str]]] = {
        "listen": (config.parse_listen, ["127.0.0.1:8730", "[::1]:0", "host:1"]),
        "duration": (config.parse_duration, ["30d", "0", "12h"]),
        "timeout": (config.parse_timeout, ["30", "0.5"]),
        "rate": (config.parse_rate, ["10M", "500K", "1.5G"]),
        "max-delete": (config.parse_max_delete, ["5000", "80%"]),
        "compress": (config.parse_compress, ["auto", "off", "19"]),
        "token": (config.check_token, ["secret-Token_1"]),
    }
    for name, (parse, examples) in forms.items():

        def read(data: bytes, parse: Callable[[str], Any] = parse) -> None:
            parse(data.decode("utf-8", "surrogateescape"))

        yield Decoder(f"setting {name}", read, [text.encode() for text in examples], UsageError)
    invites = [
        "twinfold://token@127.0.0.1:8730",
        "twinfold://t%2Fken@[2001:db8::1]:1#sha256-" + "ab" * 32,
        "https://token@host.example:443",
        "http://x@localhost:80",
    ]
    yield Decoder("invite", _invite, [text.encode() for text in invites], UsageError)


def _invite(data: bytes) -> None:
    address = config.parse_server(data.decode("utf-8", "surrogateescape"))
    if config.parse_server(address.invite) != address:
        raise BrokenPromiseError(f"the invite {address.invite!r} leads elsewhere")


def inotify_records(events: list[tuple[int, int, int, bytes]]) -> bytes:
    """Return what the kernel writes for these events."""
    parts = []
    for wd, mask, cookie, name in events:
        padded = name + bytes(-len(name) % 16 or 16) if name else b""
        parts.append(struct.pack("iIII", wd, mask, cookie, len(padded)) + padded)
    return b"".join(parts)
