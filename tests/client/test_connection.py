"""Requests to a server that does not answer as it should."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from twinfold.client.connection import Connection, RateLimit
from twinfold.config import ServerAddress
from twinfold.errors import ConnectionLostError

FAR_TOO_MUCH_BYTES = 64 << 20


class Endless:
    """A server whose answers go on and on; ``sent_bytes`` counts what was taken of one."""

    def __init__(self) -> None:
        self.sent_bytes = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, for as long as somebody listens, but not for ever."""
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while self.sent_bytes < FAR_TOO_MUCH_BYTES:
                writer.write(bytes(1 << 20))
                await writer.drain()
                self.sent_bytes += 1 << 20
        writer.close()


async def test_an_answer_without_end_is_not_held_in_memory() -> None:
    """The client reads as much as an answer may have, and then nothing more."""
    endless = Endless()
    server = await asyncio.start_server(endless.answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        address = ServerAddress("127.0.0.1", port, tls=False, token="t")
        async with Connection(address, RateLimit(None)) as connection:
            with pytest.raises(ConnectionLostError, match="not a twinfold server"):
                await connection.hello()
    assert endless.sent_bytes < FAR_TOO_MUCH_BYTES // 2


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (b"500 Internal Server Error", "fails with status 500"),
        (b"502 Bad Gateway", "fails with status 502"),
        (b"404 Not Found", "not a twinfold server"),
    ],
)
async def test_what_does_not_answer_in_our_form(status: bytes, told: str) -> None:
    """A server or a proxy that fails is told from something else at this address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 6\r\n\r\nfailed")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        address = ServerAddress("127.0.0.1", server.sockets[0].getsockname()[1], False, "t")
        async with Connection(address, RateLimit(None)) as connection:
            with pytest.raises(ConnectionLostError, match=told):
                await connection.hello()
