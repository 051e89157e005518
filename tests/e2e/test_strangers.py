"""Who does not have the token learns nothing, and keeps nobody from the server."""

from __future__ import annotations

import re
import socket
import ssl
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from tests.e2e.harness import LIMIT_S, Pair, run
from tests.e2e.trees import make_small_files
from tests.e2e.wire import Wire
from twinfold.protocol import (
    DIGEST_BYTES,
    MAX_BATCH_HEADER_BYTES,
    Codec,
    FrameHead,
    FrameKind,
    frame_digest,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.process

IDLE_CONNECTIONS = 400


def connect(pair: Pair) -> socket.socket:
    return socket.create_connection(("127.0.0.1", pair.port), timeout=LIMIT_S)


def test_many_idle_connections_keep_nobody_out(pair: Pair) -> None:
    """The oldest have to go; a client that is at work, and a new one, are served."""
    pair.start()
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(pair)) for _ in range(IDLE_CONNECTIONS)]
        idle[0].settimeout(LIMIT_S)
        assert idle[0].recv(1) == b""
        make_small_files(pair.source / "many", 50)
        pair.settle()
        pair.client.terminate()
        (pair.source / "later").write_bytes(b"later")
        pair.sync()


GARBAGE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "a long line": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "a long header": b"GET /v1/hello HTTP/1.1\r\nHost: " + b"x" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 10_000 + b"\r\n",
    "a bad header": b"GET /v1/hello HTTP/1.1\r\nHost x\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "a length that is none": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "bad chunks": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a line alone": b"\r\n" * 1_000,
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_rubbish_in_place_of_a_request(pair: Pair, data: bytes) -> None:
    """It is refused or cut off; the server says nothing and goes on."""
    pair.start_server()
    for _ in range(3):
        with connect(pair) as stranger:
            try:
                stranger.sendall(data)
                stranger.shutdown(socket.SHUT_WR)
                answer = stranger.recv(65_536)
            except ConnectionError:
                continue
            assert b" 200 " not in answer
            assert b"Traceback" not in answer
    assert Wire(pair.port, pair.token).request("GET", "/v1/hello").status == 200
    assert pair.server.errors == ""


def test_bombs_take_no_memory(pair: Pair) -> None:
    """What unpacks to more than it says is dropped before it is unpacked."""
    pair.start_server()
    wire = Wire(pair.port, pair.token)
    assert wire.open_session().status == 200
    before = pair.server.peak_memory_bytes()
    packed = zstd.compress(bytes(1 << 30), 3)
    size_bytes = MAX_BATCH_HEADER_BYTES
    head = FrameHead(FrameKind.BATCH, Codec.ZSTD, DIGEST_BYTES, len(packed), size_bytes)
    digest = frame_digest(head, [packed])
    announced = struct.pack("<BBIII", *msgspec.structs.astuple(head))
    for _ in range(5):
        answer = wire.post(1, announced + digest + packed)
        assert answer.status == 400
    assert pair.server.peak_memory_bytes() - before < 8 * MAX_BATCH_HEADER_BYTES


def files_below(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file() and path.exists())


def test_the_token_stands_in_private_files_only(pair: Pair) -> None:
    """No log holds it, only files of the user's own do; it is shown where the server invites."""
    (pair.source / "file").write_bytes(b"file")
    pair.start()
    pair.settle()
    wrong = Wire(pair.port, f"{pair.token}x")
    assert wrong.request("GET", "/v1/hello").status == 401
    shown = [run("status", *words, state=pair.client_state) for words in ([], ["--json"])]
    token = pair.token.encode()
    holders = [path for path in files_below(pair.base) if token in path.read_bytes()]
    assert {path.name for path in holders} >= {"server.json"}
    private = [
        pair.dest / ".twinfold",
        pair.server_state / "servers",
        pair.client_state / "clients",
    ]
    for path in holders:
        assert any(path.is_relative_to(folder) for folder in private), path
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    told = [str(event) for event in pair.client.events()]
    told += [result.out + result.err for result in shown]
    told += [pair.client.errors, pair.server.errors]
    told += [str(event) for event in pair.server.events() if event["event"] != "listening"]
    assert not [text for text in told if pair.token in text]


def test_a_token_that_is_revoked_ends_a_live_client(pair: Pair) -> None:
    """A server that is started with another token lets nobody in who has the old one."""
    (pair.source / "file").write_bytes(b"file")
    pair.start()
    pair.server.terminate()
    old = pair.invite
    pair.restart_server("--token", "another")
    (pair.source / "later").write_bytes(b"later")
    assert pair.client.wait_exit() == 1
    (line,) = pair.client.errors.splitlines()
    assert "token" in line
    assert "revoked" in line
    assert not (pair.dest / "later").exists()
    assert pair.invite != old
    pair.sync()


def test_a_server_says_its_invite_again(pair: Pair) -> None:
    """At each start the same one, as long as address and token are the same."""
    pair.start_server()
    first = pair.invite
    pair.server.terminate()
    pair.restart_server()
    assert pair.invite == first


def test_connections_that_end_in_their_handshake_keep_nobody_out(pair: Pair) -> None:
    """Nor those that come through it and then say nothing."""
    pair.start_server(listen="0.0.0.0:0")
    pair.invite = re.sub("@[^:]*:", "@127.0.0.1:", pair.invite)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with ExitStack() as stack:
        early = [stack.enter_context(connect(pair)) for _ in range(IDLE_CONNECTIONS)]
        for one in early[:100]:
            one.sendall(b"\x16\x03\x01")
        quiet = [
            stack.enter_context(context.wrap_socket(connect(pair))) for _ in range(IDLE_CONNECTIONS)
        ]
        quiet[0].settimeout(LIMIT_S)
        assert quiet[0].recv(1) == b""
        (pair.source / "file").write_bytes(b"file")
        pair.sync()
    assert pair.server.errors == ""
