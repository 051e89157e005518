"""A client that has the token and means ill: what it sends, and what has become of the server."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import random
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.e2e.harness import Pair
from tests.e2e.trees import Node
from tests.e2e.wire import Answer, Wire, batch_frame, chunk, chunks_frame, recipes_frame
from tests.hostile.folder import Canary, Folder, ImpossibleError, compared, on_disk
from tests.hostile.mutations import EXTREMES, NAMES, mutate_bytes, mutate_value
from twinfold import protocol
from twinfold.core.manifest import content_id
from twinfold.errors import ProtocolError
from twinfold.model import (
    Change,
    Chunk,
    Copy,
    Delete,
    ExtendUpload,
    MakeDirectory,
    MakeSymlink,
    Move,
    PutFile,
    Recipe,
    Run,
    SetAttributes,
)
from twinfold.protocol import (
    BatchAnswer,
    ErrorAnswer,
    FrameKind,
    decode,
    encode,
    pack_frame,
)

if sys.version_info >= (3, 14):
    pass
else:
    pass

MOST_MEMORY_BYTES = 300 << 20
HELLO_LIMIT_S = 5.0
_PATHS = [b"a", b"b", b"\xff", b"a/a", b"a/b", b"b/a", b"a/b/a", b"b/b"]
_CLIENT = b"attacker" * 2
_ALLOWED = {100, 200, 400, 401, 404, 405, 408, 409, 411, 413, 417, 422, 426, 429}


class BrokenPromiseError(AssertionError):
    """The server did what it must not do."""


class Attacker:
    """A server, and a sequence of requests that one seed decides."""

    def __init__(self, seed: int, base: Path) -> None:
        self.random = random.Random(seed)
        self.pair = Pair(base)
        self.canary = Canary(base / "outside")
        self.pair.start_server()
        self.wire = Wire(self.pair.port, self.pair.token)
        self.known: dict[bytes, bytes] = {}
        self.folder = Folder(self.known)
        self.committed = self.instance = 0
        self.counts: Counter[str] = Counter()
        self.acts: list[str] = []
        self.bomb = b""
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Open a session anew: whatever was pending is dropped."""
        self.instance += 1
        answer = self.wire.open_session(_CLIENT, self.instance.to_bytes(16, "big"))
        if answer.status != 200:
            raise BrokenPromiseError(f"no session: {answer}")
        self.committed = 0
        # What an upload has of parts that were never committed is the server's affair.
        self.folder.uploads.clear()

    def check(self) -> None:
        """Compare everything with what has to be."""
        found, expected = on_disk(self.pair.dest), compared(self.folder.nodes)
        if found != expected:
            raise BrokenPromiseError(f"the destination has {found}, not {expected}")
        self.canary.check()
        self._check_entries(expected)
        began_s = time.monotonic()
        status = self.wire.request("GET", "/v1/hello").status
        took_s = time.monotonic() - began_s
        if status != 200 or took_s > HELLO_LIMIT_S:
            raise BrokenPromiseError(f"hello: {status} after {took_s:.1f} s")
        memory_bytes = self.pair.server.peak_memory_bytes()
        if memory_bytes > MOST_MEMORY_BYTES:
            raise BrokenPromiseError(f"the server took {memory_bytes >> 20} MiB")
        for word in ("Traceback", "Unhandled", "Error handling"):
            if word in self.pair.server.errors:
                raise BrokenPromiseError(self.pair.server.errors[-4_000:])
        self.counts["checks of the destination"] += 1

    def _check_entries(self, expected: dict[bytes, Node]) -> None:
        """The server tells the same of itself."""
        rest = self.wire.request("GET", "/v1/folders/main/entries").body
        told: dict[bytes, str] = {}
        while rest:
            head = protocol.parse_frame_head(rest[: protocol.FRAME_HEAD_BYTES])
            begin = protocol.FRAME_HEAD_BYTES + head.head_bytes
            payload = protocol.unpack_payload(head, rest[begin : begin + head.packed_bytes])
            rest = rest[begin + head.packed_bytes :]
            if head.kind is FrameKind.ENTRIES:
                entries = protocol.decode_entries(payload)
                told |= {entry.path: entry.kind.name.lower() for entry in entries if entry.path}
        if told != {path: node.kind for path, node in expected.items()}:
            raise BrokenPromiseError(f"the server says that it has {told}, not {expected}")

    def judge(self, answer: Answer) -> None:
        """Check the form of an answer."""
        self.counts[f"answers of {answer.status}"] += 1
        if answer.status not in _ALLOWED:
            raise BrokenPromiseError(f"answered {answer}")
        if answer.status in (400, 401, 408, 409, 413, 422, 426, 429) and answer.body[:1] == b"\x82":
            reason = decode(answer.body, ErrorAnswer).reason
            if not reason.strip() or "\n" in reason:
                raise BrokenPromiseError(f"no reason in one line: {answer}")

    def offer(self, changes: Sequence[Change], body: bytes, *, must: bool = False) -> None:
        """Post a batch and follow what becomes of it; ``must`` be taken if it is possible."""
        answer = self.wire.post(self.committed + 1, body)
        self.judge(answer)
        done = decode(answer.body, BatchAnswer) if answer.status == 200 else BatchAnswer()
        try:
            after = self.folder.after(changes, {refusal.index for refusal in done.refused})
        except ImpossibleError:
            if done.revision is not None:
                raise BrokenPromiseError(f"a batch was taken that cannot be: {changes}") from None
            self.begin_epoch()
            return
        if done.revision is not None:
            self.folder = after
            self.committed += 1
            self.counts["batches that were taken"] += 1
        elif must:
            raise BrokenPromiseError(f"a valid batch was not taken: {answer} {changes}")
        else:
            self.begin_epoch()

    def content(self) -> bytes:
        """Return some bytes that exist from now on."""
        size = self.random.choice([1, 10, 100, 5_000])
        data = self.random.randbytes(4) * size
        self.known[chunk(data).id] = data
        return data

    def change(self, contents: list[bytes], path: bytes | None = None) -> Change:
        """Return a well formed change, possible or not; what it needs is added to ``contents``."""
        random_ = self.random
        path = random_.choice(_PATHS) if path is None else path
        mode, mtime_ns = random_.choice([0o644, 0o755, 0o700]), random_.randrange(1 << 60)
        kind = random_.randrange(8)
        if kind <= 2:
            data = [self.content() for _ in range(random_.choice([0, 1, 1, 2]))]
            contents += data
            chunks = [chunk(one) for one in data]
            size = sum(map(len, data))
            return PutFile(path, mode, mtime_ns, size, content_id(chunks), chunks)
        if kind == 3:
            return MakeDirectory(path, 0o755, mtime_ns)
        if kind == 4:
            target = random_.choice([b"../outside", bytes(self.canary.folder), b"a", b"/", b".."])
            return MakeSymlink(path, target)
        if kind == 5:
            return Delete(path)
        if kind == 6:
            return SetAttributes(path, mode | 0o700, mtime_ns)
        source = random_.choice(_PATHS)
        apart = not (source + b"/").startswith(path + b"/") and not path.startswith(source + b"/")
        return Move(source, path) if apart else Delete(path)

    def possible(self, contents: list[bytes]) -> list[Change]:
        """Return some changes that can be done one after the other."""
        folder, changes = self.folder, list[Change]()
        wanted = self.random.choice([1, 1, 3, 8])
        for _ in range(60):
            change = self.change(contents)
            try:
                folder = folder.after([change], set())
            except ImpossibleError:
                continue
            changes.append(change)
            if len(changes) == wanted:
                break
        return changes

    def valid(self) -> None:
        contents: list[bytes] = []
        changes = self.possible(contents)
        if changes:
            level = self.random.choice([None, 3])
            body = batch_frame(changes, level) + chunks_frame(contents)
            self.offer(changes, body, must=True)

    def impossible(self) -> None:
        contents: list[bytes] = []
        changes = [self.change(contents) for _ in range(self.random.choice([1, 2, 5]))]
        self.offer(changes, batch_frame(changes) + chunks_frame(contents))

    def strange_path(self) -> None:
        contents: list[bytes] = []
        strange = self.random.choice(
            [*NAMES, bytes(self.canary.folder / "a"), b"a/../../outside/a"]
        )
        changes = [*self.possible(contents), self.change(contents, strange)]
        if self.random.random() < 0.2:
            changes[-1] = Move(self.random.choice(NAMES), b"a")
        self.offer(changes, batch_frame(changes) + chunks_frame(contents))

    def reconcile(self, changes: Sequence[Change], answer: Answer) -> None:
        """Follow a batch that was posted already."""
        done = decode(answer.body, BatchAnswer) if answer.status == 200 else BatchAnswer()
        if done.revision is None:
            self.begin_epoch()
            return
        self.folder = self.folder.after(changes, {refusal.index for refusal in done.refused})
        self.committed += 1

    def spoilt_values(self) -> None:
        """One value of a change is another one: type, extreme number, strange name."""
        contents: list[bytes] = []
        changes = self.possible(contents)
        value = msgspec.msgpack.decode(encode(protocol.Batch(changes)))
        try:
            packed = encode(mutate_value(self.random, value))
        except (ValueError, TypeError, OverflowError):
            return
        self._offer_raw(pack_frame(FrameKind.BATCH, b"", [packed], None), contents)

    def spoilt_bytes(self) -> None:
        contents: list[bytes] = []
        changes = self.possible(contents)
        body = batch_frame(changes) + chunks_frame(contents)
        self._offer_raw(mutate_bytes(self.random, body, [body]), [])

    def _offer_raw(self, body: bytes, contents: list[bytes]) -> None:
        body += chunks_frame(contents) if contents else b""
        try:
            changes = _read_back(body)
        except (ProtocolError, ValueError):
            changes = None
        if changes is None:
            answer = self.wire.post(self.committed + 1, body)
            self.judge(answer)
            if answer.status == 200 and decode(answer.body, BatchAnswer).revision is not None:
                raise BrokenPromiseError(f"a batch was taken that cannot be read: {body!r}")
            self.begin_epoch()
        else:
            self.offer(changes, body)

    def lying_chunks(self) -> None:
        """The chunks are not what they are said to be."""
        data = self.random.randbytes(50)
        self.known.pop(chunk(data).id, None)
        path = self.random.choice(_PATHS[:3])
        if self.random.random() < 0.5:
            # Of the right length, but other bytes: never to be believed.
            change = PutFile(path, 0o644, 1, 50, chunk(data).id, [chunk(data)])
            body = chunks_frame([bytes(50)], [chunk(data)])
        else:
            chunks = [chunk(data), Chunk(self.random.randbytes(32), self.random.choice([1, 50]))]
            size = sum(one.size for one in chunks)
            change = PutFile(path, 0o644, 1, size, content_id(chunks), chunks)
            body = chunks_frame([data, bytes(chunks[1].size)], chunks)
        self.offer([change], batch_frame([change]) + body)

    def lying_recipes(self) -> None:
        """Recipes out of what is there and what is not: whatever they build has to hash right."""
        random_ = self.random
        if random_.random() < 0.5:
            # All is right but the result: never to be believed.
            data = random_.randbytes(50)
            self.known.pop(chunk(data).id, None)
            change = PutFile(
                random_.choice(_PATHS[:3]), 0o644, 1, 50, chunk(data).id, [chunk(data)]
            )
            lie = Recipe(chunk(data).id, 50, [], [50], bytes(50))
            self.offer([change], batch_frame([change]) + recipes_frame([lie]))
            return
        data = self.content()
        old = random_.choice(list(self.known.values()))
        base = Chunk(chunk(old).id, random_.choice([len(old), 1, protocol.MAX_CHUNK_BYTES]))
        parts: list[int | Copy] = [
            Copy(
                random_.choice([0, 0, 0, 1]),
                random_.choice([0, 0, 1, len(old), *EXTREMES]),
                random_.choice([len(data), len(old), 1, *EXTREMES]),
            )
        ]
        if random_.random() < 0.5:
            parts.append(random_.choice([1, len(data), *EXTREMES]))
        literal = random_.choice([b"", data, data[:1], random_.randbytes(30)])
        recipe = Recipe(chunk(data).id, len(data), [base], parts, literal)
        change = PutFile(random_.choice(_PATHS[:3]), 0o644, 1, len(data), recipe.id, [chunk(data)])
        try:
            body = batch_frame([change]) + recipes_frame([recipe] * random_.choice([1, 300]))
        except OverflowError:
            return
        self.offer([change], body)

    def recipe(self) -> None:
        """A recipe that is as it should be, out of what was just sent."""
        old, new = self.content() + b"old", self.content()
        data = new + old
        self.known |= {chunk(one).id: one for one in (old, data)}
        first = PutFile(b"b", 0o644, 1, len(old), chunk(old).id, [chunk(old)])
        self.offer([first], batch_frame([first]) + chunks_frame([old]), must=True)
        change = PutFile(b"b", 0o644, 1, len(data), chunk(data).id, [chunk(data)])
        parts: list[int | Copy] = [len(new), Copy(0, 0, len(old))]
        recipe = Recipe(chunk(data).id, len(data), [chunk(old)], parts, new)
        self.offer([change], batch_frame([change]) + recipes_frame([recipe]), must=True)

    def lying_uploads(self) -> None:
        """Uploads, bases, offsets and lengths that do not exist."""
        random_ = self.random
        data = self.content()
        upload = random_.choice([b"u" * 16, b"v" * 16])
        runs = [
            Run(random_.choice(EXTREMES), random_.choice(EXTREMES), []),
            Run(0, 0, [chunk(data)]),
        ]
        ways: list[Change] = [
            ExtendUpload(upload, random_.choice(EXTREMES), b"", runs[1:]),
            ExtendUpload(upload, 0, random_.choice([b"", b"b" * 32]), runs),
            PutFile(b"a", 0o644, 1, random_.choice(EXTREMES), b"c" * 32, [], upload),
            ExtendUpload(upload, 0, b"", runs[1:], random_.choice(EXTREMES)),
        ]
        changes = [random_.choice(ways)]
        try:
            body = batch_frame(changes) + chunks_frame([data])
        except OverflowError:
            return
        self.offer(changes, body)

    def upload(self) -> None:
        """An upload that is as it should be."""
        name, parts = self.random.randbytes(16), [self.content(), self.content()]
        changes: list[Change] = []
        offset = 0
        for data in parts:
            changes.append(ExtendUpload(name, offset, b"", [Run(0, 0, [chunk(data)])]))
            offset += len(data)
        content = content_id([chunk(data) for data in parts])
        changes.append(PutFile(b"b", 0o644, 1, offset, content, [], name))
        self.offer(changes, batch_frame(changes) + chunks_frame(parts), must=True)

    def replay(self) -> None:
        """A number that was committed says what it said, whatever comes with it."""
        if self.committed:
            number = self.random.randint(1, self.committed)
            self.judge(self.wire.post_batch(number, [Delete(b"a")]))

    def out_of_order(self) -> None:
        beyond = self.committed + self.random.choice([9, 50, 1 << 40])
        number = self.random.choice([0, beyond, 1 << 62])
        answer = self.wire.post_batch(number, [MakeDirectory(b"never", 0o755, 1)])
        self.judge(answer)
        if answer.status == 200:
            raise BrokenPromiseError(f"batch {number} was taken out of order")

    def stale(self) -> None:
        """Of an earlier epoch, one that never was, or none at all."""
        right = self.wire.epoch
        self.wire.epoch = self.random.choice([right - 1, right + 1, 0, *EXTREMES])
        answer = self.wire.post_batch(self.committed + 1, [MakeDirectory(b"never", 0o755, 1)])
        self.wire.epoch, taken = right, self.wire.epoch != right
        self.judge(answer)
        if answer.status == 200 and taken:
            raise BrokenPromiseError("a batch of another epoch was taken")


def _read_back(body: bytes) -> list[Change]:
    """Return the changes that a body announces.

    Raises:
        ProtocolError, ValueError: it does not.
    """
    size = protocol.FRAME_HEAD_BYTES
    if len(body) < size:
        raise ValueError("there is no frame")
    head = protocol.parse_frame_head(body[:size])
    packed = body[size + head.head_bytes :][: head.packed_bytes]
    if head.kind is not FrameKind.BATCH or len(packed) != head.packed_bytes:
        raise ValueError("there is no batch")
    return decode(protocol.unpack_payload(head, packed), protocol.Batch).changes
