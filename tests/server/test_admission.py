"""Strangers, slow senders and slow readers: none keeps the server from its client."""

from __future__ import annotations

import sys

import pytest

if sys.platform == "win32":
    pytest.skip("the server does not run there", allow_module_level=True)

import asyncio
import contextlib
import os
import socket
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from tests.client.running import RunningClient, client_settings, running_server
from twinfold import protocol
from twinfold.client.events import InSync
from twinfold.config import ServerAddress
from twinfold.core import wrong_tokens
from twinfold.core.session import FolderSession
from twinfold.server import admission, routes

WITHIN_S = float(os.environ.get("TEST_LIMIT_S", "30"))
ENTRIES, TARGET_BYTES = 2_500, 4_000


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerAddress]:
    async with running_server(tmp_path) as address:
        yield address


class Caller:
    """A connection that speaks HTTP by hand."""

    def __init__(
        self, address: ServerAddress, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.address = address
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send some bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def request(
        self, line: str, token: str | None = None, length: int = 0, epoch: int = 0
    ) -> None:
        """Send the head of a request."""
        head = [f"{line} HTTP/1.1", "Host: x", f"Content-Length: {length}"]
        head += [f"{protocol.EPOCH_HEADER}: {epoch}"]
        head += [f"Authorization: Bearer {token or self.address.token}", "", ""]
        await self.send("\r\n".join(head).encode())

    async def status(self) -> int:
        """Return the status of the answer, and read all of it; 0 if the connection ends."""
        async with asyncio.timeout(WITHIN_S):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0
            length = next(
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            await self.reader.readexactly(length)
            return int(head.split(b" ", 2)[1])

    async def ended(self) -> bool:
        """Return when the server has closed the connection."""
        async with asyncio.timeout(WITHIN_S):
            with contextlib.suppress(ConnectionError):
                return not await self.reader.read(1)
            return True


@contextlib.asynccontextmanager
async def calling(address: ServerAddress) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        yield Caller(address, reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def hello(address: ServerAddress, token: str | None = None) -> int:
    async with calling(address) as caller:
        await caller.request("GET /v1/hello", token)
        return await caller.status()


async def test_many_wrong_tokens_wait_and_the_right_one_does_not(
    server: ServerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from the same address, and while others wait; more than some do not even wait."""
    monkeypatch.setattr(wrong_tokens, "FIRST_DELAY_S", 3_600.0)
    monkeypatch.setattr(wrong_tokens, "LAST_DELAY_S", 3_600.0)
    monkeypatch.setattr(admission, "MOST_WAITING", 3)
    for _ in range(wrong_tokens.FREE_TRIES):
        assert await hello(server, "wrong") == 401
    wrong = {asyncio.create_task(hello(server, "wrong")) for _ in range(10)}
    answered: set[asyncio.Task[int]] = set()
    while len(answered) < 7:
        done, wrong = await asyncio.wait(
            wrong, timeout=WITHIN_S, return_when=asyncio.FIRST_COMPLETED
        )
        answered |= done
    assert {task.result() for task in answered} == {429}
    assert await hello(server) == 200
    assert not any(task.done() for task in wrong)
    for task in wrong:
        task.cancel()
    await asyncio.gather(*wrong, return_exceptions=True)


async def test_the_oldest_stranger_goes(
    server: ServerAddress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a connection that has shown the token."""
    monkeypatch.setattr(admission, "MOST_STRANGERS", 5)
    async with contextlib.AsyncExitStack() as stack:
        friend = await stack.enter_async_context(calling(server))
        await friend.request("GET /v1/hello")
        assert await friend.status() == 200
        callers = [await stack.enter_async_context(calling(server)) for _ in range(3)]
        await callers[0].send(b"GET /v1/hello HTTP/1.1\r\nHost: ")
        await callers[1].request("GET /v1/hello", "wrong")
        assert await callers[1].status() == 401
        for _ in range(5):
            await stack.enter_async_context(calling(server))
        for caller in callers:
            assert await caller.ended()
        await friend.request("GET /v1/hello")
        assert await friend.status() == 200


@pytest.mark.parametrize("sent", [b"", b"GET /v1/hello HTTP/1.1\r\nHost: x\r\nAuth"])
async def test_a_connection_that_asks_nothing_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Whether it sends nothing, or never ends its first line."""
    monkeypatch.setattr(routes, "IDLE_TIMEOUT_S", 0.2)
    async with running_server(tmp_path) as address, calling(address) as caller:
        await caller.send(sent)
        assert await caller.ended()


@pytest.mark.parametrize("where", ["session", "head of a frame", "frame", "nothing at all"])
async def test_a_request_that_trickles_is_ended(
    tmp_path: Path, server: ServerAddress, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Bytes that come too slowly are as good as none; meanwhile the client goes on."""
    monkeypatch.setattr(protocol, "PROGRESS_TIMEOUT_S", 0.5)
    monkeypatch.setattr(protocol, "MIN_BYTES_PER_S", 100)
    client = RunningClient(client_settings(tmp_path, server))
    await client.told(InSync)
    async with calling(server) as caller:
        if where == "session":
            await caller.request("POST /v1/folders/main/session", length=60_000)
        else:
            epoch = epoch_of(tmp_path / "destination")
            await caller.request("POST /v1/folders/main/batches/5", None, 4_000_000, epoch)
        if where == "frame":
            await caller.send(protocol._FRAME.pack(1, 0, 0, 100_000, 100_000))
        trickling = asyncio.create_task(trickle(caller, where != "nothing at all"))
        (tmp_path / "source" / "file").write_bytes(b"meanwhile")
        await client.told(InSync, 2)
        assert (tmp_path / "destination" / "file").read_bytes() == b"meanwhile"
        assert await caller.status() == 408
        trickling.cancel()
        await asyncio.gather(trickling, return_exceptions=True)
    await client.stop()


def epoch_of(destination: Path) -> int:
    with contextlib.closing(sqlite3.connect(destination / ".twinfold" / "index.sqlite")) as index:
        (packed,) = index.execute("SELECT session FROM sessions").fetchone()
    return msgspec.msgpack.decode(packed, type=FolderSession).epoch


async def trickle(caller: Caller, sends: bool) -> None:
    while sends:
        await caller.send(b"\x01")
        await asyncio.sleep(0.05)


async def test_a_reader_that_takes_nothing_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that nobody reads is not kept for ever."""
    monkeypatch.setattr(protocol, "PROGRESS_TIMEOUT_S", 0.5)
    async with running_server(tmp_path) as address:
        settings = client_settings(tmp_path, address, once=True)
        for number in range(ENTRIES):
            target = os.urandom(TARGET_BYTES).replace(b"\0", b"x")
            os.symlink(target, os.fsencode(tmp_path / "source" / str(number)))
        assert await RunningClient(settings).result() == 0
        small = socket.socket()
        small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        small.connect((address.host, address.port))
        reader, writer = await asyncio.open_connection(sock=small, limit=1_024)
        caller = Caller(address, reader, writer)
        await caller.request("GET /v1/folders/main/entries")
        await asyncio.sleep(4 * protocol.PROGRESS_TIMEOUT_S)
        received = 0
        async with asyncio.timeout(WITHIN_S):
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65_536):
                    received += len(data)
        writer.close()
        assert received < ENTRIES * TARGET_BYTES
