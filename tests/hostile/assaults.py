"""What a hostile client does, each by its name: with batches, with HTTP, several at once."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import socket
import threading
from collections.abc import Callable

import msgspec

from tests.e2e.wire import Answer, batch_frame, chunks_frame
from tests.hostile.attacker import Attacker, BrokenPromiseError
from tests.hostile.folder import compared, on_disk
from tests.hostile.mutations import mutate_value
from twinfold import protocol
from twinfold.model import Change, Chunk, MakeDirectory
from twinfold.protocol import FrameKind, Session, decode, encode

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def step(attacker: Attacker) -> None:
    """Do one thing, chosen at random; look at everything now and then."""
    name, act = attacker.random.choice(ACTS)
    attacker.acts.append(f"{name} in epoch {attacker.wire.epoch} after {attacker.committed}")
    act(attacker)
    attacker.counts[f"requests: {name}"] += 1
    if attacker.random.random() < 0.1:
        attacker.check()


def half_sent(attacker: Attacker) -> None:
    """The connection breaks somewhere in a request."""
    contents: list[bytes] = []
    changes = attacker.possible(contents)
    body = batch_frame(changes) + chunks_frame(contents)
    request = _raw(attacker, f"/v1/folders/main/batches/{attacker.committed + 1}", body)
    with socket.create_connection(("127.0.0.1", attacker.pair.port), 30) as connection:
        connection.sendall(request[: attacker.random.randrange(1, len(request))])
    attacker.begin_epoch()


def _raw(attacker: Attacker, path: str, body: bytes, *more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {attacker.pair.token}"]
    lines += [f"{protocol.EPOCH_HEADER}: {attacker.wire.epoch}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *more, "", ""]).encode() + body


def strange_http(attacker: Attacker) -> None:
    """Encodings, lengths and headers that lie about the body."""
    number = f"/v1/folders/main/batches/{attacker.committed + 1}"
    path = attacker.random.choice([number, "/v1/folders/main/session"])
    more = attacker.random.choice(
        [
            "Content-Encoding: gzip",
            "Content-Encoding: deflate",
            "Content-Encoding: br",
            "Content-Encoding: zstd",
            "Transfer-Encoding: chunked",
            "Expect: 100-continue",
            "Expect: nonsense",
            "Content-Type: multipart/form-data; boundary=x",
            "Content-Length: 5",
            "Upgrade: websocket",
        ]
    )
    body = attacker.random.choice(
        [b"", b"x" * 100, b"5\r\nabc", b"ffffffffffff\r\n", b"\x1f\x8b\x08\0"]
    )
    raw = _raw(attacker, path, body, more)
    if "chunked" in more:
        raw = raw.replace(f"Content-Length: {len(body)}\r\n".encode(), b"")
    if attacker.random.random() < 0.3:
        raw = raw + raw
    with socket.create_connection(("127.0.0.1", attacker.pair.port), 30) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        data = _received(connection)
    if data:
        attacker.judge(Answer(int(data.split(b" ", 2)[1]), b""))
    attacker.begin_epoch()


def strange_session(attacker: Attacker) -> None:
    value = msgspec.msgpack.decode(
        encode(protocol.OpenSession(1, b"x" * 16, b"y" * 16, "other", False))
    )
    try:
        body = encode(mutate_value(attacker.random, value))
    except (ValueError, TypeError, OverflowError):
        return
    answer = attacker.wire.request("POST", "/v1/folders/main/session", body)
    attacker.judge(answer)
    if answer.status == 200:
        decode(answer.body, Session)
    attacker.begin_epoch()


def bomb(attacker: Attacker) -> None:
    """A gigabyte of zeros in one frame, or in many; sizes absent, small or huge."""
    if not attacker.bomb:
        packer = zstd.ZstdCompressor(level=1)
        zeros = bytes(1 << 20)
        parts = [packer.compress(zeros) for _ in range(1024)]
        attacker.bomb = b"".join([*parts, packer.flush()])
    packed = attacker.random.choice(
        [attacker.bomb, zstd.compress(zstd.compress(bytes(1 << 20))) * 50]
    )
    size = attacker.random.choice([len(packed), len(packed) + 1, 1 << 22, 1 << 23, (1 << 32) - 1])
    kind = attacker.random.choice([FrameKind.BATCH, FrameKind.CHUNKS])
    head = encode([Chunk(bytes(32), 96 * 1024)]) if kind is FrameKind.CHUNKS else b""
    prefix = batch_frame([MakeDirectory(b"never", 0o755, 1)]) if head else b""
    frame = protocol._FRAME.pack(kind, 1, len(head), len(packed), size) + head + packed
    answer = attacker.wire.post(attacker.committed + 1, prefix + frame)
    attacker.judge(answer)
    if answer.status == 200:
        raise BrokenPromiseError("a bomb was taken")
    attacker.begin_epoch()


def at_once(attacker: Attacker) -> None:
    """The same number from several sides, with other changes each: one of them, whole."""
    bodies: list[tuple[list[Change], bytes]] = []
    for _ in range(attacker.random.choice([2, 4])):
        contents: list[bytes] = []
        changes = attacker.possible(contents)
        bodies.append((changes, batch_frame(changes) + chunks_frame(contents)))
    answers: list[Answer] = []
    number = attacker.committed + 1
    threads = [
        threading.Thread(target=lambda b=body: answers.append(attacker.wire.post(number, b)))
        for _, body in bodies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for answer in answers:
        attacker.judge(answer)
    found = on_disk(attacker.pair.dest)
    ways = [attacker.folder, *(attacker.folder.after(changes, set()) for changes, _ in bodies)]
    fitting = [way for way in ways if compared(way.nodes) == found]
    if not fitting:
        raise BrokenPromiseError("requests at once left what none of them asked for")
    attacker.folder = fitting[0]
    attacker.begin_epoch()


def pipelined(attacker: Attacker) -> None:
    """Two batches, the second one first."""
    first: list[bytes] = []
    changes = attacker.possible(first)
    if not changes:
        return
    number = attacker.committed + 1
    late: list[Answer] = []
    second: list[Change] = [MakeDirectory(b"b", 0o755, 1)]
    thread = threading.Thread(
        target=lambda: late.append(attacker.wire.post_batch(number + 1, second))
    )
    thread.start()
    attacker.offer(changes, batch_frame(changes) + chunks_frame(first), must=True)
    thread.join(120)
    if not late or late[0].status != 200:
        raise BrokenPromiseError(f"the batch after a good one was not taken: {late}")
    attacker.reconcile(second, late[0])


def strange_address(attacker: Attacker) -> None:
    """Addresses, methods and queries that mean nothing."""
    path = (
        attacker.random.choice(
            [
                "/v1/folders/main/events?wait=0",
                "/v1/folders/main/batches/%00",
                "/v1/folders/main/batches/\u0663",
                "/v1/folders/..%2f..%2fetc",
                "/v1/folders/main/entries?x=" + "y" * 3_000,
                "/" + "a" * 10_000,
                "//v1/hello",
                "/v1/hello?" + "&" * 500,
            ]
        )
        .encode()
        .decode("latin-1")
    )
    method = attacker.random.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {attacker.pair.token}"]
    raw = "\r\n".join([*lines, "", ""])
    with socket.create_connection(("127.0.0.1", attacker.pair.port), 30) as connection:
        connection.sendall(raw.encode("latin-1"))
        connection.shutdown(socket.SHUT_WR)
        data = _received(connection)
    if data:
        attacker.judge(Answer(int(data.split(b" ", 2)[1]), b""))


def _received(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    try:
        while data := connection.recv(1 << 16):
            parts.append(data)
    except ConnectionResetError:
        pass
    return b"".join(parts)


ACTS: list[tuple[str, Callable[[Attacker], None]]] = [
    ("valid", Attacker.valid),
    ("valid", Attacker.valid),
    ("valid", Attacker.valid),
    ("impossible", Attacker.impossible),
    ("strange path", Attacker.strange_path),
    ("strange path", Attacker.strange_path),
    ("values swapped", Attacker.spoilt_values),
    ("values swapped", Attacker.spoilt_values),
    ("bytes spoilt", Attacker.spoilt_bytes),
    ("bytes spoilt", Attacker.spoilt_bytes),
    ("chunks that lie", Attacker.lying_chunks),
    ("recipes that lie", Attacker.lying_recipes),
    ("recipe", Attacker.recipe),
    ("uploads that lie", Attacker.lying_uploads),
    ("upload", Attacker.upload),
    ("replayed", Attacker.replay),
    ("out of order", Attacker.out_of_order),
    ("stale epoch", Attacker.stale),
    ("half sent", half_sent),
    ("strange HTTP", strange_http),
    ("strange session", strange_session),
    ("bomb", bomb),
    ("at once", at_once),
    ("second first", pipelined),
    ("strange address", strange_address),
]
